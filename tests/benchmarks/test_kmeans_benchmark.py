"""The benchmark measures both sides on the same frames."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_rows_hold_what_the_table_shows(tmp_path):
    out = tmp_path / "results.json"
    flags = "--frames 3000 --dim 8 --clusters 16 --kinds mixture --threads 1"
    done = subprocess.run(
        [sys.executable, "benchmarks/kmeans.py", *flags.split(), "--out", out],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(out.read_text())["rows"]
    assert "mixture" in done.stdout
    for side in ("sklearn", "ser_peft"):
        assert row[side]["seconds"] > 0 and row[side]["peak_mib"] > 50
    # Both are k-means: on so few frames neither is far from the other.
    ratio = row["ser_peft"]["inertia"] / row["sklearn"]["inertia"]
    assert ratio == pytest.approx(1, abs=0.25)
