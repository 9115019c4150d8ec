"""Clips of many clients, scored together."""

import logging
import time
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from threading import Thread
from typing import NamedTuple

import numpy as np

from ser_peft.inference.batches import BATCH_SECONDS
from ser_peft.io import SAMPLE_RATE

__all__ = ["Batcher"]

logger = logging.getLogger(__name__)

PATIENCE = 0.005
"""Seconds that a clip waits for others while the model has nothing to do."""


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
        self._clips = SimpleQueue()
        self._thread = Thread(target=self._run, name="scores", daemon=True)

    def __enter__(self):
        """Start the thread."""
        self._thread.start()
        return self

    def __exit__(self, *_):
        """End the thread, after all that was submitted."""
        self._clips.put(None)
        self._thread.join()

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
        self._clips.put(clip)
        return clip.found

    def _run(self):
        more = True
        while more:
            clips, more = self._gather()
            # What is cut into windows is long: the others do not wait for it.
            limit = self.model.max_samples
            turns = [[clip for clip in clips if len(clip.wav) <= limit]]
            turns += [[clip] for clip in clips if len(clip.wav) > limit]
            for turn in turns:
                self._score(turn)

    def _gather(self):
        """Clips of one turn, and whether another turn follows."""
        clips, samples, until = [], 0, None
        while samples < self.batch_seconds * SAMPLE_RATE:
            wait = until and max(0.0, until - time.monotonic())
            try:
                clip = self._clips.get(timeout=wait)
            except Empty:
                break
            if clip is None:
                return clips, False
            clips.append(clip)
            samples += len(clip.wav)
            until = until or time.monotonic() + PATIENCE
        return clips, True

    def _score(self, clips):
        # A future that runs can no longer be cancelled: ask late.
        clips = [
            clip for clip in clips if clip.found.set_running_or_notify_cancel()
        ]
        items = [(clip.name, clip.wav, clip.text) for clip in clips]
        try:
            found = [*self.model.judged(items, self.batch_seconds)]
        except Exception:  # the thread goes on
            logger.exception("no scores for %d clips", len(clips))
            for clip in clips:
                # Not the error itself, which may name another client's clip.
                clip.found.set_exception(RuntimeError("the model failed"))
            return
        for clip, one in zip(clips, found, strict=True):
            clip.found.set_result(one)
