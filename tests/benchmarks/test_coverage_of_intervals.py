"""The promise of the interval, kept; that of the bootstrap, not."""

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def module(monkeypatch):
    """The script."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import coverage_of_intervals

    yield coverage_of_intervals
    del sys.modules["coverage_of_intervals"]


@pytest.mark.parametrize("n_speakers", [4, 6, 24])
@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_the_interval_holds_the_score_of_all_speakers(
    module, n_speakers, spread
):
    way, *_ = module.WAYS.values()
    held, _ = module.coverage(way, n_speakers, 0.9, spread, draws=500)
    # 0.95 of 500, less two standard errors.
    assert 0.93 <= held <= 0.985


def test_speakers_drawn_again_are_too_sure(module):
    _, way, _ = module.WAYS.values()
    held, _ = module.coverage(way, 4, 0.9, 0.5, draws=200)
    assert held < 0.88


def test_table(module, monkeypatch, capsys):
    argv = (
        "coverage_of_intervals.py --draws 5 --speakers 2 3 --levels 0".split()
    )
    monkeypatch.setattr(sys, "argv", argv)
    module.main()
    *_, first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("| 0.50 | 2 |") and first.count("|") == 6
    assert second.startswith("| 0.50 | 3 |")
