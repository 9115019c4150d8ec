"""MELD: three tables, three folders, names that collide."""

import shutil

import pytest
from trees_b import meld_tree

from ser_peft.corpora import Utterance, meld
from ser_peft.corpora.protocols import classes_of
from ser_peft.data import prepare, read_manifests
from ser_peft.errors import InputError


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return meld_tree(tmp_path_factory.mktemp("MELD"))


@pytest.fixture
def copy(small, tmp_path):
    return shutil.copytree(small, tmp_path / "MELD")


def test_utterances(small):
    by_id = {u.id: u for u in meld.read(small)}
    assert len(by_id) == 24
    # cp1252 in train, utf-8 in dev; sound beside the video and in waves.
    for split, wav in (
        ("train", "train_splits/dia1_utt3.wav"),
        ("dev", "dev_splits_complete/waves/dia1_utt3.wav"),
        ("test", "output_repeated_splits_test/dia1_utt3.wav"),
    ):
        assert by_id[f"{split}_dia1_utt3"] == Utterance(
            id=f"{split}_dia1_utt3",
            wav=small / wav,
            speaker="Janice" if split == "train" else "Joey",
            gender=None if split == "train" else "male",
            text="Why, that\u2019s joy, isn\u2019t it?",
            labels={"emotion": "joy", "sentiment": "neutral"},
            group=split,
        )


def test_missing_clips_are_counted(small, caplog):
    meld.read(small)
    assert "3 of 27 utterances have no wav and are left out" in caplog.text


def test_windows_quotes_taken_for_latin_1(copy):
    """As in the published table: U+0092 where an apostrophe was."""
    path = copy / "dev_sent_emo.csv"
    path.write_text(path.read_text("utf-8").replace("\u2019", "\x92"), "utf-8")
    text = {u.id: u.text for u in meld.read(copy)}
    assert text["dev_dia0_utt0"] == "Why, that\u2019s neutral, isn\u2019t it?"


@pytest.mark.parametrize("classes", [4, 7])
def test_class_sets(classes):
    assert classes_of(meld.CLASS_SETS[classes]) == [
        "neutral", "angry", "sad", "happy", "fearful", "disgust", "surprised",
    ][:classes]  # fmt: skip


def test_official_split(small, tmp_path, caplog):
    prepare("meld", small, tmp_path)
    about, manifests = read_manifests(tmp_path)
    assert about["protocol"] == "official" and about["shares_speakers"]
    for split, name in (("train", "train"), ("valid", "dev"), ("test", "test")):
        entries = manifests[split]
        assert {key.split("_")[0] for key in entries} == {name}
        assert {e["emotion"] for e in entries.values()} == {*about["classes"]}
    assert "shares with train 50% of its speakers" in caplog.text


def test_videos_alone(copy):
    for path in copy.rglob("*.wav"):
        path.rename(path.with_suffix(".mp4"))
    with pytest.raises(InputError, match="extract the sound first as recipes"):
        meld.read(copy)


@pytest.mark.parametrize("name", ["Speaker", "Dialogue_ID", "Emotion"])
def test_missing_column(copy, name):
    path = copy / "test_sent_emo.csv"
    path.write_text(path.read_text("utf-8").replace(name, "X", 1), "utf-8")
    with pytest.raises(InputError, match=f"test_sent_emo.csv: no col.*{name}"):
        meld.read(copy)


def test_row_that_ends_early(copy):
    path = copy / "test_sent_emo.csv"
    lines = path.read_text("utf-8").splitlines()
    path.write_text("\n".join([*lines[:3], "3,Cut"]), "utf-8")
    with pytest.raises(InputError, match="row 4, column Speaker: the row ends"):
        meld.read(copy)


def test_not_meld(copy):
    (copy / "dev_sent_emo.csv").unlink()
    with pytest.raises(InputError, match="not MELD; expected train_sent_emo"):
        meld.read(copy)
