"""Metrics by hand, against scikit-learn, and intervals that behave."""

import time

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score

from ser_peft.errors import InputError
from ser_peft.evaluation.metrics import (
    from_confusion,
    scores,
    speaker_bootstrap,
    speaker_confusions,
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


@pytest.mark.parametrize("metric", ["ua", "wa", "macro_f1", "weighted_f1"])
def test_interval_covers_the_score_and_narrows_with_speakers(metric):
    widths = []
    for n_speakers in (5, 20, 80):
        labels, predictions, speakers = a_test_set(n_speakers)
        low, high = speaker_bootstrap(labels, predictions, speakers, 4, metric)
        assert low < scores(labels, predictions, "abcd")[metric] < high
        widths.append(high - low)
    assert widths[0] > widths[1] > widths[2]


def test_interval_is_that_of_resampling_speakers_one_by_one():
    labels, predictions, speakers = a_test_set(8)
    rng = np.random.default_rng(1)
    names, values = np.unique(speakers), []
    for _ in range(1000):
        index = np.concatenate(
            [np.flatnonzero(speakers == s) for s in rng.choice(names, 8)]
        )
        values.append(
            balanced_accuracy_score(labels[index], predictions[index])
        )
    slow = np.percentile(values, [2.5, 97.5])
    fast = speaker_bootstrap(labels, predictions, speakers, 4)
    assert fast == pytest.approx(slow, abs=0.02)


def test_interval_respects_that_utterances_of_a_speaker_depend():
    labels, predictions, speakers = a_test_set(10, n_each=100)
    by_speaker = speaker_bootstrap(labels, predictions, speakers, 4)
    by_utterance = speaker_bootstrap(labels, predictions, ["one"] * 1000, 4)
    assert np.diff(by_speaker) > 2 * np.diff(by_utterance)
    # One speaker: the width of a proportion of 1,000 independent draws.
    p = scores(labels, predictions, "abcd")["ua"]
    expected = 2 * 1.96 * np.sqrt(p * (1 - p) / 1000)
    assert np.diff(by_utterance)[0] == pytest.approx(expected, rel=0.15)


def test_interval_repeats_with_its_seed_and_is_fast():
    args = (*a_test_set(24), 4)
    assert speaker_bootstrap(*args, seed=3) == speaker_bootstrap(*args, seed=3)
    assert speaker_bootstrap(*args, seed=3) != speaker_bootstrap(*args, seed=4)
    best = np.inf
    for _ in range(5):  # the best of five: other work shares the machine
        start = time.perf_counter()
        speaker_bootstrap(*args)
        best = min(best, time.perf_counter() - start)
    assert best < 0.05
