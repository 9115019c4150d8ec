"""Methods that suit a speech encoder, and the modules they adapt."""

import copy
import re

import torch
from peft import PeftConfig, PeftType

from ser_peft.adapters.bottleneck import BottleneckConfig
from ser_peft.adapters.prompts import PromptConfig
from ser_peft.errors import InputError

__all__ = ["as_methods", "check_pattern", "method_name", "prepare"]

OURS = (BottleneckConfig, PromptConfig)
WHOLE = ("frozen", "full", "transformer")
"""Methods that add no parameters."""
PRESETS = ("attention", "ffn", "attention+ffn", "norm")


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
        if isinstance(one, (PeftConfig, *OURS)):
            continue
        if not alone or one not in WHOLE:
            raise InputError(
                f"method: {one!r} is no method; give 'frozen', 'full', "
                "'transformer', a configuration of peft (peft.LoraConfig, "
                "...), BottleneckConfig, PromptConfig, or a list of these"
            )
    kinds = ["peft" if isinstance(m, PeftConfig) else type(m) for m in methods]
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
    if method.peft_type == PeftType.LORA:
        if method.use_dora:
            return "dora"
        if isinstance(method.init_lora_weights, str):
            return method.init_lora_weights.lower()
        if method.use_rslora:
            return "rslora"
    return PeftType(method.peft_type).value.lower()


def prepare(lobe, config, targets, layers):
    """Copy a PEFT configuration and fill in its targets.

    Arguments
    ---------
    lobe : SpeechLobe
        Lobe whose modules are targeted.
    config : peft.PeftConfig
        Configuration, not changed.
    targets : str or None
        See `PeftLobe`.
    layers : list of int or None
        See `PeftLobe`.

    Returns
    -------
    peft.PeftConfig
        Configuration for `peft.get_peft_model`.

    Raises
    ------
    InputError
        If the method cannot work on a speech encoder, or the targets match
        nothing.
    """
    config = copy.deepcopy(config)
    _refuse(config)
    if config.target_modules is None:
        config.target_modules = _target_regex(lobe, config, targets, layers)
        if config.peft_type == PeftType.IA3:
            # Scaled at its input, not at its output.
            config.feedforward_modules = rf".*{re.escape(lobe.ffn[-1])}"
    elif targets not in (None, "attention+ffn") or layers is not None:
        raise InputError(
            "targets, layers: the method's target_modules says already where "
            f"it goes ({config.target_modules}); leave the two out"
        )
    elif isinstance(config.target_modules, str):
        check_pattern(config.target_modules, "target_modules")
    return config


def _refuse(config):
    """Refuse a configuration that cannot work, and give the reason."""
    reason = REFUSED.get(config.peft_type)
    start = str(getattr(config, "init_lora_weights", ""))
    if start.startswith(UNREPEATABLE):
        reason = (
            f"with init_lora_weights={start} starts from data or from a random "
            "decomposition that a restored run cannot repeat; use 'pissa', "
            "'olora' or the default"
        )
    if getattr(config, "megatron_config", None):
        reason = "with megatron_config imports what it names; leave it out"
    if config.task_type is not None:
        reason = (
            f"has task_type={config.task_type}, for which peft calls the "
            "encoder as if it took text; leave it out"
        )
    if config.is_prompt_learning:
        reason = (
            "puts embeddings in front of text tokens, which a speech encoder "
            "does not have; use ser_peft.adapters.PromptConfig"
        )
    if reason:
        raise InputError(f"method: {PeftType(config.peft_type).value} {reason}")


REFUSED = {
    PeftType.ADAPTION_PROMPT: "is written for the attention of a few text "
    "decoders; use ser_peft.adapters.PromptConfig",
    PeftType.POLY: "wants a task id with every batch; use peft.LoraConfig",
    PeftType.SHADOW: "rides on a text decoder's own layer loop; use "
    "peft.LoraConfig",
    PeftType.TRAINABLE_TOKENS: "trains rows of a token embedding, which a "
    "speech encoder does not have; use peft.LoraConfig",
    PeftType.XLORA: "mixes LoRAs by what a text decoder does with its "
    "tokens; use peft.LoraConfig",
}
# Starting points of LoRA that are computed from training data, or at random
# from the encoder's weights, so that no later run could find them again.
UNREPEATABLE = ("corda", "eva", "loftq", "lora_ga", "pissa_niter")


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


def _target_regex(lobe, config, targets, layers):
    """Build a regex of module names within the encoder."""
    names = [name for name, _ in lobe.backbone.named_modules()]
    if targets not in PRESETS:
        if layers is not None:
            raise InputError(
                f"layers: goes with targets in {PRESETS}; with a regex of "
                "your own, put the layers in it"
            )
        check_pattern(targets, "targets")
        if not any(re.fullmatch(targets, name) for name in names):
            first = f"{lobe.layers_path}.0."
            inside = [name for name in names if name.startswith(first)]
            raise InputError(
                f"targets: {targets!r} matches no module of {lobe.source}; "
                f"it must match full names, as {', '.join(inside[:6])}; or "
                f"give one of {PRESETS}"
            )
        return targets
    if config.peft_type == PeftType.LN_TUNING:
        targets = "norm"
    attention, ffn = lobe.attention, lobe.ffn
    if config.peft_type == PeftType.IA3:
        # Where Liu et al. 2022 put it: keys, values, inner FFN activations.
        attention, ffn = attention[1:3], ffn[-1:]
    modules = {
        "attention": attention,
        "ffn": ffn,
        "attention+ffn": (*attention, *ffn),
        "norm": [
            name
            for layer in lobe.layers[:1]
            for name, module in layer.named_modules()
            if isinstance(module, torch.nn.LayerNorm)
        ],
    }[targets]
    if not modules:
        raise InputError(
            f"targets: {lobe.source} has no {targets} in layers; give a regex "
            "of module names"
        )
    # Any layer, not their numbers, where all are meant: then an adapter
    # shows that it does not fit a deeper backbone.
    index = r"\d+" if layers is None else "|".join(map(str, layers))
    inside = "|".join(map(re.escape, modules))
    return rf"{re.escape(lobe.layers_path)}\.({index})\.({inside})"
