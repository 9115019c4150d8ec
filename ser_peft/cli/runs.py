"""The command that trains many times: ``ser-peft crossval``."""

import re
import sys

from ser_peft.cli.common import (
    new_command,
    say,
    slurm_of,
    slurm_parameters,
    stoppable,
)
from ser_peft.cli.results import write_summary
from ser_peft.errors import InputError
from ser_peft.storage.lock import only_process

__all__ = ["OVERRIDE", "add_commands", "crossval"]

OVERRIDE = re.compile(
    r"--(?!(folds|seeds|methods|output_folder|pretrain|jobs|cluster|slurm)=)"
    r"\w+="
)
"""Flags of crossval that are the trainings'. argparse would take one with a
blank in it for another yaml."""


def add_commands(commands):
    """Add the command to ``ser-peft``."""
    add = new_command(
        commands, crossval,
        usage="%(prog)s SCRIPT HPARAMS [HPARAMS ...] --folds 1-5 "
        "[--seeds 8,16] [--methods lora,dora] --data_folder=... "
        "[--KEY=VALUE ...] [options]",
        epilog="Any --KEY=VALUE of the yaml goes to every run. Started again, "
        "it goes on: finished runs are skipped.",
        allow_abbrev=False,
    )  # fmt: skip
    add("script", help="a recipe's train.py")
    add("hparams", nargs="+", help="its yamls; each gets the same folds, seeds")
    add("--folds", required=True, help="as 1-5 or 1,3")
    add("--seeds", default="8", help="as 8,16,24; default: 8")
    add(
        "--methods",
        help="as lora,dora,full: each yaml is trained with --method=lora, "
        "--method=dora, ... and writes to HPARAMS-METHOD",
    )
    add(
        "--output_folder",
        help="default: results, in the recipe's folder; of inner folds "
        "results/PROTOCOL/inner",
    )
    add(
        "--pretrain", nargs=2, metavar=("SCRIPT", "YAML"),
        help="as train_ptapt.py hparams/ptapt.yaml: done first, a fold and "
        "seed; the runs start from it",
    )  # fmt: skip
    add("--jobs", type=int, default=1, help="runs at once on this machine")
    slurm_parameters(add)


def crossval(args):
    """Train on every fold with every seed, then summarize."""
    from ser_peft.crossval import check, crossval, numbers, trainings
    from ser_peft.evaluation.summary import summarize
    from ser_peft.report.tables import format_summary

    if args.jobs < 1:
        raise InputError(f"--jobs {args.jobs}: give 1 or more")
    slurm = slurm_of(args)
    runs = trainings(
        args.script,
        args.hparams,
        numbers(args.folds),
        numbers(args.seeds),
        args.output_folder,
        args.overrides,
        args.pretrain,
        [*dict.fromkeys(args.methods.split(","))] if args.methods else (),
    )
    out = runs[0].folder.parents[2]
    with only_process(out, "output_folder"), stoppable():
        check(runs)
        failed = crossval(runs, args.jobs, slurm)
    finished = [run.results for run in runs if run.results.exists()]
    if finished:
        summary = summarize(finished)
        print("", format_summary(summary), sep="\n", end="")
        page = out / "summary.html"
        write_summary(summary, out / "summary.json", page)
        say(f"page: {page}")
    for name, reason in failed.items():
        say(f"failed: {name}: {reason}", file=sys.stderr)
    if failed:
        raise SystemExit(1)
