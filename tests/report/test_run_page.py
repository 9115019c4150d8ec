"""The files of a finished run, read back as a user's tools would."""

import csv
import json

import numpy as np
import pytest
from matplotlib.image import imread
from pages import HOSTILE, Page
from scipy.special import softmax

from ser_peft.evaluation.metrics import scores, speaker_interval
from ser_peft.evaluation.runs import _predictions
from ser_peft.report import drawing, figures
from ser_peft.report.run_page import render_run, write_report

CLASSES = ["angry", "happy", "sad"]
CALIBRATION = {
    "temperature": 2.0,
    "temperature_fitted": 2.5,
    "valid_speakers": 3,
    "ece": 0.07,
    "ece_scaled": 0.02,
    "unsure": None,
    "coverage": 1.0,
    "accuracy_answered": 0.7,
    "accuracy": 0.7,
}


@pytest.fixture
def run():
    """Arguments of `write_report` after `folder`, by name."""
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=60)
    logits = rng.normal(size=(60, 3)) + 2 * np.eye(3)[labels]
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    predicted = probabilities.argmax(1)
    speakers = [f"Ses0{i % 4}" for i in range(60)]
    results = {
        "corpus": "IEMOCAP",
        "protocol": "leave-one-session-out",
        "protocol_sha": "5ca1ab1e",
        "fold": 2,
        "folds_total": 5,
        "seed": 7,
        "backbone": "microsoft/wavlm-base-plus",
        "method": "LoRA",
        "classes": CLASSES,
        **scores(labels, predicted, CLASSES),
        "ua_ci95": speaker_interval(labels, predicted, speakers, CLASSES)[0],
        "ua_ci95_reason": None,
        "start": {"from": "linear probe", "valid_ua": 0.8, "ua": 0.7},
        "test_speakers": sorted(set(speakers)),
        "trainable_parameters": {"adapter": 1_234_567, "head": 4_321},
        "total_parameters": 95_000_000,
        "valid_ua": 0.81,
        "best_epoch": 2,
        "epochs": 3,
        "train_seconds": 3725.0,
        "peak_memory_mb": 2048.0,
        "kept": "best valid UA",
        "kept_epochs": [2],
        "versions": {"torch": "2.11.0"},
    }
    history = [
        {"epoch": i, "train_loss": 1 / i, "valid_ua": 0.8, "lr_head": 1e-3}
        for i in (1, 2, 3)
    ]
    return {
        "results": results,
        "predictions": {
            "id": [f"utterance_{i}" for i in range(60)],
            "speaker": speakers,
            "label": labels.tolist(),
            "predicted": predicted.tolist(),
            "probabilities": probabilities,
        },
        "history": history,
        "layer_weights": [0.2, 0.5, 0.3],
        "command": "python train.py hparams/wavlm_lora.yaml",
    }


def shown(run):
    """The words around the figures, which are not drawn."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawing, "inline_svg", lambda *_: "")
        return " ".join(Page(render_run(**run)).shown.split())


def test_writes_every_file_and_nothing_else(tmp_path, run):
    write_report(tmp_path / "out", **run)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "confusion.png",
        "history.json",
        "predictions.csv",
        "report.html",
        "results.json",
    ]
    written = json.loads((tmp_path / "out" / "results.json").read_text())
    assert written == run["results"]
    assert np.ptp(imread(tmp_path / "out" / "confusion.png")) > 0.5


def test_predictions_table(tmp_path, run):
    run["results"]["calibration"] = CALIBRATION
    run["predictions"]["id"][0] = 'a, "b"\n\udce9'  # not UTF-8 on disk
    write_report(tmp_path, **run)
    with open(tmp_path / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    calibrated = [f"{name}_calibrated" for name in CLASSES]
    assert list(rows[0]) == [
        *("id", "speaker", "label", "predicted"), *CLASSES, *calibrated,
    ]  # fmt: skip
    logits = np.log(run["predictions"]["probabilities"])
    expected = softmax(logits / 2, axis=1)
    for row, chances in zip(rows, expected, strict=True):
        written = [float(row[name]) for name in calibrated]
        assert written == pytest.approx(chances, abs=1e-6)
    assert len(rows) == 60 and rows[0]["id"] == 'a, "b"\n\\udce9'
    for row, label in zip(rows, run["predictions"]["label"], strict=True):
        chances = {name: float(row[name]) for name in CLASSES}
        assert sum(chances.values()) == pytest.approx(1, abs=1e-5)
        assert row["predicted"] == max(chances, key=chances.get)
        assert row["label"] == CLASSES[label]


def test_names_that_look_like_formulas(tmp_path, run):
    """They are quoted, numbers are not, and what is read back is the name."""
    classes = ["=angry", "-happy", "'@sad"]
    run["results"]["classes"] = classes
    run["predictions"]["id"][0] = '=HYPERLINK("x")'
    run["predictions"]["speaker"][0] = "-1"
    write_report(tmp_path, **run)
    path = tmp_path / "predictions.csv"
    with open(path, newline="") as file:
        head, *rows = csv.reader(file)
    assert head[4:7] == ["'=angry", "'-happy", "''@sad"]
    assert rows[0][:2] == ['\'=HYPERLINK("x")', "'-1"]
    assert all(float(cell) >= 0 for row in rows for cell in row[4:])
    read = _predictions(path, classes)
    columns = ("id", "speaker", "label", "predicted")
    wanted = zip(*(run["predictions"][key] for key in columns), strict=True)
    assert read == {id_: tuple(rest) for id_, *rest in wanted}


def test_speakers_that_are_no_valid_text(tmp_path, run):
    speakers = [f"\udce9{name}" for name in run["predictions"]["speaker"]]
    run["predictions"]["speaker"] = run["results"]["test_speakers"] = speakers
    write_report(tmp_path, **run)
    assert "\\udce9Ses00" in (tmp_path / "report.html").read_text()
    written = json.loads((tmp_path / "results.json").read_text())
    assert written["test_speakers"] == speakers


def test_results_come_last(tmp_path, run, monkeypatch):
    write_report(tmp_path, **run)  # an older run in the same folder

    def broken(*_):
        raise RuntimeError("no fonts")

    monkeypatch.setattr(figures, "speaker_figure", broken)
    with pytest.raises(RuntimeError):
        write_report(tmp_path, **run)
    assert not (tmp_path / "results.json").exists()
    assert not list(tmp_path.glob(".*"))


def test_page_needs_no_network(run):
    text = render_run(**run)
    page = Page(text)
    assert "http:" not in text and "https:" not in text
    assert all(link.startswith("#") for link in page.links)
    assert not {"script", "link", "iframe", "img"} & set(page.tags)
    assert "url(" not in text.replace("url(#", "")
    assert "default-src 'none'" in text


def test_page_is_structured_and_described(run):
    page = Page(render_run(**run))
    assert page.tags.count("h1") == 1 and page.tags.count("table") == 5
    assert len(page.images) == 4
    assert all(image["role"] == "img" for image in page.images)
    assert len({image["aria-label"] for image in page.images}) == 4


def test_ids_are_unique_across_the_figures(run):
    text = render_run(**run)
    ids = [piece.split('"')[0] for piece in text.split(' id="')[1:]]
    assert ids and len(ids) == len(set(ids))


def test_hostile_names_are_shown_not_obeyed(tmp_path, run):
    results, predictions = run["results"], run["predictions"]
    clean = Page(render_run(**run)).tags
    for key in ("corpus", "protocol", "backbone", "method", "kept"):
        results[key] = HOSTILE
    results["classes"] = [HOSTILE, *CLASSES[1:]]
    results["test_speakers"] = [HOSTILE]
    results["versions"] = {HOSTILE: HOSTILE}
    predictions["id"] = [HOSTILE] * 60
    predictions["speaker"] = [HOSTILE] * 60
    run["command"] = HOSTILE
    write_report(tmp_path, **run)
    page = Page((tmp_path / "report.html").read_text())
    assert not {"script", "img"} & set(page.tags)
    assert set(page.tags) == set(clean)
    assert all(link.startswith("#") for link in page.links)
    assert page.shown.count(HOSTILE) > 10


def test_headline(run):
    results = run["results"]
    results |= {"ua": 0.75, "ua_ci95": [0.68, 0.8], "wa": 0.6, "macro_f1": 0.5}
    results["weighted_f1"] = 0.55
    text = shown(run)
    assert "75.0% 95% CI 68.0% to 80.0%" in text
    assert "WA, accuracy 60.0% macro F1 50.0% weighted F1 55.0%" in text
    assert "41.7 points above chance (33.3%)." in text
    assert (
        "5.0 points above its start, the linear probe (70.0%), which lies "
        "inside the interval." in text
    )
    assert "The interval is over speakers." in text
    assert "Below its start" not in text
    results["start"] = {"from": "init_from run", "valid_ua": 0.9, "ua": 0.85}
    text = shown(run)
    assert "10.0 points below its start, the init_from run (85.0%)." in text
    assert "Below its start: on valid the kept model has UA 0.810, " in text


def test_no_interval_is_said_with_its_reason(run):
    reason = "2 speakers, 4 are needed"
    part = run["results"] | {"ua_ci95": None, "ua_ci95_reason": reason}
    run["results"] = part | {"by_corpus": {"a": part, "b": part}}
    text = shown(run)
    assert f"no 95% CI: {reason}" in text and "inside the" not in text
    assert text.count(f"none: {reason}") == 2 + 1
    assert "The interval is over speakers" not in text


def test_missing_classes_stand_beside_the_scores(run):
    run["results"] |= {
        "missing_classes": ["sad"],
        "valid_missing_classes": ["angry", "happy"],
    }
    text = shown(run)
    assert "UA over 2 of 3 classes (no sad), mean of per-class recalls" in text
    assert text.count("81.0% over 1 of 3 classes (no angry, happy)") == 2


def test_cost_and_honesty(run):
    text = shown(run)
    assert "1,234,567 parameters" in text and "1.30% trainable" in text
    assert "1 h 2 min" in text and "2,048 MB" in text
    assert "Ses00, Ses01, Ses02, Ses03" in text
    assert "best valid UA (81.0%)" in text
    assert "Kept after 3 epochs: best valid UA, valid UA 81.0%." in text
    assert "5ca1ab1e" in text and "torch 2.11.0" in text
    assert run["command"] in text


def test_shared_speakers_are_said(run):
    assert "Training heard" not in shown(run)
    run["results"] |= {"shares_speakers": True, "leaks": {}}
    assert "Training heard test speakers" in shown(run)
    run["results"]["leaks"] = {"speakers": 1.0, "labelled_sentences": 0.256}
    assert (
        "shares with train 100.0% of its speakers, 25.6% of its labelled "
        "sentences." in shown(run)
    )


def test_class_table_by_hand(run):
    run["results"]["confusion"] = [[3, 1, 0], [2, 0, 0], [0, 0, 0]]
    text = shown(run)
    assert "angry 75.0% 60.0% 4" in text
    assert "happy 0.0% 0.0% 2" in text
    assert "sad – – 0" in text


def test_most_confident_mistakes_first(run):
    predictions = run["predictions"]
    predictions["label"] = [0] * 60
    predictions["predicted"] = [0] * 57 + [1, 2, 1]
    predictions["probabilities"] = np.full((60, 3), 1 / 3)
    predictions["probabilities"][57:] = [
        [0.3, 0.6, 0.1],
        [0.05, 0.05, 0.9],
        [0.2, 0.7, 0.1],
    ]
    text = shown(run)
    start = text.index("Most confident mistakes")
    order = [text.index(f"utterance_{i} Ses", start) for i in (58, 59, 57)]
    assert order == sorted(order)
    assert "utterance_58 Ses02 angry sad 90.0%" in text
    assert "3 of 3 mistakes" in text
    predictions["predicted"] = predictions["label"]
    assert "Most confident mistakes None." in shown(run)


def test_a_probe_has_no_epochs_and_no_layers(run):
    run["results"] |= {
        "best_epoch": None,
        "epochs": 0,
        "valid_ua": None,
        "start": None,
        "peak_memory_mb": None,
        "kept": "no choice was made",
    }
    run |= {"history": [], "layer_weights": None}
    page = Page(render_run(**run))
    assert len(page.images) == 2
    assert "kept no choice was made test set" in shown(run)
    assert "linear probe" not in page.shown


def test_fairness_by_hand(run):
    assert "Fairness" not in shown(run)
    by_class = {"statistical_parity": 0.25, "equal_opportunity": 0.5}
    gender = {
        "groups": {
            "female": {"ua": 0.75, "utterances": 1234, "speakers": 2},
            "male": {"ua": None, "utterances": 3, "speakers": 1},
        },
        "unknown": 7,
        "reason": None,
        "ua_gap": 0.125,
        "statistical_parity_difference": 0.25,
        "equal_opportunity_difference": 0.625,
        "by_class": {
            "angry": by_class,
            "happy": by_class | {"equal_opportunity": None},
            "sad": {"statistical_parity": 0.1, "equal_opportunity": 0.625},
        },
    }
    run["results"] |= {
        "fairness": {"gender": gender},
        "worst_speaker": {"speaker": "Ses03", "ua": 0.5, "utterances": 15},
    }
    text = shown(run)
    for row in (
        "female 75.0% 1,234 2",
        "male – 3 1",
        "unknown – 7 –",
        "UA 12.5",
        "statistical parity angry, happy 25.0",
        "equal opportunity sad 62.5",
        "Worst speaker: Ses03, UA 50.0% of 15 utterances.",
    ):
        assert row in text
    run["results"]["fairness"]["age"] = gender
    text = shown(run)
    assert "Fairness by age age UA" in text and text.count("sad 62.5") == 2
    gender |= {"ua_gap": None, "by_class": {}, "reason": "f has 1 speaker"}
    text = shown(run)
    assert "Not compared: f has 1 speaker." in text
    assert "parity angry" not in text


def test_calibration_and_robustness_by_hand(run):
    assert not {"Calibration", "Robustness"} & set(shown(run).split())
    run["results"] |= {
        "ua": 0.8,
        "calibration": CALIBRATION | {"temperature": 1.5},
        "robustness": {"babble 20 dB": 0.75, "telephone": 0.805},
    }
    page = Page(render_run(**run))
    assert len(page.images) == 6
    label = page.images[3]["aria-label"]
    assert label == "UA: clean 80.0%, babble 20 dB 75.0%, telephone 80.5%"
    text = " ".join(page.shown.split())
    assert "calibration error 7.0%, and 2.0% with the temperature 1.50" in text
    assert "maximum at 2.50; the fewer valid speakers (3), the nearer" in text
    assert "babble 20 dB 75.0% -5.0 telephone 80.5% +0.5" in text
    assert "No answer is called unsure: the model has no thr" in text
    run["results"]["calibration"] |= {"unsure": 0.4, "coverage": 0.6,
                                      "accuracy_answered": 0.9}  # fmt: skip
    assert (
        "unsure below a calibrated probability of 40.0%, a threshold chosen "
        "on valid: at or above it are 60.0% of the test utterances, of which "
        "90.0% are right, beside 70.0% of all." in shown(run)
    )
    run["results"]["calibration"] |= {"coverage": 0.0,
                                      "accuracy_answered": None}  # fmt: skip
    assert "are 0.0% of the test utterances." in shown(run)


def test_speakers_are_coloured_by_gender(run):
    run["predictions"]["gender"] = ["female", "male"] * 30
    assert {"female", "male"} <= set(Page(render_run(**run)).shown.split())
    run["predictions"]["gender"] = [None] * 60
    assert "male" not in Page(render_run(**run)).shown


def test_figures_show_their_numbers():
    figure = figures.confusion_figure([[3, 1], [0, 0]], ["angry", "$sad"])
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == ["75%\n3", "25%\n1"]
    figure = figures.speaker_figure(["a", "b", "c"], [0.9, 0.3, 0.6], 0.25)
    ax = figure.axes[0]
    assert [bar.get_height() for bar in ax.patches] == [0.3, 0.6, 0.9]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["b", "c", "a"]
    assert {t.get_text() for t in ax.texts} == {"mean 60%", "chance"}
    many = figures.speaker_figure([str(i) for i in range(90)], [0.5] * 90, 0.25)
    assert many.axes[0].get_xlabel() == "90 speakers, sorted by UA"
    bars = figures.layer_figure([0.1, 0.7, 0.2]).axes[0].patches
    assert [bar.get_height() for bar in bars] == [0.1, 0.7, 0.2]


def test_speakers_are_named_by_what_differs():
    names = [f"MSP-IMPROV-session1-F{i:02}" for i in range(24)]
    ax = figures.speaker_figure(names, np.linspace(0, 1, 24), 0.25).axes[0]
    shown = [text.get_text() for text in ax.get_xticklabels()]
    assert shown == [f"{i:02}" for i in range(24)]
    assert ax.get_xlabel() == "speaker, MSP-IMPROV-session1-F…"


def test_every_speaker_has_a_row(run):
    run["predictions"]["speaker"] = [f"s{i % 50}" for i in range(60)]
    run["predictions"]["label"] = [0] * 60
    run["predictions"]["predicted"] = [0] * 59 + [1]
    text = shown(run)
    assert "speaker utterances UA s0 2 100.0% s1 2" in text
    assert "s9 2 50.0%" in text and "s49 1 100.0%" in text
    run["predictions"]["gender"] = ["female", None] * 30
    text = shown(run)
    assert "speaker gender utterances UA s0 female 2 100.0% s1 unknown" in text


@pytest.mark.parametrize(
    ("kept", "epochs"),
    [
        ("best valid UA: epoch 3", [3]),
        ("last epoch: 4", [4]),
        ("mean of the 2 best by valid UA: epochs 1, 4", [1, 4]),
        ("best valid UA: the linear probe", [0]),
    ],
)
def test_learning_curve_marks_the_start_and_what_was_kept(run, kept, epochs):
    drawn = []

    def keep(figure, name, description):
        drawn.append((name, figure))
        return ""

    run["history"] = [
        {"epoch": 0, "from": "linear probe", "valid_loss": 1.5, "valid_ua": 0.6}
    ] + [
        {"epoch": i, "train_loss": 2 / i, "valid_loss": 3 / i, "valid_ua": 0.7}
        for i in (1, 2, 3, 4)
    ]
    run["results"] |= {"kept": kept, "kept_epochs": epochs, "best_epoch": 2}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawing, "inline_svg", keep)
        text = " ".join(render_run(**run).split())
    assert f"Kept after 3 epochs: {kept}" in text
    loss, ua = dict(drawn)["learning"].axes
    train, valid, across, start, *marks = loss.lines
    assert train.get_ydata().tolist() == [2, 1, 2 / 3, 0.5]
    assert valid.get_xdata().tolist() == [1, 2, 3, 4]
    assert [*across.get_ydata()] == [1.5, 1.5]
    assert [*start.get_xdata(), *start.get_ydata()] == [0, 1.5]
    assert [mark.get_xdata()[0] for mark in marks] == epochs
    start = ua.lines[2]
    assert [*start.get_xdata(), *start.get_ydata()] == [0, 0.6]


@pytest.mark.parametrize(("n", "bins"), [(1, 1), (39, 3), (40, 4), (4000, 15)])
def test_calibration_has_bins_of_equally_many(n, bins):
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.25, 1, n)
    right = rng.uniform(size=n) < confidence
    figure = figures.reliability_figure(right, {"as trained": confidence})
    upper, lower = figure.axes
    curve = upper.lines[1]
    assert len(curve.get_xdata()) == bins
    assert (np.diff(curve.get_xdata()) > 0).all()
    mean = np.average(curve.get_ydata(), weights=[n / bins] * bins)
    assert mean == pytest.approx(right.mean(), abs=0.02)
    (band,) = upper.collections
    low, high = band.get_paths()[0].get_extents().get_points()[:, 1]
    assert low < min(curve.get_ydata()) + 1e-9
    assert high > max(curve.get_ydata()) - 1e-9
    assert sum(bar.get_height() for bar in lower.patches) == pytest.approx(1)


def test_titles_have_short_names_and_no_absent_seed(run):
    run["results"]["backbone"] = "/home/somebody/models/whisper-tiny.en"
    text = shown(run)
    assert "LoRA on whisper-tiny.en" in text and "/home" not in text
    assert text.count("seed 7") == 2
    run["results"]["seed"] = None
    text = shown(run)
    assert "seed" not in text and "None" not in text
