"""What the benchmark of timelines counts, and the sounds that it makes."""

import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def module(monkeypatch):
    """The script."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import timeline

    yield timeline
    del sys.modules["timeline"]


def test_shares(module):
    truth = [(0, 2, "silence"), (2, 4, "=sad"), (5, 7, "=happy"), (8, 9, "hum")]
    segments = [
        (2, 3, "sad"),
        (5, 6, "happy"),
        (6, 6.5, "sad"),
        (8.5, 9, "sad"),
    ]
    assert module.compare(segments, truth, 10.0) == {
        "speech_seconds": 4,
        "right": 0.5,
        "found": 0.625,
        "right_of_found": 0.8,
        "labelled_around clips": 0,
        "labelled_silence": 0,
        "labelled_white": 0,
        "labelled_pink": 0,
        "labelled_hum": 0.5,
        "labelled_music": 0,
    }


def test_speech_of_a_clip(module):
    rng = np.random.default_rng(0)
    wav = 1e-4 * rng.standard_normal(48000)
    wav[500:700] = 0.1  # a click, far from the speech
    wav[16000:32000] += 0.1 * rng.standard_normal(16000)
    start, stop = module.speech_of(wav)
    assert start == pytest.approx(16000, abs=400)
    assert stop == pytest.approx(32000, abs=400)


@pytest.mark.parametrize("kind", ["white", "pink", "hum", "music"])
def test_sounds_are_as_loud_as_they_should_be(module, kind):
    wav = module.KINDS[kind](32000, np.random.default_rng(0))
    assert len(wav) == 32000
    assert wav.std() == pytest.approx(1, abs=0.03)
