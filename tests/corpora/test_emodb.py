"""EmoDB: names, speakers, sentences, folds."""

from collections import Counter
from itertools import product

import pytest
from trees_a import folds
from trees_b import emodb_tree

from ser_peft.corpora import Utterance, emodb
from ser_peft.corpora.protocols import classes_of
from ser_peft.errors import InputError

WOMEN = {"08", "09", "13", "14", "16"}
MEN = {"03", "10", "11", "12", "15"}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return emodb_tree(tmp_path_factory.mktemp("EmoDB"))


@pytest.fixture(scope="module")
def utterances(small):
    return emodb.read(small)


def test_one_clip(small, utterances):
    assert utterances[-1] == Utterance(
        id="16b10Lb",
        wav=small / "wav" / "16b10Lb.wav",
        speaker="16",
        gender="female",
        text="Die wird auf dem Platz sein, wo wir sie immer hinlegen.",
        labels={"emotion": "bored", "age": 31, "version": "b"},
    )


def test_speakers(utterances):
    assert len(utterances) == 41
    assert {u.speaker for u in utterances if u.gender == "female"} == WOMEN
    assert {u.speaker for u in utterances if u.gender == "male"} == MEN


def test_every_published_name(tmp_path):
    """Ten speakers, ten sentences, seven letters; no other."""
    sentences = "a01 a02 a04 a05 a07 b01 b02 b03 b09 b10".split()
    for speaker, text, letter in product(WOMEN | MEN, sentences, "WLEAFTN"):
        (tmp_path / f"{speaker}{text}{letter}a.wav").touch()
    for stranger in ("04a01Fa", "03a03Fa", "03a01Xa", "03-01-05-01-02-01-12"):
        (tmp_path / f"{stranger}.wav").touch()
    (tmp_path / "EmoDB_2").mkdir()
    (tmp_path / "EmoDB_2" / "03a01Fa.wav").touch()  # a copy counts once
    found = emodb.read(tmp_path)
    assert Counter(u.labels["emotion"] for u in found) == dict.fromkeys(
        classes_of(emodb.CLASS_SETS[7]), 100
    )
    assert len({u.text for u in found}) == 10


def test_five_folds(utterances):
    """A woman and a man; each tested once, each valid once."""
    found = folds(emodb.PROTOCOLS["five-fold"], utterances, emodb.CLASS_SETS[4])
    assert len(found) == 5
    for split in ("test", "valid"):
        for fold in found:
            assert len(fold[split] & WOMEN) == len(fold[split] & MEN) == 1
        assert set().union(*(f[split] for f in found)) == WOMEN | MEN
    assert all(len(fold["train"]) == 6 for fold in found)


def test_leave_one_speaker_out(utterances):
    protocol = emodb.PROTOCOLS["leave-one-speaker-out"]
    found = folds(protocol, utterances, emodb.CLASS_SETS[4])
    assert [len(fold["train"]) for fold in found] == [8] * 10
    assert sorted(s for fold in found for s in fold["test"]) == sorted(
        WOMEN | MEN
    )


def test_four_classes_in_the_common_order():
    assert list(emodb.CLASS_SETS) == [4, 7]
    assert classes_of(emodb.CLASS_SETS[4]) == [
        "neutral", "angry", "sad", "happy",
    ]  # fmt: skip


def test_not_emodb(tmp_path):
    (tmp_path / "1001_DFA_ANG_XX.wav").touch()
    with pytest.raises(InputError, match="not EmoDB; expected wav with files"):
        emodb.read(tmp_path)
