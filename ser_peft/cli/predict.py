"""The command that names emotions: ``ser-peft predict``."""

import json
import os
import sys

from ser_peft.cli.common import (
    check_positive,
    inference,
    load,
    new_command,
    slurm_parameters,
)
from ser_peft.errors import InputError, printable, summary

__all__ = ["add_commands"]


def add_commands(commands):
    """Add the command to ``ser-peft``."""
    add = new_command(
        commands, predict, allow_abbrev=False,
        epilog="Started again, it goes on where a killed --out ended.",
    )  # fmt: skip
    inference(add)
    audio = (
        "audio files, folders, globs, manifests (.json), or - for a list on "
        "standard input; unusable files are named at the end (exit status 2)"
    )
    add("audio", nargs="+", help=audio)
    texts = "transcripts, one a file, for a model that reads them"
    add("--texts", nargs="+", metavar="TEXT", help=texts)
    add(
        "--out", metavar="TABLE",
        help="write a row a file to this .csv or .jsonl, as it goes",
    )  # fmt: skip
    line = "one object a line: calibrated (scores) and uncalibrated ones"
    add("--json", action="store_true", help=line)
    batch = "seconds of audio that are scored at once; default: 30"
    add("--batch-seconds", type=float, metavar="SECONDS", help=batch)
    unsure = "call answers unsure whose highest probability is below this"
    add("--unsure", type=float, metavar="P", help=unsure)
    jobs = "processes that share the files, with --out"
    add("--jobs", type=int, default=1, help=jobs)
    slurm_parameters(add)


def predict(args):
    """The emotion of recordings, with calibrated probabilities."""
    from ser_peft.inference.listing import Listing

    _check(args)
    if args.jobs > 1 or args.cluster == "slurm":
        return _in_jobs(args)
    listing = Listing(args.audio, args.texts)
    model = load(args)
    if model.reads_text and not any(text for _, text in listing):
        print(
            "no --texts: this model reads transcripts too, and does without",
            file=sys.stderr,
        )
    if args.out is None:
        return _print(args, model, listing)
    _write(args, model, listing)


def _check(args):
    check_positive(args, "batch_seconds", "unsure", "jobs")
    if args.out is None and (args.jobs > 1 or args.cluster == "slurm"):
        raise InputError("--jobs, --cluster slurm: give --out too")


def _print(args, model, listing):
    """Print a line a file."""
    broken, count = {}, 0
    items = ((path, path, text) for path, text in listing)
    for group in model.judged(items, args.batch_seconds):
        for one in group:
            count += 1
            if one.problem:
                broken[one.name] = str(one.problem)
                continue
            answer = model.answer(one.scores, unsure=args.unsure)
            if args.json:
                print(json.dumps({"file": one.name, **answer}))
                continue
            parts = [f"{one.name}:"]
            if "label" in answer:
                unsure = ", unsure" * answer.get("unsure", False)
                scores = _listed(answer["scores"])
                parts.append(f"{answer['label']}{unsure}  ({scores})")
            if "dimensions" in answer:
                parts.append(_listed(answer["dimensions"]))
            print(printable(" ".join(parts)))
    if len(broken) > 1:
        for message in broken.values():
            print(printable(message), file=sys.stderr)
    if broken:
        raise InputError(summary(broken, count))


def _listed(values):
    return "  ".join(f"{name} {value:.2f}" for name, value in values.items())


def _write(args, model, listing):
    """Write the table, or this process's part of it."""
    from ser_peft.inference.archive import Archive, merge, shard_path

    # Of torchrun, of --jobs, or none.
    number = int(os.environ.get("RANK", 0))
    count = int(os.environ.get("WORLD_SIZE", 1))
    alone = count == 1
    out = args.out if alone else shard_path(args.out, (number, count))
    archive = Archive(out, model, args.batch_seconds, args.unsure)
    found = archive.write(listing, (number, count), progress=number == 0)
    if not alone:
        found = merge(args.out, count)
    if found:
        _tell(args, found)


def _tell(args, found):
    print(f"{found['files']} files in {printable(str(args.out))}", end="")
    if found["silent"]:
        print(f", {found['silent']} of them silent", end="")
    print()
    if found["problems"]:
        raise InputError(
            f"{found['problems']} of {found['files']} recordings cannot be "
            f"used; the column problem of {args.out} says why"
        )


def _in_jobs(args):
    """Share the files among processes, here or on SLURM."""
    from ser_peft.cli.shards import in_shards
    from ser_peft.inference.archive import merge, read_about

    if "-" in args.audio:
        raise InputError(
            "-: several jobs cannot read one standard input; give a manifest"
        )
    in_shards(args)
    # Mostly the last job has merged the parts already.
    _tell(args, merge(args.out, args.jobs) or read_about(args.out))
