"""Command line of a recipe: its yaml, SpeechBrain's options, keys."""

import re

from ruamel.yaml.comments import TaggedScalar

from ser_peft.settings.flags import RunOptions, parse, split
from ser_peft.settings.places import is_place
from ser_peft.settings.yamls import OPTIONAL, parse_yaml, read_yaml, resolve

__all__ = ["parse_arguments"]


def parse_arguments(argv):
    """Read a recipe's command line; refuse keys that its yaml has not.

    Arguments
    ---------
    argv : list of str
        See `ser_peft.settings.flags.parse`. ``--help`` prints the yaml's keys
        and SpeechBrain's options, and exits. ``--method=NAME`` includes
        another file of ``recipes/methods`` than the yaml does, or a path.

    Returns
    -------
    hparams_file : str
        Path of the yaml.
    run_opts : RunOptions
        SpeechBrain's options.
    overrides : dict
        Key -> value. A value that names a place is taken as it was written,
        a leading ``~`` expanded; ``!ref `` begins a reference, an empty value
        is null. Other values are yaml.

    Raises
    ------
    InputError
        See `read_settings`, which checks the rest.
    """
    if {"--help", "-h"}.intersection(argv):
        words, _ = split(argv)
        for path in words[:1]:
            print(_describe(path))
        RunOptions.from_command_line_args(["yaml", "--help"])
    hparams_file, run_opts, texts = parse(argv)
    overrides = {}
    for key, text in texts.items():
        if not is_place(key):
            tree = parse_yaml(f"{key}: {text}", f"--{key}={text}")
            value = tree[key]
        elif text.startswith("!ref "):
            value = TaggedScalar(text[len("!ref ") :], tag="!ref")
        else:
            value = text or None
        overrides[key] = value
    read_yaml(hparams_file, overrides)
    return hparams_file, run_opts, overrides


def _describe(hparams_file):
    """Keys of a yaml, their defaults and comments, a line each."""
    text, tree = read_yaml(hparams_file, None)
    needed = re.findall(r"^(\w+): *!PLACEHOLDER", text, re.MULTILINE)
    values = resolve(hparams_file, text, dict.fromkeys(needed, "(needed)"))
    rows = re.findall(
        r"^([a-z]\w*):(?: +([^#\n]*?))?(?: *# (.*))?$", text, re.MULTILINE
    )
    lines = [f"keys of {hparams_file}, each a flag:"]
    for key, written, comment in rows:
        value = values[key]
        if key == "peft" and written.startswith("!include:"):
            key, value = "method", value["name"]
        elif isinstance(value, dict):
            continue  # an object
        if isinstance(value, list):
            value = f"[{', '.join(map(str, value))}]"
        value = "" if value is None else value
        lines.append(f"  {f'--{key}={value}':<36} {comment}".rstrip())
    more = ", ".join(f"--{key}" for key in sorted(OPTIONAL - {*tree}))
    lines.append(f"also: {more}")
    return "\n".join(lines) + "\n"
