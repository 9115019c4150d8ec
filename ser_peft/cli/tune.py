"""The command that searches settings: ``ser-peft tune``."""

import re
import sys

from ser_peft.cli.common import (
    check_positive,
    new_command,
    say,
    slurm_of,
    slurm_parameters,
    stoppable,
)

__all__ = ["OVERRIDE", "add_commands", "tune"]

OVERRIDE = re.compile(
    r"--(?!(space|trials|seeds|outer|output_folder|jobs|cluster|slurm)=)\w+="
)
"""Flags of tune that are the trainings'; see `ser_peft.cli.runs`."""


def add_commands(commands):
    """Add the command to ``ser-peft``."""
    add = new_command(
        commands, tune,
        usage="%(prog)s SCRIPT HPARAMS --space SPACE --trials N "
        "[--seeds 8,16] --data_folder=... [--KEY=VALUE ...] [options]",
        epilog="Any --KEY=VALUE of the yaml goes to every training. Started "
        "again, it goes on; started twice, the two share the work.",
        allow_abbrev=False,
    )  # fmt: skip
    add("script", help="a recipe's train.py, or its folder")
    add("hparams", help="one of its yamls")
    space = "yaml: keys of the recipe's yaml and what to try of each"
    add("--space", required=True, help=space)
    add("--trials", required=True, type=int, help="in all, the done included")
    add("--seeds", default="8", help="of every trial, as 8,16; default: 8")
    outer = "fold whose test speakers stay away (%(default)s)"
    add("--outer", type=int, default=1, metavar="FOLD", help=outer)
    add("--output_folder", help="default: results/tune/HPARAMS of the recipe")
    add("--jobs", type=int, default=1, help="trainings at once, here")
    slurm_parameters(add)


def tune(args):
    """Search settings by inner folds: test speakers are never read."""
    check_positive(args, "jobs", "trials", "outer")
    slurm = slurm_of(args)

    from ser_peft.crossval import numbers
    from ser_peft.tune import Search, tune

    search = Search(
        args.script,
        args.hparams,
        args.space,
        numbers(args.seeds),
        args.outer,
        args.output_folder,
        args.overrides,
    )
    with stoppable():
        reason = tune(search, args.trials, args.jobs, slurm)
    say(f"page: {search.folder / 'tune.html'}")
    if (best := search.folder / "best.yaml").exists():
        say(f"best settings: {best}")
    if reason:
        say(f"failed: {reason}", file=sys.stderr)
        raise SystemExit(1)
