"""CREMA-D: names, votes, folds and what its folder must hold."""

import shutil
from collections import Counter

import pytest
from trees_a import folds
from trees_b import crema_d_tree

from ser_peft.corpora import Utterance, crema_d
from ser_peft.corpora.protocols import classes_of
from ser_peft.data import prepare, read_manifests
from ser_peft.errors import InputError

TABLE = "processedResults/summaryTable.csv"
PEOPLE = "VideoDemographics.csv"


def actors(first, last):
    return {str(actor) for actor in range(first, last + 1)}


# Feng and Narayanan 2023, from the splits that their code makes.
TEST = [actors(1001, 1019), actors(1020, 1037), actors(1038, 1055),
        actors(1056, 1073), actors(1074, 1091)]  # fmt: skip
VALID = [actors(1077, 1091)] * 4 + [actors(1059, 1073)]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return crema_d_tree(tmp_path_factory.mktemp("CREMA-D"))


@pytest.fixture
def copy(small, tmp_path):
    return shutil.copytree(small, tmp_path / "CREMA-D")


def change(folder, name, old, new):
    text = (folder / name).read_text()
    assert old in text
    (folder / name).write_text(text.replace(old, new, 1))


def test_one_clip(small):
    by_id = {u.id: u for u in crema_d.read(small)}
    assert by_id["1001_IEO_FEA_LO"] == Utterance(
        id="1001_IEO_FEA_LO",
        wav=small / "AudioWAV" / "1001_IEO_FEA_LO.wav",
        speaker="1001",
        gender="male",
        text="It's eleven o'clock.",
        labels={
            "emotion": "angry",
            "intended": "fearful",
            "intensity": "low",
            "age": 21,
            "race": "Caucasian",
            "ethnicity": "Not Hispanic",
        },
        # Of sound and picture, as the label is.
        votes={"angry": 9, "sad": 2},
    )
    tie = by_id["1020_TIE_DIS_HI"].votes
    assert tie == {"angry": 4, "sad": 2, "disgust": 4}


def test_without_a_table_of_votes(copy):
    (copy / "processedResults" / "tabulatedVotes.csv").unlink()
    assert {u.votes for u in crema_d.read(copy)} == {None}


def test_votes_that_are_no_counts(copy):
    name = "processedResults/tabulatedVotes.csv"
    text = (copy / name).read_text()
    (copy / name).write_text(text.replace(",9,", ",9.5,"))
    with pytest.raises(InputError, match="column [A-Z]: '9.5' is no whole"):
        crema_d.read(copy)


def test_oddities(small):
    """A tie, a lost letter, a silent clip, a Mac's leftover."""
    by_id = {u.id: u.labels for u in crema_d.read(small)}
    assert list(by_id) == sorted(by_id) and len(by_id) == 23
    assert by_id["1020_TIE_DIS_HI"]["emotion"] == "angry:disgust"
    assert by_id["1038_ITH_SAD_X"]["emotion"] == "sad"
    assert by_id["1038_ITH_SAD_X"]["intensity"] == "unspecified"
    assert not [name for name in by_id if name.startswith(("1076", "."))]


@pytest.mark.parametrize(
    ("protocol", "counts"),
    [
        # The tie drops out; the fearful clip is heard as angry.
        ("peft-ser", {"neutral": 5, "angry": 6, "sad": 6, "happy": 5}),
        ("peft-ser-intended", {"neutral": 5, "angry": 5, "sad": 6, "happy": 5}),
    ],
)
@pytest.mark.parametrize("fold", [1, 5])
def test_labels_of_the_protocols(small, tmp_path, protocol, counts, fold):
    prepare("crema-d", small, tmp_path, 4, fold, protocol)
    about, manifests = read_manifests(tmp_path)
    assert about["classes"] == ["neutral", "angry", "sad", "happy"]
    entries = [e for entries in manifests.values() for e in entries.values()]
    assert Counter(e["emotion"] for e in entries) == counts


def test_class_sets():
    assert classes_of(crema_d.CLASS_SETS[6]) == [
        "neutral", "angry", "sad", "happy", "fearful", "disgust",
    ]  # fmt: skip
    assert list(crema_d.PROTOCOLS) == [
        "peft-ser", "peft-ser-intended", "released",
    ]  # fmt: skip


def test_folds_are_those_of_peft_ser():
    everybody = [
        Utterance(a, a, a, labels={"emotion": e, "intended": e})
        for a in sorted(actors(1001, 1091))
        for e in ["neutral"]
    ]
    released = crema_d.PROTOCOLS["released"]
    assert (released.test, released.valid) == (
        [sorted(actors(1074, 1091))],
        [sorted(actors(1059, 1073))],
    )
    for name in ("peft-ser", "peft-ser-intended"):
        protocol = crema_d.PROTOCOLS[name]
        assert protocol.folds == 5
        for fold in range(1, 6):
            splits = protocol.split(everybody, fold)
            found = {k: {u.speaker for u in us} for k, us in splits.items()}
            test, valid = TEST[fold - 1], VALID[fold - 1]
            assert found["test"] == test
            assert found["valid"] == valid and len(valid) == 15
            assert found["train"] == actors(1001, 1091) - test - valid
            assert not test & valid


def test_all_classes_everywhere(small):
    found = folds(
        crema_d.PROTOCOLS["peft-ser"],
        crema_d.read(small),
        crema_d.CLASS_SETS[4],
    )
    assert [*found[3]["test"], *found[4]["valid"]] == ["1060", "1060"]


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda f: change(f, TABLE, "MultiModalVote", "Vote"),
         "summaryTable.csv: no column 'MultiModalVote'; it has .*, Vote,"),
        (lambda f: change(f, TABLE, '"A:D"', '"A:Q"'),
         "summaryTable.csv, row 23, column MultiModalVote: 'A:Q' is not of"),
        (lambda f: change(f, TABLE, "1001_DFA_NEU_XX", "1001_DFA_NEU_XY"),
         "summaryTable.csv: no row for 1001_DFA_NEU_XX"),
        (lambda f: change(f, PEOPLE, "1038", "1039"),
         "VideoDemographics.csv: no row for 1038 of 1038_DFA_ANG_XX.wav"),
        (lambda f: change(f, PEOPLE, "1001,21", "1001,old"),
         "VideoDemographics.csv, row 2, column Age: 'old' is no age"),
        (lambda f: (f / PEOPLE).unlink(),
         "VideoDemographics.csv: cannot be read .No such file"),
        (lambda f: shutil.rmtree(f / "AudioWAV"),
         "this is not CREMA-D; expected AudioWAV"),
    ],
)  # fmt: skip
def test_failing_well(copy, break_it, message):
    break_it(copy)
    with pytest.raises(InputError, match=message):
        crema_d.read(copy)
