"""Count of how often a test set was read: one line of a file a time."""

import os
from datetime import UTC, datetime
from pathlib import Path

__all__ = ["READS", "count_reads", "note_read"]

READS = "test_reads.txt"
"""File in a run's folder that only ever grows."""


def note_read(folder, what):
    """Note that a test set is about to be read, for good.

    Arguments
    ---------
    folder : str or Path
        Output folder of the run; made if absent.
    what : str
        What reads it.

    Returns
    -------
    int
        How often it was read, this time included. Removing results and
        running again in the same folder does not begin anew.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> note_read(folder, "epoch 9"), note_read(folder, "epoch 9")
    (1, 2)
    """
    path = Path(folder) / READS
    path.parent.mkdir(parents=True, exist_ok=True)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    with open(path, "a", encoding="utf-8", errors="backslashreplace") as file:
        file.write(f"{now} {' '.join(str(what).split())}\n")
        file.flush()
        os.fsync(file.fileno())
    return count_reads(folder)


def count_reads(folder):
    """Count the lines of a run's `READS`; 0 where it has none."""
    path = Path(folder) / READS
    return len(path.read_bytes().splitlines()) if path.exists() else 0
