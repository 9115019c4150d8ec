"""Emotions along a recording of any length: windows, smoothed to segments.

The windows are those of `ser_peft.inference.streams`. Where somebody speaks,
the scores (logits and dimensions) of all windows that have heard the stretch
are averaged: each counts by how much of the stretch it has heard, and
linearly less the farther its middle is, down to 0 at half a window. Stretches
of one utterance that have the same label are joined to a segment, which
begins and ends where the detector finds speech, or where the label changes.
"""

import csv
from dataclasses import dataclass, field
from pathlib import Path

from ser_peft.errors import InputError
from ser_peft.inference.clips import open_clip
from ser_peft.inference.speech import FRAME
from ser_peft.inference.streams import Heard, Stream, fill
from ser_peft.io import SAMPLE_RATE, atomic_path

__all__ = ["Segment", "Timeline", "follow", "join", "text_grid", "write_rows"]

STEP = 1 << 20
"""Samples that are pushed at once, a minute: enough for batches."""
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
    progress=False,
):  # fmt: skip
    """See `Recognizer.timeline`."""
    if hasattr(recording, "blocks"):  # it is open
        name, clip = recording.name, recording
    else:
        name = recording if isinstance(recording, (str, Path)) else "recording"
        name, clip = str(name), open_clip(recording, str(name))
    stream = Stream(
        model, window, hop, unsure=unsure, batch_seconds=batch_seconds,
        name=name,
    )  # fmt: skip
    windows = []
    with _bar(clip.seconds, progress) as bar:
        for block in clip.blocks():
            for start in range(0, len(block), STEP):
                some = block[start : start + STEP]
                windows += stream.push(some)
                bar(len(some) / SAMPLE_RATE)
        windows += stream.close()
    return Timeline(
        name,
        clip.seconds,
        list(model.classes),
        list(model.dimensions),
        window,
        hop,
        windows,
        join(windows, model, window, unsure),
    )
