"""How classes lie over speakers: equal parts, confounding."""

from collections import Counter
from itertools import product

import numpy as np
import pytest

from ser_peft.corpora.balance import confounding, split_speakers

FOUR = ("neutral", "angry", "sad", "happy")


def few_angry(rng):
    """(Speaker, class) of 29 speakers, 27 of one class only, 4 angry."""
    of_speaker = [["neutral"]] * 9 + [["happy"]] * 8 + [["sad"]] * 8
    of_speaker += [["angry"]] * 2 + [["angry", "sad"], ["angry", "happy"]]
    return [
        (f"s{number:02d}", label)
        for number, labels in enumerate(of_speaker)
        for label in labels
        for _ in range(rng.integers(5, 25))
    ]


def drawn(rng, speakers, classes, alpha, clips=20):
    """Speakers of about so many clips, the more alike the larger alpha is."""
    return [
        (f"s{speaker:04d}", f"c{label}")
        for speaker in range(speakers)
        for label in rng.choice(
            classes,
            rng.integers(clips // 2, 2 * clips),
            p=rng.dirichlet([alpha] * classes),
        )
    ]


def table(clips, parts):
    """Clips of each part and class [P, C]."""
    names = sorted({name for _, name in clips})
    part_of = {s: k for k, part in enumerate(parts) for s in part}
    assert len(part_of) == sum(map(len, parts))  # nobody twice
    assert part_of.keys() == {speaker for speaker, _ in clips}
    counts = Counter((part_of[s], name) for s, name in clips)
    return np.array([[counts[k, n] for n in names] for k in range(len(parts))])


# --------------------------------------------------------------------- parts


@pytest.mark.parametrize("seed", range(3))
def test_every_part_has_the_rare_class(seed):
    clips = few_angry(np.random.default_rng(seed))
    counts = table(clips, split_speakers(clips, 4))
    assert counts.min() > 0
    # But for the angry, of whom each part has one.
    shares = (counts / counts.sum(0))[:, 1:]
    assert abs(shares - 0.25).max() < 0.1


def test_equal_speakers_are_split_equally():
    clips = [*product("abcdefghij", FOUR)] * 2
    assert [len(part) for part in split_speakers(clips, 5)] == [2] * 5


def test_the_order_of_clips_is_of_no_matter():
    clips = [
        (f"s{speaker:02d}", f"c{speaker * clip % 7 % 5}")
        for speaker in range(30)
        for clip in range(4 + speaker % 11)
    ]
    parts = split_speakers(clips, 5)
    assert split_speakers(clips[::-1], 5) == parts
    # On every machine, by every version: who is tested may not change.
    assert [" ".join(part) for part in parts] == [
        "s06 s10 s12 s13 s14 s16",
        "s09 s11 s15 s17 s25 s28",
        "s00 s04 s05 s18 s20 s24",
        "s07 s08 s19 s22 s23 s26",
        "s01 s02 s03 s21 s27 s29",
    ]


def complete(clips, parts):
    """Whether any split gives each part every class, tried one by one."""
    speakers = sorted({speaker for speaker, _ in clips})
    names = sorted({name for _, name in clips})
    has = np.array([[(s, n) in clips for n in names] for s in speakers])
    splits = np.array([*product(range(parts), repeat=len(speakers))])
    found = np.stack([(splits == k) @ has for k in range(parts)], axis=1)
    return (found > 0).all((1, 2)).any()


def test_every_class_is_everywhere_where_that_can_be():
    rng, possible = np.random.default_rng(0), 0
    for _ in range(25):
        speakers = int(rng.integers(5, 8))
        clips = drawn(rng, speakers, int(rng.integers(2, 5)), 0.4, clips=4)
        counts = table(clips, split_speakers(clips, 3))
        assert (counts.min() > 0) == complete(set(clips), 3)
        possible += counts.min() > 0
    assert 5 < possible < 20  # both were tried


# --------------------------------------------------------------- confounding


def measured(clips):
    return confounding({"speaker": s, "emotion": e} for s, e in clips)


@pytest.mark.parametrize("seed", range(3))
def test_speakers_of_one_class_are_seen(seed):
    found = measured(few_angry(np.random.default_rng(seed)))
    assert (found["one_class"], found["speakers"]) == (27, 29)
    assert (found["rarest"], found["rarest_speakers"]) == ("angry", 4)
    assert found["same_class"] > 0.9 and found["expected"] < 0.4
    assert found["confounded"] and found["beyond_chance"] > 0.9


def test_mostly_one_class_is_seen():
    """Nine clips of ten."""
    clips = [
        (speaker, FOUR[(speaker + (clip == 0)) % 4])
        for speaker in range(12)
        for clip in range(10)
    ]
    assert measured(clips)["confounded"]


ALIKE = {
    # Speakers, classes and clips of each, and how alike the speakers are.
    "RAVDESS": (24, 8, 60, 1e6),
    "EmoDB": (10, 7, 53, 10),
    "CREMA-D": (91, 6, 82, 10),
    "IEMOCAP": (10, 4, 550, 5),
    "many speakers of few clips": (300, 7, 3, 5),
    "two clips each": (10, 2, 2, 1e6),
    "three speakers": (3, 4, 4, 1e6),
    "unlike each other": (30, 4, 30, 1.5),
}


@pytest.mark.parametrize("name", ALIKE)
def test_no_false_alarm(name):
    speakers, classes, clips, alpha = ALIKE[name]
    rng = np.random.default_rng(0)
    for _ in range(10):
        found = measured(drawn(rng, speakers, classes, alpha, clips))
        assert not found["confounded"]


def test_expected_is_that_of_shuffled_labels():
    rng = np.random.default_rng(0)
    clips = few_angry(rng)
    voices, labels = zip(*clips, strict=True)
    shuffled = [
        measured(zip(voices, rng.permutation(labels), strict=True))
        for _ in range(50)
    ]
    mean = np.mean([found["same_class"] for found in shuffled])
    assert mean == pytest.approx(measured(clips)["expected"], abs=0.01)


@pytest.mark.parametrize(
    "clips",
    [[*zip("abc", FOUR, strict=False)], [("a", "sad")] * 2 + [("b", "sad")]],
)
def test_nothing_to_measure(clips):
    """A clip a speaker; one class."""
    assert measured(clips) == {}
