"""Clips of many clients in batches."""

import threading
from concurrent.futures import CancelledError

import numpy as np
import pytest

from ser_peft.inference.recognizer import Recognizer
from ser_peft.service.batching import Batcher, Turns


class Mean(Recognizer):
    """Scores a clip by its mean; says which batches it saw."""

    classes, dimensions = ["a"], {}
    max_samples = 32000

    def __init__(self):
        self.seen, self.go_on = [], threading.Event()

    def score(self, wavs, lengths, texts=None):
        self.go_on.wait(10)
        self.seen.append([*map(int, lengths)])
        return (wavs.sum(1) / lengths)[:, None].astype(np.float32)


def clip(samples, value=0.5):
    return np.full(samples, value, np.float32)


@pytest.fixture
def mean():
    return Mean()


def test_those_that_wait_are_scored_together(mean):
    with Batcher(mean, batch_seconds=10) as batcher:
        first = batcher.submit(clip(2000), "first")
        while not batcher._queue.empty():
            pass  # it is being scored, or gathers its batch mates
        others = [batcher.submit(clip(1700 + n, n / 100), "x") for n in (9, 5)]
        others += [batcher.submit(clip(1800, 0.3), "x") for _ in range(3)]
        mean.go_on.set()
        found = [future.result(10).scores[0] for future in [first, *others]]
    assert found == pytest.approx([0.5, 0.09, 0.05, 0.3, 0.3, 0.3], abs=1e-6)
    assert len(mean.seen) <= 2 and sorted(sum(mean.seen, [])) == [
        1705, 1709, 1800, 1800, 1800, 2000,
    ]  # fmt: skip


def test_long_clips_do_not_hold_up_the_others(mean):
    mean.go_on.set()
    with Batcher(mean, batch_seconds=10) as batcher:
        long = batcher.submit(clip(64000), "long")
        short = batcher.submit(clip(2000), "short")
        assert long.result(10).scores == pytest.approx([0.5])
        assert short.result(10).scores == pytest.approx([0.5])
    assert mean.seen[0] == [2000]


def test_what_nobody_waits_for_is_not_computed(mean):
    with Batcher(mean, batch_seconds=0.1) as batcher:
        first = batcher.submit(clip(2000), "first")
        gone = batcher.submit(clip(3000), "gone")
        assert gone.cancel()
        last = batcher.submit(clip(4000), "last")
        mean.go_on.set()
        assert first.result(10) and last.result(10)
    assert 3000 not in sum(mean.seen, [])


def test_an_error_is_told_to_those_who_wait(mean):
    mean.go_on.set()
    with Batcher(mean) as batcher:
        score, mean.score = mean.score, None
        with pytest.raises(RuntimeError, match="the model failed"):
            batcher.submit(clip(2000), "a").result(10)
        mean.score = score
        assert batcher.submit(clip(2000), "b").result(10).problem is None
        silent = batcher.submit(clip(2000, 0), "quiet").result(10)
    assert "quiet: silent" in str(silent.problem)


def test_what_was_submitted_is_answered_at_the_end(mean):
    mean.go_on.set()
    with Batcher(mean, batch_seconds=0.1) as batcher:
        waiting = [batcher.submit(clip(2000 + n), "x") for n in range(20)]
    assert all(future.done() for future in waiting)


def test_others_take_turns_with_the_clips(mean):
    mean.go_on.set()
    with Batcher(mean) as batcher:
        turns = Turns(batcher)
        assert turns.classes == ["a"] and turns.max_samples == 32000
        wavs, lengths = np.stack([clip(2000), clip(2000, 0.2)]), [2000, 1000]
        scores = turns.score(wavs, np.array(lengths))
        assert scores[:, 0] == pytest.approx([0.5, 0.4], abs=1e-6)
        with pytest.raises(TypeError):
            turns.score(wavs, None)
        assert batcher.submit(clip(2000), "a").result(10).scores == [0.5]
        turns.left = True
        with pytest.raises(CancelledError):
            turns.score(wavs, np.array(lengths))
