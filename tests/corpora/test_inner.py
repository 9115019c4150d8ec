"""Inner folds: who trains and validates, and that nobody is tested."""

import json
import shutil
from collections import Counter

import pytest
import trees_a
import trees_b

from ser_peft.corpora import Utterance, ravdess
from ser_peft.corpora.inner import inner_folds
from ser_peft.corpora.protocols import Folds, relabel
from ser_peft.data import prepare, read_manifests
from ser_peft.data.sources import choose
from ser_peft.errors import InputError


def dealt(protocol, utterances, class_set, outer_fold=1):
    """Inner folds, the outer splits and the inner ones."""
    labels = {u.id: c for u, c in relabel(utterances, class_set)}
    kept = [u for u in utterances if u.id in labels]
    inner = inner_folds(protocol, outer_fold, kept, labels)
    numbers = range(1, inner.folds + 1)
    return (
        inner,
        protocol.split(kept, outer_fold),
        [inner.split(kept, fold) for fold in numbers],
    )


def speakers(utterances):
    return {u.speaker for u in utterances}


def check_deal(outer, splits):
    """Each clip outside test is valid once, else trains; nobody is shared."""
    open_ = Counter(u.id for s in ("train", "valid") for u in outer[s])
    assert Counter(u.id for s in splits for u in s["valid"]) == open_
    for split in splits:
        assert [*split] == ["train", "valid"]
        assert Counter(u.id for s in split.values() for u in s) == open_
        heard = speakers(split["train"]) | speakers(split["valid"])
        assert not heard & speakers(outer["test"])
        assert not speakers(split["train"]) & speakers(split["valid"])


TREES = {
    "ravdess": None,
    "crema-d": trees_b.crema_d_tree,
    "emodb": trees_b.emodb_tree,
    "emov-db": trees_b.emov_db_tree,
    "iemocap": trees_a.iemocap_tree,
    "msp-improv": trees_a.msp_improv_tree,
    "msp-podcast": trees_a.msp_podcast_tree,
    "custom": trees_b.custom_tree,
    "emobox:toy": trees_b.emobox_tree,
}


@pytest.mark.parametrize("corpus", TREES)
def test_every_corpus(corpus, ravdess_tree, tmp_path):
    made = TREES[corpus](tmp_path / "tree") if TREES[corpus] else ravdess_tree
    source = choose(corpus, made or tmp_path / "tree", None)
    utterances = source.everything
    protocols = [
        p
        for p in source.protocols.values()
        if isinstance(p, Folds) and not p.shares_speakers
    ]
    assert protocols
    for protocol in protocols:
        for outer_fold in {1, protocol.folds}:
            inner, outer, splits = dealt(
                protocol, utterances, source.class_set, outer_fold
            )
            check_deal(outer, splits)
            assert inner.held_out == sorted(speakers(outer["test"]))
            units = speakers(outer["train"] + outer["valid"])
            assert inner.folds == min(5, len(units)) or inner.by == "group"
            # In any order, and again.
            again, *_ = dealt(
                protocol, utterances[::-1], source.class_set, outer_fold
            )
            assert again.valid == inner.valid


def test_ravdess_deals_all_actors(ravdess_tree):
    """19 or 20 of them, men and women alike, whoever the outer fold tests."""
    protocol = ravdess.PROTOCOLS["peft-ser"]
    utterances = ravdess.read(ravdess_tree)
    for fold in range(1, 6):
        inner, _, splits = dealt(
            protocol, utterances, ravdess.CLASS_SETS[4], fold
        )
        sizes = [len(speakers(s["valid"])) for s in splits]
        assert sum(sizes) == (20 if fold == 5 else 19)
        assert {*sizes} <= {3, 4}
        for split in splits:
            genders = Counter(
                {u.speaker: u.gender for u in split["valid"]}.values()
            )
            assert abs(genders["male"] - genders["female"]) <= 1
    assert inner.name == "peft-ser/inner5"


def test_sessions_stay_together(tmp_path):
    made = trees_a.iemocap_tree(tmp_path)
    source = choose("iemocap", made or tmp_path, 4)
    inner = source.protocol("leave-one-session-out/inner2")
    assert (inner.by, inner.folds) == ("group", 4)
    inner = source.protocol("leave-one-speaker-out/inner")
    assert (inner.by, inner.folds) == ("speaker", 5)


@pytest.mark.parametrize(
    ("corpus", "protocol", "words"),
    [
        ("iemocap", "distilser/inner", "does not keep the speakers of train"),
        ("iemocap", "peft-ser/inner6", "peft-ser has folds 1 to 5"),
        ("iemocap", "none/inner", "protocol none/inner: iemocap has peft-ser"),
        ("iemocap", "peft-ser/inner0", "protocol peft-ser/inner0: iemocap has"),
        ("meld", "official/inner", "does not keep the speakers of train"),
    ],
)
def test_refusals(corpus, protocol, words, tmp_path):
    tree = {"iemocap": trees_a.iemocap_tree, "meld": trees_b.meld_tree}
    made = tree[corpus](tmp_path / "tree") or tmp_path / "tree"
    with pytest.raises(InputError, match=words):
        prepare(corpus, made, tmp_path / "out", protocol=protocol)
    assert not list(tmp_path.glob("out/*.json"))


def clip(speaker, group=None):
    return Utterance(
        *(speaker, f"{speaker}.wav", speaker),
        labels={"emotion": "sad"},
        group=group,
    )


def test_too_few_speakers():
    clips = [clip(s) for s in "ab"]
    labels = {u.id: "sad" for u in clips}
    folds = Folds("two", test=[["a"], ["b"]])
    with pytest.raises(InputError, match="two/inner: 1 speakers besides"):
        inner_folds(folds, 1, clips, labels)


def test_a_speaker_of_test_elsewhere():
    """A split of one's own that leaks has no inner folds either."""
    clips = [clip("a", "train"), clip("b", "train"), clip("c", "valid")]
    clips.append(Utterance("d", "d.wav", "a", group="test"))
    folds = Folds("split", [["test"]], [["valid"]], by="group")
    with pytest.raises(InputError, match="speaker a is in test and in"):
        inner_folds(folds, 1, clips, {u.id: "sad" for u in clips})


def test_several_corpora_are_refused(ravdess_tree, tmp_path):
    corpora = {"folders": {"ravdess": str(ravdess_tree)}}
    corpora |= {"train": ["ravdess"], "test": ["ravdess"]}
    with pytest.raises(InputError, match="several corpora have no inner"):
        prepare(corpora, None, tmp_path, protocol="peft-ser/inner")


def test_manifests(ravdess_tree, tmp_path):
    """No test.json, also where one was; recordings of test may be missing."""
    tree = shutil.copytree(ravdess_tree, tmp_path / "tree")
    out = tmp_path / "manifests"
    prepare("ravdess", tree, out, 4)
    for actor in range(1, 6):
        for path in (tree / f"Actor_{actor:02d}").iterdir():
            path.write_bytes(b"nothing that can be opened")
    prepare("ravdess", tree, out, 4, 2, "peft-ser/inner")
    assert not (out / "test.json").exists()
    about, manifests = read_manifests(out)
    assert [*manifests] == ["train", "valid"]
    assert (about["protocol"], about["fold"]) == ("peft-ser/inner", 2)
    assert (about["folds_total"], about["scored_on"]) == (5, "valid")
    assert about["held_out_speakers"] == ["01", "02", "03", "04", "05"]
    written = (out / "protocol.json").stat().st_mtime_ns
    prepare("ravdess", tree, out, 4, 2, "peft-ser/inner1")  # the same
    assert (out / "protocol.json").stat().st_mtime_ns == written
    heard = json.dumps(manifests)
    assert not any(f"Actor_0{n}" in heard for n in range(1, 6))
    with pytest.raises(InputError, match="peft-ser/inner has folds 1 to 5"):
        prepare("ravdess", tree, out, 4, 6, "peft-ser/inner")
