"""CREMA-D: 91 actors, 12 sentences, 6 emotions, 7,442 clips, 2,443 raters.

Cao et al. 2014, "CREMA-D: Crowd-Sourced Emotional Multimodal Actors Dataset",
IEEE Transactions on Affective Computing 5(4), doi 10.1109/TAFFC.2014.2336244.
"""

import re
from dataclasses import replace
from pathlib import Path

from ser_peft.corpora import Utterance, corpus_folder, read_table
from ser_peft.corpora.protocols import Folds
from ser_peft.errors import InputError

__all__ = ["CLASS_SETS", "PROTOCOLS", "read"]

# Raters' votes; the file names' NEU, ANG, ... begin with the same letters.
EMOTIONS = {
    "N": "neutral",
    "A": "angry",
    "S": "sad",
    "H": "happy",
    "F": "fearful",
    "D": "disgust",
}
INTENSITIES = {"LO": "low", "MD": "medium", "HI": "high", "XX": "unspecified"}
SENTENCES = {
    "DFA": "Don't forget a jacket.",
    "IEO": "It's eleven o'clock.",
    "IOM": "I'm on my way to the meeting.",
    "ITH": "I think I have a doctor's appointment.",
    "ITS": "I think I've seen this before.",
    "IWL": "I would like a new alarm clock.",
    "IWW": "I wonder what this is about.",
    "MTI": "Maybe tomorrow it will be cold.",
    "TAI": "The airplane is almost full.",
    "TIE": "That is exactly what happened.",
    "TSI": "The surface is slick.",
    "WSI": "We'll stop in a couple of minutes.",
}
# actor_sentence_emotion_intensity; one published name, 1040_ITH_SAD_X.wav,
# has lost a letter that the table of votes has.
NAME = re.compile(
    rf"(10\d\d)_({'|'.join(SENTENCES)})_(NEU|ANG|SAD|HAP|FEA|DIS)_"
    r"(LO|MD|HI|XX?)\.(wav|flac)$"
)
SILENT = "1076_MTI_SAD_XX"  # as the corpus's authors say

CLASS_SETS = {
    4: {name: name for name in ("neutral", "angry", "sad", "happy")},
    6: {name: name for name in EMOTIONS.values()},
}


def _actors(first, last):
    return [str(actor) for actor in range(first, last + 1)]


# The folds of PEFT-SER. It takes the emotion that raters of sound and picture
# perceived; the other protocol takes the one that the actor was asked for.
PERCEIVED = Folds(
    name="peft-ser",
    test=[_actors(1001, 1019), _actors(1020, 1037), _actors(1038, 1055),
          _actors(1056, 1073), _actors(1074, 1091)],
    valid=[_actors(1077, 1091)] * 4 + [_actors(1059, 1073)],
)  # fmt: skip
INTENDED = replace(PERCEIVED, name="peft-ser-intended", label="intended")
# Of the pooled models that PEFT-SER's authors released: the last fold.
RELEASED = replace(
    PERCEIVED,
    name="released",
    test=PERCEIVED.test[4:],
    valid=PERCEIVED.valid[4:],
)
PROTOCOLS = {folds.name: folds for folds in (PERCEIVED, INTENDED, RELEASED)}


def read(folder):
    """List the utterances of a published CREMA-D folder.

    Arguments
    ---------
    folder : str or Path
        Holds ``AudioWAV``, ``VideoDemographics.csv`` and
        ``processedResults/summaryTable.csv``.

    Returns
    -------
    list of Utterance
        Sorted by id, without the one silent clip. Labels: ``emotion``
        (perceived; ties as ``angry:sad``, which no class set names),
        ``intended``, ``intensity``, ``age``, ``race``, ``ethnicity``.

    Raises
    ------
    InputError
        If the folder is not CREMA-D, or a clip has no votes or no actor.
    """
    paths = corpus_folder(
        folder,
        "CREMA-D",
        "AudioWAV with files like 1001_DFA_ANG_XX.wav, VideoDemographics.csv "
        "and processedResults/summaryTable.csv",
        lambda root: [p for p in root.rglob("*") if NAME.match(p.name)],
    )
    people = Path(folder) / "VideoDemographics.csv"
    columns = ("ActorID", "Age", "Sex", "Race", "Ethnicity")
    actors = {}
    for where, row in read_table(people, columns):
        if not row["Age"].isdigit():
            raise InputError(f"{where}, column Age: '{row['Age']}' is no age")
        actors[row["ActorID"]] = row
    table = Path(folder) / "processedResults" / "summaryTable.csv"
    votes = {}
    for where, row in read_table(table, ("FileName", "MultiModalVote")):
        letters = row["MultiModalVote"].split(":")
        if not set(letters) <= EMOTIONS.keys():
            raise InputError(
                f"{where}, column MultiModalVote: '{row['MultiModalVote']}' "
                f"is not of {', '.join(EMOTIONS)}, joined by a colon"
            )
        votes[row["FileName"]] = ":".join(EMOTIONS[x] for x in letters)
    clips = {path.stem: path for path in sorted(paths, reverse=True)}
    utterances = []
    for name, path in sorted(clips.items()):
        speaker, sentence, emotion, intensity, _ = NAME.match(
            path.name
        ).groups()
        intensity = intensity.ljust(2, "X")
        key = f"{speaker}_{sentence}_{emotion}_{intensity}"
        if key == SILENT:
            continue
        for source, entries, entry in (
            (people, actors, speaker),
            (table, votes, key),
        ):
            if entry not in entries:
                raise InputError(f"{source}: no row for {entry} of {path.name}")
        actor = actors[speaker]
        utterances.append(
            Utterance(
                id=name,
                wav=path,
                speaker=speaker,
                gender=actor["Sex"].lower(),
                text=SENTENCES[sentence],
                labels={
                    "emotion": votes[key],
                    "intended": EMOTIONS[emotion[0]],
                    "intensity": INTENSITIES[intensity],
                    "age": int(actor["Age"]),
                    "race": actor["Race"],
                    "ethnicity": actor["Ethnicity"],
                },
            )
        )
    return utterances
