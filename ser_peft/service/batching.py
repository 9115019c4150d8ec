"""Clips of many clients, scored together."""

import logging
import time
from concurrent.futures import CancelledError, Future
from itertools import chain
from queue import Empty, SimpleQueue
from threading import Thread
from typing import NamedTuple

import numpy as np

from ser_peft.inference.batches import BATCH_SECONDS
from ser_peft.inference.recognizer import Recognizer
from ser_peft.io import SAMPLE_RATE

__all__ = ["Batcher", "Turns"]

logger = logging.getLogger(__name__)

PATIENCE = 0.002
"""Seconds that a clip waits for others while the model has nothing to do."""

ATTRIBUTES = (
    "classes dimensions temperature unsure first_seconds max_samples reads_text"
).split()
"""Of a `Recognizer`."""


class _Clip(NamedTuple):
    """A clip that waits, and where what was found goes."""

    wav: np.ndarray
    name: str
    text: str
    found: Future


class Batcher:
    """One thread that scores whatever clips wait, in batches.

    A model is no faster in two threads than in one, but it is faster with
    many clips at once. While a batch is computed the next one gathers, so
    that batches grow with the load and nobody waits for one to fill.

    Arguments
    ---------
    model : ser_peft.inference.Recognizer
        Model whose scores do not depend on a clip's batch mates.
    batch_seconds : float, optional
        Seconds of audio that are scored at once.
    """

    def __init__(self, model, batch_seconds=None):
        self.model = model
        self.batch_seconds = batch_seconds or BATCH_SECONDS
        self._queue = SimpleQueue()  # of clips, and of functions in between
        self._thread = Thread(target=self._run, name="scores", daemon=True)
        self._more = True

    def __enter__(self):
        """Start the thread."""
        self._thread.start()
        return self

    def __exit__(self, *_):
        """End the thread, after all that was submitted."""
        self._queue.put(self._end)
        self._thread.join()

    def _end(self):
        self._more = False

    def submit(self, wav, name, text=""):
        """Put a clip into the queue.

        Arguments
        ---------
        wav : numpy.ndarray
            16 kHz mono, [T].
        name : str
            Name of the clip, for messages.
        text : str
            Transcript, for a model that reads it.

        Returns
        -------
        concurrent.futures.Future
            A `ser_peft.inference.batches.Judged`. A clip whose future is
            cancelled before its turn is not computed.
        """
        clip = _Clip(wav, name, text, Future())
        self._queue.put(clip)
        return clip.found

    def call(self, function, *args):
        """Call a function in the thread, when it is its turn.

        Returns
        -------
        concurrent.futures.Future
            What it returns.
        """
        future = Future()

        def run():
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(function(*args))
                except Exception as error:  # theirs, who wait
                    future.set_exception(error)

        self._queue.put(run)
        return future

    def _run(self):
        while self._more:
            clips, then = self._gather()
            # What is cut into windows is long: the others do not wait for it.
            limit = self.model.max_samples
            turns = [[clip for clip in clips if len(clip.wav) <= limit]]
            turns += [[clip] for clip in clips if len(clip.wav) > limit]
            for turn in turns:
                self._score(turn)
            then()

    def _gather(self):
        """Clips of one turn, and what to call after it."""
        clips, samples, until = [], 0, None
        while samples < self.batch_seconds * SAMPLE_RATE:
            wait = until and max(0.0, until - time.monotonic())
            try:
                clip = self._queue.get(timeout=wait)
            except Empty:
                break
            if not isinstance(clip, _Clip):
                return clips, clip
            clips.append(clip)
            samples += len(clip.wav)
            until = until or time.monotonic() + PATIENCE
        return clips, lambda: None

    def _score(self, clips):
        # A future that runs can no longer be cancelled: ask late.
        clips = [
            clip for clip in clips if clip.found.set_running_or_notify_cancel()
        ]
        items = [(clip.name, clip.wav, clip.text) for clip in clips]
        try:
            groups = self.model.judged(items, self.batch_seconds)
            found = chain.from_iterable(groups)
            pairs = [*zip(clips, found, strict=True)]
        except Exception:  # the thread goes on
            logger.exception("no scores for %d clips", len(clips))
            for clip in clips:
                # Not the error itself, which may name another client's clip.
                clip.found.set_exception(RuntimeError("the model failed"))
            return
        for clip, one in pairs:
            clip.found.set_result(one)


class Turns(Recognizer):
    """A model that takes turns with the clips of a `Batcher`.

    Arguments
    ---------
    batcher : Batcher
        Batcher, whose thread calls the model.

    Attributes
    ----------
    left : bool
        Whether whoever asked has gone: the next batch raises
        `concurrent.futures.CancelledError`.
    """

    def __init__(self, batcher):
        self.left, self._batcher = False, batcher
        for key in ATTRIBUTES:
            setattr(self, key, getattr(batcher.model, key))

    def score(self, wavs, lengths, texts=None):
        """See `Recognizer.score`."""
        if self.left:
            raise CancelledError
        score = self._batcher.model.score
        return self._batcher.call(score, wavs, lengths, texts).result()
