"""CREMA-D: 91 actors, 12 sentences, 6 emotions, 7,442 clips, 2,443 raters.

Cao et al. 2014, "CREMA-D: Crowd-Sourced Emotional Multimodal Actors Dataset",
IEEE Transactions on Affective Computing 5(4), doi 10.1109/TAFFC.2014.2336244.
"""

from dataclasses import replace
from pathlib import Path

from ser_peft.corpora import About, Utterance, read_table, recordings
from ser_peft.corpora.protocols import FOUR, Folds, by_name
from ser_peft.corpora.tables import whole
from ser_peft.errors import InputError

__all__ = ["ABOUT", "CLASS_SETS", "PROTOCOLS", "read"]

ABOUT = About(
    language="en",
    speech="acted: actors say given sentences",
    licence="ODbL, contents DbCL",
    link="https://github.com/CheyneyComputerScience/CREMA-D",
    commercial=True,
)

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
NAME = (
    rf"(10\d\d)_({'|'.join(SENTENCES)})_(NEU|ANG|SAD|HAP|FEA|DIS)_"
    "(LO|MD|HI|XX?)"
)
SILENT = "1076_MTI_SAD_XX"  # as the corpus's authors say

CLASS_SETS = {
    4: {name: name for name in FOUR},
    6: {name: name for name in EMOTIONS.values()},
}


def _actors(first, last):
    return [str(actor) for actor in range(first, last + 1)]


# The folds of PEFT-SER. It takes the emotion that raters of sound and picture
# perceived; the other protocol takes the one that the actor was asked for.
PERCEIVED = Folds(
    "peft-ser",
    test=[_actors(1001, 1019), _actors(1020, 1037), _actors(1038, 1055),
          _actors(1056, 1073), _actors(1074, 1091)],
    valid=[_actors(1077, 1091)] * 4 + [_actors(1059, 1073)],
)  # fmt: skip
PROTOCOLS = by_name(
    PERCEIVED,
    replace(PERCEIVED, name="peft-ser-intended", label="intended"),
    # The pooled models that PEFT-SER's authors released: the last fold.
    Folds("released", PERCEIVED.test[4:], PERCEIVED.valid[4:]),
)


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
        ``intended``, ``intensity``, ``age``, ``race``, ``ethnicity``. Votes
        are those of raters of sound and picture, like ``emotion``; without
        ``processedResults/tabulatedVotes.csv`` there are none.

    Raises
    ------
    InputError
        If the folder is not CREMA-D, or a clip has no votes or no actor.
    """
    clips = recordings(
        folder,
        "CREMA-D",
        "AudioWAV with files like 1001_DFA_ANG_XX.wav, VideoDemographics.csv "
        "and processedResults/summaryTable.csv",
        NAME,
    )
    people = Path(folder) / "VideoDemographics.csv"
    table = Path(folder) / "processedResults" / "summaryTable.csv"
    actors = _rows(people, "ActorID", "Age", "Sex", "Race", "Ethnicity")
    votes = _rows(table, "FileName", "MultiModalVote")
    tallies = _tallies(table.with_name("tabulatedVotes.csv"))
    utterances = []
    for path, (speaker, sentence, emotion, intensity) in clips:
        intensity = intensity.ljust(2, "X")
        key = f"{speaker}_{sentence}_{emotion}_{intensity}"
        if key == SILENT:
            continue
        for source, rows, name in (
            (people, actors, speaker),
            (table, votes, key),
        ):
            if name not in rows:
                raise InputError(f"{source}: no row for {name} of {path.name}")
        where, actor = actors[speaker]
        if not actor["Age"].isdigit():
            raise InputError(f"{where}, column Age: '{actor['Age']}' is no age")
        where, vote = votes[key][0], votes[key][1]["MultiModalVote"]
        if not {*vote.split(":")} <= EMOTIONS.keys():
            raise InputError(
                f"{where}, column MultiModalVote: '{vote}' is not of "
                f"{', '.join(EMOTIONS)}, joined by a colon"
            )
        utterances.append(
            Utterance(
                id=path.stem,
                wav=path,
                speaker=speaker,
                gender=actor["Sex"].lower(),
                text=SENTENCES[sentence],
                labels={
                    "emotion": ":".join(EMOTIONS[x] for x in vote.split(":")),
                    "intended": EMOTIONS[emotion[0]],
                    "intensity": INTENSITIES[intensity],
                    "age": int(actor["Age"]),
                    "race": actor["Race"],
                    "ethnicity": actor["Ethnicity"],
                },
                votes=tallies.get(key),
            )
        )
    return utterances


def _tallies(table):
    """Clip -> votes of the raters of sound and picture."""
    if not table.is_file():
        return {}
    tallies = {}
    for where, row in read_table(table, ("", "fileName", *EMOTIONS)):
        # A row's number is 100,000 for sound, 200,000 for the picture, or
        # 300,000 for both, plus the clip's.
        if row[""].startswith("3"):
            counts = {
                name: whole(where, letter, row[letter])
                for letter, name in EMOTIONS.items()
            }
            tallies[row["fileName"]] = {k: n for k, n in counts.items() if n}
    return tallies


def _rows(table, key, *columns):
    """Rows of a table, and where each is, by the cell of a column."""
    rows = read_table(table, (key, *columns))
    return {row[key]: (where, row) for where, row in rows}
