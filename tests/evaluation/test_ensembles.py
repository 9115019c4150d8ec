"""Ensembles of runs with tiny networks that nobody trained."""

import csv
import json
import shutil

import numpy as np
import peft
import pytest
import torch
from pages import HOSTILE, Page
from sealed import reseal

from ser_peft.adapters import PeftLobe
from ser_peft.cli import main
from ser_peft.data import prepare, read_manifests
from ser_peft.data.provenance import RECORD, Heard, speakers_of
from ser_peft.errors import InputError
from ser_peft.evaluation.calibration import (
    calibration,
    expected_calibration_error,
)
from ser_peft.evaluation.compare import compare
from ser_peft.evaluation.elsewhere import evaluate, measure
from ser_peft.evaluation.ensemble_scores import compare_with_members
from ser_peft.evaluation.ensembles import ensembles
from ser_peft.evaluation.members import ScoredSet
from ser_peft.evaluation.results import run_results
from ser_peft.evaluation.summary import summarize
from ser_peft.heads import LinearHead
from ser_peft.inference import EmotionModel
from ser_peft.inference.export import export
from ser_peft.io import write_json
from ser_peft.lobes import load_lobe
from ser_peft.report import run_page
from ser_peft.report.ensemble_page import format_ensembles, render_ensembles
from ser_peft.report.run_page import write_report


@pytest.fixture(scope="module")
def second_fold(ravdess_tree, tmp_path_factory):
    """Manifests of fold 2."""
    folder = tmp_path_factory.mktemp("second")
    prepare("ravdess", ravdess_tree, folder, classes=4, fold=2)
    return folder


def write_run(folder, manifests, backbone, seed):
    """A run that was not trained, but tested, as a training leaves it."""
    about, sets = read_manifests(manifests)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        method = peft.LoraConfig(r=2, init_lora_weights=False)
        encoder = PeftLobe(load_lobe(backbone), method)
        head = LinearHead(encoder, 4)
        model = EmotionModel(encoder, head, about["classes"], 0.5 + seed)
    model.eval().save(folder / "model", Heard(about, sets))
    measured = measure(model, about, sets["test"], "cpu", 60)
    results = run_results(
        about, None, measured, {}, model,
        seed=seed, train_seconds=2.0, best_epoch=1, epochs=1, kept="best",
        peak_memory_mb=None, heard=Heard(about, sets).record,
    )  # fmt: skip
    write_report(folder, results, measured)
    (folder / "hyperparams.yaml").write_text(
        f"seed: {seed}\nmanifests_folder: {manifests}\n"
    )


@pytest.fixture(scope="module")
def runs(manifests, second_fold, tiny_backbones, tmp_path_factory):
    """Two folds with two seeds each; not to be changed."""
    root = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        # Nobody looks at their pages.
        patch.setattr(run_page, "render_run", lambda *_: "")
        for fold, of_fold in ((1, manifests), (2, second_fold)):
            for seed in range(2):
                place = root / f"fold{fold}" / str(seed)
                write_run(place, of_fold, tiny_backbones["whisper"], seed)
    return root


def results_of(folder):
    """``results.json``."""
    return json.loads((folder / "results.json").read_text())


def table(folder):
    """``predictions.csv``, id -> row."""
    with open(folder / "predictions.csv", newline="") as file:
        return {row["id"]: row for row in csv.DictReader(file)}


def refused(capsys, *argv):
    """The one line of an ensemble that exits with status 2."""
    with pytest.raises(SystemExit) as stop:
        main(["ensemble", *map(str, argv)])
    assert stop.value.code == 2
    (line,) = [
        one
        for one in capsys.readouterr().err.splitlines()
        if one.startswith("error:")
    ]
    return line


@pytest.fixture(scope="module")
def made(runs, tmp_path_factory):
    """Folder of the ensembles of all runs. Not to be changed."""
    out = tmp_path_factory.mktemp("made") / "out"
    main(["ensemble", str(runs), "--out", str(out)])
    return out


def test_probabilities_are_the_mean_of_the_runs(runs, made):
    for fold in ("fold1", "fold2"):
        members = [table(runs / fold / str(seed)) for seed in range(2)]
        found = table(made / fold)
        assert found.keys() == members[0].keys()
        classes = results_of(made / fold)["classes"]
        for id_, row in found.items():
            wanted = [
                np.mean([float(one[id_][f"{c}_calibrated"]) for one in members])
                for c in classes
            ]
            for ending in ("", "_calibrated"):
                told = [float(row[f"{c}{ending}"]) for c in classes]
                assert told == pytest.approx(wanted, abs=2e-6)
            assert row["predicted"] == classes[int(np.argmax(wanted))]


def test_results_are_those_of_a_run(runs, made, manifests, tmp_path):
    found, member = results_of(made / "fold1"), results_of(runs / "fold1" / "0")
    assert {*member} - {"fairness"} <= {*found}
    for key in ("corpus", "protocol", "protocol_sha", "fold", "test_speakers"):
        assert found[key] == member[key]
    assert found["method"] == "ensemble of 2 (lora)"
    assert found["seed"] is None and found["train_seconds"] == 4.0
    assert found["heard"]["speakers"] == member["heard"]["speakers"]
    # What the saved model says of the very audio.
    told = evaluate(made / "fold1", manifests / "test.json", tmp_path)
    for key in ("ua", "confusion", "method", "total_parameters"):
        assert told["results"][key] == found[key]
    chances = [
        [float(row[f"{name}_calibrated"]) for name in found["classes"]]
        for row in table(made / "fold1").values()
    ]
    np.testing.assert_allclose(
        told["predictions"]["probabilities"], chances, atol=1e-5
    )


def test_scores_stand_beside_those_of_members(runs, made):
    found = json.loads((made / "ensemble.json").read_text())
    first, second = found["ensembles"]
    assert first == results_of(made / "fold1")["ensemble"]
    assert (first["folder"], second["folder"]) == ("fold1", "fold2")
    assert [len(one["members"]) for one in (first, second)] == [2, 2]
    for fold, one in ((1, first), (2, second)):
        own = [
            results_of(runs / f"fold{fold}/{m['seed']}") for m in one["members"]
        ]
        for member, run in zip(one["members"], own, strict=True):
            for key in ("ua", "wa", "macro_f1"):
                assert member["scores"][key]["value"] == run[key]
            assert member["scores"]["ua"]["ci95"] == run["ua_ci95"]
            assert member["scores"]["ece"]["value"] == pytest.approx(
                run["calibration"]["ece_scaled"], abs=1e-4
            )
        mean = np.mean([run["ua"] for run in own])
        assert one["members_mean"]["ua"]["mean"] == pytest.approx(mean)
        assert one["difference"]["difference"] == pytest.approx(
            one["scores"]["ua"]["value"] - mean
        )
    for key in ("mean", "members_mean"):
        values = [one[key]["ua"]["mean"] for one in (first, second)]
        assert found["pooled"][key]["ua"] == {
            "mean": pytest.approx(np.mean(values)),
            "std": pytest.approx(np.std(values, ddof=1)),
        }
    assert np.sum(found["pooled"]["confusion"]) == sum(
        one["test_utterances"] for one in (first, second)
    )


def test_summarize_and_compare_take_it(runs, made):
    summary = summarize([runs, made])
    names = {group["method"]: group for group in summary["groups"]}
    assert {name: group["runs"] for name, group in names.items()} == {
        "lora": 4, "ensemble of 2 (lora)": 2,
    }  # fmt: skip
    # An ensemble over seeds goes with each of them.
    (pair,) = summary["comparisons"]
    assert {pair["first"], pair["second"]} == {*names}
    assert pair["runs"] == 4 and pair["folds"] == [1, 2]
    found = compare([runs / "fold1" / "0", made / "fold1"], repeats=1)
    one, other = found["models"]
    assert other["parameters"]["total"] < 1.5 * one["parameters"]["total"]
    assert other["inference_bytes"] < 1.5 * one["inference_bytes"]
    assert other["agreement"]["pairs"] == 1 and not other["merged"]


def test_page_needs_nothing_else(made):
    for name in ("ensemble.html", "fold1/report.html"):
        page = Page((made / name).read_text("utf-8"))
        assert "script" not in page.tags
        assert not any(link.startswith("http") for link in page.links)
    page = Page((made / "ensemble.html").read_text("utf-8"))
    for text in ("mean of members", "fold1/0", "Agreement", "kappa"):
        assert text in page.shown
    assert (made / "fold1" / "model" / "README.md").read_text().count(
        "its 2 members"
    ) == 1


def test_names_are_shown_and_not_run(made):
    found = json.loads((made / "ensemble.json").read_text())
    found["classes"] = [HOSTILE, *found["classes"][1:]]
    for one in (*found["ensembles"], found["pooled"]):
        recalls = [*one["recalls"].values()]
        one["recalls"] = dict(zip(found["classes"], recalls, strict=True))
    found["ensembles"][0]["members"][0]["name"] = HOSTILE
    found["ensembles"][0]["left_out"] = [HOSTILE]
    page = Page(render_ensembles(found))
    assert "script" not in page.tags and "img" not in page.tags
    assert HOSTILE in page.shown
    assert "ensemble" in format_ensembles(found)


def test_of_one_member_is_the_member(runs, tmp_path):
    run = runs / "fold1" / "1"
    found, (made,) = ensembles([run], tmp_path / "out")
    own = results_of(run)
    for key in ("ua", "wa", "ua_ci95", "confusion", "trainable_parameters"):
        assert made["results"][key] == own[key]
    assert found["pooled"]["difference"]["difference"] == 0
    (one,) = found["ensembles"]
    assert one["folder"] == "." and one["agreement"]["equal"] is None
    assert render_ensembles(found)
    assert (tmp_path / "out" / "model" / "model.json").exists()


@pytest.fixture
def copy(runs, tmp_path):
    """A copy of the runs, to be spoiled."""
    return shutil.copytree(runs, tmp_path / "runs")


def hears(run, speakers):
    """Add speakers to those whom a run has heard."""
    record = json.loads((run / "model" / RECORD).read_text())
    record["speakers"]["ravdess"] += speakers
    write_json(run / "model" / RECORD, record)
    reseal(run / "model")


def test_nobody_is_tested_whom_a_member_has_heard(copy, tmp_path, caplog):
    run = copy / "fold1" / "0"
    known, *others = results_of(run)["test_speakers"]
    hears(run, [known])
    found, (made,) = ensembles([copy / "fold1"], tmp_path / "out")
    results = made["results"]
    assert results["test_speakers"] == others
    assert found["ensembles"][0]["left_out"] == [known]
    assert (
        f"1 of the {len(others) + 1} test speakers are left out" in caplog.text
    )
    assert results["protocol_sha"] != results_of(run)["protocol_sha"]
    assert results["protocol"].endswith(", unheard")
    tested = {row["speaker"] for row in table(run).values()} - {known}
    assert {*made["predictions"]["speaker"]} == tested
    assert known in results["heard"]["speakers"]["ravdess"]
    assert all(m["scores"] for m in found["ensembles"][0]["members"])


def test_nobody_left_is_refused_in_one_line(copy, tmp_path, capsys):
    run = copy / "fold1" / "1"
    hears(run, results_of(run)["test_speakers"])
    line = refused(capsys, copy, "--out", tmp_path / "out")
    assert "fold 1: every test speaker has been heard by one of the 2" in line
    assert not [*(tmp_path / "out").rglob("*.json")]


def test_a_model_of_another_fold_has_heard_them(runs, tmp_path, capsys):
    export(runs / "fold2" / "0", tmp_path / "shipped")
    line = refused(
        capsys, runs / "fold1", tmp_path / "shipped", "--out", tmp_path / "out"
    )
    assert "every test speaker has been heard by one of the 3" in line


def test_models_without_a_test_set_predict(
    runs, tiny_backbones, manifests, tmp_path
):
    """As their runs did; and on any set by --test."""
    shutil.copytree(runs / "fold1" / "0" / "model", tmp_path / "shipped")
    joined = [tmp_path / "shipped", runs / "fold1" / "1" / "model"]
    _, (made,) = ensembles(joined, tmp_path / "a")
    both = [runs / "fold1" / "0", runs / "fold1" / "1"]
    _, (wanted,) = ensembles(both, tmp_path / "b")
    for key in ("ua", "confusion", "protocol_sha"):
        assert made["results"][key] == wanted["results"][key]
    order = [made, wanted]
    np.testing.assert_allclose(
        *(np.sort(one["predictions"]["probabilities"], 0) for one in order),
        atol=1e-5,
    )
    shutil.copytree(runs / "fold1" / "1" / "model", tmp_path / "other")
    alone = [tmp_path / "shipped", tmp_path / "other"]
    with pytest.raises(InputError, match="no test set of its own.*--test"):
        ensembles(alone, tmp_path / "c")
    _, (tested,) = ensembles(
        alone, tmp_path / "c", test=manifests / "test.json"
    )
    assert tested["results"]["confusion"] == wanted["results"]["confusion"]
    # Members that were tested on a set of these ids, on other recordings.
    about, splits = read_manifests(manifests)
    test = splits["test"]
    wavs = [entry["wav"] for entry in test.values()]
    for entry, wav in zip(test.values(), wavs[1:] + wavs[:1], strict=True):
        entry["wav"] = wav
    noisy = tmp_path / "noisy"
    shutil.copytree(manifests, noisy)
    (noisy / "test.json").write_text(json.dumps(test))
    _, (anew,) = ensembles(both, tmp_path / "e", test=noisy / "test.json")
    assert not np.allclose(
        *(one["predictions"]["probabilities"] for one in (anew, wanted))
    )
    with pytest.raises(InputError, match="every test speaker"):
        ensembles(alone, tmp_path / "d", test=manifests / "train.json")


def test_runs_of_inner_folds_have_no_test_set(copy, manifests, tmp_path):
    for seed in range(2):
        path = copy / "fold1" / str(seed) / "results.json"
        write_json(path, json.loads(path.read_text()) | {"scored_on": "valid"})
    with pytest.raises(InputError, match="no test set of its own"):
        ensembles([copy / "fold1"], tmp_path / "out")
    found, _ = ensembles(
        [copy / "fold1"], tmp_path / "out", test=manifests / "test.json"
    )
    assert len(found["ensembles"][0]["members"]) == 2


def test_its_own_output_is_left_out(copy, tmp_path, capsys):
    out = copy / "fold1" / "ensemble"
    for _ in range(2):
        found, (made,) = ensembles([copy / "fold1"], out)
        write_json(out / "results.json", made["results"])
        assert len(found["ensembles"][0]["members"]) == 2
    line = refused(capsys, out, "--out", tmp_path / "out")
    assert "holds ensembles alone" in line


def spoil(run, name):
    """Spoil one thing of a run."""
    path = run / "predictions.csv"
    if name == "no table":
        path.unlink()
    elif name == "old table":
        rows = [line.split(",")[:-4] for line in path.read_text().splitlines()]
        path.write_text("".join(f"{','.join(row)}\n" for row in rows))
    elif name == "no model":
        shutil.rmtree(run / "model")
    elif name == "no record":
        (run / "model" / RECORD).unlink()
        reseal(run / "model")
    elif name == "protocol":
        results = results_of(run) | {"protocol": "another"}
        write_json(run / "results.json", results)


@pytest.mark.parametrize(
    "name, message",
    [
        ("no table", "predictions.csv: cannot be read"),
        ("old table", "not the calibrated predictions"),
        ("no model", "model.json: cannot be read"),
        ("no record", "has no heard.json"),
        ("protocol", "tested by different protocols"),
    ],
)
def test_runs_that_are_refused(copy, tmp_path, capsys, name, message):
    spoil(copy / "fold1" / "1", name)
    assert message in refused(capsys, copy, "--out", tmp_path / "out")
    assert not [*(tmp_path / "out").rglob("*.json")]


def test_folders_that_are_not_there(runs, tmp_path, capsys):
    line = refused(capsys, tmp_path / "none", "--out", tmp_path / "out")
    assert "none: no such file" in line


# ------------------------------------------------------------------- scores

CLASSES = ["a", "b"]
ABOUT = {"classes": CLASSES, "dimensions": []}


def answers(speakers, labels, *chances):
    """Answers of members and of their mean, as compare_with_members takes."""

    def measured(first):
        both = np.stack([first, 1 - np.array(first)], 1)
        return {
            "id": [str(i) for i in range(len(labels))],
            "speaker": speakers,
            "label": labels,
            "predicted": both.argmax(1).tolist(),
            "probabilities": both,
        }

    whole = measured(np.mean(chances, 0))
    return whole, [measured(np.array(one)) for one in chances]


def test_agreement_by_hand():
    # Predictions: aab, abb; the ensemble aab.
    one = answers(["x", "y", "z"], [0, 0, 0], [0.9, 0.9, 0.2], [0.6, 0.4, 0.1])
    found = compare_with_members([one], ABOUT)["agreement"]
    assert found["equal"] == found["all_equal"] == pytest.approx(2 / 3)
    # Both say a with 2/3 and 1/3: chance is 4/9; kappa (2/3 - 4/9) / (5/9).
    assert found["kappa"] == pytest.approx(0.4)
    assert found["right_where_equal"] == 0.5
    assert found["right_elsewhere"] == 1
    assert found["any_right"] == pytest.approx(2 / 3)


def test_calibration_error_is_that_of_a_run():
    generator = np.random.default_rng(0)
    speakers = [str(i % 6) for i in range(60)]
    labels = generator.integers(0, 2, 60).tolist()
    one = answers(speakers, labels, generator.random(60), generator.random(60))
    found = compare_with_members([one], ABOUT)["scores"]["ece"]
    whole = one[0]
    assert found["value"] == pytest.approx(
        expected_calibration_error(labels, whole["probabilities"])
    )
    low, high = found["ci95"]
    assert low < found["value"] < high
    judged = {"label": labels, "probabilities": whole["probabilities"]}
    assert calibration(None, judged)["ece"] == pytest.approx(found["value"])


def test_test_sets_count_alike_whatever_their_members():
    generator = np.random.default_rng(1)
    sets = []
    for count in (2, 3):
        speakers = [f"{count}{i % 4}" for i in range(40)]
        labels = [0, 1] * 20
        own = [generator.random(40) for _ in range(count)]
        sets.append(answers(speakers, labels, *own))
    found = compare_with_members(sets, ABOUT)
    both = [compare_with_members([one], ABOUT) for one in sets]
    # Equally many utterances of each class: pooled is the mean.
    gaps = [one["difference"]["difference"] for one in both]
    assert found["difference"]["difference"] == pytest.approx(np.mean(gaps))
    assert found["difference"]["speakers"] == 8
    for name in CLASSES:
        for key in ("ensemble", "members"):
            wanted = np.mean([one["recalls"][name][key] for one in both])
            assert found["recalls"][name][key] == pytest.approx(wanted)


def test_dimensions_alone():
    generator = np.random.default_rng(0)
    values = generator.normal(size=(20, 1))
    own = [
        {
            "id": [*map(str, range(20))],
            "speaker": [str(i % 5) for i in range(20)],
            "values": values,
            "predicted_values": values + generator.normal(size=(20, 1)),
        }
        for _ in range(2)
    ]
    mean = np.mean([one["predicted_values"] for one in own], 0)
    whole = own[0] | {"predicted_values": mean}
    about = {"classes": [], "dimensions": ["arousal"]}
    found = compare_with_members([(whole, own)], about)
    assert {*found} == {"scores", "mean", "members_mean"}
    assert found["mean"]["ccc"]["mean"] > found["members_mean"]["ccc"]["mean"]


def test_speakers_of_a_pool_keep_their_corpus():
    about = {"corpus": "pooled"}
    entries = {"1": {"speaker": "emobox:cremad/7", "corpus": "emobox:cremad"}}
    tested = ScoredSet(about, entries)
    assert tested.speakers == {("crema-d", "7")}
    assert speakers_of(about, entries.values()) == tested.speakers
    assert not tested.without({("crema-d", "7")}).entries
