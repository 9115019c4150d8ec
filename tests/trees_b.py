"""Miniature corpora in the published formats, oddities included.

Every class of the smallest class set is in train, valid and test of every
fold, with as few clips as that takes.
"""

import csv
import json

import numpy as np
import soundfile

FOUR = ("neutral", "angry", "sad", "happy")


def clip(path, kind=0, rate=16000):
    """Write 0.3 to 0.5 s of noise whose loudness and colour tell the class."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(sum(path.name.encode()))
    noise = rng.normal(size=int(rng.uniform(0.3, 0.5) * rate))
    smooth = np.convolve(noise, np.ones(2 * kind + 1), "same") / (kind + 1)
    soundfile.write(path, 0.03 * (kind + 1) * smooth, rate)


def table(path, header, rows, encoding="utf-8", **style):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding=encoding, newline="") as file:
        writer = csv.writer(file, **style)
        writer.writerow(header)
        writer.writerows(rows)


def crema_d_tree(root):
    """Five actors: who is tested in one fold is valid or trains in others."""
    actors = {1001: "Male", 1020: "Female", 1038: "Male", 1060: "Female",
              1080: "Male"}  # fmt: skip
    names = {}  # of the table of votes
    for actor in actors:
        for kind, letters in enumerate(("NEU", "ANG", "SAD", "HAP")):
            names[f"{actor}_DFA_{letters}_XX"] = letters[0]
            clip(root / "AudioWAV" / f"{actor}_DFA_{letters}_XX.wav", kind)
    # Perceived otherwise than intended; a tie; a name that lost a letter; the
    # silent one; what a Mac leaves behind.
    names["1001_IEO_FEA_LO"] = "A"
    names["1020_TIE_DIS_HI"] = "A:D"
    names["1038_ITH_SAD_XX"] = "S"
    names["1076_MTI_SAD_XX"] = "S"
    clip(root / "AudioWAV" / "1001_IEO_FEA_LO.wav", 1)
    clip(root / "AudioWAV" / "1020_TIE_DIS_HI.wav", 1)
    clip(root / "AudioWAV" / "1038_ITH_SAD_X.wav", 2)
    soundfile.write(
        root / "AudioWAV" / "1076_MTI_SAD_XX.wav", np.zeros(4000), 16000
    )
    (root / "AudioWAV" / "._1001_DFA_ANG_XX.wav").touch()
    people = [(a, 20 + a % 50, sex, "Caucasian", "Not Hispanic")
              for a, sex in {**actors, 1076: "Female"}.items()]  # fmt: skip
    # Raters of sound, picture and both: eleven, of whom two heard sadness.
    tallies = [
        (
            f"{mode}{number:05d}",
            *(
                9 * (letter in vote) // len(vote[::2]) + 2 * (letter == "S")
                for letter in "ADFHNS"
            ),
            name,
            11,
            "0.8",
            vote,
        )
        for mode, votes in (("1", "N"), ("2", "F"), ("3", ""))
        for number, (name, own) in enumerate(names.items(), start=1)
        for vote in [votes or own]
    ]
    header = ("ActorID", "Age", "Sex", "Race", "Ethnicity")
    style = {"quoting": csv.QUOTE_NONNUMERIC, "lineterminator": "\n"}
    table(root / "VideoDemographics.csv", header, people, **style)
    table(
        root / "processedResults" / "summaryTable.csv",
        ("", "FileName", "VoiceVote", "VoiceLevel", "FaceVote", "FaceLevel",
         "MultiModalVote", "MultiModalLevel"),
        [(str(i), name, "N", "60.1", "A:F", "30.7:51.0", vote, "57.4")
         for i, (name, vote) in enumerate(names.items(), start=1)],
        **style,
    )  # fmt: skip
    table(
        root / "processedResults" / "tabulatedVotes.csv",
        ("", *"ADFHNS", "fileName", "numResponses", "agreement", "emoVote"),
        tallies,
        **style,
    )
    return root


def meld_tree(root):
    """Two utterances a class and split; names collide between the splits."""
    folders = {"train": "train_splits", "dev": "dev_splits_complete",
               "test": "output_repeated_splits_test"}  # fmt: skip
    header = ("Sr No.", "Utterance", "Speaker", "Emotion", "Sentiment",
              "Dialogue_ID", "Utterance_ID", "Season", "Episode", "StartTime",
              "EndTime")  # fmt: skip
    emotions = ("neutral", "anger", "sadness", "joy")
    for split, folder in folders.items():
        rows = []
        guest = "Janice" if split == "train" else "Joey"
        for dialogue, speaker in enumerate(("Monica", guest)):
            for number, emotion in enumerate(emotions):
                clip(
                    root / folder / ("waves" if split == "dev" else "")
                    / f"dia{dialogue}_utt{number}.wav",
                    number,
                    48000,
                )  # fmt: skip
                rows.append(
                    (len(rows) + 1, f"Why, that’s {emotion}, isn’t it?",
                     speaker, emotion, "neutral", dialogue, number, 8, 21,
                     "00:16:16,059", "00:16:21,731")
                )  # fmt: skip
        # Published without a clip that can be played.
        rows.append((99, "Oh my God!", "All", "surprise", "positive", 9, 9, 8,
                     21, "00:16:16,059", "00:16:21,731"))  # fmt: skip
        encoding = "cp1252" if split == "train" else "utf-8"
        place = root / "train" if split == "train" else root
        table(place / f"{split}_sent_emo.csv", header, rows, encoding)
    (root / folders["train"] / "dia9_utt9.mp4").touch()
    return root


def emov_db_tree(root):
    """All three layouts, and nobody angry or disgusted by Josh."""
    words = {"Neutral": "neutral", "Amused": "amused", "Sleepy": "sleepiness",
             "Angry": "anger", "Disgusted": "disgust"}  # fmt: skip
    for speaker in ("bea", "jenie", "josh", "sam"):
        for kind, (style, word) in enumerate(words.items()):
            if speaker == "josh" and kind > 2:
                continue
            place = {"bea": f"bea_{style}", "sam": f"sam/{style}"}.get(
                speaker, f"{speaker}_{style}"
            )
            place = "jenie" if speaker == "jenie" else place
            for number in (1, 2):
                name = f"{word}_1-28_{number:04d}.wav"
                clip(root / place / name, kind, 44100)
    (root / "bea_Amused" / "._amused_1-28_0001.wav").touch()
    clip(root / "bea_Amused.wav")
    return root


def emodb_tree(root):
    """Every speaker in the four common emotions, one also bored."""
    speakers = "03 08 09 10 11 12 13 14 15 16".split()
    for speaker in speakers:
        for kind, letter in enumerate("NWTF"):
            clip(root / "wav" / f"{speaker}a01{letter}a.wav", kind)
    clip(root / "wav" / "16b10Lb.wav")
    (root / "wav" / "03a01Xa.wav").touch()
    (root / "lablaut").mkdir()
    (root / "lablaut" / "03a01Fa.lablaut").touch()
    return root


def custom_tree(root):
    """Five speakers, no split; a mark at the csv's start, as Excel writes."""
    rows = []
    for speaker in range(1, 6):
        for kind, label in enumerate(FOUR):
            path = f"clips/s{speaker}_{label}.wav"
            clip(root / path, kind)
            rows.append((path, label, f"{speaker:02d}", "fm"[speaker % 2],
                         f"I am {label}, you see", f"{30 + speaker}",
                         f"{kind}.5", "1", 4 * (label == "angry") or "",
                         2 * (label == "sad"), 3 * (label == "happy"),
                         "1"))  # fmt: skip
    header = ("path", "label", "speaker", "gender", "text", "age", "valence",
              *(f"votes_{name}" for name in (*FOUR, "bored")))  # fmt: skip
    table(root / "data.csv", header, rows, "utf-8-sig")
    return root


def emobox_tree(root):
    """EmoBox's ``data`` for three corpora, with ``downloads`` beside it.

    ``toy``: two folds of speakers, no valid set. ``clips``: a valid set,
    shared speakers, a video. ``long``: stretches of one recording. Returns
    the folder ``data``.
    """
    data = root / "data"
    emotions = ("Neutral", "anger", "sad", "happy")
    label_map = {"neutral": "Neutral", "anger": "Angry", "sad": "Sad",
                 "happy": "Happy"}  # fmt: skip

    def describe(name, folds, speakers, extra=None):
        for number, fold in enumerate(folds, start=1):
            for split, wavs in fold.items():
                lines = [
                    {"key": f"{name}-{key}", "dataset": name,
                     "wav": f"downloads/{name}/{wav}", "type": "raw",
                     "sample_rate": 16000, "num_frame": 8000.0,
                     "task": "category", "length": 0.5, "emo": emotion,
                     "channel": 1, **(extra or {}).get(key, {})}
                    for key, (wav, emotion) in wavs.items()
                ]  # fmt: skip
                path = data / name / f"fold_{number}"
                path.mkdir(parents=True, exist_ok=True)
                path /= f"{name}_{split}_fold_{number}.jsonl"
                path.write_text("".join(json.dumps(x) + "\n" for x in lines))
        (data / name / "label_map.json").write_text(json.dumps(label_map))
        (data / name / "data.seg.wrd.stm").write_text(
            "".join(
                f"{name}-{key} 1 {speaker} 0 0.5 <id={name}-{key},lang=en,"
                f"spk={speaker},emotion=x> x\n"
                for key, speaker in speakers.items()
            )
        )

    speakers, wavs = {}, {}
    for speaker in "abcdef":
        for kind, emotion in enumerate(emotions):
            key = f"{speaker}{kind}"
            speakers[key] = f"male_{speaker}"
            wavs[key] = (f"wav/{key}.wav", emotion)
            clip(root / "downloads" / "toy" / "wav" / f"{key}.wav", kind)
    folds = [
        {
            "train": {k: v for k, v in wavs.items() if k[0] != test},
            "test": {k: v for k, v in wavs.items() if k[0] == test},
        }
        for test in "ab"
    ]
    describe("toy", folds, speakers)
    # An older form of the same, as EmoBox's emodb has it.
    (data / "toy" / "fold_1" / "toy_test_fold1.jsonl").write_text("{}\n")

    fold, speakers = {}, {}
    for split in ("train", "valid", "test"):
        fold[split] = {}
        for kind, emotion in enumerate(emotions):
            key = f"utt{kind}-{split}"
            fold[split][key] = (f"{split}/utt{kind}.mp4", emotion)
            speakers[key] = "Monica"
            place = root / "downloads" / "clips" / split
            clip(place / f"utt{kind}.wav", kind, 48000)
            (place / f"utt{kind}.mp4").touch()
    fold["train"]["gone"] = ("train/gone.mp4", "sad")
    fold["train"]["odd"] = ("train/utt0.mp4", "puzzled")
    describe("clips", [fold], {**speakers, "gone": "Joey", "odd": "Joey"})

    recording = root / "downloads" / "long" / "all.flac"
    recording.parent.mkdir(parents=True)
    noise = np.random.default_rng(0).normal(0, 0.1, 16000 * 16)
    soundfile.write(recording, noise, 16000)
    keys = {f"u{i:02d}": ("all.flac", emotions[i % 4]) for i in range(32)}
    times = {
        key: {"start_time": 0.5 * i, "end_time": 0.5 * i + 0.4}
        for i, key in enumerate(keys)
    }
    fold = {
        "train": {k: v for k, v in keys.items() if k < "u24"},
        "test": {k: v for k, v in keys.items() if k >= "u24"},
    }
    describe("long", [fold], dict.fromkeys(keys, "STEFAN-RÖTTIG"), times)
    return data
