"""The command that writes vectors: ``ser-peft embed``."""

import sys

from ser_peft.cli.common import inference, load, new_command, say
from ser_peft.errors import InputError

__all__ = ["add_commands"]


def add_commands(commands):
    """Add the command to ``ser-peft``."""
    add = new_command(commands, embed)
    inference(add)
    add(
        "audio", nargs="+",
        help="audio files, folders, globs, manifests (.json), or - for a list "
        "on standard input",
    )  # fmt: skip
    out = "vectors, a row a file: .npy or .safetensors; OUT.csv has the names"
    add("--out", required=True, help=out)
    layer = "mean of this hidden state; default: what the head scores"
    add("--layer", type=int, metavar="N", help=layer)


def embed(args):
    """Vectors of recordings, for other programs to learn from."""
    from ser_peft.inference.embedding import write_vectors
    from ser_peft.inference.listing import Listing

    shape, problems = write_vectors(
        load(args),
        Listing(args.audio),
        args.out,
        args.layer,
        progress=sys.stderr.isatty(),
    )
    rows, width = shape
    say(f"{args.out}: {rows} vectors of {width} numbers; index: {args.out}.csv")
    if problems:
        raise InputError(
            f"{problems} of {rows} recordings cannot be used, their vectors "
            f"are NaN; the column problem of {args.out}.csv says why"
        )
