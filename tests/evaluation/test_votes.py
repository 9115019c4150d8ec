"""Scores against votes, by their formulas."""

import math

import numpy as np
import pytest

from ser_peft.evaluation.results import corpus_scores
from ser_peft.evaluation.votes import AMBIGUITY, vote_scores

CLASSES = ["neutral", "angry", "sad"]


def distance(p, q):
    """Jensen-Shannon distance, written out."""
    total = 0.0
    for a, b in zip(p, q, strict=True):
        middle = (a + b) / 2
        for one in (a, b):
            if one:
                total += one / 2 * math.log2(one / middle)
    return math.sqrt(max(total, 0.0))


@pytest.fixture
def clips():
    """Entries and what was measured of 24 clips of six speakers."""
    rng = np.random.default_rng(3)
    kinds = [
        {"sad": 5}, {"angry": 3}, {"neutral": 3, "sad": 1},
        {"neutral": 1, "angry": 2, "sad": 2},
    ]  # fmt: skip
    ids = [str(i) for i in range(24)]
    entries = {i: {"votes": kinds[int(i) % 4]} for i in ids}
    chances = rng.dirichlet(np.ones(3), 24)
    measured = {
        "id": ids,
        "speaker": [f"s{i % 6}" for i in range(24)],
        "label": [2, 1, 0, 1] * 6,
        "predicted": chances.argmax(1).tolist(),
        "probabilities": chances,
    }
    return entries, measured


def test_distance_and_interval(clips):
    entries, measured = clips
    found = vote_scores(entries, measured, CLASSES)["votes"]
    expected = [
        distance(
            chances,
            [v.get(c, 0) / sum(v.values()) for c in CLASSES],
        )
        for chances, v in zip(
            measured["probabilities"],
            (entries[i]["votes"] for i in measured["id"]),
            strict=True,
        )
    ]
    assert found["js_distance"] == pytest.approx(np.mean(expected))
    assert found["utterances"] == 24
    divergences = [
        sum(
            n / sum(v.values()) * math.log2(n / sum(v.values()) / p[c])
            for c, n in ((CLASSES.index(k), n) for k, n in v.items())
        )
        for p, v in zip(
            measured["probabilities"],
            (entries[i]["votes"] for i in measured["id"]),
            strict=True,
        )
    ]
    assert found["kl_divergence"] == pytest.approx(np.mean(divergences))
    assert found["annotators"] == pytest.approx((5 + 3 + 4 + 5) / 4)
    low, high = found["js_distance_ci95"]
    assert 0 < low < found["js_distance"] < high < 1
    assert found["js_distance_ci95_reason"] is None


def test_same_distribution_is_no_distance(clips):
    entries, measured = clips
    votes = [entries[i]["votes"] for i in measured["id"]]
    rows = [[v.get(c, 0) / sum(v.values()) for c in CLASSES] for v in votes]
    measured["probabilities"] = np.array(rows, np.float32)
    found = vote_scores(entries, measured, CLASSES)["votes"]
    assert 0 <= found["js_distance"] < 1e-3


def test_groups_by_ambiguity(clips):
    entries, measured = clips
    groups = vote_scores(entries, measured, CLASSES)["votes"]["by_ambiguity"]
    assert [*groups] == [*AMBIGUITY]
    bits = [
        0.0,
        -0.75 * math.log2(0.75) - 0.25 * math.log2(0.25),
        -0.2 * math.log2(0.2) - 0.8 * math.log2(0.4),
    ]
    for group, entropy, count in zip(groups.values(), bits, (12, 6, 6),
                                     strict=True):  # fmt: skip
        assert group["entropy"] == pytest.approx([entropy, entropy], abs=1e-6)
        assert group["utterances"] == count
    right = np.equal(measured["predicted"], measured["label"])
    more = groups["more ambiguous"]
    assert more["wa"] == pytest.approx(right[3::4].mean())
    assert more["ua"] == more["wa"]  # one class alone
    assert more["missing_classes"] == ["neutral", "sad"]


def test_clips_without_votes_and_unanimous_ones(clips):
    entries, measured = clips
    only = {i: entry if int(i) % 4 == 0 else {} for i, entry in entries.items()}
    found = vote_scores(only, measured, CLASSES)["votes"]
    assert found["utterances"] == 6
    assert [*found["by_ambiguity"]] == ["unanimous"]
    assert vote_scores(dict.fromkeys(only, {}), measured, CLASSES) == {}
    assert vote_scores(entries, measured, []) == {}
    other = only | {"1": {"votes": {"fear": 4}}}  # a class that is none here
    assert vote_scores(other, measured, CLASSES)["votes"] == found


def test_beside_the_scores_of_corpora(clips):
    entries, measured = clips
    assert [*corpus_scores(entries, measured, CLASSES)] == ["votes"]
    for entry in entries.values():
        entry["corpus"] = "toy"
    both = corpus_scores(entries, measured, CLASSES)
    assert [*both] == ["by_corpus", "votes"]
