"""Command line of a recipe: its yaml, SpeechBrain's options, keys."""

import re

from ruamel.yaml.comments import TaggedScalar

from ser_peft.settings.flags import RunOptions, is_place, parse, split
from ser_peft.settings.yamls import parse_yaml, read_yaml

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
    text, _ = read_yaml(hparams_file, None)
    rows = re.findall(
        r"^([a-z]\w*):(?: +([^#\n]*?))?(?: *# (.*))?$", text, re.MULTILINE
    )
    lines = [f"keys of {hparams_file}, each a flag:"]
    for key, value, comment in rows:
        if value == "!PLACEHOLDER":
            value = "(needed)"
        elif value.startswith(("!new:", "!name:", "!apply:", "!copy")):
            continue
        lines.append(f"  {f'--{key}={value}':<36} {comment}".rstrip())
    return "\n".join(lines) + "\n"
