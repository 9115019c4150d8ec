"""Emotions along a recording of any length: windows, smoothed to segments.

The windows are those of `ser_peft.inference.streams`. Where somebody speaks,
the scores (logits and dimensions) of all windows that have heard the stretch
are averaged: each counts by how much of the stretch it has heard, and
linearly less the farther its middle is, down to 0 at half a window. Stretches
of one utterance that have the same label, or are very short, are joined to a
segment, which begins and ends where the detector finds speech, or where the
label changes.
"""

import csv
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import numpy as np

from ser_peft.data.audio import Recording
from ser_peft.errors import InputError
from ser_peft.inference.clips import Clip, open_clip
from ser_peft.inference.speech import FRAME
from ser_peft.inference.streams import Stream, fill
from ser_peft.io import SAMPLE_RATE, atomic_path

__all__ = [
    "Segment",
    "Timeline",
    "follow",
    "join",
    "label_of",
    "seconds_bar",
    "text_grid",
    "write_rows",
]

STEP = 1 << 20
"""Samples that are pushed at once, a minute: enough for batches."""
SHORTEST = 0.5
"""Seconds under which a stretch takes part in its neighbour's segment."""
TOUCHING = FRAME / SAMPLE_RATE
"""Seconds between parts of one utterance at most."""
UNSURE = "unsure"
"""Label in tables, where the model is."""


@dataclass(slots=True)
class Segment:
    """A stretch of speech with one label.

    Arguments
    ---------
    start, end : float
        In seconds.
    label : str or None
        None if the model is unsure, or has dimensions alone.
    scores, uncalibrated, dimensions : dict
        As in the answers of `Recognizer.predict`, of the segment's mean.
    unsure : bool
        Whether no class reaches the threshold.
    """

    start: float
    end: float
    label: str | None = None
    scores: dict = field(default_factory=dict)
    uncalibrated: dict = field(default_factory=dict)
    dimensions: dict = field(default_factory=dict)
    unsure: bool = False


@dataclass
class Timeline:
    """What `Recognizer.timeline` returns.

    Arguments
    ---------
    name : str
        Name of the recording.
    seconds : float
        Its duration.
    classes, dimensions : list of str
        Names, in the order of the model.
    window, hop : float
        Seconds, see `ser_peft.inference.streams.Stream`.
    windows : list of Window
        One each `hop` seconds, not smoothed.
    segments : list of Segment
        Where somebody speaks, in order.
    """

    name: str
    seconds: float
    classes: list
    dimensions: list
    window: float
    hop: float
    windows: list
    segments: list

    def write(self, path):
        """Write the segments.

        Arguments
        ---------
        path : str or Path
            ``.csv``: one row a segment, see `write_rows`. ``.TextGrid``: for
            Praat, see `text_grid`. For a page, see
            `ser_peft.report.timeline_page`.

        Raises
        ------
        InputError
            For another ending.
        """
        kind = Path(path).suffix.lower()
        if kind == ".csv":
            write_rows(path, self.segments, self)
        elif kind == ".textgrid":
            with atomic_path(path) as tmp:
                tmp.write_text(text_grid(self), encoding="utf-8")
        else:
            raise InputError(f"{path}: give a .csv or .TextGrid")


def follow(
    model, recording, window=4.0, hop=1.0, unsure=None, batch_seconds=None,
    progress=False, name=None,
):  # fmt: skip
    """Follow emotions through a recording, see `Recognizer.timeline`.

    Arguments
    ---------
    model : Recognizer
        Model.
    recording : object
        Anything that `open_clip` takes, or what it returned.
    window, hop, unsure, batch_seconds, progress, name
        See `Recognizer.timeline`.

    Returns
    -------
    Timeline
    """
    if name is None:
        path = isinstance(recording, (str, Path))
        name = str(recording) if path else "recording"
    if not isinstance(recording, (Recording, Clip)):
        recording = open_clip(recording, name)
    stream = Stream(
        model, window, hop, unsure=unsure, batch_seconds=batch_seconds,
        name=name,
    )  # fmt: skip
    windows = []
    with seconds_bar(recording.seconds, progress) as count:
        for block in recording.blocks():
            for start in range(0, len(block), STEP):
                some = block[start : start + STEP]
                windows += stream.push(some)
                count(len(some) / SAMPLE_RATE)
        windows += stream.close()
    return Timeline(
        name,
        recording.seconds,
        list(model.classes),
        list(model.dimensions),
        window,
        hop,
        windows,
        join(windows, model, window, unsure),
    )


@contextmanager
def seconds_bar(seconds, shown, title=None):
    """Progress bar over seconds of audio; its rate is times real time.

    Arguments
    ---------
    seconds : float
        Seconds in all.
    shown : bool
        Whether there is one.
    title : str, optional
        What stands before it.

    Yields
    ------
    callable
        Takes the seconds that were done since it was called last.
    """
    # Where only ONNX files are run, there is no tqdm.
    if not (shown and find_spec("tqdm")):
        yield lambda _: None
        return
    from tqdm import tqdm

    form = (
        "{desc}{percentage:3.0f}%|{bar}| {n:.0f} of {total:.0f} s "
        "[{elapsed}<{remaining}{postfix}]"
    )
    with tqdm(
        total=seconds, desc=title, bar_format=form, dynamic_ncols=True
    ) as bar:

        def count(more):
            done, spent = bar.n + more, bar.format_dict["elapsed"]
            if spent:
                bar.set_postfix_str(f"{done / spent:.1f} x real time", False)
            bar.update(more)

        yield count


def join(windows, model, window, unsure=None):
    """Smooth windows, and join them to segments.

    Arguments
    ---------
    windows : list of Window
        All windows of a recording, or of the part of a stream so far.
    model : Recognizer
        Model that has heard them.
    window : float
        Seconds of a window.
    unsure : float or str, optional
        See `ser_peft.inference.streams.Stream`.

    Returns
    -------
    list of Segment
    """

    def segment(parts):
        answer = Segment(parts[0].start, parts[-1].end)
        fill(answer, parts, model, unsure)
        return answer

    def same(*groups):
        one, other = map(segment, groups)
        return (one.label, one.unsure) == (other.label, other.unsure)

    def short(*groups):
        return min(g[-1].end - g[0].start for g in groups) < SHORTEST

    groups = [[part] for part in _smoothed(windows, window)]
    for alike in (same, short, same):
        groups = _joined(groups, alike)
    return [*map(segment, groups)]


def _joined(groups, alike):
    """Join neighbours within an utterance that are alike."""
    joined = []
    for group in groups:
        before = joined[-1] if joined else None
        if (
            before
            and group[0].start - before[-1].end < TOUCHING
            and alike(before, group)
        ):
            before += group
        else:
            joined.append([*group])
    return joined


def _smoothed(windows, window):
    """What was heard, with smoothed scores."""
    parts = [
        ((one.start + one.end) / 2, part)
        for one in windows
        for part in one.heard
    ]
    nearest = 0
    for middle, part in parts:
        while middle - parts[nearest][0] >= window / 2:
            nearest += 1
        total, scores = 0.0, 0.0
        for other, heard in islice(parts, nearest, None):
            weight = 1 - abs(middle - other) / (window / 2)
            if weight <= 0:
                break
            weight *= max(
                0.0, min(part.end, heard.last) - max(part.start, heard.first)
            )
            total += weight
            scores = scores + weight * heard.scores.astype(np.float64)
        yield replace(part, scores=scores / total)


def write_rows(path, rows, timeline):
    """Write windows or segments as a table.

    Arguments
    ---------
    path : str or Path
        New csv file. Columns: ``start`` and ``end`` in seconds; ``speech``,
        for windows, the share of it; ``label``, empty where nobody speaks,
        "unsure" where the model is; the calibrated probability of each class;
        each dimension.
    rows : list of Window or list of Segment
        Its rows.
    timeline : Timeline
        Names the classes and dimensions.
    """
    share = ["speech"] if rows and hasattr(rows[0], "speech") else []
    head = ["start", "end", *share, *["label"] * bool(timeline.classes)]
    head += [*timeline.classes, *timeline.dimensions]
    with (
        atomic_path(path) as tmp,
        open(tmp, "w", encoding="utf-8", newline="") as file,
    ):
        table = csv.DictWriter(file, head, restval="", extrasaction="ignore")
        table.writeheader()
        for row in rows:
            cells = row.scores | row.dimensions
            cells |= {k: getattr(row, k) for k in ("start", "end", *share)}
            cells = {key: f"{value:.3f}" for key, value in cells.items()}
            table.writerow(cells | {"label": label_of(row)})


def label_of(row):
    """Label of a window or a segment in tables: "unsure" where the model is."""
    return UNSURE if row.unsure else row.label or ""


def text_grid(timeline):
    """Put segments into a TextGrid of Praat.

    Arguments
    ---------
    timeline : Timeline
        Timeline.

    Returns
    -------
    str
        A tier ``emotion``, if there are classes, and one for each dimension;
        intervals without speech are empty.
    """
    tiers = {}
    if timeline.classes:
        tiers["emotion"] = label_of
    for name in timeline.dimensions:
        tiers[name] = lambda row, name=name: f"{row.dimensions[name]:.3f}"
    end = timeline.seconds
    lines = [
        'File type = "ooTextFile"', 'Object class = "TextGrid"', "",
        "xmin = 0", f"xmax = {end:.6f}", "tiers? <exists>",
        f"size = {len(tiers)}", "item []:",
    ]  # fmt: skip
    for number, (name, text) in enumerate(tiers.items(), 1):
        intervals, at = [], 0.0
        for row in timeline.segments:
            if row.start - at > 1e-6:
                intervals.append((at, row.start, ""))
            at = min(row.end, end)
            intervals.append((row.start, at, text(row)))
        if end - at > 1e-6:
            intervals.append((at, end, ""))
        lines += [
            f"    item [{number}]:",
            '        class = "IntervalTier"',
            f"        name = {_quoted(name)}",
            "        xmin = 0",
            f"        xmax = {end:.6f}",
            f"        intervals: size = {len(intervals)}",
        ]
        for index, (start, stop, words) in enumerate(intervals, 1):
            lines += [
                f"        intervals [{index}]:",
                f"            xmin = {start:.6f}",
                f"            xmax = {stop:.6f}",
                f"            text = {_quoted(words)}",
            ]
    return "\n".join(lines) + "\n"


def _quoted(text):
    return '"' + text.replace('"', '""') + '"'
