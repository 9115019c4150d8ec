"""Emotions of audio while it comes in, window by window.

A stream is cut into stretches of `hop` seconds; for each, the model hears a
window of `window` seconds around it. Within the window it hears only the
utterance that reaches into the stretch, from pause to pause (or to the
window's ends), with `MARGIN` seconds of what is around it, so that neither
another utterance nor noise takes part. What the windows answer depends on the
audio alone, not on the chunks in which it comes.
"""

import itertools
from dataclasses import dataclass, field

import numpy as np
import soxr

from ser_peft.data.audio import MIN_SECONDS
from ser_peft.errors import InputError
from ser_peft.inference.batches import BATCH_SECONDS, score_pieces
from ser_peft.inference.clips import RATES, as_samples
from ser_peft.inference.recognizer import check_scores
from ser_peft.inference.speech import FRAME, SpeechDetector, stretches
from ser_peft.io import SAMPLE_RATE

__all__ = ["Heard", "Stream", "Window", "fill"]

PAUSE = 0.4
"""Seconds of the shortest pause between two utterances."""
MARGIN = 0.6
"""Seconds around an utterance that the model hears with it."""
SHORTEST = int(MIN_SECONDS * SAMPLE_RATE)
"""Samples of the shortest window that an encoder takes."""
GRAIN = SAMPLE_RATE // 4
"""Samples that what is heard is a multiple of where the margin allows it."""
STEP = 1 << 16
"""Samples that are looked at at once: whatever is pushed, no more is held."""
TOGETHER = 64
"""Windows that are sorted by the length of what is heard, and batched."""


@dataclass(slots=True)
class Heard:
    """An utterance's part in one window.

    Arguments
    ---------
    start, end : float
        Speech inside of the window's own stretch, in seconds.
    first, last : float
        All speech of the utterance that the window holds, in seconds.
    scores : numpy.ndarray
        See `Recognizer.score`, [classes + dimensions].
    """

    start: float
    end: float
    first: float
    last: float
    scores: np.ndarray | None = None
    span: tuple = field(default=(), repr=False)


@dataclass(slots=True)
class Window:
    """What a model hears in a stretch of `hop` seconds and around it.

    Arguments
    ---------
    start, end : float
        The stretch, in seconds from the beginning of the stream.
    speech : float
        Share of the stretch that is speech.
    label : str or None
        Likeliest class; None if nobody speaks or the model is unsure.
    scores, uncalibrated, dimensions : dict
        As in the answers of `Recognizer.predict`; empty if nobody speaks.
    unsure : bool
        Whether no class reaches the threshold.
    heard : list of Heard
        Utterances that reach into the stretch.
    """

    start: float
    end: float
    speech: float = 0.0
    label: str | None = None
    scores: dict = field(default_factory=dict)
    uncalibrated: dict = field(default_factory=dict)
    dimensions: dict = field(default_factory=dict)
    unsure: bool = False
    heard: list = field(default_factory=list, repr=False)


class Stream:
    """Windows of audio that comes in pieces; from `Recognizer.stream`.

    Arguments
    ---------
    model : Recognizer
        Model.
    window : float
        Seconds that the model hears at once.
    hop : float
        Seconds from one window to the next, at most `window`.
    rate : int
        Sample rate of what is pushed, Hz.
    unsure : float or str, optional
        No label where no class reaches this probability; "auto" for the
        model's own threshold, see `Recognizer.answer`. Without it all speech
        has a label.
    batch_seconds : float, optional
        Seconds of audio that are scored at once, padding included.
    name : str
        Name for messages.

    Raises
    ------
    InputError
        If a number is out of range, or the extra ``timeline`` is missing.
    """

    def __init__(
        self, model, window=4.0, hop=1.0, rate=SAMPLE_RATE, unsure=None,
        batch_seconds=None, name="stream",
    ):  # fmt: skip
        longest = min(model.max_samples, model.most_samples) / SAMPLE_RATE
        if not 0.5 <= window <= longest:
            raise InputError(
                f"window {window}: give seconds from 0.5"
                + f" to {longest:g}, the model's longest" * (longest < 1e6)
            )
        if not 0.1 <= hop <= window:
            raise InputError(
                f"hop {hop}: give seconds from 0.1 to the window, {window}"
            )
        if not isinstance(rate, (int, np.integer)) or not (
            RATES[0] <= rate <= RATES[1]
        ):
            raise InputError(
                f"rate {rate!r}: give the sample rate of what is pushed, in Hz"
            )
        self.model, self.window, self.hop = model, window, hop
        self.unsure, self.name = unsure, name
        self._size = int((batch_seconds or BATCH_SECONDS) * SAMPLE_RATE)
        self._resampler = None
        if rate != SAMPLE_RATE:
            self._resampler = soxr.ResampleStream(rate, SAMPLE_RATE, 1)
        self._detector = SpeechDetector()
        # What windows to come need: samples from number `_at` on, and the
        # probabilities of the frames that begin there.
        self._at = 0
        self._wav = np.empty(0, np.float32)
        self._chances = np.empty(0, np.float32)
        self._count = 0  # windows so far
        self._known = {}  # scores of utterances of the last windows
        self._closed = False

    def push(self, samples):
        """Hear the next samples.

        Arguments
        ---------
        samples : array_like or torch.Tensor
            Mono, [T], of any length: floats in [-1, 1], or integers, which
            are scaled by the full scale of their type.

        Returns
        -------
        list of Window
            Windows that became complete, in order.

        Raises
        ------
        InputError
            If these are no samples, or the stream is closed.
        """
        wav = as_samples(samples, "samples")
        if not np.isfinite(wav).all():
            raise InputError("samples: NaN or infinite; leave them out")
        return self._push(wav)

    def close(self):
        """End the stream.

        Returns
        -------
        list of Window
            The windows that were not complete yet; the last one may be
            shorter than `hop`.
        """
        return self._push(np.empty(0, np.float32), ended=True)

    def _push(self, wav, ended=False):
        if self._closed:
            raise InputError("stream: is closed; make a new one")
        self._closed = ended
        if self._resampler:
            wav = self._resampler.resample_chunk(wav, last=ended)
        windows = self._windows(wav, ended)
        done = []
        while some := [*itertools.islice(windows, TOGETHER)]:
            self._answer(some)
            done += (window for window, _ in some)
        return done

    def _windows(self, wav, ended):
        """Yield complete windows and the samples of each utterance heard."""
        for start in range(0, len(wav), STEP):
            block = wav[start : start + STEP]
            self._wav = np.concatenate([self._wav, block])
            self._chances = np.append(self._chances, self._detector(block))
            yield from self._complete()
        if ended:
            self._chances = np.append(self._chances, self._detector.close())
            yield from self._complete(ended=True)

    def _complete(self, ended=False):
        total = self._at + len(self._wav)
        known = self._at + FRAME * len(self._chances)
        around = (self.window - self.hop) / 2
        while True:
            start = self._count * self.hop
            end = start + self.hop
            first = max(0, _sample(start - around))
            last = _sample(end + around)
            if ended:
                if _sample(start) >= total:
                    return
                last = min(last, total)
                end = min(end, total / SAMPLE_RATE)
            elif known < last:
                return
            self._drop(first)
            yield self._hear(Window(start, end), first, last)
            self._count += 1

    def _drop(self, first):
        """Forget whole frames before a sample."""
        frames = first // FRAME - self._at // FRAME
        self._chances = self._chances[frames:]
        self._wav = self._wav[frames * FRAME :]
        self._at += frames * FRAME

    def _hear(self, window, first, last):
        """Find the utterances of a window, and what is to be scored."""
        frames = -(-last // FRAME) - first // FRAME
        pause = round(PAUSE * SAMPLE_RATE / FRAME)
        found = [
            (max(first, self._at + FRAME * a), min(last, self._at + FRAME * b))
            for a, b in stretches(self._chances[:frames], pause)
        ]
        low, high = _sample(window.start), _sample(window.end)
        # Half of a pause at most belongs to an utterance.
        cuts = [
            first,
            *((a[1] + b[0]) // 2 for a, b in itertools.pairwise(found)),
            last,
        ]
        margin, pieces = _sample(MARGIN), []
        for (a, b), least, most in zip(found, cuts, cuts[1:], strict=False):
            # The detector is no more exact than its frames.
            if min(b, high) - max(a, low) < FRAME or last - first < SHORTEST:
                continue
            begin, stop = max(least, a - margin), min(most, b + margin)
            # Few lengths: torch keeps something for each that it has met.
            if stop - begin > GRAIN:
                stop = max(b, stop - (stop - begin) % GRAIN)
                begin = min(a, begin + (stop - begin) % GRAIN)
            times = max(a, low), min(b, high), a, b
            window.heard.append(
                Heard(*(t / SAMPLE_RATE for t in times), span=(begin, stop))
            )
            pieces.append(self._wav[begin - self._at : stop - self._at])
        spoken = sum(part.end - part.start for part in window.heard)
        window.speech = min(1.0, spoken / (window.end - window.start))
        return window, pieces

    def _answer(self, windows):
        """Score what was heard, the same samples only once."""
        wanted = {
            part.span: piece
            for window, pieces in windows
            for part, piece in zip(window.heard, pieces, strict=True)
        }
        new = sorted(wanted.keys() - self._known.keys(), key=_length)
        pieces = (wanted[span] for span in new)
        for span, row in zip(
            new, score_pieces(self.model, pieces, self._size), strict=True
        ):
            self._known[span] = self._checked(row, span)
        for window, _ in windows:
            for part in window.heard:
                part.scores = self._known[part.span]
            fill(window, window.heard, self.model, self.unsure)
        # Only the last utterance can be heard again, in windows to come.
        self._known = {span: self._known[span] for span in [*wanted][-2:]}

    def _checked(self, row, span):
        name = f"{self.name}, from {span[0] / SAMPLE_RATE:.1f} s on"
        if isinstance(row, InputError):
            raise InputError(
                f"{name}: {row}; take a shorter window, or a machine with "
                "more memory"
            )
        check_scores(row, name)
        return row


def fill(answer, parts, model, unsure=None):
    """Answer for parts of utterances, weighted by their durations.

    Arguments
    ---------
    answer : Window or Segment
        Gets label, scores, uncalibrated, dimensions and unsure.
    parts : list
        With ``start``, ``end`` and ``scores``; nothing changes without any.
    model : Recognizer
        Model.
    unsure : float or str, optional
        See `Stream`.
    """
    if not parts:
        return
    rows = [part.scores for part in parts]
    weights = [part.end - part.start for part in parts]
    if unsure == "auto":
        unsure = model.unsure
    found = model.answer(np.average(rows, 0, weights), unsure=unsure or 0.0)
    answer.unsure = found.pop("unsure", False)
    for key, value in found.items():
        setattr(answer, key, value)
    if answer.unsure:
        answer.label = None


def _sample(seconds):
    return round(seconds * SAMPLE_RATE)


def _length(span):
    return span[1] - span[0], span
