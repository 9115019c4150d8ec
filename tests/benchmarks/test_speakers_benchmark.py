"""The benchmark of what is known of a speaker."""

import csv
import sys

import numpy as np
import pytest
from scripts import RECIPES

NAMES = ("neutral", "angry", "sad")


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(RECIPES.parent / "benchmarks")
    monkeypatch.delitem(sys.modules, "speakers", raising=False)
    import speakers

    yield speakers
    del sys.modules["speakers"]


def write(path, speakers, voices):
    """Clips of speakers whose voice adds to the logits of a right answer."""
    with open(path, "w", newline="") as file:
        table = csv.writer(file)
        calibrated = [f"{name}_calibrated" for name in NAMES]
        table.writerow(["id", "speaker", "label", *NAMES, *calibrated])
        for speaker, voice in zip(speakers, voices, strict=True):
            for number in range(12):
                logits = 3 * np.eye(3)[number % 3] + voice
                chances = np.exp(logits) / np.exp(logits).sum()
                name = NAMES[number % 3]
                row = [f"{speaker}{number}", speaker, name, *chances, *chances]
                table.writerow(row)


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "fold1" / "8"
    folder.mkdir(parents=True)
    write(folder / "valid_predictions.csv", "ab", [[0, 0, 0], [0, 0, 0]])
    write(folder / "predictions.csv", "cd", [[0, 5, 0], [0, 0, 0]])
    return folder


def test_a_voice_is_taken_away(benchmark, run):
    alone, removed, known = benchmark.shifted(run, "neutral")
    # All that speaker c says sounds angry.
    assert alone == pytest.approx(100 * (0.5 + 1 + 0.5) / 3)
    assert removed == pytest.approx(100)
    assert known == pytest.approx(100)  # a lead of 2.5 is left, of 3


def test_a_row_a_run(benchmark, run, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["speakers.py", str(run.parents[1])])
    other = run.parent / "16"
    other.mkdir()
    for path in run.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    benchmark.main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert lines[2].startswith("| fold1/16 | 66.7 | 100.0 | 100.0 |")
    assert lines[-1] == "| mean | 66.7 ± 0.0 | 100.0 ± 0.0 | 100.0 ± 0.0 |"


def test_no_runs(benchmark, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["speakers.py", str(tmp_path)])
    with pytest.raises(SystemExit) as end:
        benchmark.main()
    assert end.value.code == 2
    assert "valid_predictions.csv" in capsys.readouterr().err
