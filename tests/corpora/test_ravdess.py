"""RAVDESS: names, folds and counts."""

from collections import Counter
from itertools import product

import pytest

from ser_peft.corpora import Utterance, ravdess
from ser_peft.corpora.protocols import classes_of, relabel
from ser_peft.errors import InputError

PROTOCOL = ravdess.PROTOCOLS["peft-ser"]


def actors(first, last):
    return {f"{actor:02d}" for actor in range(first, last + 1)}


# Feng and Narayanan 2023, from the splits that their code makes.
TEST = [actors(1, 5), actors(6, 10), actors(11, 15), actors(16, 20),
        actors(21, 24)]  # fmt: skip
VALID = [actors(21, 24)] * 4 + [actors(17, 20)]


def published_names():
    """File names of Audio_Speech_Actors_01-24.zip; no strong neutral."""
    fields = product(range(1, 9), (1, 2), (1, 2), (1, 2), range(1, 25))
    for emotion, intensity, sentence, repetition, actor in fields:
        if (emotion, intensity) != (1, 2):
            yield (
                f"Actor_{actor:02d}",
                f"03-01-{emotion:02d}-{intensity:02d}-{sentence:02d}"
                f"-{repetition:02d}-{actor:02d}.wav",
            )


def tree(root, names):
    for folder, name in names:
        (root / folder).mkdir(parents=True, exist_ok=True)
        (root / folder / name).touch()
    return root


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """All the published names, nothing in the files."""
    return tree(tmp_path_factory.mktemp("RAVDESS"), published_names())


@pytest.fixture(scope="module")
def utterances(published):
    return ravdess.read(published)


def test_the_whole_corpus(published, utterances):
    assert len(utterances) == 1440
    assert [u.id for u in utterances] == sorted(u.id for u in utterances)
    assert all(u.wav == published / u.wav.parent.name / f"{u.id}.wav"
               for u in utterances)  # fmt: skip
    assert Counter(u.speaker for u in utterances) == dict.fromkeys(
        actors(1, 24), 60
    )
    emotions = Counter(u.labels["emotion"] for u in utterances)
    assert emotions.pop("neutral") == 96
    assert emotions == dict.fromkeys(
        "calm happy sad angry fearful disgust surprised".split(), 192
    )


def test_one_name(tmp_path):
    tree(tmp_path, [("Actor_12", "03-01-06-02-01-02-12.wav")])
    assert ravdess.read(tmp_path) == [
        Utterance(
            id="03-01-06-02-01-02-12",
            wav=tmp_path / "Actor_12" / "03-01-06-02-01-02-12.wav",
            speaker="12",
            gender="female",
            text="Kids are talking by the door.",
            labels={
                "emotion": "fearful",
                "intensity": "strong",
                "repetition": 2,
            },
        )
    ]


def test_odd_actors_are_male(utterances):
    for utterance in utterances:
        odd = int(utterance.speaker) % 2
        assert utterance.gender == ("male" if odd else "female")


def test_statement(utterances):
    texts = {u.id.split("-")[4]: u.text for u in utterances}
    assert texts == {
        "01": "Kids are talking by the door.",
        "02": "Dogs are sitting by the door.",
    }


@pytest.mark.parametrize(
    ("classes", "counts"),
    [
        (4, {"neutral": 96, "angry": 192, "sad": 192, "happy": 192}),
        (7, {"neutral": 288, "happy": 192, "sad": 192, "angry": 192,
             "fearful": 192, "disgust": 192, "surprised": 192}),
        (8, {"neutral": 96, "calm": 192, "happy": 192, "sad": 192,
             "angry": 192, "fearful": 192, "disgust": 192,
             "surprised": 192}),
    ],
)  # fmt: skip
def test_counts_of_the_class_sets(utterances, classes, counts):
    class_set = ravdess.CLASS_SETS[classes]
    labelled = relabel(utterances, class_set)
    assert Counter(label for _, label in labelled) == counts
    assert classes_of(class_set) == list(counts)


@pytest.mark.parametrize("fold", range(1, 6))
def test_folds_are_those_of_peft_ser(utterances, fold):
    splits = PROTOCOL.split(utterances, fold)
    speakers = {k: {u.speaker for u in v} for k, v in splits.items()}
    assert speakers["test"] == TEST[fold - 1]
    assert speakers["valid"] == VALID[fold - 1]
    assert speakers["train"] == actors(1, 24) - TEST[fold - 1] - VALID[fold - 1]
    assert sum(map(len, splits.values())) == 1440


def test_every_actor_is_tested_once_and_by_others(utterances):
    tested = []
    for fold in range(1, PROTOCOL.folds + 1):
        splits = PROTOCOL.split(utterances, fold)
        train, valid, test = (
            {u.speaker for u in splits[name]}
            for name in ("train", "valid", "test")
        )
        assert not (train & valid or train & test or valid & test)
        tested += sorted(test)
    assert tested == sorted(actors(1, 24))


def test_any_depth_flac_and_strangers(tmp_path):
    """Songs, videos, other corpora and the finder's leftovers are no clips."""
    tree(
        tmp_path,
        [
            ("speech/Actor_01", "03-01-02-01-01-01-01.flac"),
            ("speech/Actor_01", "._03-01-02-01-01-01-01.flac"),
            ("speech/Actor_01", "03-01-02-01-01-01-01.txt"),
            ("speech/Actor_01", "03-01-09-01-01-01-01.wav"),
            ("speech/Actor_25", "03-01-02-01-01-01-25.wav"),
            ("speech/Actor_00", "03-01-02-01-01-01-00.wav"),
            ("song/Actor_01", "03-02-02-01-01-01-01.wav"),
            ("video/Actor_01", "01-01-02-01-01-01-01.mp4"),
            (".", "03a01Fa.wav"),
        ],
    )
    assert [u.wav.name for u in ravdess.read(tmp_path)] == [
        "03-01-02-01-01-01-01.flac"
    ]


def test_a_copy_inside_the_folder_counts_once(tmp_path):
    """A popular mirror's archive holds every actor twice."""
    name = ("Actor_01", "03-01-02-01-01-01-01.wav")
    tree(tmp_path, [name])
    tree(tmp_path / "audio_speech_actors_01-24", [name])
    assert len(ravdess.read(tmp_path)) == 1


def test_not_ravdess(tmp_path):
    with pytest.raises(InputError, match="nowhere: no such folder; .*RAVDESS"):
        ravdess.read(tmp_path / "nowhere")
    tree(tmp_path, [(".", "03a01Fa.wav")])
    with pytest.raises(InputError, match="not RAVDESS; expected Actor_01"):
        ravdess.read(tmp_path)


def test_real_corpus(ravdess_folder, utterances):
    real = ravdess.read(ravdess_folder)
    assert [u.id for u in real] == [u.id for u in utterances]
    assert [u.labels for u in real] == [u.labels for u in utterances]
