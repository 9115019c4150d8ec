import pytest

from ser_peft.corpora import demo
from ser_peft.corpora.protocols import classes_of
from ser_peft.errors import InputError

EMOTIONS = ["neutral", "angry", "sad", "happy"]
VOICES = [f"{sex}{number}" for sex in "fm" for number in range(1, 9)]


def tree(folder, names):
    for name in names:
        path = folder / name.split("_")[0] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def test_names_are_read(tmp_path):
    tree(tmp_path, ["m1_sad_4_2.flac", "f3_angry_1_1.flac"])
    first, second = demo.read(tmp_path)
    assert first.id == "f3_angry_1_1"
    assert first.wav == tmp_path / "f3" / "f3_angry_1_1.flac"
    assert (first.speaker, first.gender) == ("f3", "female")
    assert first.labels == {"emotion": "angry", "repetition": 1}
    assert (second.speaker, second.gender) == ("m1", "male")
    assert second.labels == {"emotion": "sad", "repetition": 2}
    assert first.text == demo.SENTENCES["1"] != second.text


def test_other_files_are_passed_over(tmp_path):
    tree(tmp_path, ["m1_sad_4_2.flac", "m1_calm_4_2.flac", "m1_sad_5_1.flac"])
    (tmp_path / "rendering.json").write_text("{}")
    assert [u.id for u in demo.read(tmp_path)] == ["m1_sad_4_2"]


def test_no_such_folder(tmp_path):
    with pytest.raises(InputError, match="absent: no such folder"):
        demo.read(tmp_path / "absent")


def test_another_folder_says_what_makes_a_demo(tmp_path):
    tree(tmp_path, ["03-01-01-01-01-01-01.flac"])
    with pytest.raises(InputError, match="not Demo.*make_corpus.py"):
        demo.read(tmp_path)


def test_folds_test_each_voice_once_and_balance_gender(tmp_path):
    tree(tmp_path, [f"{v}_{e}_1_1.flac" for v in VOICES for e in EMOTIONS])
    utterances, tested = demo.read(tmp_path), []
    (protocol,) = demo.PROTOCOLS.values()
    for fold in range(1, protocol.folds + 1):
        splits = protocol.split(utterances, fold)
        speakers = {k: {u.speaker for u in v} for k, v in splits.items()}
        assert not speakers["train"] & speakers["valid"]
        assert not speakers["train"] & speakers["test"]
        assert not speakers["valid"] & speakers["test"]
        for split in splits.values():
            women = sum(u.gender == "female" for u in split)
            assert 0 < women == len(split) / 2
        tested += sorted(speakers["test"])
    assert sorted(tested) == VOICES


def test_classes():
    assert classes_of(demo.CLASS_SETS[4]) == EMOTIONS
