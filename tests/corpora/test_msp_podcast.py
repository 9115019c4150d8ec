"""MSP-Podcast: tables of several releases, official splits."""

import logging
import time
from collections import Counter

import pytest
from trees_a import LETTERS, folds, msp_podcast_tree

from ser_peft.corpora import Utterance, msp_podcast
from ser_peft.corpora.protocols import classes_of, relabel
from ser_peft.data import prepare, read_manifests
from ser_peft.errors import InputError

HEADER = "FileName,EmoClass,EmoAct,EmoVal,EmoDom,SpkrID,Gender,Split_Set"


def release(root, text, table="labels_consensus.csv", audio="Audios"):
    """A folder of this table; the files it names are there, and empty."""
    for folder in ("Labels", audio):
        (root / folder).mkdir(parents=True)
    (root / "Labels" / table).write_text(text)
    for line in text.splitlines()[1:]:
        (root / audio / line.split(",")[0]).touch()
    return root


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return msp_podcast_tree(tmp_path_factory.mktemp("MSP-Podcast"))


@pytest.fixture(scope="module")
def turns(small):
    return {turn.id: turn for turn in msp_podcast.read(small)}


def test_one_turn(small, turns):
    name = "MSP-PODCAST_0001_0003"
    assert turns[name] == Utterance(
        id=name,
        wav=small / "Audios" / f"{name}.wav",
        speaker="3",
        gender="female",
        labels={
            "identified": True,
            "emotion": "H",
            "arousal": 3.777778,
            "valence": 3.5,
            "dominance": 4.125,
        },
        group="Validation",
        votes={"H": 4},
        secondary={"Concerned": 3, "Happy": 4},
    )
    undecided = turns["MSP-PODCAST_0901_0002"]
    assert undecided.votes == {"F": 1, "O": 1, "S": 1}
    assert undecided.secondary == {"Other": 1, "Sad": 1}
    assert turns["MSP-PODCAST_0001_0001"].votes == {"A": 3, "H": 1}
    assert turns["MSP-PODCAST_test3_0001"].votes is None


DETAILED = {
    "labels_detailed.csv": "FileName,Workers,EmoClass_Major,EmoClass_Second,"
    'EmoAct\n{0},W1,Surprise,"Surprise,Amused",6\n{0},W2,Other-bored,,3\n{0},W3,,,3\n',
    "labels_detailed.json": '{{"{0}": {{"W1": {{"EmoClass_Major": "Surprise", '
    '"EmoClass_Second": "Surprise,Amused"}}, "W2": {{"EmoClass_Major": '
    '"Other-bored", "EmoClass_Second": 5}}, '
    '"W3": {{"EmoClass_Major": " "}}}}}}',
}


@pytest.mark.parametrize("name", DETAILED)
def test_votes_of_other_releases(name, tmp_path):
    file = "MSP-PODCAST_0001_0008.wav"
    release(tmp_path, f"{HEADER}\n{file},U,2,3,4,30,Male,Train\n")
    (tmp_path / "Labels" / name).write_text(DETAILED[name].format(file))
    (turn,) = msp_podcast.read(tmp_path)
    assert turn.votes == {"O": 1, "U": 1}
    assert turn.secondary == {"Amused": 1, "Surprise": 1}


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        ("labels_detailed.csv", "FileName,EmoDetail\na.wav,Sad\n", "row 2"),
        ("labels_detailed.json", '{"a.wav": []}', "is no JSON"),
        ("labels_detailed.json", '{"a.wav": {"W": {}}}', "a.wav, W: no"),
        (
            "labels_detailed.json",
            '{"a.wav": {"W": {"EmoClass_Major": 3}}}',
            "a.wav, W: no",
        ),
    ],
)
def test_votes_that_are_none(name, text, fault, tmp_path):
    release(tmp_path, f"{HEADER}\na.wav,U,2,3,4,30,Male,Train\n")
    (tmp_path / "Labels" / name).write_text(text)
    with pytest.raises(InputError, match=f"{name}.*{fault}"):
        msp_podcast.read(tmp_path)


def test_unknown_and_hidden(turns):
    assert turns["MSP-PODCAST_test3_0001"].labels == {"identified": False}
    unknown = turns["MSP-PODCAST_0900_0001"]
    assert (unknown.speaker, unknown.gender) == ("Unknown", "male")
    assert not unknown.labels["identified"]
    assert turns["MSP-PODCAST_0900_0003"].gender is None
    assert not turns["MSP-PODCAST_0900_0003"].labels["identified"]


def test_missing_recordings_are_counted(small, turns, caplog):
    with caplog.at_level(logging.WARNING):
        assert len(msp_podcast.read(small)) == len(turns) == 26
    assert "1 of 27 recordings are not in" in caplog.text


def test_older_release(tmp_path):
    """Another spelling, another name of the split, no gender, no ratings."""
    release(
        tmp_path,
        "FileName,EmoClass,SpkrID,Split_Set\n"
        "MSP-PODCAST_0001_0008.wav,N,30,Validation\n"
        "MSP-PODCAST_0001_0009.wav,C,Unknown,Train\n",
        "labels_concensus.csv",
        "Audio",
    )
    first, second = msp_podcast.read(tmp_path)
    assert (first.group, first.speaker, first.gender) == (
        "Validation", "30", None
    )  # fmt: skip
    assert first.labels == {"identified": True, "emotion": "N"}
    assert second.labels == {"identified": False, "emotion": "C"}


@pytest.mark.parametrize(("name", "test"), [("peft-ser", {"4", "5"}),
                                            ("released", {"4", "5"}),
                                            ("test2", {"6", "7"})])  # fmt: skip
def test_splits_of_known_speakers(turns, name, test):
    protocol = msp_podcast.PROTOCOLS[name]
    (fold,) = folds(protocol, turns.values(), msp_podcast.CLASS_SETS[4])
    assert fold == {"train": {"0", "1"}, "valid": {"2", "3"}, "test": test}


def test_official_split_keeps_everybody_and_says_so(small, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        prepare("msp-podcast", small, tmp_path, 4, protocol="official")
    assert "shares with train 33% of its speakers" in caplog.text
    _, manifests = read_manifests(tmp_path)
    speakers = Counter(e["speaker"] for e in manifests["train"].values())
    assert speakers == {"0": 2, "1": 2, "77": 1, "Unknown": 1}


@pytest.mark.parametrize("protocol", ["peft-ser", "test2"])
def test_prepare_eight_classes(small, protocol, tmp_path):
    prepare("msp-podcast", small, tmp_path, 8, protocol=protocol)
    about, manifests = read_manifests(tmp_path)
    assert (about["protocol"], about["folds_total"]) == (protocol, 1)
    assert {k: len(v) for k, v in manifests.items()} == {
        "train": 8, "valid": 4, "test": 4
    }  # fmt: skip
    assert all(0.3 <= e["duration"] <= 0.5 for e in manifests["test"].values())


def test_class_sets(turns):
    four = ["neutral", "angry", "sad", "happy"]
    assert classes_of(msp_podcast.CLASS_SETS[4]) == four
    assert classes_of(msp_podcast.CLASS_SETS[8]) == [
        *four, "surprised", "fearful", "disgust", "contempt"
    ]  # fmt: skip
    kept = relabel(turns.values(), msp_podcast.CLASS_SETS[8])
    assert {u.labels["emotion"] for u, _ in kept} == set(LETTERS[:8])


def test_a_large_release_takes_seconds(tmp_path):
    """Time of the processor, whatever else runs: 15,000 of 150,000 turns."""
    rows = [
        f"MSP-PODCAST_{i // 50:04d}_{i % 50:04d}.wav,{LETTERS[i % 10]},"
        f"3.5,4.25,2.75,{i // 50},Male,Train"
        for i in range(15000)
    ]
    release(tmp_path, "\n".join([HEADER, *rows]))
    start = time.process_time()
    assert len(msp_podcast.read(tmp_path)) == 15000
    assert time.process_time() - start < 1.5


@pytest.mark.parametrize("column", ["FileName", "EmoClass", "SpkrID",
                                    "Split_Set"])  # fmt: skip
def test_missing_column(tmp_path, column):
    release(tmp_path, HEADER.replace(column, "Other") + "\n")
    with pytest.raises(InputError, match=f"labels_consensus.csv.*'{column}'"):
        msp_podcast.read(tmp_path)


def test_broken_tables(tmp_path):
    row = "\nMSP-PODCAST_0001_0008.wav,N,2.2,{},2.6,30,Male{}"
    release(tmp_path / "a", HEADER + row.format("4.0x", ",Train"))
    with pytest.raises(InputError, match="row 2.*EmoVal.*"):
        msp_podcast.read(tmp_path / "a")
    release(tmp_path / "b", HEADER + row.format("4.0", ""))
    with pytest.raises(InputError, match="row 2, column Split_Set"):
        msp_podcast.read(tmp_path / "b")
    release(tmp_path / "c", "")
    with pytest.raises(InputError, match="labels_consensus.csv: is empty"):
        msp_podcast.read(tmp_path / "c")


def test_not_msp_podcast(small, tmp_path):
    with pytest.raises(InputError, match="nowhere: no such .*MSP-Podcast"):
        msp_podcast.read(tmp_path / "nowhere")
    with pytest.raises(InputError, match="not MSP-Podcast; expected Labels/"):
        msp_podcast.read(small / "Audios")
    # The table alone, before the audio is unpacked.
    release(tmp_path / "x", f"{HEADER}\n")
    (tmp_path / "x" / "Audios").rmdir()
    with pytest.raises(InputError, match="its wav files in Audios"):
        msp_podcast.read(tmp_path / "x")
