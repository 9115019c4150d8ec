"""Methods that suit a speech encoder, by name."""

import re
import sys

from ser_peft.adapters.bottleneck import BottleneckConfig
from ser_peft.adapters.prompts import PromptConfig
from ser_peft.errors import InputError

__all__ = ["as_methods", "check_pattern", "is_of_peft", "method_name"]

OURS = (BottleneckConfig, PromptConfig)
WHOLE = ("frozen", "full", "transformer")
"""Methods that add no parameters."""


def is_of_peft(method):
    """Whether a method is one of PEFT's, a `peft.PeftConfig`.

    PEFT is not imported for the question: whoever has a configuration has
    imported it, and a model without one is loaded without it.

    Example
    -------
    >>> from peft import LoraConfig
    >>> is_of_peft(LoraConfig()), is_of_peft("frozen")
    (True, False)
    """
    peft = sys.modules.get("peft")
    return peft is not None and isinstance(method, peft.PeftConfig)


def as_methods(method):
    """Check `method` and make it a list.

    Arguments
    ---------
    method : peft.PeftConfig, BottleneckConfig, PromptConfig, str or list
        See `PeftLobe`.

    Returns
    -------
    list
        Configurations; or ["frozen"], ["full"] or ["transformer"].

    Raises
    ------
    InputError
        If it is none of these, or a list that cannot be combined.
    """
    methods = list(method) if isinstance(method, list | tuple) else [method]
    alone = isinstance(method, str) or not methods
    for one in methods:
        if isinstance(one, OURS) or is_of_peft(one):
            continue
        if not alone or one not in WHOLE:
            raise InputError(
                f"method: {one!r} is no method; give 'frozen', 'full', "
                "'transformer', a configuration of peft (peft.LoraConfig, "
                "...), BottleneckConfig, PromptConfig, or a list of these"
            )
    kinds = ["peft" if is_of_peft(m) else type(m) for m in methods]
    if not methods or len(set(kinds)) < len(kinds):
        raise InputError(
            "method: a list takes at least one method, at most one of them "
            "from peft, one BottleneckConfig and one PromptConfig"
        )
    return methods


def method_name(methods):
    """Name a list of methods for results.json.

    Arguments
    ---------
    methods : list
        Output of `as_methods`.

    Returns
    -------
    str
        "frozen", "full", "transformer", "combined", "adapter",
        "parallel_adapter", "prompt", or PEFT's name of the method in lower
        case; LoRA's variants have their own: "dora", "rslora", "pissa",
        "olora".

    Example
    -------
    >>> from peft import LoraConfig
    >>> method_name([LoraConfig(use_dora=True)])
    'dora'
    """
    if len(methods) > 1:
        return "combined"
    method = methods[0]
    if isinstance(method, str):
        return method
    if isinstance(method, OURS):
        return method.method_name
    if method.peft_type == "LORA":
        if method.use_dora:
            return "dora"
        if isinstance(method.init_lora_weights, str):
            return method.init_lora_weights.lower()
        if method.use_rslora:
            return "rslora"
    # A member of an enumeration, or its value.
    return str(getattr(method.peft_type, "value", method.peft_type)).lower()


def check_pattern(pattern, key):
    r"""Refuse a regex of module names that could take forever to match.

    Arguments
    ---------
    pattern : str
        Name, or regex of names with groups, alternatives, sets and repeated
        characters; nothing else, and no repeated group.
    key : str
        Setting that it is from, for the message.

    Raises
    ------
    InputError
        If it is another, or can be matched in too many ways.

    Example
    -------
    >>> check_pattern(r"layers\.\d+\.(q|v)_proj", "targets")
    >>> check_pattern("(a+)+b", "targets")
    Traceback (most recent call last):
    ...
    ser_peft.errors.InputError: targets: '(a+)+b' is no regex of ...
    """
    if not isinstance(pattern, str) or not PATTERN.fullmatch(pattern):
        raise InputError(
            f"{key}: {pattern!r:.80} is no regex of names, groups, "
            "alternatives and repeated characters; give a list of module names"
        )
    try:
        re.compile(pattern)
    except re.error as error:
        raise InputError(f"{key}: {pattern!r:.80}: {error}") from error
    # How often a name may be read anew: by which alternative it is, and by
    # where a repetition ends in a name of some 60 characters.
    ways = 1
    for group in pattern.split("("):
        ways *= 1 + group.count("|")
    digits = pattern.count(r"\d+")
    ways *= 4**digits * 64 ** (len(REPEATED.findall(pattern)) - digits)
    if ways > MOST_WAYS:
        raise InputError(
            f"{key}: {pattern!r:.80} can be matched in too many ways; give a "
            "list of module names"
        )


PATTERN = re.compile(
    r"(?:[\w\-^$]|\.|\\[.\-dw]|\[[\w\-]+\]|\((?:\?:)?|\)(?![*+?{])|\|"
    r"|(?<![(|*+?])[*+?](?![*+?]))*"
)
REPEATED = re.compile(r"[*+?]")
MOST_WAYS = 1_000_000
