"""Checks of a corpus's recordings, each decoded once and remembered."""

import hashlib
import json
import logging
import os
from collections import defaultdict
from pathlib import Path
from typing import Literal

from tqdm.contrib.concurrent import thread_map

from ser_peft.data.audio import ODDITIES, Recording
from ser_peft.errors import InputError, some, summary
from ser_peft.io import atomic_path, find_file
from ser_peft.storage.schema import Number, Text, read_json

__all__ = ["durations"]

logger = logging.getLogger(__name__)

LONG_SECONDS = 30
"""Longer recordings are cut into windows."""
CHECKS = 2
"""Version of the checks, raised whenever more is checked."""
MEMORY = dict[Text, tuple[Number, dict[Literal[tuple(ODDITIES)], Text]]]
"""Remembered of a recording and its state: seconds and oddities."""


def durations(recordings, listing):
    """Check that recordings can be used, and measure their durations.

    Everything is decoded: a broken file found after hours of training, in
    the test set, would be worse. But only once: a recording that was fine is
    remembered, in ``$XDG_CACHE_HOME/ser_peft`` (``~/.cache/ser_peft``), for
    the next fold, seed and method, until the file's size or time changes.

    Arguments
    ---------
    recordings : dict
        Folder of a corpus -> its recordings, paths as for
        `ser_peft.data.audio.read_audio`.
    listing : str or Path
        Text file that gets a line for every fault of a recording, if there
        are several; removed otherwise.

    Returns
    -------
    dict
        Path -> seconds. The recordings' `ODDITIES` are logged.

    Raises
    ------
    InputError
        If some cannot be used: names the first ones, see `summary`.
    """
    found = {}
    for root, paths in recordings.items():
        found |= _check([*map(str, paths)], root)
    top = os.path.commonpath([os.path.abspath(root) for root in recordings])
    broken, odd, lines = {}, defaultdict(list), []
    for path, one in sorted(found.items()):
        name = os.path.relpath(path, top)
        if isinstance(one, str):
            broken[name] = one
            lines.append(one)
            continue
        for kind, detail in one[1].items():
            odd[kind].append(f"{name} ({detail})")
            lines.append(f"{path}: {ODDITIES[kind]} ({detail})")
    if len(lines) < 2:
        Path(listing).unlink(missing_ok=True)
        listing = None
    else:
        with atomic_path(listing) as tmp:
            text = "".join(f"{' '.join(line.split())}\n" for line in lines)
            tmp.write_text(text, "utf-8", errors="backslashreplace")
    for kind, names in odd.items():
        logger.warning(
            "%d of %d recordings: %s: %s", len(names), len(found),
            ODDITIES[kind], some(names, listing),
        )  # fmt: skip
    if broken:
        raise InputError(summary(broken, len(found), listing))
    seconds = {path: one[0] for path, one in found.items()}
    long = [path for path, one in seconds.items() if one > LONG_SECONDS]
    if long:
        logger.warning(
            "%d of %d recordings are longer than %d s, as %s (%.0f s): "
            "training cuts them to max_seconds, everything else judges them "
            "window by window",
            len(long), len(found), LONG_SECONDS, long[0], seconds[long[0]],
        )  # fmt: skip
    return seconds


def _check(paths, root):
    """Check the recordings of a folder, but those remembered as fine.

    Returns a dict, in order: path -> (seconds, oddities), or the message of
    one that cannot be used.
    """
    name = os.fsencode(f"{CHECKS} {os.path.realpath(root)}")
    name = hashlib.sha256(name).hexdigest()[:16]
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    memory = Path(home) / "ser_peft" / "audio" / f"{name}.json"
    try:
        known = read_json(memory, MEMORY, "is no memory", "remove it")
    except InputError:
        known = {}  # not there, or not whole: begin anew
    before = len(known)

    def check(path):
        try:
            stat = os.stat(find_file(path.partition("#t=")[0]))
            # The state is a part of the key: a changed file is another one.
            key = os.path.relpath(path, root)
            key = f"{key} {stat.st_size} {stat.st_mtime_ns}"
        except OSError:
            key = None
        try:
            if key not in known:
                recording = Recording(path)
                seconds = recording.frames / recording.rate
                known[key] = seconds, recording.oddities
            return known[key]
        except InputError as error:
            return str(error)

    try:
        # Threads, since libsndfile frees the GIL.
        checked = thread_map(
            check,
            paths,
            max_workers=min(8, os.cpu_count()),
            desc="checking audio",
            unit="clip",
            disable=None,
        )
        return dict(zip(paths, checked, strict=True))
    finally:
        # After Ctrl-C too.
        if len(known) > before:
            try:
                with atomic_path(memory) as tmp:
                    tmp.write_text(json.dumps(known), encoding="utf-8")
            except OSError as error:
                logger.warning("%s: not written (%s)", memory, error)
