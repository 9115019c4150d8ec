"""The benchmark measures both sides on the same frames."""

import json
import os
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def module(monkeypatch):
    """The script, importable in processes that it starts, too."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import kmeans

    yield kmeans
    del sys.modules["kmeans"]


def test_rows_hold_what_the_table_shows(module, monkeypatch, tmp_path, capsys):
    out = tmp_path / "results.json"
    flags = "--frames 3000 --dim 8 --clusters 16 --kinds mixture --threads 1"
    argv = ["kmeans.py", *flags.split(), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.setattr(module, "in_own_process", lambda run, *args: run(*args))
    module.main()
    (row,) = json.loads(out.read_text())["rows"]
    assert "mixture" in capsys.readouterr().out
    for side in ("sklearn", "ser_peft"):
        assert row[side]["seconds"] > 0 and row[side]["peak_mib"] > 50
    # Both are k-means: on so few frames neither is far from the other.
    ratio = row["ser_peft"]["inertia"] / row["sklearn"]["inertia"]
    assert ratio == pytest.approx(1, abs=0.25)


def test_each_side_has_a_process_of_its_own(module):
    assert module.in_own_process(os.getpid) != os.getpid()
