"""The command line: all commands, and what is checked for each of them."""

import argparse
import sys
from pathlib import Path

from ser_peft.cli import (
    corpora,
    embed,
    ensembles,
    hub,
    models,
    predict,
    results,
    runs,
    service,
    timelines,
    tune,
)
from ser_peft.errors import InputError, one_line_errors
from ser_peft.io import check_writable
from ser_peft.settings.places import place

# Heavy imports wait for the command that needs them: --help is quick.

__all__ = ["main"]

PLACES = (
    "audio backbone checkpoint data_folder hparams html manifests model others "
    "out output_folder pretrain recording reference results script space test "
    "text_backbone windows yaml"
).split()
"""Arguments that name files, folders, or models that may be folders."""
TRAINING = {"crossval": runs, "tune": tune}
"""Commands that hand flags on to trainings."""
WRITTEN = ("out", "html", "output_folder", "windows")
"""Arguments that name what is written."""
VERSIONS = ("ser_peft", "torch", "speechbrain", "peft", "transformers")


class _Parser(argparse.ArgumentParser):
    """Refuses in one line."""

    def error(self, message):
        raise InputError(f"{message}; see {self.prog} --help")


class _Versions(argparse.Action):
    """Prints the versions, which only this flag looks up."""

    def __call__(self, parser, *_):
        from importlib.metadata import version

        print("\n".join(f"{name} {version(name)}" for name in VERSIONS))
        parser.exit()


def main(argv=None):
    """Run a command.

    Arguments
    ---------
    argv : list of str, optional
        Command line without the program; ``sys.argv[1:]`` by default.
    """
    argv = sys.argv[1:] if argv is None else argv
    with one_line_errors():
        args = _arguments(argv)
        args.run(args)


def _arguments(argv):
    """Parsed arguments, whose places are expanded and can be written to."""
    parser = _Parser(
        prog="ser-peft",
        description="Parameter-efficient speech emotion recognition.",
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--version", action=_Versions, nargs=0)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    rooms = (
        corpora, models, predict, timelines, embed, service, hub, runs, tune,
        results, ensembles,
    )  # fmt: skip
    for module in rooms:
        module.add_commands(commands)
    overrides, training = [], TRAINING.get("".join(argv[:1]))
    if training:
        overrides = [word for word in argv if training.OVERRIDE.match(word)]
    args, left = parser.parse_known_args(
        [word for word in argv if word not in overrides]
    )
    if args.run is corpora.probe and not any(w.startswith("-") for w in left):
        # argparse has ended the manifests where an option came before them.
        args.manifests, left = [*args.manifests, *left], []
    if left and not training:
        parser.error(f"unrecognized arguments: {' '.join(left)}")
    args.argv, args.overrides = argv, [*overrides, *left]
    for key, value in vars(args).items():
        if key in PLACES and isinstance(value, str):
            setattr(args, key, place(value, key))
        elif key in PLACES and value:
            setattr(args, key, [place(path, key) for path in value])
    for key in WRITTEN:
        if path := getattr(args, key, None):
            check_writable(Path(path).parent, key)
    return args
