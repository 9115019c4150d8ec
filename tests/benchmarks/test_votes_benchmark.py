"""The benchmark of votes: what its annotators say."""

import csv
import sys

import numpy as np
import pytest
from scripts import RECIPES

from ser_peft.corpora import custom
from ser_peft.corpora.protocols import FOUR


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(RECIPES.parent / "benchmarks")
    monkeypatch.delitem(sys.modules, "votes", raising=False)
    import votes

    yield votes
    del sys.modules["votes"]


def test_annotators(benchmark, ravdess_tree, tmp_path):
    path = tmp_path / "votes.csv"
    truth = benchmark.annotate(ravdess_tree, path, 7, 0)
    first = path.read_text()
    assert benchmark.annotate(ravdess_tree, path, 7, 0).keys() == truth.keys()
    assert path.read_text() == first
    benchmark.annotate(ravdess_tree, path, 7, 1)
    assert path.read_text() != first
    path.write_text(first)
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(truth) == 96
    for row in rows:
        votes = [int(row[f"votes_{name}"]) for name in FOUR]
        assert sum(votes) == 7
        most = [name for name, n in zip(FOUR, votes, strict=True)
                if n == max(votes)]  # fmt: skip
        assert row["label"] == (most[0] if len(most) == 1 else "")
        assert np.isclose(truth[row["path"]].sum(), 1)
    clips = custom.read(path)
    assert {sum(clip.votes.values()) for clip in clips} == {7}


def test_table(benchmark):
    row = {"js": 0.4, "js_truth": 0.3, "kl": 1.0, "ua": 0.75}
    row |= {f"js, {name}": 0.5 for name in
            ("unanimous", "less ambiguous", "more ambiguous")}  # fmt: skip
    rows = [{"setting": name, **row} for name in benchmark.SETTINGS]
    rows.append(rows[0] | {"js": 0.2})
    head, _, first, *_ = benchmark.table(rows).splitlines()
    assert first == "| majority | 0.300 | 0.300 | 1.000 |" + (
        " 0.500 | 0.500 | 0.500 | 75.0 |"
    )
    assert head.count("|") == first.count("|")
