"""A finished run, tested on sets that it has not heard."""

import json
import shutil

import numpy as np
import pytest
from trees_b import emodb_tree

from ser_peft.cli import main
from ser_peft.corpora.emodb import SPEAKERS
from ser_peft.data import prepare, read_manifests
from ser_peft.data.provenance import RECORD
from ser_peft.errors import InputError
from ser_peft.evaluation.elsewhere import evaluate, of_manifests
from ser_peft.report.run_page import write_report
from ser_peft.storage.closed import MANIFEST


@pytest.fixture(scope="module")
def run(train, arguments, tmp_path_factory):
    """A finished run of RAVDESS, 4 classes."""
    folder = tmp_path_factory.mktemp("elsewhere") / "run"
    end = train(arguments(folder, number_of_epochs=1))
    assert end.code == 0, end.log
    return folder


@pytest.fixture(scope="module")
def emodb(tmp_path_factory):
    """A miniature of another corpus."""
    folder = tmp_path_factory.mktemp("EmoDB")
    emodb_tree(folder)
    return folder


def evaluated(run, test, out, **how):
    """Test a run and write its report; the results."""
    found = evaluate(run, test, out, **how)
    write_report(out, **found)
    return found["results"]


def results_of(folder):
    """``results.json``."""
    return json.loads((folder / "results.json").read_text())


def test_its_own_test_set_gives_its_own_results(run, manifests, tmp_path):
    found = evaluated(run, manifests / "test.json", tmp_path / "out")
    own = results_of(run)
    for key in (
        *("ua", "wa", "ua_ci95", "confusion", "test_speakers", "fairness"),
        *("classes", "corpus", "backbone", "method", "trainable_parameters"),
        *("worst_speaker", "total_parameters"),
    ):
        assert found[key] == own[key], key
    for key in ("temperature", "ece", "ece_scaled", "unsure", "coverage"):
        assert found["calibration"][key] == pytest.approx(
            own["calibration"][key], abs=1e-6
        )
    assert found["protocol"] == f"{own['protocol']}, test"
    assert found["heard"] == own["heard"] | {
        "deals": [found["protocol_sha"], own["protocol_sha"]]
    }
    tables = [
        np.genfromtxt(folder / "predictions.csv", delimiter=",", names=True)
        for folder in (run, tmp_path / "out")
    ]
    for name in tables[1].dtype.names[4:]:
        assert np.allclose(tables[0][name], tables[1][name], atol=1e-5)
    assert results_of(tmp_path / "out") == found
    assert (tmp_path / "out" / "report.html").exists()


def test_clips_without_majority_are_not_judged(manifests, tmp_path):
    """Neither of a folder nor of one of its splits."""
    folder = tmp_path / "manifests"
    shutil.copytree(manifests, folder)
    entries = json.loads((folder / "train.json").read_text())
    first, *rest = entries
    entries[first]["no_majority"] = True
    (folder / "train.json").write_text(json.dumps(entries))
    assert [*of_manifests(folder / "train.json")[1]] == rest
    assert first not in of_manifests(folder)[1]


def test_all_of_a_corpus(run, emodb, tmp_path, capsys):
    out = tmp_path / "out"
    main(["evaluate", str(run), "emodb", str(emodb), "--out", str(out)])
    assert "test UA" in capsys.readouterr().out
    found = results_of(out)
    assert (found["corpus"], found["protocol"]) == ("emodb", "whole")
    assert found["test_speakers"] == sorted(SPEAKERS)
    assert found["classes"] == results_of(run)["classes"]
    # The same from its manifests, whose splits count together.
    prepare("emodb", emodb, tmp_path / "manifests", classes=4)
    again = evaluated(run, tmp_path / "manifests", tmp_path / "again")
    for key in ("ua", "confusion", "test_utterances"):
        assert again[key] == found[key]


def test_other_classes_are_left_out(run, emodb, tmp_path, caplog):
    names = {n: n for n in ("neutral", "angry", "sad", "happy", "bored")}
    prepare("emodb", emodb, tmp_path / "manifests", classes=names)
    found = evaluated(run, tmp_path / "manifests", tmp_path / "out")
    _, manifests = read_manifests(tmp_path / "manifests")
    emotions = [e["emotion"] for m in manifests.values() for e in m.values()]
    kept = sum(name in found["classes"] for name in emotions)
    assert 0 < kept == found["test_utterances"] < len(emotions)
    (message,) = [m for m in caplog.messages if "left out" in m]
    assert f"{len(emotions) - kept} of {len(emotions)} utterances" in message
    assert f"{emotions.count('bored')} bored" in message


def test_missing_classes_are_told(run, emodb, tmp_path):
    prepare("emodb", emodb, tmp_path / "manifests", classes=4)
    for split in ("train", "valid", "test"):
        path = tmp_path / "manifests" / f"{split}.json"
        entries = json.loads(path.read_text())
        for entry in entries.values():
            if entry["emotion"] == "sad":
                entry["emotion"] = "neutral"
        path.write_text(json.dumps(entries))
    about = tmp_path / "manifests" / "protocol.json"
    text = json.loads(about.read_text())
    text["classes"].remove("sad")
    about.write_text(json.dumps(text))
    found = evaluated(run, tmp_path / "manifests", tmp_path / "out")
    assert found["missing_classes"] == ["sad"]


def test_refuses_whom_it_has_heard(run, ravdess_tree, tmp_path, manifests):
    for test in (manifests, manifests / "valid.json", "ravdess"):
        folder = ravdess_tree if test == "ravdess" else None
        with pytest.raises(InputError, match="model .*/model: has heard"):
            evaluated(run, test, tmp_path / "out", data_folder=folder)
    assert not (tmp_path / "out").exists()


def test_without_a_record(run, manifests, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    for path in run.glob("model/**/*"):
        # As runs were that had neither.
        if path.is_file() and path.name not in (RECORD, MANIFEST):
            copy = tmp_path / "run" / path.relative_to(run)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    argv = ["evaluate", str(tmp_path / "run"), str(manifests / "test.json")]
    argv += ["--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 2
    assert "--trust_start=True" in capsys.readouterr().err
    main([*argv, "--trust_start=True"])
    (told,) = results_of(tmp_path / "out")["heard"]["trust_start"]
    assert told.startswith("model: ")


@pytest.mark.parametrize(
    ("test", "says"),
    [
        ("nowhere", "nowhere: is no folder of manifests"),
        ("protocol.json", "protocol.json: is no split"),
    ],
)
def test_no_such_set(run, manifests, tmp_path, test, says):
    with pytest.raises(InputError, match=says):
        evaluated(run, manifests / test, tmp_path / "out")


def test_nothing_to_judge(run, emodb, tmp_path):
    names = {"bored": "bored", "sad": "tired"}
    prepare("emodb", emodb, tmp_path / "manifests", classes=names)
    with pytest.raises(InputError, match="has none of the model's classes"):
        evaluated(run, tmp_path / "manifests", tmp_path / "out")
