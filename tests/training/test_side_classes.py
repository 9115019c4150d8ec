"""Clips of labels that nobody is asked for train too."""

import json

import numpy as np
import pytest
import torch
from scripts import run_script

from ser_peft.data import preparation, prepare
from ser_peft.data.manifests import read_manifests
from ser_peft.errors import InputError
from ser_peft.inference import load_model

FOUR = ["neutral", "angry", "sad", "happy"]


@pytest.fixture(scope="module")
def folder(ravdess_tree, tmp_path_factory):
    folder = tmp_path_factory.mktemp("side")
    prepare("ravdess", ravdess_tree, folder, classes=4, train_classes=7)
    return folder


def test_only_train_has_them(folder, manifests):
    about, splits = read_manifests(folder)
    _, narrow = read_manifests(manifests)
    assert about["classes"] == FOUR
    assert about["side_classes"] and not {*about["side_classes"]} & {*FOUR}
    assert splits["valid"] == narrow["valid"]
    assert splits["test"] == narrow["test"]
    more = splits["train"].keys() - narrow["train"].keys()
    assert more and narrow["train"].items() <= splits["train"].items()
    emotions = {splits["train"][key]["emotion"] for key in more}
    assert emotions == {*about["side_classes"], "neutral"}  # calm is
    speakers = {entry["speaker"] for entry in narrow["train"].values()}
    assert {splits["train"][key]["speaker"] for key in more} == speakers


def test_manifests_are_made_anew_without_them(ravdess_tree, tmp_path):
    for wanted in (7, None, 7):
        prepare("ravdess", ravdess_tree, tmp_path, 4, train_classes=wanted)
        about, _ = read_manifests(tmp_path)
        assert bool(about["side_classes"]) == bool(wanted)


@pytest.mark.parametrize(
    ("classes", "wanted", "side"),
    [
        (8, 8, set()),
        (7, 8, set()),  # calm is neutral already
        (4, {"calm": "calm", "sad": "blue"}, {"calm"}),
    ],
)
def test_labels_of_both_keep_their_class(
    ravdess_tree, tmp_path, classes, wanted, side
):
    sets = {}
    for name, more in ("with", wanted), ("without", None):
        folder = tmp_path / name
        prepare("ravdess", ravdess_tree, folder, classes, train_classes=more)
        about, sets[name] = read_manifests(folder)
        if more:
            assert {*about["side_classes"]} == side
    assert sets["with"]["test"] == sets["without"]["test"]
    assert sets["without"]["train"].items() <= sets["with"]["train"].items()
    more = sets["with"]["train"].keys() - sets["without"]["train"].keys()
    assert {sets["with"]["train"][key]["emotion"] for key in more} == side


def test_classes_that_leave_nothing_out(ravdess_tree, monkeypatch, tmp_path):
    """Every clip trains once."""
    written = []
    monkeypatch.setattr(
        preparation,
        "write_manifests",
        lambda splits, labels, *rest: written.append((splits, labels)),
    )
    for classes in (7, 8):
        for more in (8, None):
            prepare(
                "ravdess", ravdess_tree, tmp_path, classes, train_classes=more
            )
        (splits, labels), plain = written[-2:]
        assert (splits, labels) == plain
        assert None not in labels.values()


def test_a_part_of_the_corpus_is_fine(ravdess_tree, tmp_path):
    tree = tmp_path / "part"
    for wav in ravdess_tree.rglob("*.wav"):
        if wav.name.split("-")[2] in ("01", "03", "04", "05", "06"):
            there = tree / wav.parent.name / wav.name
            there.parent.mkdir(parents=True, exist_ok=True)
            there.symlink_to(wav)
    prepare("ravdess", tree, tmp_path / "made", classes=4, train_classes=8)
    about, _ = read_manifests(tmp_path / "made")
    assert about["side_classes"] == ["fearful"]


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("train_classes", 5, "classes 5: ravdess has sets"),
        ("corpus", {"folders": {}}, "not for several corpora"),
    ],
)
def test_refused(ravdess_tree, tmp_path, key, value, match):
    request = {"corpus": "ravdess", "train_classes": 8, key: value}
    with pytest.raises(InputError, match=match):
        prepare(
            data_folder=ravdess_tree,
            save_folder=tmp_path / "no",
            classes=4,
            **request,
        )
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("start_from_probe", ["False", "True"])
def test_the_model_answers_without_them(
    arguments, folder, tmp_path, start_from_probe
):
    run = tmp_path / "run"
    run_script(
        arguments(
            run,
            manifests_folder=folder,
            train_classes=7,
            start_from_probe=start_from_probe,
            augment=False,
            number_of_epochs=1,
        )
    )
    results = json.loads((run / "results.json").read_text())
    assert results["classes"] == FOUR
    assert np.shape(results["confusion"]) == (4, 4)
    model = load_model(run)
    assert model(torch.randn(2, 8000)).shape == (2, 4)
    # What was tested is what is saved.
    rows = (run / "predictions.csv").read_text().splitlines()
    assert rows[0].split(",")[4:8] == FOUR
    about, splits = read_manifests(folder)
    key, _, _, label, *chances = rows[1].split(",")[:8]
    wav = splits["test"][key]["wav"].replace(
        "{data_root}", about["data_folder"]
    )
    (answer,) = model.predict(wav)
    assert answer["label"] == label
    model.temperature = 1.0
    (answer,) = model.predict(wav)
    found = [answer["scores"][name] for name in FOUR]
    assert found == pytest.approx([*map(float, chances)], abs=1e-3)
