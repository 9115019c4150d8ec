"""Deals of speakers and what is refused."""

import copy

import pytest

from ser_peft.corpora import Utterance, load_corpus
from ser_peft.corpora.protocols import Folds, classes_of, relabel
from ser_peft.corpora.splits import check_splits, fingerprint, leaks
from ser_peft.errors import InputError

CLASSES = ["sad", "happy"]


def clip(speaker, number, emotion):
    return Utterance(
        id=f"{speaker}{number}",
        wav=f"{speaker}{number}.wav",
        speaker=speaker,
        labels={"emotion": emotion},
    )


CLIPS = [
    clip(speaker, number, emotion)
    for speaker in "abcd"
    for number, emotion in enumerate(("sad", "happy", "bored"))
]


def manifests(splits):
    return {
        split: {
            u.id: {"speaker": u.speaker, "emotion": u.labels["emotion"]}
            for u in utterances
            if u.labels["emotion"] in CLASSES
        }
        for split, utterances in splits.items()
    }


@pytest.fixture
def honest():
    """Splits that pass."""
    folds = Folds("toy", test=[["a"], ["b"]], valid=[["b"], ["c"]])
    return manifests(folds.split(CLIPS, 1))


def test_deal_by_speaker():
    folds = Folds("toy", test=[["a"], ["b"]], valid=[["b"], ["c"]])
    assert folds.folds == 2
    dealt = [
        {k: [u.id for u in v] for k, v in folds.split(CLIPS, fold).items()}
        for fold in (1, 2)
    ]
    a, b, c, d = (CLIPS[i : i + 3] for i in range(0, 12, 3))
    for found, train, valid, test in (
        (dealt[0], c + d, b, a),
        (dealt[1], a + d, c, b),
    ):
        assert found == {
            "train": [u.id for u in train],
            "valid": [u.id for u in valid],
            "test": [u.id for u in test],
        }


@pytest.mark.parametrize("fold", [0, 3, -1, "1", None])
def test_no_such_fold(fold):
    folds = Folds("toy", test=[["a"], ["b"]], valid=[["b"], ["c"]])
    with pytest.raises(
        InputError, match=f"--fold={fold}: toy has folds 1 to 2"
    ):
        folds.split(CLIPS, fold)


def test_a_speaker_listed_twice_is_seen():
    folds = Folds("toy", test=[["a", "b"]], valid=[["b"]])
    with pytest.raises(InputError, match="speaker b is in valid and in test"):
        check_splits(manifests(folds.split(CLIPS, 1)), CLASSES)


def test_honest_splits_pass(honest):
    check_splits(honest, CLASSES)


@pytest.mark.parametrize(
    ("split", "edit", "message"),
    [
        ("train", lambda s: s.clear(), "train: no utterances"),
        ("valid", lambda s: s.clear(), "valid: no utterances"),
        ("test", lambda s: s.update(x={"speaker": "d", "emotion": "sad"}),
         "speaker d is in train and in test"),
        ("valid", lambda s: s.update(x={"speaker": "b", "emotion": "bored"}),
         "valid: x has class 'bored', which is not one of sad, happy"),
        ("train", lambda s: [s.pop("c1"), s.pop("d1")],
         "train: no utterance of class 'happy'"),
    ],
)  # fmt: skip
def test_dishonest_splits(honest, split, edit, message):
    edit(honest[split])
    with pytest.raises(InputError, match=message):
        check_splits(honest, CLASSES)


def test_a_class_may_be_missing_where_nothing_is_learnt(honest):
    for split in ("valid", "test"):
        for key in [k for k in honest[split] if k.endswith("1")]:
            del honest[split][key]
    check_splits(honest, CLASSES)


@pytest.mark.parametrize("classes", [[], ["sad"]])
def test_one_class_is_none(honest, classes):
    with pytest.raises(InputError, match="at least two"):
        check_splits(honest, classes)


def entry(speaker, **more):
    return {"speaker": speaker, "emotion": "sad", **more}


def test_leaks():
    train = [
        entry("a", dialogue="1", text="Oh [SIGH] no!"),
        entry("b", dialogue="2"),
    ]
    test = [
        entry("a", dialogue="1", text="oh no!", emotion="happy"),
        entry("a", dialogue="3", text="Oh no!"),
        entry("c", dialogue="2", text="[SIGH]"),
        entry("a", text="Oh"),
    ]
    splits = {
        split: dict(enumerate(entries))
        for split, entries in (("train", train), ("test", test))
    }
    assert leaks(splits) == {
        "speakers": 1 / 2,
        "dialogues": 2 / 4,
        "sentences": 2 / 4,
        "labelled_sentences": 1 / 4,
    }
    assert leaks({split: {1: entry("a")} for split in splits}) == {
        "speakers": 1.0
    }


def test_relabel():
    merged = relabel(CLIPS, {"bored": "low", "sad": "low", "happy": "high"})
    assert [label for _, label in merged[:3]] == ["low", "high", "low"]
    assert [u for u, _ in merged] == CLIPS
    only = relabel(CLIPS, {"sad": "sad"})
    assert [u.id for u, _ in only] == ["a0", "b0", "c0", "d0"]
    with pytest.raises(InputError, match="'sadd'.*bored, happy, sad"):
        relabel(CLIPS, {"sadd": "sad", "happy": "happy"})


def test_classes_keep_their_order():
    assert classes_of({"x": "b", "y": "a", "z": "b"}) == ["b", "a"]


def rename(splits):
    splits["train"]["new"] = splits["train"].pop("c0")


def move(splits):
    splits["test"]["b0"] = splits["valid"].pop("b0")


def relabelled(splits):
    splits["train"]["c0"]["emotion"] = "happy"


def other_speaker(splits):
    splits["train"]["c0"]["speaker"] = "e"


def drop(splits):
    del splits["train"]["c0"]


@pytest.mark.parametrize(
    "edit", [rename, move, relabelled, other_speaker, drop]
)
def test_fingerprint_sees_what_matters(honest, edit):
    before = fingerprint(honest)
    edit(honest)
    assert fingerprint(honest) != before


def test_fingerprint_does_not_see_order_nor_durations(honest):
    turned = {
        split: dict(reversed(list(copy.deepcopy(entries).items())))
        for split, entries in reversed(list(honest.items()))
    }
    turned["train"]["c0"]["duration"] = 1.0
    assert fingerprint(turned) == fingerprint(honest)
    assert len(fingerprint(honest)) == 12


def test_unknown_corpus():
    with pytest.raises(InputError, match="corpus nope: unknown; .*ravdess"):
        load_corpus("nope")
