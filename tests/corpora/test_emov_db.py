"""EmoV-DB: layouts, words for emotions, folds."""

from collections import Counter

import pytest
from trees_a import folds
from trees_b import emov_db_tree

from ser_peft.corpora import Utterance, emov_db
from ser_peft.corpora.protocols import classes_of, relabel
from ser_peft.errors import InputError

PROTOCOL = emov_db.PROTOCOLS["leave-one-speaker-out"]
FIVE = ["neutral", "angry", "amused", "disgust", "sleepy"]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return emov_db_tree(tmp_path_factory.mktemp("EmoV-DB"))


@pytest.fixture(scope="module")
def utterances(small):
    return emov_db.read(small)


def test_layouts(small, utterances):
    """bea_Disgusted/, jenie/ with everything in it, sam/Disgusted/."""
    by_id = {u.id: u for u in utterances}
    for speaker, place, gender in (
        ("bea", "bea_Disgusted", "female"),
        ("jenie", "jenie", "female"),
        ("sam", "sam/Disgusted", "male"),
    ):
        name = f"{speaker}_disgust_1-28_0002"
        assert by_id[name] == Utterance(
            id=name,
            wav=small / place / "disgust_1-28_0002.wav",
            speaker=speaker,
            gender=gender,
            labels={"emotion": "disgust"},
        )


def test_counts(utterances):
    """Two of each, less Josh's anger and disgust; no strangers."""
    assert [u.id for u in utterances] == sorted(u.id for u in utterances)
    counts = Counter((u.speaker, u.labels["emotion"]) for u in utterances)
    assert set(counts.values()) == {2} and len(counts) == 18
    assert {e for s, e in counts if s == "josh"} == {
        "neutral", "amused", "sleepy",
    }  # fmt: skip


def test_class_sets():
    assert classes_of(emov_db.CLASS_SETS[5]) == FIVE
    assert list(emov_db.CLASS_SETS) == [5, 3]


def test_each_speaker_is_tested_once(utterances):
    found = folds(PROTOCOL, utterances, emov_db.CLASS_SETS[3])
    assert [*map(sorted, (f["test"] for f in found))] == [
        ["bea"], ["jenie"], ["josh"], ["sam"],
    ]  # fmt: skip


@pytest.mark.parametrize("fold", [1, 2, 3, 4])
def test_five_classes_train_and_choose(utterances, fold):
    """Only Josh's test lacks two of them."""
    kept = relabel(utterances, emov_db.CLASS_SETS[5])
    splits = PROTOCOL.split([u for u, _ in kept], fold)
    for split, entries in splits.items():
        classes = {u.labels["emotion"] for u in entries}
        assert len(classes) == (3 if (fold, split) == (3, "test") else 5)


def test_not_emov_db(tmp_path):
    (tmp_path / "03a01Fa.wav").touch()
    (tmp_path / "bea_Amused.wav").touch()
    with pytest.raises(InputError, match="not EmoV-DB; expected folders like"):
        emov_db.read(tmp_path)
