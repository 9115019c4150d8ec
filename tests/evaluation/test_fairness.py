"""Groups of speakers, compared by hand and by definition."""

import json

import numpy as np
import pytest

from ser_peft.errors import InputError
from ser_peft.evaluation.fairness import (
    fairness,
    group_columns,
    worst_speaker,
)

CLASSES = ["angry", "happy", "sad"]


@pytest.fixture
def measured():
    """Labels, predictions and speakers of 600 utterances."""
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=600)
    wrong = rng.random(600) < 0.4
    predictions = np.where(wrong, rng.integers(3, size=600), labels)
    return labels, predictions, [f"s{i % 20}" for i in range(600)]


def shares(labels, predictions, mine):
    """P(predicted = c) and P(predicted = c | label = c), by definition."""
    truth, guess = labels[mine], predictions[mine]
    return (
        np.array([np.mean(guess == c) for c in range(3)]),
        np.array([np.mean(guess[truth == c] == c) for c in range(3)]),
    )


def test_two_groups_by_hand():
    """Women: 2 of 2 angry, 1 of 2 sad right. Men: 1 of 2, 2 of 2."""
    labels = [0, 0, 2, 2, 0, 0, 2, 2, 0]
    predictions = [0, 0, 2, 1, 0, 2, 2, 2, 1]
    speakers = list("aabbccddd")
    groups = [*["f"] * 4, *["m"] * 4, None]
    result = fairness(labels, predictions, speakers, groups, CLASSES)
    assert result == {
        "groups": {
            "f": {"ua": 0.75, "utterances": 4, "speakers": 2},
            "m": {"ua": 0.75, "utterances": 4, "speakers": 2},
        },
        "unknown": 1,
        "reason": None,
        "ua_gap": 0.0,
        # Predicted angry 2 and 1, happy 1 and 0, sad 1 and 3 times of 4.
        "statistical_parity_difference": 0.5,
        "equal_opportunity_difference": 0.5,
        "by_class": {
            "angry": {"statistical_parity": 0.25, "equal_opportunity": 0.5},
            "happy": {"statistical_parity": 0.25, "equal_opportunity": None},
            "sad": {"statistical_parity": 0.5, "equal_opportunity": 0.5},
        },
    }
    json.dumps(result, allow_nan=False)


def test_many_groups_by_definition(measured):
    labels, predictions, speakers = measured
    groups = np.random.default_rng(1).choice(["20s", "30s", "40s"], size=600)
    result = fairness(*measured, groups.tolist(), CLASSES)
    rates = [
        shares(labels, predictions, groups == g) for g in np.unique(groups)
    ]
    selection, recall = (np.array(rows) for rows in zip(*rates, strict=True))
    for i, name in enumerate(CLASSES):
        by = result["by_class"][name]
        assert by["statistical_parity"] == pytest.approx(
            np.ptp(selection[:, i])
        )
        assert by["equal_opportunity"] == pytest.approx(np.ptp(recall[:, i]))
    for key, rate in (
        ("statistical_parity_difference", selection),
        ("equal_opportunity_difference", recall),
    ):
        assert result[key] == pytest.approx(np.ptp(rate, axis=0).max())
    assert result["ua_gap"] == pytest.approx(np.ptp(recall.mean(1)))
    for group, ua in zip(np.unique(groups), recall.mean(1), strict=True):
        assert result["groups"][group]["ua"] == pytest.approx(ua)


def test_the_mean_over_classes_is_holisticais(measured):
    """Its multi-class measures of two groups, "max" over pairs of groups."""
    labels, predictions, _ = measured
    groups = np.random.default_rng(2).choice(["f", "m"], size=600)
    by_class = fairness(*measured, groups.tolist(), CLASSES)["by_class"]
    f, m = (shares(labels, predictions, groups == g) for g in "fm")
    for i, key in enumerate(("statistical_parity", "equal_opportunity")):
        mean = np.mean([by[key] for by in by_class.values()])
        assert mean == pytest.approx(np.abs(f[i] - m[i]).mean())


def test_names_and_order_do_not_matter(measured):
    groups = np.random.default_rng(3).choice(["f", "m"], size=600)
    result = fairness(*measured, groups.tolist(), CLASSES)
    order = np.random.default_rng(4).permutation(600)
    shuffled = [np.asarray(x)[order] for x in (*measured, groups)]
    assert fairness(*shuffled, CLASSES) == result
    renamed = np.where(groups == "f", "\udce9z", "a").tolist()
    other = fairness(*measured, renamed, CLASSES)
    assert other["groups"].pop("a") == result["groups"].pop("m")
    assert other["groups"] == {"\udce9z": result["groups"]["f"]}
    for key in ("ua_gap", "by_class", "statistical_parity_difference"):
        assert other[key] == result[key]


def test_equal_groups_have_no_differences(measured):
    twice = [np.concatenate([x, x]) for x in measured]
    groups = ["f"] * 600 + ["m"] * 600
    result = fairness(*twice, groups, CLASSES)
    for key in ("ua_gap", "statistical", "equal"):
        (name,) = (k for k in result if k.startswith(key))
        assert result[name] == 0


def test_a_group_without_a_class_is_counted_not_compared(measured):
    labels, predictions, speakers = (np.asarray(x) for x in measured)
    groups = np.random.default_rng(5).choice(["f", "m"], size=600)
    few = np.flatnonzero(labels != 1)[:7]
    groups[few] = "x"
    rest = groups != "x"
    result = fairness(*measured, groups.tolist(), CLASSES)
    assert result["groups"]["x"]["ua"] is None
    assert result["groups"]["x"]["utterances"] == 7
    of_two = fairness(
        labels[rest], predictions[rest], speakers[rest], groups[rest], CLASSES
    )
    for key in ("ua_gap", "by_class", "equal_opportunity_difference"):
        assert result[key] == of_two[key]
    alone = np.where(rest, "f", "x").tolist()
    result = fairness(*measured, alone, CLASSES)
    assert result["by_class"] == {}
    for key in ("ua_gap", "statistical_parity_difference"):
        assert result[key] is None


def test_one_man_and_one_woman_are_no_groups(measured):
    labels, predictions, _ = measured
    speakers = ["f"] * 300 + ["m"] * 300
    result = fairness(labels, predictions, speakers, speakers, CLASSES)
    assert result["groups"]["f"]["ua"] > 0
    for key in (
        "ua_gap",
        "statistical_parity_difference",
        "equal_opportunity_difference",
    ):
        assert result[key] is None
    assert result["by_class"] == {}
    assert result["reason"].startswith("f has 1 speaker, m has 1 speaker: ")
    # Another woman, and still one man.
    speakers[0::4] = ["f2"] * 150
    groups = [speaker[0] for speaker in speakers]
    assert fairness(*measured[:2], speakers, groups, CLASSES)["reason"]


def test_worst_speaker():
    labels = [0, 2, 0, 2, 0, 0]
    predictions = [0, 2, 0, 0, 2, 2]
    found = worst_speaker(labels, predictions, list("aabbcc"), CLASSES)
    # c is worse, but was never sad.
    assert found == {"speaker": "b", "ua": 0.5, "utterances": 2}
    assert worst_speaker([0, 2], [0, 2], ["a", "b"], CLASSES) is None


def test_columns():
    entries = {
        "u1": {"gender": "male", "age": 29, "intensity": 1},
        "u2": {"gender": None, "age": 42, "intensity": 2},
    }
    gender = {"u1": "male", "u2": None}
    assert group_columns(entries) == {"gender": gender}
    assert group_columns(entries, ["age", "intensity", "gender"]) == {
        "gender": gender,
        "age": {"u1": "20-29", "u2": "40-49"},
        "intensity": {"u1": "1", "u2": "2"},
    }
    assert group_columns({"u": {"wav": "a", "gender": None}}) == {}


def test_columns_that_are_no_groups():
    entries = {f"u{i}": {"wav": f"{i}.wav", "style": i % 12} for i in range(13)}
    assert len(set(group_columns(entries, ["style"])["style"].values())) == 12
    with pytest.raises(InputError, match="'wav' has 13 values .* at most 12"):
        group_columns(entries, ["wav"])
    with pytest.raises(InputError, match="has no 'race'; it has style, wav"):
        group_columns(entries, ["race"])
    with pytest.raises(InputError, match=r"no list; write \[style\]"):
        group_columns(entries, "style")
