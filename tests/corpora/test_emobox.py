"""EmoBox's manifests: its splits, its label map, its recordings."""

import json
import shutil

import pytest
import torch
from trees_b import emobox_tree

from ser_peft.corpora import Utterance, load_corpus
from ser_peft.corpora.protocols import relabel
from ser_peft.data import prepare, read_audio, read_manifests
from ser_peft.errors import InputError

FOUR = {"neutral", "angry", "sad", "happy"}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return emobox_tree(tmp_path_factory.mktemp("EmoBox"))


@pytest.fixture
def copy(small, tmp_path):
    shutil.copytree(small.parent, tmp_path / "EmoBox")
    return tmp_path / "EmoBox" / "data"


def deals(folder, name):
    """Of every fold: split -> utterances."""
    corpus = load_corpus(f"emobox:{name}")
    utterances = corpus.read(folder)
    protocol = corpus.protocols(utterances)["emobox"]
    numbers = range(1, protocol.folds + 1)
    return protocol, [protocol.split(utterances, k) for k in numbers]


def test_one_utterance(small):
    """The label map in small letters, whatever the manifests write."""
    corpus = load_corpus("emobox:toy")
    utterances = corpus.read(small)
    assert utterances[-4] == Utterance(
        id="toy-f0",
        wav=small.parent / "downloads/toy/wav/f0.wav",
        speaker="male_f",
        labels={"emotion": "neutral"},
        group="train train",
    )
    sets = corpus.class_sets(utterances)
    assert [list(names) for names in sets.values()] == [
        ["neutral", "angry", "sad", "happy"]
    ] * 2


@pytest.mark.parametrize(
    ("corpus", "key", "theirs", "speaker"),
    [
        ("emodb", "emodb-03a01Wa", "male_03", "03"),
        # Theirs is whose dialogue it is.
        ("iemocap", "iemocap-Ses01F_impro04_M020", "Ses01F", "Ses01M"),
        ("iemocap", "iemocap-Ses01M_script02_2_M016", "Ses01M", "Ses01M"),
        ("ravdess", "ravdess-03-01-05-01-02-01-18", "18", "18"),
        ("toy", "toy-a_1", "male_a", "male_a"),
    ],
)
def test_speakers_are_those_of_the_corpus(small, corpus, key, theirs, speaker):
    root = small.parent / "again" / "data"
    folder = root / corpus
    (folder / "fold_1").mkdir(parents=True, exist_ok=True)
    (folder / "label_map.json").write_text('{"x": "sad"}')
    (folder / "data.seg.wrd.stm").write_text(
        f"{key} 1 {theirs} 0 0.5 <id={key},lang=en,spk={theirs},emotion=x> x"
    )
    entry = {"key": key, "wav": "a.wav", "emo": "x"}
    for split in ("train", "valid", "test"):
        path = folder / "fold_1" / f"{corpus}_{split}_fold_1.jsonl"
        path.write_text(json.dumps(entry) if split == "train" else "")
    (root.parent / "a.wav").write_bytes(b"")
    (found,) = load_corpus(f"emobox:{corpus}").read(root)
    assert found.speaker == speaker


def test_their_folds(small):
    """Test as theirs; valid is a speaker of train, not always the same."""
    protocol, folds = deals(small, "toy")
    assert protocol.folds == 2 and not protocol.shares_speakers
    for test, splits in zip("ab", folds, strict=True):
        speakers = {k: {u.speaker for u in us} for k, us in splits.items()}
        assert speakers["test"] == {f"male_{test}"}
        assert len(speakers["valid"]) == 1 and len(speakers["train"]) == 4
        assert len(set().union(*speakers.values())) == 6
        for entries in splits.values():
            assert {u.labels["emotion"] for u in entries} == FOUR


def test_valid_leaves_every_class_in_train(copy):
    """Only one speaker is happy: that one trains."""
    for path in copy.glob("toy/fold_*/toy_train_fold_?.jsonl"):
        entries = [json.loads(x) for x in path.read_text().splitlines()]
        for entry in entries:
            if entry["emo"] == "happy" and not entry["key"].startswith("toy-c"):
                entry["emo"] = "sad"
        path.write_text("".join(json.dumps(x) + "\n" for x in entries))
    for splits in deals(copy, "toy")[1]:
        assert "male_c" in {u.speaker for u in splits["train"]}
        assert "male_c" not in {u.speaker for u in splits["valid"]}


def test_shared_speakers_are_counted(small, tmp_path, caplog):
    protocol, (splits,) = deals(small, "clips")
    assert protocol.shares_speakers
    assert {k: len(v) for k, v in splits.items()} == {
        "train": 4, "valid": 4, "test": 4,
    }  # fmt: skip
    assert "2 of 14 utterances are left out: 1 have no recording, 1 no" in (
        caplog.text
    )
    prepare("emobox:clips", small, tmp_path)
    assert "shares with train 100% of its speakers" in caplog.text
    assert read_manifests(tmp_path)[0]["corpus"] == "emobox:clips"


def test_sound_beside_a_video(small):
    _, (splits,) = deals(small, "clips")
    assert all(u.wav.suffix == ".wav" for us in splits.values() for u in us)


def test_stretches_of_a_recording(small, tmp_path):
    """One speaker: valid is a fifth of each class."""
    _, (splits,) = deals(small, "long")
    first = next(u for us in splits.values() for u in us if u.id == "long-u01")
    assert first.wav.name == "all.flac#t=0.5,0.9"
    whole = read_audio(first.wav.with_name("all.flac"))
    assert torch.equal(read_audio(first.wav), whole[8000:14400])
    assert len(splits["valid"]) in (4, 5)
    assert {u.labels["emotion"] for u in splits["valid"]} == FOUR
    prepare("emobox:long", small, tmp_path, 4)
    durations = {
        entry["duration"]
        for entries in read_manifests(tmp_path)[1].values()
        for entry in entries.values()
    }
    assert durations == {0.4}


def test_always_the_same(small):
    for name in ("toy", "clips", "long"):
        corpus = load_corpus(f"emobox:{name}")
        assert corpus.read(small) == corpus.read(small)


def test_as_a_custom_corpus(small, tmp_path):
    """One recipe for all that have none of their own."""
    prepare("custom", f"emobox:toy@{small}", tmp_path, fold=2)
    about, _ = read_manifests(tmp_path)
    assert (about["corpus"], about["fold"]) == ("emobox:toy", 2)


def test_class_map(small):
    utterances = load_corpus("emobox:toy").read(small)
    assert len(relabel(utterances, {"sad": "bad", "angry": "bad"})) == 12


def test_hardly_any_recordings(copy, tmp_path):
    """What is left cannot be dealt: said in one line."""
    wavs = copy.parent / "downloads" / "toy" / "wav"
    for path in wavs.iterdir():
        if path.name not in ("a0.wav", "b1.wav"):
            path.unlink()
    pair = {"neutral": "neutral", "angry": "angry"}
    with pytest.raises(InputError, match="valid: no utterances"):
        prepare("emobox:toy", copy, tmp_path / "out", pair)


def break_line(folder):
    path = folder / "toy" / "fold_1" / "toy_train_fold_1.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1][:20]]))


def lose_key(folder):
    path = folder / "toy" / "fold_2" / "toy_test_fold_2.jsonl"
    path.write_text(path.read_text().replace('"emo"', '"label"'))


def lose_speaker(folder):
    path = folder / "toy" / "data.seg.wrd.stm"
    path.write_text(path.read_text().replace("id=toy-c2,", "id=toy-x,"))


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda f: shutil.rmtree(f.parent / "downloads" / "toy"),
         r"downloads/toy/wav/.*: no such file, nor any other of toy; put "
         "downloads/toy beside the folder data"),
        (lambda f: shutil.rmtree(f / "toy"), "no corpus 'toy' .*clips, long"),
        (break_line, "toy_train_fold_1.jsonl, row 2: .*not valid JSON"),
        (lose_key, "toy_test_fold_2.jsonl, row 1: .*has no 'emo'"),
        (lambda f: (f / "toy/fold_1/toy_test_fold_1.jsonl").unlink(),
         "toy_test_fold_1.jsonl: cannot be read .*take EmoBox's data folder"),
        (lambda f: (f / "toy/data.seg.wrd.stm").unlink(),
         "data.seg.wrd.stm: cannot be read"),
        (lambda f: (f / "toy/label_map.json").write_text("{"),
         "label_map.json: .*not valid JSON"),
        (lose_speaker, "data.seg.wrd.stm: names no speaker of toy-c2"),
    ],
)  # fmt: skip
def test_failing_well(copy, break_it, message):
    break_it(copy)
    with pytest.raises(InputError, match=message):
        load_corpus("emobox:toy").read(copy)


def test_not_emobox(tmp_path):
    with pytest.raises(InputError, match="it has none: give its folder data"):
        load_corpus("emobox:toy").read(tmp_path)
    with pytest.raises(InputError, match="no corpus ''"):
        load_corpus("emobox:").read(tmp_path)
    with pytest.raises(InputError, match="emobox: unknown.*or emobox:NAME"):
        load_corpus("emobox")
