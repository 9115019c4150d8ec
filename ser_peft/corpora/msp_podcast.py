"""MSP-Podcast, releases 1.6 to 1.12: turns of podcasts, official splits.

Lotfian and Busso 2019, "Building naturalistic emotionally balanced speech
corpus by retrieving emotional speech from existing podcast recordings", IEEE
Transactions on Affective Computing 10(4), doi 10.1109/TAFFC.2017.2736999.
"""

import json
import logging
import math
import os
import re
from collections import defaultdict
from dataclasses import replace

from ser_peft.corpora import About, Utterance, corpus_folder, read_table
from ser_peft.corpora.protocols import Folds, by_name
from ser_peft.corpora.tables import number
from ser_peft.corpora.votes import named, tally
from ser_peft.errors import InputError

__all__ = ["ABOUT", "CLASS_SETS", "PROTOCOLS", "read"]

logger = logging.getLogger(__name__)

ABOUT = About(
    language="en",
    speech="natural: podcasts",
    licence="research only",
    link="https://www.lab-msp.com/MSP/MSP-Podcast.html",
    commercial=False,
    restricted=True,
)

# Older releases spell it wrongly.
TABLES = ("labels_consensus.csv", "labels_concensus.csv")
NEEDED = ("FileName", "EmoClass", "SpkrID", "Split_Set")
# Every annotator's labels: a table, or in older releases a JSON.
DETAILED = ("labels_detailed.csv", "labels_detailed.json")
# WORKER00000012; Happy; Happy,Excited; A:5.0; V:5.0; D:4.0;
DETAIL = re.compile(r"[^;]*;\s*(.*?);\s*(.*?);?\s*A:")
DIMENSIONS = {"arousal": "EmoAct", "valence": "EmoVal", "dominance": "EmoDom"}

BASIC = {"N": "neutral", "A": "angry", "S": "sad", "H": "happy"}
LETTERS = {
    **{"Neutral": "N", "Angry": "A", "Sad": "S", "Happy": "H"},
    **{"Surprise": "U", "Fear": "F", "Disgust": "D", "Contempt": "C"},
}
CLASS_SETS = {
    4: BASIC,
    8: {**BASIC, "U": "surprised", "F": "fearful", "D": "disgust",
        "C": "contempt"},
}  # fmt: skip

PEFT_SER = Folds(
    "peft-ser",
    by="group",
    train=[["Train"]],
    valid=[["Validation"]],
    test=[["Test1"]],
    # Unknown speakers and genders are left out, as in PEFT-SER: that nobody
    # is in two sets could not be checked.
    where={"identified": True},
)
PROTOCOLS = by_name(
    PEFT_SER,
    replace(PEFT_SER, name="test2", test=[["Test2"]]),
    # As released, for comparison with others: `Unknown` counts as a speaker,
    # who is in several sets.
    replace(PEFT_SER, name="official", where={}, shares_speakers=True),
    # The split of the pooled models that PEFT-SER's authors released.
    replace(PEFT_SER, name="released"),
)


def read(folder):
    """List the turns of a release.

    Takes seconds: the labels are one table, the audio folder is listed once.

    Arguments
    ---------
    folder : str or Path
        Holds ``Labels/labels_consensus.csv`` (``labels_concensus.csv``) and
        ``Audios`` (or ``Audio``).

    Returns
    -------
    list of Utterance
        In the table's order; ``group`` is the official split, where
        ``Validation`` stands for ``Development`` too. Labels: ``emotion``
        (``N A S H U F D C``, ``O`` other, ``X`` no agreement),
        ``identified`` (speaker and gender are known) and, where given,
        ``arousal``, ``valence``, ``dominance``, 1 to 7. Votes are the
        annotators' of these letters, secondary ones all the emotions that
        they heard; none without ``Labels/labels_detailed.csv`` (or
        ``.json``). Turns without recording are left out, with a warning that
        counts them.

    Raises
    ------
    InputError
        If the folder is absent or holds no such files, or the table cannot
        be read or lacks a column.
    """
    return corpus_folder(
        folder,
        "MSP-Podcast",
        "Labels/labels_consensus.csv (or labels_concensus.csv) and its wav "
        "files in Audios",
        _turns,
    )


def _turns(root):
    tables = [p for name in TABLES if (p := root / "Labels" / name).is_file()]
    audios = [p for name in ("Audios", "Audio") if (p := root / name).is_dir()]
    if not (tables and audios):
        return []
    rows = read_table(tables[0], NEEDED)
    present = set(os.listdir(audios[0]))
    ratings = _ratings(root / "Labels")
    turns = [
        replace(
            _turn(where, row, audios[0]),
            **tally(ratings.get(row["FileName"], ())),
        )
        for where, row in rows
        if row["FileName"] in present
    ]
    if len(turns) < len(rows):
        logger.warning(
            "%s: %d of %d recordings are not in %s and are left out",
            tables[0], len(rows) - len(turns), len(rows), audios[0],
        )  # fmt: skip
    return turns


def _ratings(folder):
    """File name -> what each annotator called it, and all that it heard."""
    paths = [p for name in DETAILED if (p := folder / name).is_file()]
    ratings = defaultdict(list)
    for path in paths[:1]:
        for where, file, major, second in (
            _of_table(path) if path.suffix == ".csv" else _of_json(path)
        ):
            if not isinstance(major, str):
                raise InputError(
                    f"{where}: no annotator's emotions in it; unpack the "
                    "corpus again"
                )
            if major := major.strip():
                heard = second if isinstance(second, str) else ""
                letter = LETTERS.get(major, "O")
                ratings[file].append((letter, named(heard)))
    return ratings


def _of_table(path):
    """Place, file, label and further labels of each row of a table."""
    for where, row in read_table(path, ("FileName",)):
        major, second = row.get("EmoClass_Major"), row.get("EmoClass_Second")
        if found := DETAIL.match(row.get("EmoDetail", "")):
            major, second = found.groups()
        yield where, row["FileName"], major, second


def _of_json(path):
    """Place, file, label and further labels of each entry of a JSON."""
    try:
        files = json.loads(path.read_text("utf-8"))
        for file, workers in files.items():
            for worker, said in workers.items():
                second = said.get("EmoClass_Second")
                where = f"{path}, {file}, {worker}"
                yield where, file, said.get("EmoClass_Major"), second
    except (AttributeError, ValueError) as error:
        raise InputError(
            f"{path}: is no JSON of annotators' labels ({error}); unpack the "
            "corpus again"
        ) from error


def _turn(where, row, audio):
    speaker = row["SpkrID"] or "Unknown"
    gender = row.get("Gender", "").lower()
    labels = {"identified": "unknown" not in (speaker.lower(), gender)}
    if row["EmoClass"]:
        labels["emotion"] = row["EmoClass"]
    for name, column in DIMENSIONS.items():
        value = number(where, column, row.get(column) or "nan")
        if not math.isnan(value):
            labels[name] = value
    split = row["Split_Set"]
    return Utterance(
        id=row["FileName"].removesuffix(".wav"),
        wav=audio / row["FileName"],
        speaker=speaker,
        gender=gender if gender in ("female", "male") else None,
        labels=labels,
        group="Validation" if split == "Development" else split,
    )
