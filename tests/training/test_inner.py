"""Trainings on inner folds: scored on valid, and never tested."""

import csv
import json

import pytest
from scripts import run_script

import ser_peft.data.batches


@pytest.fixture(scope="module")
def finished(arguments, tmp_path_factory):
    """A run of inner fold 2, and the speakers whose audio it opened."""
    folder = tmp_path_factory.mktemp("inner") / "run"
    reads = set()
    with pytest.MonkeyPatch.context() as patch:
        read_audio = ser_peft.data.batches.read_audio

        def spy(path):
            reads.add(str(path)[-6:-4])
            return read_audio(path)

        patch.setattr(ser_peft.data.batches, "read_audio", spy)
        run_script(
            arguments(
                folder,
                protocol="peft-ser/inner",
                fold=2,
                manifests_folder=None,
                robustness="True",
            )
        )
    return folder, reads


def rows(folder):
    with open(folder / "predictions.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_scored_on_valid(finished):
    folder, reads = finished
    results = json.loads((folder / "results.json").read_text())
    valid = json.loads((folder / "manifests/valid.json").read_text())
    assert not (folder / "manifests/test.json").exists()
    assert (results["scored_on"], results["fold"]) == ("valid", 2)
    assert results["protocol"] == "peft-ser/inner"
    assert {row["id"] for row in rows(folder)} == {*valid}
    assert results["ua"] == results["valid_ua"]
    assert results["start"]["ua"] == results["start"]["valid_ua"]
    assert len(results["robustness"]) == 5
    assert reads == {f"{n:02d}" for n in range(6, 25)}
    # Whoever starts from it may test the outer fold's test speakers.
    heard = json.loads((folder / "model/heard.json").read_text())
    assert heard["speakers"] == {"ravdess": sorted(reads)}


def test_whoever_reads_the_figure_reads_that(finished):
    folder, _ = finished
    page = (folder / "report.html").read_text()
    assert "scored on valid</h1>" in page
    assert "no test speaker was read" in page
    assert "test speakers" not in page and "test UA" not in page
    assert page.count("test set") == 1  # that there is none
    card = (folder / "model/README.md").read_text()
    assert "## Scores on valid" in card and "**Not tested**" in card
    assert "split: valid" in card and "| measure | valid |" in card
    log = (folder / "train_log.txt").read_text()
    assert "valid ua" in log and "test" not in log
