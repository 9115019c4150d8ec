"""Run that a folder holds: is it this one, and is it finished?"""

import re
from pathlib import Path

from ser_peft.errors import InputError

__all__ = ["DONE", "finished"]

# Keys that may change between two starts of a run: where things are, how fast,
# and what is measured besides.
FREE = (
    "data_folder",
    "corpora",
    "num_workers",
    "ckpt_interval_minutes",
    "robustness",
    "fairness_columns",
    "cache_gb",
)

DONE = ("results.json", "pretraining.json")
"""Last file that a training or a pretraining writes."""


def finished(text, output_folder):
    """Check whether this run is finished; refuse to mix two runs.

    Arguments
    ---------
    text : str
        From `read_settings`.
    output_folder : str or Path
        Where the run writes.

    Returns
    -------
    bool
        True if what a run leaves last is there.

    Raises
    ------
    InputError
        If the folder holds a run with other settings.
    """
    folder = Path(output_folder)
    before = folder / "hyperparams.yaml"
    if before.exists():
        old = _by_key(before.read_text(encoding="utf-8"))
        new = _by_key(text)
        # In the file's order: keys that follow from a changed one stand below.
        for key in {**new, **old}:
            if key not in FREE and old.get(key) != new.get(key):
                raise InputError(
                    f"output_folder {folder}: holds a run with another "
                    f"'{key}'; choose another --output_folder or delete it"
                )
    return any((folder / name).exists() for name in DONE)


def _by_key(text):
    """Top-level keys and the text of their values, comments left out."""
    settings, key = {}, None
    for line in text.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = re.match(r"([A-Za-z_]\w*):", line)
        key = match.group(1) if match else key
        if key in ("brain", "corpus"):  # other keys tell what these two hold
            line = line.split(" {")[0] if match else ""
        settings[key] = settings.get(key, "") + line + "\n"
    return settings
