"""Commands on the Hugging Face hub."""

import sys

from ser_peft.cli.common import new_command, say
from ser_peft.errors import InputError

__all__ = ["add_commands"]


def add_commands(commands):
    """Add the commands to ``ser-peft``."""
    add = new_command(commands, push)
    add("model", help="a finished run, or what `ser-peft export` wrote")
    add("name", help="user/name on the hub")
    private = "make a private repository"
    add("--private", action="store_true", help=private)
    branch = "branch, made if it is not there; default: the main one"
    add("--revision", metavar="BRANCH", help=branch)
    dry = "show what would go and what would be refused; needs no network"
    add("--dry-run", action="store_true", help=dry)


def push(args):
    """Push a model and its card to the Hugging Face hub, in one commit."""
    from ser_peft.inference.hub import pack, push

    parcel = pack(args.model, args.name)
    if args.dry_run:
        _show(parcel)
    for note in parcel.notes:
        say(f"note: {note}", file=sys.stderr)
    for reason in parcel.refused[1:]:
        say(f"refused: {reason}", file=sys.stderr)
    if parcel.refused:
        raise InputError(parcel.refused[0])
    if args.dry_run:
        return
    commit = push(args.model, args.name, args.private, args.revision)
    say(f'pushed; load_model("{args.name}", revision="{commit}")')


def _show(parcel):
    """Print files, sizes and the card's front matter."""
    sizes = {path: file.stat().st_size for path, file in parcel.files.items()}
    sizes["README.md"] = len(str(parcel.card).encode())
    for path, size in sizes.items():
        say(f"{size:12,} {path}")
    print(f"{sum(sizes.values()):12,} bytes in {len(sizes)} files\n")
    print(f"---\n{parcel.card.data}\n---")
