"""One archive shared among processes, on this machine or on SLURM."""

import math
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from ser_peft.cli.common import slurm_of, stoppable
from ser_peft.crossval.runner import crossval
from ser_peft.crossval.trainings import Training
from ser_peft.errors import InputError
from ser_peft.inference.archive import read_about, shard_path

__all__ = ["in_shards"]

OF_ALL = {"--jobs": 1, "--cluster": 1, "--slurm": math.inf}
"""Flags that are not handed on to the single processes -> their values."""


@dataclass
class Shard(Training):
    """A process that writes one part of a table: call it to run it.

    Arguments
    ---------
    name, command, recipe, folder
        See `Training`.
    out : str
        The whole table.
    number, count : int
        Number of this process, from 0, and of all.
    """

    out: str = ""
    number: int = 0
    count: int = 1

    @property
    def finished(self):
        """Whether its part is there, or merged already."""
        part = shard_path(self.out, (self.number, self.count))
        whole = not part.parent.exists() and self.out
        about = read_about(whole or part)
        return about is not None and about["finished"]

    def __call__(self, **environment):
        """Run it; returns the reason why it failed, if it did."""
        rank = {"RANK": str(self.number), "WORLD_SIZE": str(self.count)}
        reason = super().__call__(**environment, **rank)
        # Files that cannot be used are told once, of all parts.
        return None if self.finished else reason

    def progress(self):
        """Last state of its progress bar."""
        return self.last_line()

    def scores(self):
        """What was done, for people."""
        return "done"


def in_shards(args):
    """Run ``ser-peft predict`` in ``args.jobs`` processes.

    Raises
    ------
    InputError
        If one of them failed.
    """
    command = [sys.executable, "-m", "ser_peft.cli", *_own(args.argv)]
    logs = Path(f"{args.out}.logs")
    shards = [
        Shard(
            f"part {number + 1} of {args.jobs}",
            command,
            Path.cwd(),
            logs / str(number),
            out=args.out,
            number=number,
            count=args.jobs,
        )
        for number in range(args.jobs)
    ]
    with stoppable():
        failed = crossval(shards, args.jobs, slurm_of(args))
    if not failed:
        shutil.rmtree(logs)
    for name, reason in failed.items():
        raise InputError(
            f"{name}: {reason}; {len(failed)} of {args.jobs} jobs failed; "
            "give the same command again, and it goes on"
        )


def _own(argv):
    """Command line without the flags of the whole."""
    kept, left = [], 0
    for word in argv:
        flag, equals, _ = word.partition("=")
        if flag in OF_ALL:
            left = 0 if equals else OF_ALL[flag]
        elif left and not word.startswith("--"):
            left -= 1
        else:
            left = 0
            kept.append(word)
    return kept
