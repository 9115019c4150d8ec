"""MSP-IMPROV: formats, counts and folds."""

from collections import Counter

import pytest
from trees_a import folds, msp_improv_tree

from ser_peft.corpora import Utterance, msp_improv
from ser_peft.corpora.protocols import classes_of, relabel
from ser_peft.data import prepare, read_manifests
from ser_peft.errors import InputError

# Turns of the release, by recording: target-read, target-improvised,
# other-improvised and natural.
TURNS = {
    "R": {"A": 169, "S": 80, "H": 88, "N": 241, "O": 3, "X": 39},
    "T": {"A": 115, "S": 106, "H": 136, "N": 283, "O": 1, "X": 11},
    "S": {"A": 470, "S": 633, "H": 1048, "N": 1789, "O": 70, "X": 371},
    "P": {"A": 38, "S": 66, "H": 1372, "N": 1164, "O": 11, "X": 134},
}
SESSIONS = [{f"F0{number}", f"M0{number}"} for number in range(1, 7)]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return msp_improv_tree(tmp_path_factory.mktemp("MSP-IMPROV"))


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """Names and labels of 8,438 turns, no audio."""
    root = tmp_path_factory.mktemp("MSP-IMPROV-release")
    lines, number = [], 0
    for recording, counts in TURNS.items():
        for emotion in Counter(counts).elements():
            # Which speaker says what is made up.
            speaker = f"{'FM'[number % 2]}0{number // 2 % 6 + 1}"
            lines.append(
                f"UTD-IMPROV-S{number % 20 + 1:02d}{'AHNS'[number % 4]}-"
                f"{speaker}-{recording}-FM{number:02d}.avi; {emotion}; "
                "A:3.000000; V:3.500000; D:NaN ; N:4.000000;\n\n"
            )
            number += 1
    (root / "Evaluation.txt").write_text("".join(lines))
    return root


def test_counts_of_the_release(release):
    turns = msp_improv.read(release)
    assert len(turns) == len({turn.id for turn in turns}) == 8438
    four = Counter(c for _, c in relabel(turns, msp_improv.CLASS_SETS[4]))
    assert four == {"neutral": 3477, "happy": 2644, "sad": 885, "angry": 792}
    assert four.total() == 7798
    assert Counter(turn.labels["recording"] for turn in turns) == {
        "target-read": 620, "target-improvised": 652,
        "other-improvised": 4381, "natural": 2785,
    }  # fmt: skip


@pytest.mark.parametrize("tree", ["small", "release"])
@pytest.mark.parametrize("name", msp_improv.PROTOCOLS)
def test_folds(tree, name, request):
    turns = msp_improv.read(request.getfixturevalue(tree))
    dealt = folds(msp_improv.PROTOCOLS[name], turns, msp_improv.CLASS_SETS[4])
    test, valid = SESSIONS, [SESSIONS[5]] * 5 + [SESSIONS[4]]
    if name == "released":
        test, valid = [SESSIONS[4]], [SESSIONS[3]]
    assert [fold["test"] for fold in dealt] == test
    assert [fold["valid"] for fold in dealt] == valid
    for fold in dealt:
        assert set.union(*fold.values()) == set.union(*SESSIONS)


def test_improvised_turns_alone(release):
    splits = msp_improv.PROTOCOLS["improvised"].split(
        msp_improv.read(release), 1
    )
    dealt = Counter(t.labels["recording"] for s in splits.values() for t in s)
    assert dealt == {"other-improvised": 4381, "target-improvised": 652}


def test_class_order():
    four = classes_of(msp_improv.CLASS_SETS[4])
    assert four == ["neutral", "angry", "sad", "happy"]


def test_one_turn(small):
    turns = {turn.id: turn for turn in msp_improv.read(small)}
    assert list(turns) == sorted(turns) and len(turns) == 28
    assert all(turn.wav.is_file() for turn in turns.values())
    name = "MSP-IMPROV-S01A-F01-R-FF01"
    assert turns[name] == Utterance(
        id=name,
        wav=small / "Audio" / "session1" / "S01A" / "R" / f"{name}.wav",
        speaker="F01",
        gender="female",
        labels={
            "emotion": "N",
            "recording": "target-read",
            "style": "read",
            # Activation counts downwards in the release: 2.4 of 1 to 5.
            "arousal": 3.6,
            "valence": 3.6,
            "dominance": 3.0,
        },
        group="session1",
        votes={"H": 1, "N": 2},
        secondary={"Excited": 1, "Happy": 1, "Neutral": 1, "Other": 1},
    )
    assert turns["MSP-IMPROV-S20N-M01-P-MF02"].votes == {
        "H": 1, "N": 1, "O": 1
    }  # fmt: skip


def test_what_nobody_rated_is_left_out(small):
    turns = {turn.id: turn for turn in msp_improv.read(small)}
    turn = turns["MSP-IMPROV-S01A-M01-P-FM01"]
    assert (turn.speaker, turn.gender) == ("M01", "male")
    assert turn.labels["recording"] == "natural"
    assert turn.labels["arousal"] == 3.6
    assert "dominance" not in turn.labels


def test_without_audio_folder_and_with_both_spellings(tmp_path):
    line = "UTD-IMPROV-S08A-F05-S-FM02.avi; {};A:1; V:3.5; D:2.25 ;\r\n"
    (tmp_path / "Evalution.txt").write_text(line.format("A"))
    (tmp_path / "Evaluation.txt").write_text(line.format("A"))
    (turn,) = msp_improv.read(tmp_path)
    assert turn.wav.parent == tmp_path / "session5" / "S08A" / "S"
    assert turn.labels["arousal"] == 5.0


@pytest.mark.parametrize("protocol", ["peft-ser", "improvised"])
def test_prepare(small, protocol, tmp_path):
    prepare("msp-improv", small, tmp_path, 4, fold=6, protocol=protocol)
    about, manifests = read_manifests(tmp_path)
    assert about["protocol"] == protocol
    assert {e["speaker"] for e in manifests["valid"].values()} == SESSIONS[4]
    (entry, *_) = manifests["test"].values()
    assert 0.3 <= entry["duration"] <= 0.5
    assert (entry["arousal"], entry["gender"]) == (3.6, "female")


def test_broken_turn(tmp_path):
    (tmp_path / "Evalution.txt").write_text("UTD-IMPROV-S08A-F05-S-FM02.avi")
    with pytest.raises(InputError, match=r"Evalution.txt: cannot read the"):
        msp_improv.read(tmp_path)


def test_not_msp_improv(tmp_path):
    with pytest.raises(InputError, match="nowhere: no such .*MSP-IMPROV"):
        msp_improv.read(tmp_path / "nowhere")
    (tmp_path / "Evalution.txt").write_text("Happy; A:1.0\n")
    with pytest.raises(InputError, match="not MSP-IMPROV; expected Evalution"):
        msp_improv.read(tmp_path)
