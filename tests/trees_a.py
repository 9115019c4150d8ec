"""Miniature IEMOCAP, MSP-IMPROV and MSP-Podcast in their published formats.

The four classes are in train, valid and test of every fold of every
protocol; oddities of the releases are there too.
"""

import zlib
from itertools import combinations

import numpy as np
import soundfile

from ser_peft.corpora.protocols import classes_of, relabel

CODES = "neu ang sad hap exc fru xxx".split()
LETTERS = "NASHUFDCOX"
WORDS = "Neutral Anger Sadness Happiness Excited Frustration".split()
NAMES = "Neutral Angry Sad Happy Surprise Fear Disgust Contempt".split()


def clip(path, kind):
    """Write 0.3 to 0.5 s of noise and tone, another one for each kind."""
    rng = np.random.default_rng(zlib.crc32(path.name.encode()))
    time = np.arange(rng.integers(4800, 8000)) / 16000
    wave = 0.05 * (kind + 1) * np.sin(2 * np.pi * (150 + 80 * kind) * time)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave + rng.normal(0, 0.01, len(time)), 16000)


def folds(protocol, utterances, class_set):
    """Speakers of each fold's sets, which share nobody and have all classes."""
    kept = relabel(utterances, class_set)
    class_of = {utterance.id: label for utterance, label in kept}
    everybody = []
    for fold in range(1, protocol.folds + 1):
        splits = protocol.split([u for u, _ in kept], fold)
        speakers = {k: {u.speaker for u in us} for k, us in splits.items()}
        for one, other in combinations(speakers, 2):
            assert not speakers[one] & speakers[other]
        for split in splits.values():
            classes = {class_of[u.id] for u in split}
            assert classes == set(classes_of(class_set))
        everybody.append(speakers)
    return everybody


def evaluation(turns):
    """Text of an EmoEvaluation file: [(turn name, code), ...].

    One evaluator gives the turn's label, another that and sadness; where the
    turn has none, three labels for which there is one vote each.
    """
    word_of = dict(zip(CODES, WORDS, strict=False))
    text = "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n"
    for number, (name, code) in enumerate(turns):
        said = word_of.get(code, "Neutral state")
        also = f"{said}; Sadness" if code in word_of else "Anger; Sadness"
        text += (
            f"[{number}.2901 - {number}.9357]\t{name}\t{code}\t"
            "[2.5000, 3.0000, 3.5000]\n"
            f"C-E2:\t{said};\t()\nC-E4:\t{also};\t()\n"
            "C-F1:\tSurprise;\t(his own; Fear)\n"
            "A-E3:\tval 3; act 2; dom  2;\t(that\u2019s [sic] odd)\n"
            "A-F1:\tval 2; act 3; dom  ;\t()\n\n"
        )
    return text


def iemocap_tree(root):
    """47 turns of ten speakers."""
    for session in range(1, 6):
        folder = root / f"Session{session}"
        # The dialogue's letter is that of the motion capture.
        impro, script = (
            f"Ses0{session}F_impro05a",
            f"Ses0{session}M_script01_1b",
        )
        says = {"F": "neu ang sad hap fru", "M": "neu ang sad exc"}
        turns = {
            impro: [
                (f"{impro}_{sex}{number:03d}", code)
                for sex, codes in says.items()
                for number, code in enumerate(codes.split())
            ]
        }
        if session == 1:
            turns[script] = [
                (f"{script}_F000", "fru"),
                (f"{script}_MXX0", "xxx"),
            ]
        labels = folder / "dialog" / "EmoEvaluation"
        texts = folder / "dialog" / "transcriptions"
        for below in ("Attribute", "Categorical", "Self-evaluation"):
            (labels / below).mkdir(parents=True)
            (labels / below / f"{impro}_e1.txt").write_text(
                f"{impro}_F000 :act 5; :val 1; ()\n"
            )
        texts.mkdir()
        (labels / f"._{impro}.txt").write_bytes(b"\0\5\x16\7[\0")
        (texts / f"._{impro}.txt").write_bytes(b"\0\5\x16\7\0\2")
        for dialog, pairs in turns.items():
            (labels / f"{dialog}.txt").write_text(
                evaluation(pairs), encoding="cp1252"
            )
            lines = [
                f"{name} [00{i}.2901-00{i}.9357]: It is {code}.\n"
                for i, (name, code) in enumerate(pairs)
            ]
            lines[0] = lines[0].replace(" [", "  [").replace("]: ", "]:")
            lines[1:1] = [
                "M: Okay.\n", "\n",
                f"{dialog}_FXX9 [001.0000-002.0000]: Mm-hm.\n",
            ]  # fmt: skip
            (texts / f"{dialog}.txt").write_text("".join(lines))
            for name, code in pairs:
                wav = folder / "sentences" / "wav" / dialog / f"{name}.wav"
                clip(wav, CODES.index(code))
    return root


def msp_improv_tree(root):
    """28 turns of twelve speakers."""
    turns = [
        # Of the extra recordings, one of each kind.
        ("S01A-M01-P-FM01", "H", "NaN"), ("S01A-F01-R-FF01", "N", "3.000000"),
        ("S20N-F01-S-FM117", "X", "2.200000"), ("S20N-M01-P-MF02", "O", "1.5"),
    ]  # fmt: skip
    for session in range(1, 7):
        for number, emotion in enumerate("NASH"):
            sex, kind = "FM"[number % 2], "ST"[number // 2]
            name = f"S0{number + 1}{emotion}-{sex}0{session}-{kind}-{sex}F01"
            turns.append((name, emotion, "3.400000"))
    text = ""
    for name, emotion, dominance in turns:
        sentence, speaker, kind, _ = name.split("-")
        heard = {"O": "Other", "X": "Sad"}.get(emotion)
        heard = heard or NAMES[LETTERS.index(emotion)]
        text += (
            f"UTD-IMPROV-{name}.avi; {emotion}; A:2.400000; V:3.600000; "
            f"D:{dominance} ; N:3.833333;\n"
            "2-Trained; Happy; Happy,Other (it's; odd); A:1.000000; "
            "V:4.000000; D:3.000000; N:5.000000;\n"
            f"WORKER00000002; {heard}; {heard},Excited; A:2.000000; "
            "V:4.000000; D:3.000000; N:5.000000;\n"
            # The same annotator twice, as in the release.
            + 2
            * "WORKER00000003; Neutral; ; A:3.000000; V:3.000000; D:NaN; "
            "N:NaN;\n" + "\n"
        )
        folder = root / "Audio" / f"session{speaker[-1]}" / sentence / kind
        clip(folder / f"MSP-IMPROV-{name}.wav", LETTERS.index(emotion))
    (root / "Evalution.txt").write_text(text)
    return root


def msp_podcast_tree(root):
    """Rows with recordings, a missing one and a hidden one."""
    header = "FileName,EmoClass,EmoAct,EmoVal,EmoDom,SpkrID,Gender,Split_Set"
    rows = [
        ("0900_0001", "N", "2.2,4.0,2.6", "Unknown,Male", "Train"),
        ("0900_0002", "A", "5.4,2.0,5.6", "Unknown,Unknown", "Test1"),
        ("0900_0003", "H", "5.4,5.5,5.0", "77,Unknown", "Train"),
        ("0901_0001", "O", "4.0,4.0,4.0", "78,Female", "Train"),
        ("0901_0002", "X", "4.0,4.0,4.0", "78,Female", "Train"),
        ("test3_0001", "", ",,", "Unknown,Unknown", "Test3"),
    ]
    sets = {"Train": LETTERS[:8], "Development": "NASH", "Test1": "NASH",
            "Test2": "NASH"}  # fmt: skip
    for number, (split, letters) in enumerate(sets.items()):
        for index, letter in enumerate(letters):
            speaker = (
                f"{2 * number + index % 2},{'Male Female'.split()[index % 2]}"
            )
            rows.append(
                (f"000{number}_{index:04d}", letter, "3.777778,3.5,4.125",
                 speaker, split)
            )  # fmt: skip
    table = [header]
    for name, letter, ratings, speaker, split in rows:
        file = f"MSP-PODCAST_{name}.wav"
        table.append(f"{file},{letter},{ratings},{speaker},{split}")
        clip(root / "Audios" / file, LETTERS.find(letter) % 10)
    table.append("MSP-PODCAST_0999_0001.wav,S,4.0,4.0,4.0,78,Female,Train")
    (root / "Labels").mkdir()
    detailed = ["FileName,EmoDetail"]
    for name, letter, *_, split in rows:
        if split == "Test3":
            continue
        if letter == "X":
            said = ["Sad; Sad,Other", "Fear; ", "Other-(well; odd); "]
        else:
            major = [*NAMES, "Other"][LETTERS.index(letter)]
            said = [f"{major}; {major},Concerned"] * 3 + ["Happy; Happy"]
        detailed += [
            f'MSP-PODCAST_{name}.wav,"WORKER000{i}; {one}; A:5.0; V:4.0; '
            'D:3.0;"'
            for i, one in enumerate(said)
        ]
    path = root / "Labels" / "labels_detailed.csv"
    path.write_text("\n".join(detailed) + "\n")
    path = root / "Labels" / "labels_consensus.csv"
    path.write_text("\n".join(table) + "\n")
    return root
