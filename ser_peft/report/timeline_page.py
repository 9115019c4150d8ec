"""Page of a timeline: what is heard, how it feels, and the sound itself."""

import base64
import hashlib
import io
from pathlib import Path

import numpy as np
import soundfile

from ser_peft.inference.timeline import label_of, seconds_bar
from ser_peft.io import SAMPLE_RATE
from ser_peft.report.rendering import render

__all__ = ["clock", "render_timeline"]

TEMPLATES = Path(__file__).with_name("templates")
STEP = 1 << 20
"""Samples that are drawn at once."""
WIDTH = 1000
"""Columns of a row of the drawing."""
ROWS = 18
"""Rows at most, but for recordings of many hours."""
SPANS = 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600
"""Seconds that a row can have."""
AUDIO_BYTES = 12_000_000
"""Sound in a page at most; a third more as text."""
KBIT = 6, 24
"""Lowest and highest bit rate of Opus, kbit/s."""
COLORS = {
    "ang": "#d55e00",
    "hap": "#e69f00",
    "joy": "#e69f00",
    "sad": "#0072b2",
    "neu": "#56b4e9",
    "fea": "#cc79a7",
    "dis": "#009e73",
    "sur": "#f0e442",
}
"""First letters of an emotion -> colour, of Okabe & Ito (2008)."""
SPARE = "#882255", "#44aa99", "#999933", "#aa4499", "#332288", "#117733"
"""Colours of other classes, of Tol (2021)."""
DASHES = "", "7 4", "2 3"


def render_timeline(
    timeline, recording, audio=True, model=None, progress=False
):
    """Render a timeline as one HTML page that needs nothing else.

    Arguments
    ---------
    timeline : Timeline
        From `Recognizer.timeline`.
    recording : Recording or Clip
        Its recording, which is read once more.
    audio : bool
        Put the sound into the page, as Opus, so that a click plays it: up to
        `AUDIO_BYTES`, at a lower bit rate the longer it is; the end of what
        does not fit is left out.
    model : str, optional
        Name of the model.
    progress : bool
        Show a progress bar.

    Returns
    -------
    str
        The page: style, script and sound inside, no network.

    Example
    -------
    >>> page = render_timeline(
    ...     model.timeline("call.wav"), Recording("call.wav")
    ... )  # doctest: +SKIP
    """
    few = (span for span in SPANS if timeline.seconds <= ROWS * span)
    span = min(next(few, SPANS[-1]), max(1.0, timeline.seconds))
    sound = _Opus(timeline.seconds) if audio else None
    with seconds_bar(timeline.seconds, progress, "page ") as count:
        step = span * SAMPLE_RATE / WIDTH
        envelope = _envelope(recording, step, sound, count)
    colors = _colors(timeline.classes)
    values = [v for one in timeline.windows for v in one.dimensions.values()]
    limits = (min(values), max(values)) if values else None
    script = (TEMPLATES / "timeline.js").read_text("utf-8")
    digest = hashlib.sha256(script.encode()).digest()
    return render(
        "timeline",
        {},
        timeline=timeline,
        model=model,
        colors=colors,
        dashes=dict(zip(timeline.dimensions, DASHES * 9, strict=False)),
        limits=limits,
        shares=_shares(timeline),
        rows=[
            _row(timeline, number, span, envelope, limits)
            for number in range(int(-(-timeline.seconds // span)) or 1)
        ],
        width=WIDTH,
        label_of=label_of,
        clock=clock,
        sound=sound and sound.finish(),
        script=script,
        digest=base64.b64encode(digest).decode(),
    )


def clock(seconds, decimals=0):
    """Time in a recording.

    Example
    -------
    >>> clock(75), clock(3725.25, 1), clock(59.96, 1)
    ('1:15', '1:02:05.2', '1:00.0')
    """
    minutes, rest = divmod(round(seconds, decimals), 60)
    hours, minutes = divmod(int(minutes), 60)
    rest = f"{rest:0{2 + decimals + bool(decimals)}.{decimals}f}"
    return f"{hours}:{minutes:02}:{rest}" if hours else f"{minutes}:{rest}"


class _Opus:
    """Sound in memory, in Ogg Opus, up to a size."""

    def __init__(self, seconds):
        # The container and unsteady rates take a little, too.
        rate = 0.85 * AUDIO_BYTES * 8 / 1000 / max(seconds, 1)
        self.kbit = min(max(rate, KBIT[0]), KBIT[1])
        self.left = int(
            min(1, rate / self.kbit) * max(seconds, 1) * SAMPLE_RATE
        )
        self.seconds = 0.0
        self._buffer = io.BytesIO()
        # Levels 0 to 1 are 256 to 6 kbit/s in libsndfile.
        self._file = soundfile.SoundFile(
            self._buffer, "w", SAMPLE_RATE, 1, "OPUS", format="OGG",
            compression_level=1 - (self.kbit - 6) / 250,
        )  # fmt: skip

    def write(self, block):
        block = block[: self.left]
        self.left -= len(block)
        self.seconds += len(block) / SAMPLE_RATE
        self._file.write(np.clip(block, -1, 1))

    def finish(self):
        """Sound as text, and its seconds."""
        self._file.close()
        text = base64.b64encode(self._buffer.getvalue()).decode()
        return {"text": text, "seconds": self.seconds, "kbit": self.kbit}


def _envelope(recording, step, sound, count):
    """Lowest and highest sample of every column, [columns, 2]."""
    envelope = np.zeros((-int(-len(recording) // step), 2), np.float32)
    at = 0
    for block in recording.blocks():
        for start in range(0, len(block), STEP):
            some = block[start : start + STEP]
            if sound:
                sound.write(some)
            first, last = int(at // step), int((at + len(some) - 1) // step)
            columns = np.arange(first, last + 1)
            starts = np.ceil(columns * step).astype(int) - at
            starts[0] = 0
            part = envelope[first : last + 1]
            for i, extreme in enumerate((np.minimum, np.maximum)):
                found = extreme.reduceat(some, starts)[: len(part)]
                part[:, i] = extreme(part[:, i], found)
            at += len(some)
            count(len(some) / SAMPLE_RATE)
    loud = np.quantile(np.abs(envelope), 0.999)
    return (envelope / max(loud, 1e-6)).clip(-1, 1)


def _colors(classes):
    """Class -> colour."""
    colors, spare = {}, iter(SPARE * len(classes))
    for name in classes:
        color = COLORS.get(name[:3].lower())
        if color is None or color in colors.values():
            color = next(spare)
        colors[name] = color
    return colors


def _shares(timeline):
    """Seconds of each label, and their share of all speech."""
    spoken = dict.fromkeys(timeline.classes, 0.0)
    for one in timeline.segments:
        name = label_of(one)
        spoken[name] = spoken.get(name, 0.0) + one.end - one.start
    total = sum(spoken.values())
    return [
        (name, seconds, seconds / total)
        for name, seconds in spoken.items()
        if name and seconds
    ]


def _row(timeline, number, span, envelope, limits):
    """What is drawn in one row: coordinates from 0 to `WIDTH`."""
    start = number * span
    end = start + span

    def x(seconds):
        return (seconds - start) / span * WIDTH

    columns = envelope[number * WIDTH : (number + 1) * WIDTH]
    # From left to right along the top, and back along the bottom.
    points = [f"{i},{30 - 28 * y:.1f}" for i, y in enumerate(columns[:, 1])]
    low = [f"{i},{30 - 28 * y:.1f}" for i, y in enumerate(columns[:, 0])]
    points += low[::-1]
    bands = [
        {
            "number": i,
            "x": max(0.0, x(one.start)),
            "end": min(WIDTH, x(one.end)),
            "segment": one,
        }
        for i, one in enumerate(timeline.segments)
        if one.end > start and one.start < end
    ]
    step = next(s for s in (1, 2, 5, 10, 20, 30, 60, 120, 300, 600)
                if span / s <= 12)  # fmt: skip
    last = min(end, timeline.seconds)
    return {
        "start": start,
        "end": last,
        "wave": " ".join(points),
        "heard": x(last),
        "bands": bands,
        "lines": _lines(timeline, start, end, x, limits),
        "ticks": [
            (x(at), clock(at)) for at in np.arange(start, last + 1e-6, step)
        ],
    }


def _lines(timeline, start, end, x, limits):
    """Path of each dimension, broken where nobody speaks."""
    if limits is None:
        return {}
    low, high = limits
    paths = {name: [] for name in timeline.dimensions}
    inside = False
    for one in timeline.windows:
        if one.end <= start or one.start >= end:
            continue
        move = "L" if inside else "M"
        inside = bool(one.dimensions)
        for name, value in one.dimensions.items():
            y = 50 - 48 * (value - low) / max(high - low, 1e-6)
            middle = x((one.start + one.end) / 2)
            # A window alone is a short line, not an invisible point.
            first = middle - (0 if move == "L" else 2)
            paths[name].append(
                f"{move}{first:.1f},{y:.1f} L{middle:.1f},{y:.1f}"
            )
    return {name: " ".join(path) for name, path in paths.items()}
