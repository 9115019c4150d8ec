"""The benchmark compares the same work, in turns."""

import argparse
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def module(monkeypatch):
    """The script."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import onnx_speed

    yield onnx_speed
    for name in ("onnx_speed", "train_step"):
        del sys.modules[name]


def test_medians_of_turns(module, monkeypatch, capsys):
    now, calls = [0.0], []
    seconds = {"torch": 0.03, "fp32": 0.02, "int8": 0.01}

    def model(side):
        def score(wavs, lengths):
            calls.append((side, wavs.shape, tuple(lengths)))
            now[0] += seconds[side]

        return SimpleNamespace(score=score)

    monkeypatch.setitem(module.CLOCKS, "wall", lambda: now[0])
    args = argparse.Namespace(seconds=0.5, rounds=3, clock="wall")
    times = module.measure({s: model(s) for s in module.SIDES}, 2, args)
    assert times == pytest.approx({"torch": 30, "fp32": 20, "int8": 10})
    turn = [(side, (2, 8000), (8000, 8000)) for side in module.SIDES]
    assert calls == 5 * turn
    row = {"model": "x", "clips": 2, "ms": times}
    module.print_row({**row, "fp32_bytes": 3e6, "int8_bytes": 1e6})
    expected = "| x | 2 | 30.0 | 20.0 (1.50) | 10.0 (3.00) | 3.0 | 1.0 |\n"
    assert capsys.readouterr().out == expected
