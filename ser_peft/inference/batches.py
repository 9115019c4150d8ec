"""Many recordings, scored in batches of similar length.

The pieces that recordings are cut into are scored in groups of `CLIPS`
recordings or `SECONDS` of audio, the shortest first, so that little is padding;
files are decoded in threads ahead of the model. What is in memory does not
grow with the number of recordings, and where a group ends depends on the
recordings alone, so that a later run that begins at a group has the same
batches.
"""

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from ser_peft.errors import InputError, out_of_memory
from ser_peft.inference.clips import open_clip
from ser_peft.io import SAMPLE_RATE

__all__ = ["BATCH_SECONDS", "Judged", "Group", "judge", "score_pieces"]

BATCH_SECONDS = 30
"""Seconds of audio in a batch, padding included: larger ones are no faster on
a CPU, whose caches they outgrow."""
CLIPS, SECONDS = 128, 900
"""Size of a group: recordings, and seconds of audio."""
ROUND = 4000
"""Samples that the length of a batch is a multiple of: oneDNN compiles its
kernels for every new shape, and keeps them."""
WORKERS = 4
"""Threads that decode, where there are as many cores."""
AHEAD = 64, 1 << 25
"""Recordings, and bytes of their files, that are decoded ahead at most."""


@dataclass
class Judged:
    """One recording after the model.

    Arguments
    ---------
    name : str
        Path, or ``recordings[3]``.
    seconds : float
        Duration; 0 of what cannot be read.
    scores : numpy.ndarray or None
        [classes + dimensions], see `Recognizer.score`; None with a problem.
    problem : InputError or None
        Reason why it has no scores.
    """

    name: str
    seconds: float = 0.0
    scores: np.ndarray | None = None
    problem: InputError | None = None


class Group:
    """Counts recordings and seconds; tells where a group of them ends."""

    def __init__(self):
        self.clips, self.seconds = 0, 0.0

    def add(self, seconds):
        """Count one; return whether it is the last of its group.

        Seconds are rounded as an archive has them, which is read again.
        """
        self.clips += 1
        self.seconds += round(seconds, 3)
        full = self.clips == CLIPS or self.seconds >= SECONDS
        if full:
            self.__init__()
        return full


def judge(model, recordings, batch_seconds=None):
    """Score recordings, in their order.

    Arguments
    ---------
    model : Recognizer
        Model.
    recordings : iterable of (str, object, str or None)
        Name, recording in any form that `open_clip` takes, and its text.
        Read as far ahead as is needed.
    batch_seconds : float, optional
        Seconds of audio in a batch; `BATCH_SECONDS` by default.

    Yields
    ------
    list of Judged
        One group after the other.
    """
    size = int((batch_seconds or BATCH_SECONDS) * SAMPLE_RATE)
    with ThreadPoolExecutor(min(WORKERS, os.cpu_count() or 1)) as pool:
        group, members = Group(), []
        for one in _decoded(pool, recordings):
            members.append(one)
            if group.add(one[0].seconds):
                yield _judge_group(model, members, size)
                members = []
        if members:
            yield _judge_group(model, members, size)


def _decoded(pool, recordings):
    """Decode in order, a little ahead of what is asked for."""
    waiting, weight = deque(), 0
    recordings = iter(recordings)
    while True:
        while len(waiting) < AHEAD[0] and (not waiting or weight < AHEAD[1]):
            try:
                name, recording, text = next(recordings)
            except StopIteration:
                break
            size = _size(recording)
            weight += size
            future = pool.submit(_open, name, recording, text)
            waiting.append((future, size))
        if not waiting:
            return
        future, size = waiting.popleft()
        weight -= size
        yield future.result()


def _size(recording):
    """Bytes of a file; 0 of anything else, which is in memory as it is."""
    if not isinstance(recording, (str, os.PathLike)):
        return 0
    try:
        return os.path.getsize(recording)
    except (OSError, ValueError):
        return 0  # whoever opens it reports


def _open(name, recording, text):
    """Open a recording: what is known of it, its clip, and its text."""
    try:
        clip = open_clip(recording, name)
    except InputError as error:
        return Judged(name, problem=error), None, text
    return Judged(name, seconds=clip.seconds), clip, text


def _judge_group(model, members, size):
    """Score the members of one group; returns their `Judged`."""
    pieces = []  # (member, samples) of clips in memory
    for one, clip, text in members:
        if clip is None:
            continue
        length = int(min(len(clip), model.most_samples))
        count = int(-(-length // model.max_samples))
        windows = clip.windows(length, count)
        if clip.held:
            pieces += ((one, window, text) for window in windows)
        else:
            _set_scores(
                one, score_pieces(model, windows, size, text), len(clip)
            )
    pieces.sort(key=lambda piece: len(piece[1]))
    rows = {}
    for batch in _batches(pieces, size):
        ones, wavs, texts = zip(*batch, strict=True)
        for one, row in zip(ones, _score(model, wavs, texts), strict=True):
            rows.setdefault(id(one), []).append(row)
    for one, clip, _ in members:
        if clip is not None and clip.held:
            _set_scores(one, rows[id(one)], len(clip))
    return [one for one, _, _ in members]


def score_pieces(model, pieces, size, text=None):
    """Score pieces of one recording, in their order.

    Arguments
    ---------
    model : Recognizer
        Model.
    pieces : iterable of numpy.ndarray
        16 kHz mono, [T]; only those of one batch are held.
    size : int
        Samples of a batch.
    text : str, optional
        Transcript of all of them.

    Yields
    ------
    numpy.ndarray or InputError
        Scores of each piece.
    """
    batch = ((None, piece, text) for piece in pieces)
    for some in _batches(batch, size):
        _, wavs, texts = zip(*some, strict=True)
        yield from _score(model, wavs, texts)


def _batches(pieces, size):
    """Cut pieces (..., samples, ...) into lists of so many samples."""
    batch, longest = [], 0
    for piece in pieces:
        longest = max(longest, _rounded(len(piece[1])))
        if batch and longest * (len(batch) + 1) > size:
            yield batch
            batch, longest = [], _rounded(len(piece[1]))
        batch.append(piece)
    if batch:
        yield batch


def _rounded(samples):
    return -(-samples // ROUND) * ROUND


def _score(model, wavs, texts):
    """Score one batch, in halves where memory runs out."""
    lengths = np.array([len(wav) for wav in wavs])
    longest = min(_rounded(int(lengths.max())), model.max_samples)
    padded = np.zeros((len(wavs), longest), np.float32)
    for row, wav in zip(padded, wavs, strict=True):
        row[: len(wav)] = wav
    try:
        texts = None if not any(texts) else [text or "" for text in texts]
        return model.score(padded, lengths, texts)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        if len(wavs) == 1:
            return [InputError("memory ran out")]
    half = len(wavs) // 2
    texts = texts or [None] * len(wavs)
    return [
        *_score(model, wavs[:half], texts[:half]),
        *_score(model, wavs[half:], texts[half:]),
    ]


def _set_scores(one, rows, samples):
    """Average the scores of a recording's windows."""
    total, count = 0.0, 0
    for row in rows:
        if isinstance(row, InputError):
            one.problem = InputError(
                f"{one.name}: {row} on its {samples / SAMPLE_RATE:.1f} s; "
                "cut it, or take a machine with more memory"
            )
            return
        total, count = total + row.astype(np.float64), count + 1
    one.scores = (total / count).astype(np.float32)
