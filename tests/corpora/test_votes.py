"""Votes on their way from corpora to manifests."""

import pytest
import trees_a
import trees_b

from ser_peft.corpora import Utterance
from ser_peft.corpora.votes import class_votes, majority_missing
from ser_peft.data import prepare, read_manifests
from ser_peft.errors import InputError

GOLD = {
    # Corpus: its tree, classes, an utterance of train and its votes.
    "iemocap": (
        trees_a.iemocap_tree, 4, "Ses01M_script01_1b_MXX0",
        {"neutral": 1, "angry": 1, "sad": 1},
    ),
    "crema-d": (
        trees_b.crema_d_tree, 4, "1020_TIE_DIS_HI", {"angry": 4, "sad": 2},
    ),
    "msp-improv": (
        trees_a.msp_improv_tree, 4, "MSP-IMPROV-S20N-M01-P-MF02",
        {"neutral": 1, "happy": 1},
    ),
    "msp-podcast": (
        trees_a.msp_podcast_tree, 8, "MSP-PODCAST_0901_0002",
        {"sad": 1, "fearful": 1},
    ),
}  # fmt: skip


@pytest.mark.parametrize("corpus", GOLD)
def test_votes_in_manifests(corpus, tmp_path):
    """Those without a majority only train, and only where votes are asked."""
    tree, classes, undecided, votes = GOLD[corpus]
    data = tmp_path / "data"
    data.mkdir()
    tree(data)
    last = {"iemocap": 4, "crema-d": 5, "msp-improv": 5, "msp-podcast": 1}
    found, shas = {}, set()
    for targets in ("majority", "votes"):
        out = tmp_path / targets
        prepare(corpus, data, out, classes, fold=last[corpus], targets=targets)
        about, found[targets] = read_manifests(out)
        assert about["targets"] == targets
        shas.add(about["protocol_sha"])
    assert len(shas) == 1  # tested alike, and so compared
    assert undecided not in found["majority"]["train"]
    entry = found["votes"]["train"][undecided]
    assert entry["votes"] == votes and entry["no_majority"]
    assert entry["emotion"] in votes
    for split in ("valid", "test"):
        assert found["votes"][split] == found["majority"][split]
    more = {*found["votes"]["train"]} - {*found["majority"]["train"]}
    train = found["votes"]["train"].items()
    assert more == {id_ for id_, entry in train if "no_majority" in entry}
    entries = [e for part in found["votes"].values() for e in part.values()]
    assert all(e["votes"].keys() <= {*about["classes"]} for e in entries)


def test_manifests_are_made_anew_for_other_targets(tmp_path, caplog):
    data, out = tmp_path / "data", tmp_path / "out"
    trees_a.iemocap_tree(data)
    counts = []
    for targets in ("majority", "votes", "majority"):
        prepare("iemocap", data, out, 4, fold=4, targets=targets)
        counts.append(len(read_manifests(out)[1]["train"]))
    assert counts[0] + 1 == counts[1] and counts[0] == counts[2]


def test_a_corpus_without_votes(ravdess_tree, tmp_path):
    with pytest.raises(InputError, match="targets: votes: ravdess has none"):
        prepare("ravdess", ravdess_tree, tmp_path, 4, targets="votes")
    assert not [*tmp_path.iterdir()]


def test_votes_in_a_pool(tmp_path):
    folders = {}
    for name, tree in [
        ("msp-improv", trees_a.msp_improv_tree),
        ("custom", trees_b.custom_tree),
    ]:
        folders[name] = tmp_path / name
        folders[name].mkdir()
        tree(folders[name])
    pool = {"folders": folders, "train": [*folders], "test": [*folders]}
    prepare(pool, None, tmp_path / "out", 4, targets="votes")
    _, manifests = read_manifests(tmp_path / "out")
    votes = {
        id_: entry.get("votes")
        for part in manifests.values()
        for id_, entry in part.items()
    }
    assert votes["custom/clips/s1_angry.wav"] == {"neutral": 1, "angry": 4}
    assert votes["msp-improv/MSP-IMPROV-S01A-F01-R-FF01"] == {
        "neutral": 2,
        "happy": 1,
    }


def test_half_of_the_votes_decide():
    class_set = {"hap": "happy", "exc": "happy", "sad": "sad"}
    utterances = [
        Utterance(str(i), f"{i}.wav", "a", labels={"emotion": emotion}, votes=v)
        for i, (emotion, v) in enumerate(
            [
                ("xxx", {"hap": 1, "exc": 1, "fru": 2}),
                ("fru", {"fru": 2, "sad": 1}),
                ("sad", {"sad": 2, "hap": 1}),
                ("xxx", None),
                ("xxx", {"oth": 2}),
            ]
        )
    ]
    ((found, name),) = majority_missing(utterances, class_set)
    assert (found.id, name, found.votes) == ("0", "happy", {"happy": 2})
    assert class_votes({"oth": 2}, class_set) is None
    assert class_votes(None, class_set) is None


def test_inner_folds_train_on_nobody_held_out(tmp_path):
    """Nor on their clips without a majority."""
    data, undecided = tmp_path / "data", GOLD["iemocap"][2]
    trees_a.iemocap_tree(data)
    for protocol, there in [
        ("peft-ser/inner", False),
        ("peft-ser/inner2", True),
    ]:
        out = tmp_path / protocol
        prepare("iemocap", data, out, 4, 1, protocol, targets="votes")
        about, manifests = read_manifests(out)
        train = manifests["train"]
        assert (undecided in {**train, **manifests["valid"]}) <= there
        held_out = {*about["held_out_speakers"]}
        assert not held_out & {e["speaker"] for e in train.values()}
    parts = []
    for fold in range(1, about["folds_total"] + 1):
        out = tmp_path / str(fold)
        prepare("iemocap", data, out, 4, fold, protocol, targets="votes")
        parts.append(read_manifests(out)[1])
    assert any(undecided in part["train"] for part in parts)
    assert not any(undecided in part["valid"] for part in parts)


def test_side_classes_have_no_votes(tmp_path):
    trees_a.iemocap_tree(tmp_path / "data")
    with pytest.raises(InputError, match="train_classes: not with targets"):
        prepare(
            "iemocap", tmp_path / "data", tmp_path / "out", 4,
            targets="votes", train_classes=5,
        )  # fmt: skip
