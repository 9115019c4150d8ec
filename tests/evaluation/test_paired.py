"""Two methods on the same utterances."""

import numpy as np
import pytest
from scipy.stats import t as student

from ser_peft.evaluation.metrics import from_confusion, speaker_confusions
from ser_peft.evaluation.paired import paired_difference

CLASSES = list("wxyz")


def judge(rng, labels, quality):
    """Predictions that are right with a probability a speaker's own."""
    right = rng.random(labels.shape) < quality
    return np.where(right, labels, (labels + rng.integers(1, 4)) % 4).ravel()


@pytest.fixture
def judged():
    """40 utterances of each of 12 speakers; the second method is worse."""
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 4, (12, 40))
    quality = rng.uniform(0.5, 0.9, (12, 1))
    speakers = np.repeat([*"abcdefghijkl"], 40)
    first = judge(rng, labels, quality)
    second = judge(rng, labels, quality - rng.uniform(-0.15, 0.2, (12, 1)))
    return labels.ravel(), first, second, speakers


def test_as_the_bootstrap_has_it(judged):
    """Speakers drawn one by one, with all they said: the same error."""
    labels, first, second, speakers = judged
    rng = np.random.default_rng(1)
    _, one = speaker_confusions(labels, first, speakers, 4)
    _, other = speaker_confusions(labels, second, speakers, 4)
    drawn = rng.integers(0, 12, (4000, 12))
    by_hand = [
        from_confusion(one[who].sum(0)) - from_confusion(other[who].sum(0))
        for who in drawn
    ]
    outcome = paired_difference(*judged, CLASSES)
    assert outcome["speakers"] == 12 and outcome["reason"] is None
    whole = from_confusion(one.sum(0)) - from_confusion(other.sum(0))
    assert outcome["difference"] == pytest.approx(whole)
    error = np.std(by_hand) * np.sqrt(12 / 11)
    reach = student.ppf(0.975, 11) * error
    assert outcome["ci95"] == pytest.approx(
        [whole - reach, whole + reach], abs=0.005
    )
    p = 2 * student.sf(abs(whole) / error, 11)
    assert 0 < p < 0.2
    assert outcome["p"] == pytest.approx(p, abs=0.02)


def test_the_other_way_round(judged):
    labels, first, second, speakers = judged
    one = paired_difference(labels, first, second, speakers, CLASSES)
    other = paired_difference(labels, second, first, speakers, CLASSES)
    assert other["difference"] == -one["difference"]
    assert other["ci95"] == pytest.approx([-x for x in one["ci95"][::-1]])
    assert other["p"] == pytest.approx(one["p"])


def test_pairing_is_what_makes_it_sharp(judged):
    """Hard speakers are hard for both: that is no doubt about the order."""
    labels, first, _, speakers = judged
    second = first.copy()
    for speaker in np.unique(speakers):  # two more mistakes each
        right = np.flatnonzero((speakers == speaker) & (first == labels))[:2]
        second[right] = (labels[right] + 1) % 4
    outcome = paired_difference(labels, first, second, speakers, CLASSES)
    assert outcome["difference"] == pytest.approx(0.05, abs=0.01)
    assert np.ptp(outcome["ci95"]) < 0.03
    assert outcome["p"] < 0.001


def test_p_and_interval_agree(judged):
    """Zero is outside the interval where p is below 0.05, and only there."""
    labels, _, _, speakers = judged
    rng = np.random.default_rng(2)
    decided = []
    for worse in np.linspace(0, 0.2, 40):
        quality = rng.uniform(0.5, 0.9, (12, 1))
        pair = [
            judge(rng, labels.reshape(12, 40), quality - own)
            for own in (0, worse * rng.uniform(0, 2, (12, 1)))
        ]
        outcome = paired_difference(labels, *pair, speakers, CLASSES)
        low, high = outcome["ci95"]
        decided.append(not low <= 0 <= high)
        assert decided[-1] == (outcome["p"] < 0.05)
    assert 5 < sum(decided) < 35


def test_no_difference_is_no_finding(judged):
    labels, first, _, speakers = judged
    outcome = paired_difference(labels, first, first, speakers, CLASSES)
    assert outcome["difference"] == 0 and outcome["p"] is None
    assert outcome["reason"] == "all speakers score alike"


@pytest.mark.parametrize("n_speakers", [1, 2, 3])
def test_few_speakers_have_a_difference_alone(judged, n_speakers):
    chosen = np.isin(judged[3], [*"abc"[:n_speakers]])
    outcome = paired_difference(*(x[chosen] for x in judged), CLASSES)
    assert outcome["ci95"] is outcome["p"] is None
    assert outcome["reason"].endswith(", 4 are needed")
    assert outcome["difference"] != 0 and outcome["speakers"] == n_speakers
