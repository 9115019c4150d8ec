"""Expected calibration error and temperature."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.calibration import calibration_curve
from sklearn.metrics import log_loss

from ser_peft.evaluation.calibration import (
    BINS,
    calibration,
    expected_calibration_error,
    fit_temperature,
    reliability,
    scale,
    trusted_temperature,
    unsure_below,
)


def drawn(temperature, count=4000, seed=0, classes=4):
    """Labels drawn from softmax(logits), and softmax(temperature logits)."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(count, classes))
    chances = softmax(logits, axis=1).cumsum(1)
    labels = (rng.random((count, 1)) > chances).sum(1)
    return labels, softmax(temperature * logits, axis=1)


def test_error_by_hand():
    """0.9 twice, right once; 0.6 twice, both right: (0.4 + 0.4) / 2."""
    probabilities = [[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.4, 0.6]]
    labels = [0, 1, 0, 1]
    assert expected_calibration_error(labels, probabilities) == pytest.approx(
        0.4
    )
    counts, accuracy, confidence = reliability(labels, probabilities)
    assert counts.nonzero()[0].tolist() == [8, 13]  # (8/15, 9/15], ...
    assert accuracy[[8, 13]].tolist() == [1, 0.5]
    assert confidence[[8, 13]] == pytest.approx([0.6, 0.9])
    assert np.isnan(accuracy[0])


def test_perfect_calibration_has_no_error():
    assert expected_calibration_error([2, 0], np.eye(3)[[2, 0]]) == 0
    # Of five utterances at 0.8, four are right; of five at 0.6, three.
    labels = [0, 0, 0, 0, 1, 0, 0, 0, 1, 1]
    probabilities = [[0.8, 0.2]] * 5 + [[0.6, 0.4]] * 5
    assert expected_calibration_error(labels, probabilities) < 1e-12


def test_sure_and_wrong_is_the_worst():
    assert expected_calibration_error([1, 0], np.eye(2)) == 1


def test_bins_as_scikit_learn_has_them():
    labels, probabilities = drawn(2.0)
    right = probabilities.argmax(1) == labels
    accuracy, confidence = calibration_curve(
        right, probabilities.max(1), n_bins=BINS
    )
    counts, mine, means = reliability(labels, probabilities)
    assert counts.sum() == len(labels)
    assert mine[counts > 0] == pytest.approx(accuracy)
    assert means[counts > 0] == pytest.approx(confidence)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 5.0])
def test_recovers_a_known_temperature(temperature):
    labels, probabilities = drawn(temperature, count=20000)
    found = fit_temperature(labels, probabilities)
    assert found == pytest.approx(temperature, rel=0.04)
    ece = expected_calibration_error(labels, probabilities)
    scaled = expected_calibration_error(labels, scale(probabilities, found))
    assert scaled < 0.015
    assert temperature == 1 or scaled < ece


def test_it_is_the_minimum_of_the_likelihood():
    labels, probabilities = drawn(3.0, count=300)
    found = fit_temperature(labels, probabilities)
    best = log_loss(labels, scale(probabilities, found))
    for factor in (0.2, 0.9, 1.1, 5):
        assert log_loss(labels, scale(probabilities, factor * found)) > best


def test_scaling_is_that_of_the_logits():
    logits = np.random.default_rng(0).normal(size=(50, 4))
    probabilities = softmax(logits, axis=1)
    assert scale(probabilities, 1) == pytest.approx(probabilities)
    assert scale(probabilities, 3) == pytest.approx(softmax(logits / 3, axis=1))
    assert (scale(probabilities, 9).argmax(1) == logits.argmax(1)).all()


def test_certainty_is_no_infinity():
    certain = np.eye(3, dtype=np.float32)
    labels = [0, 1, 1]
    found = fit_temperature(labels, certain)
    assert 1 < found < 20.01
    assert np.isfinite(scale(certain, found)).all()


def test_nothing_to_learn_from_no_mistake():
    """The likelihood would rise until every probability were one."""
    assert fit_temperature([0, 1], [[0.6, 0.4], [0.3, 0.7]]) == 1


def a_valid_set(temperature, n_speakers, each=50):
    labels, probabilities = drawn(temperature, n_speakers * each, seed=1)
    return {
        "label": labels,
        "probabilities": probabilities,
        "speaker": [str(i % n_speakers) for i in range(n_speakers * each)],
    }


@pytest.mark.parametrize("n_speakers", [1, 2, 3])
def test_few_speakers_do_not_sharpen(n_speakers):
    valid = a_valid_set(0.5, n_speakers, each=400)
    labels, probabilities, speakers = valid.values()
    assert fit_temperature(labels, probabilities) < 0.7
    assert trusted_temperature(labels, probabilities, speakers) == 1


def test_many_speakers_who_agree_do():
    valid = a_valid_set(0.5, 12)
    fitted = fit_temperature(valid["label"], valid["probabilities"])
    assert trusted_temperature(*valid.values()) == fitted ** (12 / 13) < 0.7


def test_speakers_who_disagree_do_not_sharpen():
    """One of six is far below 1, with many clips; the rest are at it."""
    sharp, plain = a_valid_set(0.4, 1, each=900), a_valid_set(1.0, 5, each=30)
    labels, probabilities, speakers = (
        np.concatenate([sharp[key], plain[key]]) for key in sharp
    )
    speakers[: len(sharp["label"])] = "sharp"
    assert fit_temperature(labels, probabilities) < 0.6
    assert trusted_temperature(labels, probabilities, speakers) == 1


@pytest.mark.parametrize("n_speakers", [1, 2, 24])
def test_softening_is_drawn_towards_one(n_speakers):
    valid = a_valid_set(3.0, n_speakers)
    fitted = fit_temperature(valid["label"], valid["probabilities"])
    found = trusted_temperature(*valid.values())
    assert 1 < found < fitted
    share = np.log(found) / np.log(fitted)
    assert share == pytest.approx(n_speakers / (n_speakers + 1))


def test_fitted_on_valid_and_judged_on_test():
    valid = a_valid_set(3.0, 40)
    test = dict(zip(valid, drawn(3.0, seed=2), strict=False))
    result = calibration(valid, test)
    assert result["temperature"] == trusted_temperature(*valid.values())
    assert result["temperature_fitted"] > result["temperature"] > 1
    assert result["valid_speakers"] == 40
    assert result["ece"] == expected_calibration_error(*test.values())
    assert result["ece_scaled"] < 0.03 < 0.1 < result["ece"]
    scaled = scale(valid["probabilities"], result["temperature"])
    assert result["unsure"] == unsure_below(valid["label"], scaled)
    # Of the test set nothing is used: with other labels, the same threshold.
    other = {**test, "label": [0] * len(test["label"])}
    assert calibration(valid, other)["unsure"] == result["unsure"]
    judged = scale(test["probabilities"], result["temperature"])
    kept = judged.max(1) >= result["unsure"]
    right = judged.argmax(1) == test["label"]
    assert result["coverage"] == kept.mean()
    assert result["accuracy"] == right.mean()
    assert result["accuracy_answered"] == right[kept].mean()
    assert result["accuracy_answered"] > result["accuracy"] + 0.1
    given = calibration(None, test, result["temperature"], result["unsure"])
    assert given.items() <= result.items()


def of_confidence(right, wrong):
    """Labels and probabilities of two classes with these confidences."""
    confidence = np.array([*right, *wrong])
    labels = [0] * len(right) + [1] * len(wrong)
    return labels, np.stack([confidence, 1 - confidence], 1)


def test_threshold_has_the_largest_j():
    """As tried one by one, on both sides of every confidence."""
    rng = np.random.default_rng(0)
    right, wrong = rng.uniform(0.55, 1, 60), rng.uniform(0.5, 0.8, 40)
    found = unsure_below(*of_confidence(right, wrong))
    tried = np.linspace(0.5, 1, 5001)
    gain = [(right >= at).mean() - (wrong >= at).mean() for at in tried]
    assert (right >= found).mean() - (wrong >= found).mean() == pytest.approx(
        max(gain)
    )
    # Nothing is near enough to be moved across by another rounding.
    assert abs(np.r_[right, wrong] - found).min() > 1e-6


def test_of_equally_good_thresholds_the_lowest():
    """0.55 and 0.85 both gain 0.75."""
    right = [0.6] * 3 + [0.9] * 9
    wrong = [0.5] * 9 + [0.8] * 3
    assert unsure_below(*of_confidence(right, wrong)) == pytest.approx(0.55)
    assert unsure_below(*of_confidence(right[3:], wrong)) == pytest.approx(0.85)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ([0.9] * 50, [0.6] * 4),
        ([0.9] * 4, [0.6] * 50),
        ([0.7] * 50, [0.7] * 50),  # all tied
        ([0.6] * 50, [0.9] * 50),  # the wrong way round
        ([0.9] * 5 + [0.6] * 5, [0.6] * 7 + [0.9] * 3),  # by chance
    ],
)
def test_no_threshold_without_evidence(right, wrong):
    assert unsure_below(*of_confidence(right, wrong)) is None


def test_a_threshold_by_chance_is_rare():
    """Confidence that says nothing; at most one in twenty finds one."""
    rng = np.random.default_rng(0)
    found = [
        unsure_below(*of_confidence(rng.uniform(0.5, 1, 20),
                                    rng.uniform(0.5, 1, 20)))
        for _ in range(400)
    ]  # fmt: skip
    assert sum(one is not None for one in found) <= 0.05 * 400


def test_no_threshold_answers_all():
    labels, chances = of_confidence([0.9] * 6, [0.6] * 2)
    test = {"label": labels, "probabilities": chances}
    found = calibration(None, test)
    assert found["unsure"] is None and found["coverage"] == 1
    assert found["accuracy_answered"] == found["accuracy"] == 0.75
    found = calibration(None, test, unsure=0.95)
    assert found["coverage"] == 0 and found["accuracy_answered"] is None
