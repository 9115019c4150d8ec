"""IEMOCAP: formats, counts and folds."""

import random
from collections import Counter

import pytest
from trees_a import evaluation, folds, iemocap_tree

from ser_peft.corpora import Utterance, iemocap
from ser_peft.corpora.protocols import classes_of, relabel
from ser_peft.data import prepare, read_manifests
from ser_peft.errors import InputError
from ser_peft.training.probe_runs import run_probe

SPEAKERS = [f"Ses0{number}{sex}" for number in range(1, 6) for sex in "FM"]

# Turns of the release, by session.
TURNS = {
    "neu": (384, 362, 320, 258, 384),
    "ang": (229, 137, 240, 327, 170),
    "sad": (194, 197, 305, 143, 245),
    "hap": (135, 117, 135, 65, 143),
    "exc": (143, 210, 151, 238, 299),
}
# How these spread over the sessions is made up, their sums are not.
OTHERS = {"fru": 1849, "xxx": 2507, "sur": 107, "fea": 40, "oth": 3, "dis": 2}
SESSIONS = (1819, 1811, 2136, 2103, 2170)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return iemocap_tree(tmp_path_factory.mktemp("IEMOCAP"))


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """Names and labels of 10,039 turns, no audio."""
    root = tmp_path_factory.mktemp("IEMOCAP_full_release")
    others = [code for code, count in OTHERS.items() for _ in range(count)]
    random.Random(0).shuffle(others)
    for session, size in enumerate(SESSIONS):
        codes = [code for code, n in TURNS.items() for _ in range(n[session])]
        codes += [others.pop() for _ in range(size - len(codes))]
        folder = root / f"Session{session + 1}" / "dialog" / "EmoEvaluation"
        folder.mkdir(parents=True)
        dialogs = [
            f"Ses0{session + 1}{sex}_{script}"
            for sex in "FM"
            for script in ("impro01", "impro05b", "script01_1", "script03_2")
        ]
        for number, dialog in enumerate(dialogs):
            turns = [
                (f"{dialog}_{'FM'[i % 2]}{i // 2:03d}", code)
                for i, code in enumerate(codes[number :: len(dialogs)])
            ]
            (folder / f"{dialog}.txt").write_text(
                evaluation(turns), encoding="cp1252"
            )
    return root


def test_counts_of_the_release(release):
    turns = iemocap.read(release)
    assert len(turns) == len({turn.id for turn in turns}) == 10039
    assert Counter(turn.group for turn in turns) == {
        f"Session{i}": n for i, n in enumerate(SESSIONS, 1)
    }
    assert Counter(turn.labels["emotion"] for turn in turns) == OTHERS | {
        code: sum(counts) for code, counts in TURNS.items()
    }
    four = relabel(turns, iemocap.CLASS_SETS[4])
    assert len(four) == 5531
    assert Counter(label for _, label in four) == {
        "neutral": 1708, "happy": 1636, "angry": 1103, "sad": 1084
    }  # fmt: skip
    assert Counter(turn.group for turn, _ in four) == {
        "Session1": 1085, "Session2": 1023, "Session3": 1151,
        "Session4": 1031, "Session5": 1241,
    }  # fmt: skip
    assert len(relabel(turns, iemocap.CLASS_SETS[5])) == 5531 + 1849
    six = Counter(label for _, label in relabel(turns, iemocap.CLASS_SETS[6]))
    assert (six["happy"], six["excited"], six["frustrated"]) == (
        595,
        1041,
        1849,
    )
    assert {turn.speaker for turn in turns} == set(SPEAKERS)


@pytest.mark.parametrize(
    ("tree", "classes"),
    # Not every speaker of the small one is frustrated.
    [("small", 4), ("release", 4), ("release", 5), ("release", 6)],
)
def test_folds(tree, classes, request):
    turns = iemocap.read(request.getfixturevalue(tree))
    sessions = [{f"Ses0{n}F", f"Ses0{n}M"} for n in range(1, 6)]
    sexes = str.maketrans("FM", "MF")
    expected = {
        "peft-ser": (sessions, [sessions[4]] * 4 + [sessions[3]]),
        "leave-one-session-out": (sessions, sessions[1:] + sessions[:1]),
        "leave-one-speaker-out": (
            [{speaker} for speaker in SPEAKERS],
            [{speaker.translate(sexes)} for speaker in SPEAKERS],
        ),
        "improvised": (sessions, sessions[1:] + sessions[:1]),
        "released": ([sessions[4]], [sessions[3]]),
    }
    assert list(iemocap.PROTOCOLS) == [*expected, "distilser"]
    for name, (test, valid) in expected.items():
        dealt = folds(
            iemocap.PROTOCOLS[name], turns, iemocap.CLASS_SETS[classes]
        )
        assert [fold["test"] for fold in dealt] == test
        assert [fold["valid"] for fold in dealt] == valid
        for fold in dealt:
            assert set.union(*fold.values()) == set(SPEAKERS)


def test_improvised_turns_alone(release):
    turns = iemocap.read(release)
    splits = iemocap.PROTOCOLS["improvised"].split(turns, 2)
    dealt = [turn.id for split in splits.values() for turn in split]
    assert sorted(dealt) == [turn.id for turn in turns if "impro" in turn.id]


def test_distilsers_random_split(release):
    kept = relabel(iemocap.read(release), iemocap.CLASS_SETS[4])
    labels = {turn.id: label for turn, label in kept}
    protocol = iemocap.PROTOCOLS["distilser"]
    turns = [turn for turn, _ in kept]
    splits = protocol.split(turns, 1, labels)
    counts = {
        split: [
            [labels[turn.id] for turn in dealt].count(name)
            for name in ("angry", "happy", "sad", "neutral")
        ]
        for split, dealt in splits.items()
    }
    assert counts == {
        "train": [894, 1325, 877, 1383],
        "valid": [99, 147, 98, 154],
        "test": [110, 164, 109, 171],
    }
    dealt = [turn for split in splits.values() for turn in split]
    assert sorted(turn.id for turn in dealt) == sorted(labels)
    assert protocol.split(turns, 1, labels) == splits
    with pytest.raises(InputError, match="fold=2: distilser has folds 1 to 1"):
        protocol.split(turns, 2, labels)


def test_a_random_split_says_what_it_leaks(
    small, tiny_backbones, tmp_path, caplog
):
    prepare("iemocap", small, tmp_path, 4, protocol="distilser")
    about, manifests = read_manifests(tmp_path)
    assert about["shares_speakers"]
    # The ten speakers have 4 utterances each, the transcript is the label.
    assert about["leaks"] == dict.fromkeys(
        ("speakers", "dialogues", "sentences", "labelled_sentences"), 1.0
    )
    assert (
        "iemocap, distilser, fold 1: the test set shares with train 100% of "
        "its speakers, 100% of its dialogues, 100% of its sentences, 100% of "
        "its labelled sentences: the scores are not" in caplog.text
    )
    entry = next(iter(manifests["test"].values()))
    assert entry["text"].startswith("It is")
    assert entry["text_source"] == "gold"
    folders = {tmp_path: tmp_path / "probe"}
    (results,) = run_probe(tiny_backbones["whisper"], folders)
    assert results["shares_speakers"] and results["leaks"] == about["leaks"]
    prepare("iemocap", small, tmp_path, 4, protocol="peft-ser")
    about, _ = read_manifests(tmp_path)
    assert not about["shares_speakers"] and "leaks" not in about


def test_too_few_for_a_random_split(small, tmp_path):
    with pytest.raises(InputError, match="distilser: the utterances are too"):
        prepare("iemocap", small, tmp_path, 6, protocol="distilser")


def test_class_orders():
    orders = {n: classes_of(s) for n, s in iemocap.CLASS_SETS.items()}
    four = ["neutral", "angry", "sad", "happy"]
    assert orders == {
        4: four,
        5: [*four, "frustrated"],
        6: [*four, "excited", "frustrated"],
    }


def test_one_turn(small):
    turns = {turn.id: turn for turn in iemocap.read(small)}
    name = "Ses02F_impro05a_M003"
    dialog = small / "Session2" / "sentences" / "wav" / "Ses02F_impro05a"
    assert turns[name] == Utterance(
        id=name,
        wav=dialog / f"{name}.wav",
        speaker="Ses02M",
        gender="male",
        text="It is exc.",
        labels={
            "emotion": "exc",
            "dialogue": "Ses02F_impro05a",
            "style": "improvised",
            "valence": 2.5,
            "arousal": 3.0,
            "dominance": 3.5,
        },
        group="Session2",
        # Of two evaluators, one of whom gave two labels; not of the actor.
        votes={"exc": 2, "sad": 1},
    )


def test_votes_where_nobody_agreed(small):
    turns = {turn.id: turn for turn in iemocap.read(small)}
    votes = turns["Ses01M_script01_1b_MXX0"].votes
    assert votes == {"ang": 1, "neu": 1, "sad": 1}


def test_oddities(small):
    """Overlaps, markers on the other actor, loose transcripts, no ._ files."""
    turns = {turn.id: turn for turn in iemocap.read(small)}
    assert list(turns) == sorted(turns) and len(turns) == 47
    assert all(turn.wav.is_file() for turn in turns.values())
    overlap = turns["Ses01M_script01_1b_MXX0"]
    assert (overlap.speaker, overlap.labels["emotion"]) == ("Ses01M", "xxx")
    scripted = turns["Ses01M_script01_1b_F000"]
    assert (scripted.speaker, scripted.gender) == ("Ses01F", "female")
    assert scripted.labels["style"] == "scripted"
    assert scripted.text == "It is fru."


def test_windows_lines_spaces_and_no_transcripts(tmp_path):
    folder = tmp_path / "Session3" / "dialog" / "EmoEvaluation"
    folder.mkdir(parents=True)
    (folder / "Ses03M_script02_2.txt").write_bytes(
        b"% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\r\n\r\n"
        b"[006.29-8.2357]   Ses03M_script02_2_F012  sur [4, 4.5,3.0] \r\n"
        b"C-E2:\tSurprise;\t()\r\n"
    )
    (turn,) = iemocap.read(tmp_path)
    assert (turn.speaker, turn.text) == ("Ses03F", None)
    assert turn.labels["emotion"] == "sur"
    assert turn.labels["arousal"] == 4.5


@pytest.mark.parametrize("protocol", iemocap.PROTOCOLS)
def test_prepare(small, protocol, tmp_path):
    fold = min(5, iemocap.PROTOCOLS[protocol].folds)
    classes = 4 if protocol == "distilser" else 6  # too few for 6 shares
    prepare("iemocap", small, tmp_path, classes, fold=fold, protocol=protocol)
    about, manifests = read_manifests(tmp_path)
    assert about["protocol"] == protocol
    (entry, *_) = manifests["test"].values()
    assert 0.3 <= entry["duration"] <= 0.5
    assert entry["arousal"] == 3.0


@pytest.mark.parametrize("rest", ["", "01_F000\tneu\t[2.5.0, 2.5, 2.5]"])
def test_broken_turn(tmp_path, rest):
    folder = tmp_path / "Session1" / "dialog" / "EmoEvaluation"
    folder.mkdir(parents=True)
    (folder / "Ses01F_impro01.txt").write_text(
        f"[6.29 - 8.23]\tSes01F_impro{rest}"
    )
    with pytest.raises(InputError, match=r"Ses01F_impro01.txt: cannot read"):
        iemocap.read(tmp_path)


def test_not_iemocap(tmp_path):
    with pytest.raises(InputError, match="nowhere: no such folder; .*IEMOCAP"):
        iemocap.read(tmp_path / "nowhere")
    (tmp_path / "Session1" / "dialog").mkdir(parents=True)
    with pytest.raises(InputError, match="not IEMOCAP; expected Session1"):
        iemocap.read(tmp_path)
