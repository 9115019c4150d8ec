"""Trials, kept in a folder."""

import pytest

from ser_peft.tune.space import Choice, Range
from ser_peft.tune.study import JOURNAL, Study

SPACE = {
    "lr": Range(1e-5, 1e-3, log=True),
    "epochs": Range(5, 30, 5, whole=True),
    "method": Choice(("lora", "dora")),
}
OWN = {"lr": 0.0005, "epochs": 10, "method": "lora"}


def do(study, score):
    """Do all trials that are left."""
    while True:
        with study.next_trial() as trial:
            if trial is None:
                return
            study.tell(trial, "COMPLETE", {"ua": score(trial.params)})


@pytest.fixture
def study(tmp_path):
    return Study(tmp_path, SPACE, OWN, 12, seed=8)


def test_what_decides_matters_most(study, monkeypatch):
    monkeypatch.undo()
    assert study.importances() == {}
    do(study, lambda params: params["lr"] * 500)
    shares = study.importances()
    assert [*shares][0] == "lr" and shares["lr"] > 0.8
    assert sum(shares.values()) == pytest.approx(1)
    first, *others = study.trials()
    assert first["params"] == OWN
    assert {trial["params"]["epochs"] for trial in others} <= {*range(5, 31, 5)}


def test_half_a_line_is_taken_away(study, tmp_path):
    """As a full disk leaves it."""
    do(study, lambda params: 0.5)
    with open(tmp_path / JOURNAL, "a") as file:
        file.write('{"op_code": 4, "worker')
    again = Study(tmp_path, SPACE, OWN, 13, seed=8)
    do(again, lambda params: 0.5)
    assert len(again.trials()) == 13


def test_a_trial_is_taken_over_only_if_nobody_is_at_it(study, tmp_path):
    other = Study(tmp_path, SPACE, OWN, 2, seed=8)
    with study.next_trial() as first, other.next_trial() as second:
        assert (first.number, second.number) == (0, 1)
        drawn = second.params
        with Study(tmp_path, SPACE, OWN, 2, seed=8).next_trial() as third:
            assert third is None
    with other.next_trial() as again:
        assert again.number == 0 and again.params == OWN
        other.tell(again, "COMPLETE", {"ua": 0.5})
    with other.next_trial() as again:
        assert again.number == 1 and again.params == drawn


def test_a_trial_is_not_stopped_in_its_first_fold(study):
    """However bad, and whoever speaks; and speakers are told once."""
    with study.next_trial() as trial:
        study.hopeless(trial, {1: {8: [0.9] * 6}, 2: {8: [0.9] * 6}}, [8])
        study.tell(trial, "COMPLETE", {"ua": 0.9})
    with study.next_trial() as trial:
        units = {1: {8: [0.1] * 6}}
        assert not study.hopeless(trial, units, [8])
        units[2] = {8: [0.1] * 6}
        assert study.hopeless(trial, units, [8])
        assert study.hopeless(trial, units, [8])
    told = study.study.get_trials()[1].intermediate_values
    assert len(told) == 12


def test_speakers_have_their_step_whichever_seed_ends_first(study):
    with study.next_trial() as trial:
        study.hopeless(trial, {1: {16: [0.1]}}, [16, 8])
        study.hopeless(trial, {1: {16: [0.1], 8: [0.2]}}, [16, 8])
    (told,) = (one.intermediate_values for one in study.study.get_trials())
    assert [told[step] for step in sorted(told)] == [0.2, 0.1]


@pytest.mark.parametrize(
    ("part", "good", "bad"),
    [
        (Range(0, 1), [0, 0.5, 1], [-0.1, 1.1, "a", None, True]),
        (Range(0, 1, 0.1), [0.3, 0.7], [0.35]),
        (Range(1, 9, 4, whole=True), [1, 5, 9], [2, 5.0, True]),
        (Choice((1, "a", None)), [1, "a", None], [2, True, "1"]),
    ],
)
def test_own_values(part, good, bad):
    """None is a choice's parameter "" where the yaml has null."""
    assert None not in [part.own(value) for value in good]
    assert {part.own(value) for value in bad} == {None}


@pytest.mark.parametrize(
    ("part", "value"),
    [
        (Range(0.999, 0.9999), 0.99985),
        (Range(1.23456e-5, 1e-3, log=True), 1.23456e-5),
        (Range(0, 123.456), 123.456),
        (Range(0.1, 0.5, 0.1), 0.30000000000000004),
    ],
)
def test_rounded_values_stay_in_their_range(part, value):
    assert part.low <= float(part.text(value)) <= part.high
    span = part.high - part.low
    assert float(part.text(value)) == pytest.approx(value, abs=span / 1000)
    assert len(part.text(value)) <= len("1.23456e-05")
