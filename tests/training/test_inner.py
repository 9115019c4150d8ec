"""Trainings on inner folds: scored on valid, and never tested."""

import csv
import json

import numpy as np
import pytest
from outcomes import same
from scripts import run_script

import ser_peft.data.batches
from ser_peft.cli import main
from ser_peft.data import read_manifests
from ser_peft.data.provenance import Heard
from ser_peft.errors import InputError
from ser_peft.evaluation.metrics import from_confusion

INNER = {"protocol": "peft-ser/inner", "manifests_folder": None, "fold": 2}


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
        run_script(arguments(folder, **INNER, robustness="True"))
    return folder, reads


def rows(folder, name="predictions"):
    with open(folder / f"{name}.csv", newline="") as file:
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


def test_start_and_epochs_are_kept(finished):
    """So that valid can be pooled exactly, and drawn epoch by epoch."""
    folder, _ = finished
    results = json.loads((folder / "results.json").read_text())
    history = json.loads((folder / "history.json").read_text())
    assert [past["epoch"] for past in history] == [0, 1, 2]
    for past in history:
        counts = np.array(past["valid_confusion"])
        assert counts.sum() == results["test_utterances"]
        assert from_confusion(counts) == pytest.approx(past["valid_ua"])
    assert history[-1]["valid_confusion"] == results["confusion"]
    classes = results["classes"]
    counts = np.zeros((4, 4), int)
    for row in rows(folder):
        said = classes.index(row["start_predicted"])
        counts[classes.index(row["label"]), said] += 1
    assert counts.tolist() == history[0]["valid_confusion"]
    assert not (folder / "valid_predictions.csv").exists()
    assert results["test_reads"] == 0
    assert not (folder / "test_reads.txt").exists()


def test_two_processes(finished, train, arguments, tmp_path):
    """They score all of valid together, once, and keep the same files."""
    folder, _ = finished
    argv = arguments(tmp_path / "two", **INNER, distributed_backend="gloo")
    end = train(argv, processes=2)
    assert end.code == 0, end.log
    assert end.log.count("; report in") == 1 and "test UA" not in end.log
    found, one = (
        json.loads((place / "results.json").read_text())
        for place in (tmp_path / "two", folder)
    )
    same_in_both = "scored_on test_reads test_speakers protocol_sha heard"
    for key in (*same_in_both.split(), "test_utterances"):
        assert found[key] == one[key], key
    assert found["processes"] == 2
    ids = [[row["id"] for row in rows(f)] for f in (tmp_path / "two", folder)]
    assert ids[0] == ids[1]
    # The start is the same probe.
    for key in ("from", "valid_confusion"):
        assert found["start"][key] == one["start"][key]


def test_killed_and_gone_on_with(train, arguments, tmp_path):
    whole, broken = (tmp_path / name / "run" for name in ("whole", "broken"))
    end = train(arguments(whole, **INNER))
    assert end.code == 0 and "valid UA" in end.log, end.log
    for place in (("history.ckpt", 2), ("results.json", 1)):
        end = train(arguments(broken, **INNER), kill_at=place)
        assert end.code == -9, end.log
    end = train(arguments(broken, **INNER))
    assert end.code == 0, end.log
    same(broken, whole)


def test_whoever_heard_the_scored_or_held_out_speakers(finished, tmp_path):
    """A start that heard either is refused; one of the same deal goes on."""
    folder, _ = finished
    about, manifests = read_manifests(folder / "manifests")
    own = about["protocol_sha"]
    for speakers, deal, named in (
        (["06", "09"], own, None),  # train and valid, as training itself
        (["06"], "other", None),
        (["09"], "other", "1 of the 9 speakers .*09 of ravdess"),
        (["01"], own, "1 of the 9 speakers .*01 of ravdess"),
    ):
        told = {"speakers": {"ravdess": speakers}, "deals": [deal]}
        told |= {"trust_start": []}
        (tmp_path / "heard.json").write_text(json.dumps(told))
        heard = Heard(about, manifests)
        if named:
            with pytest.raises(InputError, match=named):
                heard.add("init_from", tmp_path)
        else:
            heard.add("init_from", tmp_path)


def test_reads_of_a_test_set_are_counted(arguments, tmp_path, capsys):
    """Also where results are removed and the run is repeated in the folder."""
    folder = tmp_path / "run"
    argv = arguments(folder, number_of_epochs=1)
    for times in (1, 2, 3):
        (folder / "results.json").unlink(missing_ok=True)
        run_script([*argv, *["--test_only"] * (times == 3)])
        results = json.loads((folder / "results.json").read_text())
        assert results["test_reads"] == times
        page = (folder / "report.html").read_text()
        assert ("run once, after every choice" in page) == (times == 1)
        assert (f"read {times} times" in page) == (times > 1)
    run_script(argv)  # finished: nothing is read
    assert len((folder / "test_reads.txt").read_text().splitlines()) == 3
    main(["summarize", str(folder)])
    assert "the test set was read 3 times" in capsys.readouterr().out
    # What was kept of valid is there beside.
    valid = json.loads((folder.parent / "run/results.json").read_text())
    right = [r["label"] == r["predicted"] for r in rows(folder)]
    assert np.mean(right) == pytest.approx(valid["wa"])
    kept = rows(folder, "valid_predictions")
    assert {row["speaker"] for row in kept} == {"21", "22", "23", "24"}


def test_probe_and_summary_of_all_inner_folds(
    ravdess_tree, tiny_backbones, tmp_path, capsys
):
    main(
        ["probe", str(tiny_backbones["whisper"]), "--corpus", "ravdess",
         "--data_folder", str(ravdess_tree), "--protocol", "peft-ser/inner5",
         "--out", str(tmp_path / "probe")]
    )  # fmt: skip
    told = capsys.readouterr().out
    assert told.count("linear probe of fold") == 5 and "test UA" not in told
    assert "linear probe of fold 5: valid UA" in told
    main(["summarize", str(tmp_path), "--out", str(tmp_path / "s.json")])
    (group,) = json.loads((tmp_path / "s.json").read_text())["groups"]
    assert np.sum(group["pooled"]["confusion"]) == 20 * 4
    assert (group["folds"], group["scored_on"]) == ([1, 2, 3, 4, 5], "valid")
