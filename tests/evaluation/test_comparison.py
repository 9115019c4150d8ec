"""Two methods on the same utterances."""

import numpy as np
import pytest

from ser_peft.errors import InputError
from ser_peft.evaluation.comparison import paired_bootstrap
from ser_peft.evaluation.metrics import from_confusion, speaker_confusions


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


def test_as_by_hand(judged):
    """Speakers drawn one by one, with all they said."""
    labels, first, second, speakers = judged
    rng = np.random.default_rng(1)
    _, one = speaker_confusions(labels, first, speakers, 4)
    _, other = speaker_confusions(labels, second, speakers, 4)
    drawn = rng.integers(0, 12, (4000, 12))
    by_hand = [
        from_confusion(one[who].sum(0)) - from_confusion(other[who].sum(0))
        for who in drawn
    ]
    outcome = paired_bootstrap(*judged, 4)
    assert outcome["speakers"] == 12
    assert outcome["difference"] == pytest.approx(
        from_confusion(one.sum(0)) - from_confusion(other.sum(0))
    )
    low, high = np.percentile(by_hand, [2.5, 97.5])
    assert outcome["ci95"] == pytest.approx([low, high], abs=0.005)
    p = 2 * np.mean(np.array(by_hand) <= 0)
    assert 0 < p < 0.2
    assert outcome["p"] == pytest.approx(p, abs=0.02)


def test_the_other_way_round(judged):
    labels, first, second, speakers = judged
    one = paired_bootstrap(labels, first, second, speakers, 4)
    other = paired_bootstrap(labels, second, first, speakers, 4)
    assert other["difference"] == -one["difference"]
    assert other["ci95"] == pytest.approx([-x for x in one["ci95"][::-1]])
    assert other["p"] == one["p"]


def test_pairing_is_what_makes_it_sharp(judged):
    """Hard speakers are hard for both: that is no doubt about the order."""
    labels, first, _, speakers = judged
    second = first.copy()
    for speaker in np.unique(speakers):  # two more mistakes each
        right = np.flatnonzero((speakers == speaker) & (first == labels))[:2]
        second[right] = (labels[right] + 1) % 4
    outcome = paired_bootstrap(labels, first, second, speakers, 4)
    assert outcome["difference"] == pytest.approx(0.05, abs=0.01)
    assert np.ptp(outcome["ci95"]) < 0.03
    assert outcome["p"] < 0.001


def test_no_difference_is_no_finding(judged):
    labels, first, _, speakers = judged
    outcome = paired_bootstrap(labels, first, first, speakers, 4)
    assert outcome["p"] == 1 and outcome["ci95"] == [0, 0]


def test_one_speaker_is_refused():
    with pytest.raises(InputError, match=r"one test speaker \(a\)"):
        paired_bootstrap([0, 1], [0, 1], [1, 1], ["a", "a"], 2)
