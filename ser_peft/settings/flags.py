"""Command lines of recipes.

Nothing here imports torch or SpeechBrain: a wrong flag is told at once.
"""

import importlib.util
import re
import sys
from pathlib import Path

from ser_peft.errors import InputError
from ser_peft.settings.places import is_place, place

__all__ = ["RunOptions", "parse", "split"]

USAGE = """\
python train.py hparams/wavlm_lora.yaml --data_folder=/data/CORPUS
  trains; any key of the yaml is a flag: --seed=1 --method=dora
python train.py hparams/wavlm_lora.yaml --help
  lists all flags"""

# Options of SpeechBrain that do nothing good here.
REFUSED = {
    "auto_mix_prec": "give --precision=fp16",
    "bfloat16_mix_prec": "give --precision=bf16",
    "ckpt_interval_minutes": "checkpoints are between epochs; leave it out",
    "ckpt_interval_steps": "checkpoints are between epochs; leave it out",
    "data_parallel_backend": "start it by torchrun",
    "jit": "these encoders cannot be scripted; leave it out",
    "jit_module_keys": "these encoders cannot be scripted; leave it out",
}


def split(argv):
    """Take a command line apart where its flags are.

    Arguments
    ---------
    argv : list of str
        Flags as ``--key=value``, ``--key value`` or ``--key = value``; the
        words behind a flag, up to the next one, are its value.

    Returns
    -------
    words : list of str
        What precedes the flags.
    flags : list of (str, str or None)
        Keys and values; None of a flag alone.

    Raises
    ------
    InputError
        If a place has several words, which the shell was not told to keep.

    Example
    -------
    >>> split(["x.yaml", "--seed", "=", "3", "--run_folder=a = b", "--debug"])
    (['x.yaml'], [('seed', '3'), ('run_folder', 'a = b'), ('debug', None)])
    """
    words, flags = [], []
    for word in argv:
        if word.startswith("--"):
            key, equals, value = word[2:].partition("=")
            flags.append((key, [value] if value else [], bool(equals)))
        elif flags:
            key, value, equals = flags[-1]
            if not (equals or value) and word.startswith("="):
                word, flags[-1] = word[1:], (key, value, True)
            if word:
                value.append(word)
        else:
            words.append(word)
    for key, value, _ in flags:
        if is_place(key) and len(value) > 1:
            raise InputError(
                f"--{key}={' '.join(value)}: '{value[1]}' is not understood; "
                "a name with blanks belongs in quotes"
            )
    return words, [
        (key, " ".join(value) if value or equals else None)
        for key, value, equals in flags
    ]


def _run_options():
    """SpeechBrain's options, without the half second of importing it."""
    (package,) = importlib.util.find_spec(
        "speechbrain"
    ).submodule_search_locations
    spec = importlib.util.spec_from_file_location(
        "speechbrain_run_opts", Path(package, "utils", "run_opts.py")
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.RunOptions


class RunOptions(_run_options()):
    """SpeechBrain's options of the command line; refused in one line."""

    @staticmethod
    def _create_parser():
        def refuse(message):
            raise InputError(f"{message}; --help lists the options")

        parser = RunOptions.__base__._create_parser()
        parser.error = refuse
        for action in parser._actions:
            if action.dest == "optimizer_step_limit":
                action.type = int  # which SpeechBrain forgets
        return parser


def parse(argv):
    """Read a recipe's command line, as SpeechBrain's `parse_arguments` does.

    Arguments
    ---------
    argv : list of str
        A yaml, then SpeechBrain's options and keys of the yaml, in any order.

    Returns
    -------
    hparams_file : str
        Path of the yaml.
    run_opts : RunOptions
        SpeechBrain's options.
    given : dict
        Key of the yaml -> its value, a text.

    Raises
    ------
    InputError
        If a flag has no value, is given twice, or is not understood.
    """
    words, flags = split(argv)
    if not words:
        print(USAGE, file=sys.stderr)
        raise SystemExit(2)
    options, given = [], {}
    known = RunOptions().as_dict()
    for key, value in flags:
        if key in REFUSED:
            raise InputError(f"--{key}: {REFUSED[key]}")
        if key in known:
            options.append(f"--{key}" + ("" if value is None else f"={value}"))
            continue
        if not re.fullmatch(r"\w+", key):
            raise InputError(f"--{key}: no key of a yaml; write --key=value")
        if value is None:
            raise InputError(f"--{key}: has no value; write --{key}=value")
        if key in given:
            raise InputError(f"--{key}: is given twice; leave one out")
        given[key] = value
    hparams_file, run_opts, left = RunOptions.from_command_line_args(
        [*words, *options]
    )
    if left:
        raise InputError(f"{left}: not understood; write --key=value")
    return place(hparams_file, "yaml"), run_opts, given
