"""Models side by side, on runs with tiny networks that nobody trained."""

import csv
import json
import shutil

import numpy as np
import peft
import pytest
import torch
from pages import HOSTILE, Page

from ser_peft import load_model
from ser_peft.adapters import PeftLobe, PromptConfig
from ser_peft.cli import main
from ser_peft.data import read_manifests
from ser_peft.errors import InputError
from ser_peft.evaluation.compare import METRICS, agreement, compare
from ser_peft.evaluation.metrics import scores, speaker_interval
from ser_peft.heads import LayerMixHead
from ser_peft.heads.fusion import FusionHead
from ser_peft.inference import EmotionModel
from ser_peft.lobes import load_lobe, load_text
from ser_peft.report.comparison_page import (
    format_comparison,
    render_comparison,
)

NAMES = ["teacher", "student", "prompted", "reader"]
METHODS = {
    "frozen": "frozen",
    "lora": peft.LoraConfig(r=4, init_lora_weights=False),
    "prompt": PromptConfig(2),
}


def write_run(folder, manifests, backbone, method, wrong, seed, text=None):
    """A finished run whose every `wrong`th prediction is wrong."""
    about, contents = read_manifests(manifests)
    classes = about["classes"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = PeftLobe(load_lobe(backbone), METHODS[method])
        reader, head = None, LayerMixHead(encoder, classes)
        if text:
            reader = PeftLobe(load_text(text), "frozen")
            head = FusionHead(encoder, classes, text_encoder=reader)
        EmotionModel(encoder, head, classes, text_encoder=reader).save(
            folder / "model"
        )
    test = contents["test"]
    labels = [classes.index(entry["emotion"]) for entry in test.values()]
    said = [
        (label + 1) % 4 if i % wrong == seed else label
        for i, label in enumerate(labels)
    ]
    with open(folder / "predictions.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "speaker", "label", "predicted"])
        for (id_, entry), *both in zip(test.items(), labels, said, strict=True):
            writer.writerow(
                [id_, entry["speaker"], *(classes[i] for i in both)]
            )
    taken = "corpus protocol protocol_sha fold folds_total classes".split()
    results = {
        **{key: about[key] for key in taken},
        **scores(labels, said, classes),
        "seed": seed,
        "backbone": str(backbone),
        "method": method,
        "trainable_parameters": {
            "adapter": encoder.num_adapter_parameters,
            "head": sum(p.numel() for p in head.parameters()),
        },
        "train_seconds": 1.0,
    }
    if text:
        said = {"gold": len(test) - 2, "none": 2}
        results["text"] = {
            "backbone": str(text), "method": "frozen", "sources": said,
        }  # fmt: skip
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "hyperparams.yaml").write_text(
        f"seed: {seed}\nmanifests_folder: {manifests}  # of fold 1\n"
    )


@pytest.fixture(scope="module")
def runs(manifests, tiny_backbones, tiny_texts, tmp_path_factory):
    """Folder of a teacher and of students; not to be changed."""
    root = tmp_path_factory.mktemp("compare")
    for name, method, wrong, seed, *text in (
        ("teacher/fold1/0", "lora", 5, 0),
        ("student/fold1/0", "frozen", 4, 0),
        ("student/fold1/1", "frozen", 3, 1),
        ("prompted/fold1/0", "prompt", 4, 0),
        ("reader/fold1/0", "frozen", 4, 0, tiny_texts["bert"]),
    ):
        backbone = tiny_backbones["whisper"]
        write_run(root / name, manifests, backbone, method, wrong, seed, *text)
    return root


@pytest.fixture(scope="module")
def found(runs):
    """The comparison of all. Not to be changed."""
    return compare([runs / name for name in NAMES], repeats=1)


@pytest.fixture
def copy(runs, tmp_path):
    """A copy of the runs, to be spoiled."""
    return shutil.copytree(runs, tmp_path / "runs")


def refused(capsys, *argv):
    """The one line of a comparison that exits with status 2."""
    with pytest.raises(SystemExit) as stop:
        main(["compare", *map(str, argv)])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


def judged(file, labels, said, speakers="aabb", sha="sha1"):
    """A run of `read_runs`."""
    rows = zip(speakers, labels, said, strict=False)
    return {
        "file": file, "protocol_sha": sha, "classes": ["x", "y", "z"],
        "predictions": dict(enumerate(rows)),
    }  # fmt: skip


def test_agreement_by_hand():
    labels = [0, 0, 1, 2]
    teacher = judged("t", labels, [0, 0, 1, 1])
    student = judged("s", labels, [0, 1, 1, 2])
    result = agreement([teacher], [student])
    assert result["equal"] == 0.5
    # By chance they agree in 2/4 x 1/4 + 2/4 x 2/4 + 0 x 1/4.
    assert result["kappa"] == pytest.approx((0.5 - 0.375) / (1 - 0.375))
    assert result["right_where_right"] == pytest.approx(2 / 3)
    assert result["right_where_wrong"] == 1
    # Recalls 1, 1, 0 against 1/2, 1, 1.
    assert result["difference"] == pytest.approx(2.5 / 3 - 2 / 3)
    assert result["ci95"] is result["p"] is None
    assert result["reason"] == "2 speakers, 4 are needed"
    assert result["pairs"] == 1


def test_agreement_pools_pairs_of_the_same_test_set():
    labels = [0, 0, 1, 1]
    teacher = judged("t", labels, labels)
    other = judged("o", labels, labels, sha="sha2")
    students = [judged("s", labels, [0, 0, 1, wrong]) for wrong in (1, 0)]
    result = agreement([teacher, other], students)
    assert result["pairs"] == 2 and result["equal"] == 7 / 8


def test_agreement_of_models_that_know_one_word():
    """Nothing is divided by zero, and JSON has no NaN."""
    same = judged("t", [1] * 4, [1] * 4, speakers="aaaa")
    result = agreement([same], [same])
    assert result["equal"] == 1 and result["right_where_right"] == 1
    for key in ("kappa", "right_where_wrong", "ci95", "p"):
        assert result[key] is None
    assert result["difference"] == 0


def test_agreement_of_other_utterances_is_refused():
    whole = judged("whole.json", [0, 1, 2, 0], [0, 1, 2, 0])
    part = judged("part.json", [0, 1, 2], [0, 1, 2])
    with pytest.raises(InputError, match="whole.json and part.json: pred"):
        agreement([whole], [part])


def test_scores_are_those_of_the_runs(found, runs):
    teacher, student, prompted, _ = found["models"]
    assert [model["name"] for model in found["models"]] == NAMES
    assert found["reference"] == "teacher" and teacher["agreement"] is None
    each = [
        json.loads((runs / f"student/fold1/{i}/results.json").read_text())
        for i in (0, 1)
    ]
    assert student["runs"] == 2 and student["seeds"] == [0, 1]
    for metric in METRICS:
        values = [run[metric] for run in each]
        assert student[metric]["mean"] == pytest.approx(np.mean(values))
        assert student[metric]["std"] == pytest.approx(np.std(values, ddof=1))
        low, high = student[metric]["ci95"]
        assert low <= student[metric]["mean"] <= high
        assert prompted[metric]["std"] is None
    # Of 20, the teacher has 0, 5, 10, 15 wrong, the prompted 0, 4, 8, 12, 16.
    told = prompted["agreement"]
    assert told["equal"] == pytest.approx(13 / 20)
    assert told["right_where_right"] == pytest.approx(12 / 16)
    assert told["right_where_wrong"] == pytest.approx(3 / 4)
    assert student["agreement"]["pairs"] == 2
    json.loads(json.dumps(found, allow_nan=False))


def test_interval_of_one_run_is_that_of_its_predictions(found, runs):
    with open(runs / "prompted/fold1/0/predictions.csv") as file:
        rows = [*csv.DictReader(file)]
    index = found["classes"].index
    labels, said = (
        [index(row[key]) for row in rows] for key in ("label", "predicted")
    )
    speakers = [row["speaker"] for row in rows]
    for metric in METRICS:
        interval, _ = speaker_interval(
            labels, said, speakers, found["classes"], metric
        )
        assert found["models"][2][metric]["ci95"] == interval


def test_other_seeds_are_said(found):
    """The student has one more than the others."""
    lacking = [line.split(":")[0] for line in found["warnings"]]
    assert lacking == ["teacher", "prompted", "reader"]
    assert all(
        line.endswith(": incomplete, its means lack fold 1 seed 1")
        for line in found["warnings"]
    )


def test_sizes(found, runs):
    teacher, student, prompted, reader = found["models"]
    for model, path in (
        (teacher, "teacher/fold1/0"), (student, "student/fold1/0")
    ):  # fmt: skip
        network = load_model(runs / path)
        counted = sum(p.numel() for p in network.parameters())
        assert model["parameters"]["total"] == counted
        files = [f for f in (runs / path / "model").rglob("*") if f.is_file()]
        assert model["model_bytes"] == sum(f.stat().st_size for f in files)
        assert model["inference_bytes"] >= 4 * student["parameters"]["total"]
    assert student["parameters"]["adapter"] == 0
    for model in (teacher, prompted):
        counts = model["parameters"]
        extra = counts["trained"] - student["parameters"]["trained"]
        assert counts["adapter"] == extra > 0
    # Folded in, LoRA needs no more than the encoder alone; prompts do.
    assert teacher["merged"] and not prompted["merged"]
    assert teacher["inference_bytes"] == student["inference_bytes"]
    assert student["layers"] == [2] and reader["layers"] == [2, 12]
    assert reader["parameters"]["total"] > student["parameters"]["total"]
    assert prompted["inference_bytes"] > student["inference_bytes"]


def test_latency_is_told_of_every_model(found):
    for model in found["models"]:
        assert [t["batch"] for t in model["latency"]][:1] == [1]
        assert {t["batch"] for t in model["latency"]} == {1, 16}
        assert all(t["p95_ms"] >= t["median_ms"] > 0 for t in model["latency"])
    assert {t["ratio"] for t in found["models"][0]["latency"]} == {1}
    assert found["timing"]["seconds"] == 4 and found["timing"]["repeats"] == 1


def test_map_has_every_test_utterance(found, manifests):
    test = read_manifests(manifests)[1]["test"]
    places = found["map"]
    assert places["ids"] == sorted(test)
    assert [found["classes"][i] for i in places["labels"]] == [
        test[id_]["emotion"] for id_ in places["ids"]
    ]
    assert [*places["points"]] == NAMES
    for points in places["points"].values():
        points = np.array(points)
        assert points.shape == (20, 2) and np.isfinite(points).all()
        assert len(np.unique(points, axis=0)) == 20
        assert points.mean(0) == pytest.approx(0, abs=1e-4)


def test_page_says_what_was_found(found):
    text = render_comparison(found)
    page = Page(text)
    shown = " ".join(page.shown.split())
    assert not {"script", "img", "link"} & set(page.tags)
    assert all(link.startswith("#") for link in page.links)
    # Trade-off, latency; of each model a confusion matrix and a map.
    assert len(page.images) == 2 + 2 * 4
    assert all(image["aria-label"] for image in page.images)
    for words in (
        "Agreement with teacher", "Confusion: student", "Map: prompted",
        "prompted cannot be and run beside it", "Every clip lasts 4.0 s",
        "balanced accuracy", "65.0 75.0 75.0",
    ):  # fmt: skip
        assert words in shown, words
    for model in found["models"]:
        for timing in model["latency"]:
            told = f"{timing['median_ms']:.1f} / {timing['p95_ms']:.1f}"
            assert told in shown
    ids = [part.split('"')[0] for part in text.split(' id="')[1:]]
    assert len(ids) == len(set(ids))
    table = format_comparison(found)
    assert table.count("\n| teacher ") == 3
    assert table.count("\n| student ") == 5


def test_what_a_table_cannot_say_is_said(found):
    """Few speakers, and a fold without a class."""
    reason = "2 speakers, 4 are needed"
    changed = json.loads(json.dumps(found))
    for model in changed["models"]:
        model["ua"] |= {"ci95": None, "reason": reason}
        if model["agreement"]:
            model["agreement"] |= {"ci95": None, "p": None, "reason": reason}
    lacking = {"fold": 1, "classes": ["sad"]}
    changed["models"][1]["missing_classes"] = [lacking]
    table = format_comparison(changed)
    page = " ".join(Page(render_comparison(changed)).shown.split())
    for text in (table, page):
        assert text.count(f"none: {reason}") == 4 + 3
        assert "UA over" in text and "3 of 4 in fold 1" in text
    assert "UA over" not in format_comparison(found)


def test_models_that_read_say_what(found):
    shown = " ".join(Page(render_comparison(found)).shown.split())
    assert "runs text teacher" in shown and " 1 gold, none " in shown
    assert "whisper + bert 2 + 12 frozen + frozen" in shown
    deaf = found | {"models": found["models"][:3]}
    shown = " ".join(Page(render_comparison(deaf)).shown.split())
    assert "runs teacher" in shown and "gold" not in shown


def test_names_are_text(found):
    text = json.dumps(found).replace('"student"', json.dumps(HOSTILE))
    hostile = json.loads(text)
    hostile["warnings"] = [HOSTILE]
    page = Page(render_comparison(hostile))
    assert not {"script", "img"} & set(page.tags)
    assert all(link.startswith("#") for link in page.links)
    assert page.shown.count(HOSTILE) > 5


def test_command(runs, tmp_path, capsys):
    out = tmp_path / "out"
    pair = [str(runs / name) for name in ("student/fold1/0", "prompted")]
    main(["compare", *pair, "--out", str(out), "--repeats", "1"])
    printed = capsys.readouterr().out
    written = json.loads((out / "compare.json").read_text())
    assert printed == (
        format_comparison(written) + f"page: {out / 'compare.html'}\n"
    )
    assert (out / "compare.html").read_text() == render_comparison(written)
    names = [model["name"] for model in written["models"]]
    assert names == ["student/fold1/0", "prompted"]


def test_other_test_sets_are_refused(copy, tmp_path, capsys):
    path = copy / "prompted/fold1/0/results.json"
    results = json.loads(path.read_text())
    path.write_text(json.dumps(results | {"protocol_sha": "another"}))
    out = tmp_path / "out"
    pair = copy / "student", copy / "prompted"
    line = refused(capsys, *pair, "--out", out)
    assert "prompted: tested on ravdess, peft-ser, 4 classes (" in line
    assert "), fold 1 (a" in line
    assert f"), fold 1 ({results['protocol_sha']}); give" in line
    assert not out.exists()


def test_unfit_runs_are_refused(copy, tmp_path, capsys):
    student, prompted = copy / "student", copy / "prompted"
    line = refused(capsys, student, copy)
    assert "holds runs of several models (" in line
    assert "student: given twice" in refused(capsys, student, student)
    line = refused(capsys, student, prompted, "--repeats", "0")
    assert "--repeats 0: " in line
    assert "none: no such file" in refused(capsys, student, copy / "none")
    (prompted / "fold1/0/predictions.csv").unlink()
    line = refused(capsys, student, prompted)
    assert "no predictions of classes beside it" in line


def test_lost_manifests_are_named(copy, capsys):
    for yaml in copy.rglob("hyperparams.yaml"):
        yaml.unlink()
    line = refused(capsys, copy / "teacher", copy / "prompted")
    assert "teacher/fold1/0/manifests: no manifests" in line
