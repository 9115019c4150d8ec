"""The linear probe, against scikit-learn and end to end."""

import csv
import json
from collections import Counter

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from speechbrain.dataio.batch import PaddedBatch

import ser_peft.training.probe as probing
from ser_peft.adapters import PeftLobe
from ser_peft.data import datasets, prepare, read_manifests
from ser_peft.heads import LinearHead
from ser_peft.inference import EmotionModel, load_model
from ser_peft.lobes import load_lobe
from ser_peft.training import probe_runs
from ser_peft.training.probe import (
    STRENGTHS,
    fit_probe,
    pool_with,
    pooled_states,
)
from ser_peft.training.probe_runs import run_probe


def features(classes, count=120, layers=3, width=8, seed=0):
    """Mean states whose channels are offset and one of them dead, labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=count)
    labels[:classes] = range(classes)
    centres = np.random.default_rng(9).normal(size=(classes, layers, width))
    states = centres[labels] + 2 * rng.normal(size=(count, layers, width))
    states = 30 * np.random.default_rng(8).normal(size=width) + states
    states[:, 1, 3] = 0.125
    return torch.from_numpy(states).float(), labels.tolist()


def logits(probe, states):
    scaled = (states - probe.mean) / probe.deviation
    return scaled.flatten(1) @ probe.weight.T + probe.bias


@pytest.mark.parametrize("classes", [2, 4])
def test_equal_to_a_scikit_learn_pipeline(classes):
    train, valid = features(classes), features(classes, 60, seed=1)
    test, _ = features(classes, 40, seed=2)
    probe = fit_probe(train, valid, classes)
    pipelines = {}
    for strength in STRENGTHS:
        pipelines[strength] = make_pipeline(
            StandardScaler(),
            LogisticRegression(
                C=strength, class_weight="balanced", max_iter=2000
            ),
        ).fit(train[0].flatten(1).numpy(), train[1])
    # By the mean over classes of the log loss.
    losses = {}
    for strength, pipeline in pipelines.items():
        p = pipeline.predict_proba(valid[0].flatten(1).numpy())
        each = -np.log(p[range(len(p)), valid[1]])
        truth = np.array(valid[1])
        losses[strength] = np.mean(
            [each[truth == label].mean() for label in range(classes)]
        )
    assert probe.strength == min(losses, key=losses.get)
    assert probe.valid_ua == pytest.approx(
        balanced_accuracy_score(
            valid[1],
            pipelines[probe.strength].predict(valid[0].flatten(1).numpy()),
        )
    )
    found = logits(probe, test).softmax(-1)
    expected = pipelines[probe.strength].predict_proba(test.flatten(1).numpy())
    assert found.shape == (40, classes)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("strength", [1e-3, 1.0])
@pytest.mark.parametrize("classes", [2, 4])
def test_solver_of_gpus_agrees_with_scikit_learn(classes, strength):
    states, labels = features(classes)
    scaled = StandardScaler().fit_transform(states.flatten(1).double().numpy())
    model = LogisticRegression(
        C=strength, class_weight="balanced", max_iter=2000, tol=1e-8
    ).fit(scaled, labels)
    weight, bias = probing._logistic_by_torch(
        torch.from_numpy(scaled), labels, strength
    )
    assert weight.shape == (classes, scaled.shape[1])
    np.testing.assert_allclose(
        softmax(scaled @ weight.T + bias, 1),
        model.predict_proba(scaled),
        atol=1e-4,
    )


def test_of_many_clips_some_are_drawn_by_class(manifests, monkeypatch):
    _, sets = datasets(manifests)
    train = sets["train"]
    assert probing.some_clips(train, 8) is train
    monkeypatch.setattr(probing, "CLIPS", 9)
    some = probing.some_clips(train, 8)
    labels = Counter(train.data[id_]["emotion"] for id_ in some.data_ids)
    assert [*labels.values()] == [2, 2, 2, 2]
    assert len({*some.data_ids}) == 8
    assert probing.some_clips(train, 8).data_ids == some.data_ids
    assert probing.some_clips(train, 9).data_ids != some.data_ids
    assert some[0]["id"] == some.data_ids[0]
    monkeypatch.setattr(probing, "CLIPS", 1)
    assert len(probing.some_clips(train, 8)) == 4  # no class goes without


def test_a_dead_channel_stays_quiet():
    """Training moves the encoder: a millionth must not become a one."""
    train, valid = features(3), features(3, 60, seed=1)
    probe = fit_probe(train, valid, 3)
    assert probe.deviation.min() > 0.01
    moved = valid[0].clone()
    moved[:, 1, 3] += 1e-3
    torch.testing.assert_close(logits(probe, moved), logits(probe, valid[0]))


def test_valid_without_a_class():
    states, labels = features(3, 60, seed=1)
    kept = [i for i, label in enumerate(labels) if label != 1]
    valid = states[kept], [labels[i] for i in kept]
    assert 0.3 < fit_probe(features(3), valid, 3).valid_ua <= 1


@pytest.fixture(scope="module")
def encoder(tiny_backbones):
    return PeftLobe(load_lobe(tiny_backbones["whisper"]), "frozen")


def test_pooled_states_do_not_depend_on_the_batch(encoder, manifests):
    _, sets = datasets(manifests)
    items = [sets["test"][i] for i in range(4)]
    together, clips = pooled_states([PaddedBatch(items)], pool_with(encoder))
    assert together.shape == (4, 3, 32) and together.dtype == torch.float32
    assert clips == [(i["id"], i["speaker"], i["label"]) for i in items]
    for item, states in zip(items, together, strict=True):
        hidden, frames = encoder(item["sig"][None])
        assert int(frames) == hidden.shape[2]
        torch.testing.assert_close(
            states, hidden[:, 0].mean(1), atol=1e-4, rtol=0
        )


def test_clips_too_long_for_the_encoder_are_probed(encoder):
    """As `EmotionModel` scores them, which is how they will be predicted."""
    torch.manual_seed(0)
    sig = 0.1 * torch.randn(45 * 16000)
    item = {"id": "a", "sig": sig, "label": 0, "speaker": "s"}
    short = {**item, "id": "b", "sig": sig[:8000]}
    states, clips = pooled_states(
        [PaddedBatch([item, short])], pool_with(encoder)
    )
    assert [clip[0] for clip in clips] == ["a", "b"]
    model = EmotionModel(encoder, LinearHead(encoder, 4), list("wxyz")).eval()
    head = model.head
    for row, wav in zip(states, (sig, sig[:8000]), strict=True):
        scores = head.score(head.standardize(row[None]))
        torch.testing.assert_close(scores, model(wav[None]), atol=1e-4, rtol=0)


@pytest.fixture(scope="module")
def run(tiny_backbones, manifests, tmp_path_factory):
    """A finished probe."""
    out = tmp_path_factory.mktemp("probe")
    (results,) = run_probe(
        str(tiny_backbones["whisper"]),
        {manifests: out},
        batch_seconds=5,
        command="ser-peft probe",
    )
    return out, results


def test_run_leaves_all_files(run):
    out, results = run
    assert {path.name for path in out.iterdir()} == {
        "results.json",
        "predictions.csv",
        "confusion.png",
        "report.html",
        "model",
        "test_reads.txt",
        "valid_predictions.csv",
    }
    assert json.loads((out / "results.json").read_text()) == results
    card = ModelCard.load(out / "model" / "README.md")
    assert card.data.eval_results[0].metric_value == round(results["ua"], 4)


def test_results_say_what_was_done(run, manifests, tiny_backbones):
    about, contents = read_manifests(manifests)
    _, results = run
    assert set(results) >= set(
        "corpus protocol protocol_sha fold seed backbone method classes ua "
        "ua_ci95 wa macro_f1 weighted_f1 per_class_recall confusion "
        "test_utterances test_speakers trainable_parameters total_parameters "
        "valid_ua best_epoch epochs train_seconds peak_memory_mb "
        "versions".split()
    )
    for key in "corpus protocol protocol_sha fold classes".split():
        assert results[key] == about[key]
    assert results["backbone"] == str(tiny_backbones["whisper"])
    assert results["method"] == "probe"
    assert results["head"] == "LinearHead"
    assert results["epochs"] == 0 and results["seed"] is None
    assert results["test_speakers"] == ["01", "02", "03", "04", "05"]
    assert results["test_utterances"] == len(contents["test"]) == 20
    assert results["trainable_parameters"] == {
        "adapter": 0,
        "head": 3 * 32 * 4 + 4,
    }
    assert results["total_parameters"] > results["trainable_parameters"]["head"]
    low, high = results["ua_ci95"]
    assert 0 <= low <= results["ua"] <= high <= 1
    assert results["versions"]["speechbrain"]


def test_the_voices_are_told_apart(run):
    """Pitch and loudness differ: chance would be 0.25."""
    assert run[1]["ua"] > 0.6 and run[1]["valid_ua"] > 0.6


def test_model_reproduces_the_predictions(run, manifests):
    out, results = run
    about, contents = read_manifests(manifests)
    with (out / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["id"] for row in rows} == set(contents["test"])
    model = load_model(out)
    assert model.classes == about["classes"]
    assert model.temperature == results["calibration"]["temperature"]
    assert model.unsure == results["calibration"]["unsure"]
    right = 0
    for row in rows:
        entry = contents["test"][row["id"]]
        wav = entry["wav"].format(data_root=about["data_folder"])
        (answer,) = model.predict([wav])
        assert row["label"] == entry["emotion"]
        assert row["speaker"] == entry["speaker"]
        assert row["predicted"] == answer["label"]
        for ending, key in (("", "uncalibrated"), ("_calibrated", "scores")):
            for name, score in answer[key].items():
                written = float(row[f"{name}{ending}"])
                assert written == pytest.approx(score, abs=2e-4)
        right += answer["label"] == entry["emotion"]
    assert results["wa"] == pytest.approx(right / len(rows))


def test_report_judges_both_genders(run):
    page = (run[0] / "report.html").read_text()
    assert "female" in page and "ser-peft probe" in page
    assert set(run[1]["fairness"]["gender"]["groups"]) == {"female", "male"}


def test_the_same_probe_twice(run, tiny_backbones, manifests, tmp_path):
    backbone = str(tiny_backbones["whisper"])
    (again,) = run_probe(backbone, {manifests: tmp_path})
    # Sums in another order differ in the last digit.
    for key, value in run[1]["calibration"].items():
        if value is not None:
            value = pytest.approx(value, rel=1e-2)
        assert again["calibration"][key] == value
    changing = {"train_seconds", "calibration"}
    assert {k: v for k, v in again.items() if k not in changing} == {
        k: v for k, v in run[1].items() if k not in changing
    }


def test_clips_that_train_other_classes_are_left_out(
    run, tiny_backbones, ravdess_tree, tmp_path
):
    """Of manifests that a recipe with train_classes made."""
    folder = tmp_path / "manifests"
    prepare("ravdess", ravdess_tree, folder, classes=4, train_classes=8)
    (found,) = run_probe(
        str(tiny_backbones["whisper"]), {folder: tmp_path / "probe"}
    )
    assert found["confusion"] == run[1]["confusion"]


def test_folds_are_probed_alike_with_states_computed_once(
    run, tiny_backbones, manifests, ravdess_tree, tmp_path, monkeypatch
):
    other = tmp_path / "manifests"
    prepare("ravdess", ravdess_tree, other, classes=4, fold=2)
    heard = []

    def counted(batches, pool):
        states, clips = pooled_states(batches, pool)
        heard.extend(clip[0] for clip in clips)
        return states, clips

    monkeypatch.setattr(probe_runs, "pooled_states", counted)
    folders = {manifests: tmp_path / "1", other: tmp_path / "2"}
    first, second = run_probe(str(tiny_backbones["whisper"]), folders)
    assert len(heard) == len({*heard}) == 96  # all of the corpus, once
    assert (first["fold"], second["fold"]) == (1, 2)
    assert first["confusion"] == run[1]["confusion"]
    assert first["test_speakers"] != second["test_speakers"]
    for out, results in ((tmp_path / "1", first), (tmp_path / "2", second)):
        assert json.loads((out / "results.json").read_text()) == results
