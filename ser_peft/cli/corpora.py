"""Commands on corpora: manifests, their transcripts, a baseline on them."""

from collections import Counter
from pathlib import Path

from ser_peft.cli.common import (
    computing,
    new_command,
    print_counts,
    protocols,
    say,
)
from ser_peft.corpora import CORPORA
from ser_peft.errors import InputError
from ser_peft.storage.lock import only_process

__all__ = ["add_commands"]


def add_commands(commands):
    """Add the commands to ``ser-peft``."""
    names = f"{', '.join(CORPORA)}, emobox:NAME"

    add = new_command(commands, prepare)
    add("corpus", help=names)
    add("data_folder", help="the corpus as published; a csv")
    add("out", help="folder for train.json, valid.json, test.json")
    add("--fold", type=int, default=1, help="from 1")
    protocols(add)

    add = new_command(commands, transcribe)
    add("manifests", help="folder that `prepare` wrote")
    add("checkpoint", help="Whisper: Hugging Face id or folder")
    add("--language", help="as en; default: guessed, if the Whisper has many")
    add("--all", action="store_true", help="replace existing transcripts too")
    add("--device", help="default: a GPU if there is one")

    add = new_command(
        commands, probe,
        usage="%(prog)s BACKBONE MANIFESTS [MANIFESTS ...] [options]\n       "
        "%(prog)s BACKBONE --corpus NAME --data_folder FOLDER [options]",
        epilog="The hidden states of each recording are computed once for all "
        "folds.",
    )  # fmt: skip
    add("backbone", help="Hugging Face id or local folder")
    add("manifests", nargs="*", help="folders that `prepare` wrote, one a fold")
    add("--corpus", help=f"in place of manifests: {names}")
    add("--data_folder", help="the corpus as published; a csv")
    add("--folds", default="all", help="of --corpus: all (default), 1-5 or 1,3")
    protocols(add)
    add(
        "--out",
        help="with several folds it gets fold1, fold2, ...; default: "
        "MANIFESTS/probe/BACKBONE for one, results/probe_BACKBONE for several",
    )
    add("--device", help="default: a GPU if there is one")


def prepare(args):
    """Split a corpus into train, valid and test manifests."""
    from ser_peft.data import read_manifests

    with only_process(args.out, "out"):
        _prepare(args, args.out, args.fold)
    about, manifests = read_manifests(args.out)
    say(
        f"{about['corpus']}, {about['protocol']}, fold {about['fold']} of "
        f"{about['folds_total']} ({about['protocol_sha']})"
    )
    kinds = about["classes"] or ["utterances"]
    counts = {}
    for split, entries in manifests.items():
        rows = entries.values()
        found = Counter(entry.get("emotion", kinds[0]) for entry in rows)
        counts[split] = {
            **{name: found[name] for name in kinds},
            "speakers": len({entry["speaker"] for entry in rows}),
        }
    print_counts(counts)


def _prepare(args, out, fold):
    """Write the manifests of a fold as a command's arguments say."""
    from ser_peft.data import prepare

    keys = "corpus data_folder classes protocol dimensions".split()
    request = {key: getattr(args, key) for key in keys}
    prepare(save_folder=out, fold=fold, **request)
    return out


def transcribe(args):
    """Transcribe speech with a Whisper, into the manifests."""
    from ser_peft.data.transcribe import transcribe
    from ser_peft.device import find_device

    with only_process(args.manifests, "manifests"):
        counts = transcribe(
            args.manifests,
            args.checkpoint,
            find_device(args.device),
            args.all,
            args.language,
        )
    print_counts(counts)


def probe(args):
    """The linear-probe baseline of a frozen backbone, on one or more folds."""
    from ser_peft.evaluation.results import headline
    from ser_peft.evaluation.summary import summarize
    from ser_peft.report.tables import format_summary
    from ser_peft.training.probe_runs import run_probe

    if bool(args.manifests) == bool(args.corpus):
        raise InputError(
            "probe: give folders of manifests, or --corpus and --data_folder"
        )
    if args.corpus and not args.data_folder:
        raise InputError("--data_folder=... is needed with --corpus")
    name = Path(args.backbone).name
    one = len(args.manifests) == 1
    beside = Path(args.manifests[0]) / "probe" / name if one else None
    out = Path(args.out or beside or f"results/probe_{name}")
    with computing(args, out) as how:
        folders = {args.manifests[0]: out} if one else _folds(args, out)
        found = run_probe(args.backbone, folders, **how)
    for results, folder in zip(found, folders.values(), strict=True):
        which = "" if one else f" of fold {results['fold']}"
        say(
            f"linear probe{which}: {results['scored_on']} "
            f"{headline(results)}; report in "
            f"{folder}/report.html"
        )
    if not one:
        summary = summarize([*folders.values()])
        print("", format_summary(summary), sep="\n", end="")


def _folds(args, out):
    """Manifests of several folds, made where a corpus is named -> outputs."""
    from ser_peft.crossval import numbers
    from ser_peft.data import read_manifests

    def make(fold):
        return _prepare(args, out / f"fold{fold}" / "manifests", fold)

    folders = args.manifests
    if args.corpus and args.folds != "all":
        # The highest first: where there is none, nothing is written.
        folders = [make(n) for n in sorted(numbers(args.folds), reverse=True)]
    elif args.corpus:
        folders = [make(1)]
        total = read_manifests(folders[0])[0]["folds_total"]
        folders += map(make, range(2, total + 1))
    places = {}
    for folder in folders:
        fold = read_manifests(folder)[0]["fold"]
        if fold in places:
            raise InputError(
                f"{folder}: fold {fold}, as {places[fold]}; probe one corpus "
                "and each fold once"
            )
        places[fold] = folder
    return {places[fold]: out / f"fold{fold}" for fold in sorted(places)}
