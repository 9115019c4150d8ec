"""Metrics by hand, against scikit-learn, and intervals that behave."""

import time

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score

from ser_peft.errors import InputError
from ser_peft.evaluation.metrics import (
    concordance_interval,
    from_confusion,
    over_classes,
    scores,
    speaker_confusions,
    speaker_interval,
)

CLASSES = ["angry", "happy", "sad"]


def a_test_set(n_speakers, n_each=30, n_classes=4, seed=0):
    """Speakers of different difficulty, UA 0.6 on average."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(n_classes, size=n_speakers * n_each)
    speakers = np.repeat([f"s{i}" for i in range(n_speakers)], n_each)
    ease = np.repeat(rng.uniform(0.3, 0.9, n_speakers), n_each)
    right = rng.random(len(labels)) < ease
    wrong = (labels + rng.integers(1, n_classes, len(labels))) % n_classes
    return labels, np.where(right, labels, wrong), speakers


def test_scores_by_hand():
    # angry 2 of 3, happy 1 of 1, sad 0 of 1
    found = scores([0, 0, 0, 1, 2], [0, 0, 1, 1, 0], CLASSES)
    assert found["ua"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert found["wa"] == pytest.approx(3 / 5)
    # F1 = 2 hits / (support + claimed): 4/6, 2/3, 0/1
    assert found["macro_f1"] == pytest.approx((4 / 6 + 2 / 3 + 0) / 3)
    # Weighted by the support: 3, 1, 1.
    assert found["weighted_f1"] == pytest.approx((3 * 4 / 6 + 2 / 3) / 5)
    assert found["confusion"] == [[2, 1, 0], [0, 1, 0], [1, 0, 0]]
    assert found["per_class_recall"] == pytest.approx(
        {"angry": 2 / 3, "happy": 1, "sad": 0}
    )
    assert found["test_utterances"] == 5


def test_absent_class_is_left_out_of_the_mean():
    found = scores([0, 0, 1], [0, 2, 1], CLASSES)
    assert found["per_class_recall"]["sad"] is None
    assert found["ua"] == pytest.approx(0.75)
    assert found["macro_f1"] == pytest.approx((2 / 3 + 1) / 2)
    assert found["weighted_f1"] == pytest.approx((2 * 2 / 3 + 1) / 3)


def test_equal_to_sklearn_and_to_the_vectorised_form():
    labels, predictions, _ = a_test_set(6)
    found = scores(labels.tolist(), predictions.tolist(), list("abcd"))
    assert found["ua"] == pytest.approx(
        balanced_accuracy_score(labels, predictions)
    )
    assert found["macro_f1"] == pytest.approx(
        f1_score(labels, predictions, average="macro")
    )
    for metric in ("ua", "wa", "macro_f1", "weighted_f1"):
        value = from_confusion(np.array(found["confusion"]), metric)
        assert value == pytest.approx(found[metric])


@pytest.mark.parametrize(
    "labels, predictions", [([], []), ([0, 3], [0, 0]), ([0], [-1])]
)
def test_nothing_to_score_or_foreign_class(labels, predictions):
    with pytest.raises(InputError):
        scores(labels, predictions, CLASSES)


def test_one_confusion_matrix_a_speaker():
    names, counts = speaker_confusions([0, 1, 1], [1, 1, 0], [9, 7, 9], 2)
    assert names == ["7", "9"]
    assert counts.tolist() == [[[0, 0], [0, 1]], [[0, 1], [1, 0]]]


def test_classes_that_nobody_shows_are_named():
    found = scores([0, 0, 1], [0, 2, 1], CLASSES)
    assert found["missing_classes"] == ["sad"]
    over = over_classes(found["missing_classes"], 3)
    assert over == " over 2 of 3 classes (no sad)"
    assert scores([0, 1, 2], [0, 0, 0], CLASSES)["missing_classes"] == []


@pytest.mark.parametrize("metric", ["ua", "wa", "macro_f1", "weighted_f1"])
def test_interval_covers_the_score_and_narrows_with_speakers(metric):
    widths = []
    for n_speakers in (5, 20, 80):
        judged = a_test_set(n_speakers)
        (low, high), reason = speaker_interval(*judged, "abcd", metric)
        value = scores(*judged[:2], "abcd")[metric]
        assert 0 < low < value < high < 1 and reason is None
        widths.append(high - low)
    assert widths[0] > widths[1] > widths[2]


def test_interval_respects_that_utterances_of_a_speaker_depend():
    labels, predictions, speakers = a_test_set(10, n_each=100)
    p = scores(labels, predictions, "abcd")["ua"]
    (low, high), _ = speaker_interval(labels, predictions, speakers, "abcd")
    # 1.96 standard errors of 1,000 independent utterances, both ways.
    assert high - low > 2 * 2 * 1.96 * np.sqrt(p * (1 - p) / 1000)


@pytest.mark.parametrize("n_speakers", [1, 2, 3])
def test_few_speakers_have_no_interval(n_speakers):
    ends, reason = speaker_interval(*a_test_set(n_speakers), "abcd")
    assert ends is None
    assert reason.startswith(f"{n_speakers} speaker")
    truth = np.random.default_rng(0).normal(size=(9, 2))
    speakers = [str(i % n_speakers) for i in range(9)]
    ends, reason = concordance_interval(truth, truth + 1, speakers)
    assert ends is None and "4 are needed" in reason


def test_many_speakers_but_one_for_a_class_have_no_interval():
    labels, predictions, speakers = a_test_set(12)
    labels = np.where(speakers == "s3", labels, labels % 3)
    ends, reason = speaker_interval(labels, predictions, speakers, "abcd")
    assert (ends, reason) == (None, "1 speaker for d, 2 are needed")


def test_no_mistake_is_no_certainty():
    """Of 100 utterances, 0.036 could be wrong."""
    labels, _, speakers = a_test_set(5, n_each=20)
    (low, high), _ = speaker_interval(labels, labels, speakers, "abcd")
    assert low == pytest.approx(0.025 ** (1 / 100)) and high == 1


def test_it_is_fast():
    judged = a_test_set(100, n_each=50)
    start = time.process_time()
    speaker_interval(*judged, "abcd")
    assert time.process_time() - start < 0.1
