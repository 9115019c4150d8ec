"""Timings: who runs when, with how many threads, and what is told of it."""

import time

import numpy as np
import pytest
import torch

from ser_peft.evaluation.latency import latency


@pytest.fixture(autouse=True)
def three_threads():
    """As if PyTorch had found three cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


class Sleeper:
    """A model that takes its time and remembers what it was called with."""

    def __init__(self, name, milliseconds, calls):
        self.name, self.seconds = name, milliseconds / 1000
        self.calls = calls

    def __call__(self, wavs, lengths, texts):
        assert not torch.is_grad_enabled()
        assert lengths.tolist() == [wavs.shape[1]] * len(wavs)
        assert len(texts) == len(wavs)
        self.calls.append((self.name, len(wavs), torch.get_num_threads()))
        time.sleep(self.seconds)


def measure(calls, repeats=4, **sleeps):
    models = {k: Sleeper(k, ms, calls) for k, ms in sleeps.items()}
    return latency(models, torch.zeros(5, 80), [""] * 5, (1, 5), repeats)


def test_models_take_turns_in_every_setting():
    calls = []
    measure(calls, a=0, b=0)
    assert [name for name, *_ in calls] == ["a", "b"] * (len(calls) // 2)
    settings = list(dict.fromkeys(call[1:] for call in calls))
    assert settings == [(1, 1), (1, 3), (5, 1), (5, 3)]
    # Each as often as any other, and more often than it is timed.
    counts = {calls.count(call) for call in calls}
    assert len(counts) == 1 and counts.pop() > 4


def test_thread_number_is_restored():
    measure([], a=0)
    assert torch.get_num_threads() == 3

    def broken(*_):
        assert torch.get_num_threads() == 1
        raise RuntimeError("broken model")

    with pytest.raises(RuntimeError, match="broken model"):
        latency({"a": broken}, torch.zeros(1, 80), [""], (1,))
    assert torch.get_num_threads() == 3


def test_one_thread_alone_is_measured_once():
    torch.set_num_threads(1)
    found = measure([], a=0)
    assert [timing["threads"] for timing in found["a"]] == [1, 1]


def test_milliseconds_and_ratio_to_the_first():
    found = measure([], a=10, b=30)
    for slow, fast in zip(found["b"], found["a"], strict=True):
        assert slow["batch"] == fast["batch"]
        assert fast["ratio"] == 1
        # A busy machine sleeps longer, never shorter.
        assert fast["median_ms"] >= 10 and slow["median_ms"] >= 30
        assert fast["p95_ms"] >= fast["median_ms"]


def test_ratios_are_those_of_each_repetition(monkeypatch):
    taken = {"a": [9, 9, 1, 2, 3, 4, 5], "b": [9, 9, 2, 6, 12, 20, 30]}
    turns = {name: iter(times) for name, times in taken.items()}
    monkeypatch.setattr(
        "ser_peft.evaluation.latency._milliseconds",
        lambda model, *_: next(turns[model]),
    )
    torch.set_num_threads(1)
    models = {"a": "a", "b": "b"}
    found = latency(models, torch.zeros(1, 80), [""], (1,), 5)
    (first,), (other,) = found.values()
    assert first["ratio"] == 1 and first["ratio_quartiles"] == [1, 1]
    assert other["ratio"] == 4 and other["ratio_quartiles"] == [3, 5]
    assert other["median_ms"] == 12


def test_the_first_calls_are_not_counted():
    calls = []

    def model(wavs, lengths, texts):
        calls.append(None)
        time.sleep(0.3 if len(calls) <= 2 else 0)

    torch.set_num_threads(1)
    (timing,) = latency({"a": model}, torch.zeros(1, 80), [""], (1,), 5)["a"]
    assert len(calls) == 7 and timing["median_ms"] < 250
    assert timing["p95_ms"] >= timing["median_ms"] > 0
    assert np.isfinite(timing["ratio"])
