"""What a result says of itself."""

import numpy as np
import pytest

from ser_peft.evaluation.results import corpus_scores, headline, judge

CLASSES = ["angry", "happy", "sad"]


def measured(n_speakers, classes=3, seed=0):
    """A test set in which two of three utterances are judged rightly."""
    labels = np.arange(30 * n_speakers) % classes
    wrong = np.random.default_rng(seed).random(len(labels)) < 1 / 3
    return {
        "id": [f"u{i}" for i in range(len(labels))],
        "speaker": [f"s{i // 30}" for i in range(len(labels))],
        "label": labels.tolist(),
        "predicted": np.where(wrong, (labels + 1) % 3, labels).tolist(),
    }


@pytest.mark.parametrize("n_speakers", [2, 4])
def test_every_corpus_has_its_own_interval_or_reason(n_speakers):
    found = measured(n_speakers + 5)
    of_a = {f"s{i}" for i in range(n_speakers)}
    entries = {
        id_: {"corpus": "a" if speaker in of_a else "b"}
        for id_, speaker in zip(found["id"], found["speaker"], strict=True)
    }
    parts = corpus_scores(entries, found, CLASSES)["by_corpus"]
    assert parts["b"]["ua_ci95"] and parts["b"]["ua_ci95_reason"] is None
    if n_speakers == 2:
        assert parts["a"]["ua_ci95"] is None
        assert parts["a"]["ua_ci95_reason"] == "2 speakers, 4 are needed"
    else:
        low, high = parts["a"]["ua_ci95"]
        assert low < parts["a"]["ua"] < high
    assert parts["a"]["missing_classes"] == []


def test_headline_says_what_is_missing():
    about = {"classes": CLASSES, "dimensions": []}
    scores = judge(measured(2, classes=2), about)
    assert scores["missing_classes"] == ["sad"]
    reason = "2 speakers, 4 are needed"
    results = {
        **{"classes": CLASSES, "ua_ci95": None, "ua_ci95_reason": reason},
        **scores,
    }
    assert headline(results) == (
        f"UA {scores['ua']:.3f} over 2 of 3 classes (no sad) (no 95 % CI: "
        f"{reason}), WA {scores['wa']:.3f}"
    )
    results |= {"missing_classes": [], "ua_ci95": [0.5, 0.75]}
    assert f"UA {scores['ua']:.3f} (95 % CI 0.500 to 0.750)" in headline(
        results
    )
    dimensions = {
        **{"ccc": {"arousal": 0.4}, "ccc_mean": 0.4, "ccc_ci95": None},
        **{"ccc_ci95_reason": "1 speaker, 4 are needed", "classes": []},
    }
    assert headline(dimensions) == (
        "mean CCC 0.400 (no 95 % CI: 1 speaker, 4 are needed): arousal 0.400"
    )
