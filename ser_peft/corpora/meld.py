"""MELD: 13,708 utterances of the TV series Friends, 7 emotions.

Poria et al. 2019, "MELD: A Multimodal Multi-Party Dataset for Emotion
Recognition in Conversations", ACL, doi 10.18653/v1/P19-1050.
"""

import logging
import re
from pathlib import Path

from ser_peft.corpora import About, Utterance, corpus_folder, read_table
from ser_peft.corpora.protocols import Folds, by_name
from ser_peft.errors import InputError

__all__ = ["ABOUT", "CLASS_SETS", "PROTOCOLS", "read"]

logger = logging.getLogger(__name__)

ABOUT = About(
    language="en",
    speech="acted: a TV series",
    licence="GPL-3.0 for the annotation, research only for the clips",
    link="https://affective-meld.github.io",
    commercial=False,
)

FOLDERS = {
    "train": "train_splits",
    "dev": "dev_splits_complete",
    "test": "output_repeated_splits_test",
}
COLUMNS = "Utterance Speaker Emotion Sentiment Dialogue_ID Utterance_ID".split()
# Windows quotes and dashes that somebody took for latin-1.
C1 = re.compile("[\x80-\x9f]")
# The main characters; the tables give no genders.
GENDERS = dict.fromkeys(("Monica", "Phoebe", "Rachel"), "female")
GENDERS |= dict.fromkeys(("Chandler", "Joey", "Ross"), "male")

BASIC = {"neutral": "neutral", "anger": "angry", "sadness": "sad",
         "joy": "happy"}  # fmt: skip
CLASS_SETS = {
    4: BASIC,
    7: {**BASIC, "fear": "fearful", "disgust": "disgust",
        "surprise": "surprised"},
}  # fmt: skip

# The corpus's own split. The same characters speak in all parts of it.
PROTOCOLS = by_name(
    Folds(
        "official",
        test=[["test"]],
        valid=[["dev"]],
        by="group",
        shares_speakers=True,
    )
)


def read(folder):
    """List the utterances of a MELD folder whose sound was extracted.

    Arguments
    ---------
    folder : str or Path
        Holds ``train_sent_emo.csv``, ``dev_sent_emo.csv``,
        ``test_sent_emo.csv`` and the folders ``train_splits``,
        ``dev_splits_complete``, ``output_repeated_splits_test``, at any
        depth; clips are in these or in ``waves`` in them, wav or flac.

    Returns
    -------
    list of Utterance
        In the tables' order, ids like ``train_dia0_utt0``; ``group`` is the
        split, labels are ``emotion`` and ``sentiment``. Rows without clip
        are left out, with a warning that counts them.

    Raises
    ------
    InputError
        If the folder is not MELD, or holds no sound.
    """
    tables = corpus_folder(
        folder,
        "MELD",
        "train_sent_emo.csv, dev_sent_emo.csv, test_sent_emo.csv and "
        f"{', '.join(FOLDERS.values())}",
        _tables,
    )
    utterances, rows = [], 0
    for split, table in tables:
        clips = {
            path.stem: path
            for base in Path(folder).rglob(FOLDERS[split])
            for path in sorted(base.rglob("*"))
            if path.suffix in (".wav", ".flac")
        }
        for _, row in read_table(table, COLUMNS):
            rows += 1
            name = f"dia{row['Dialogue_ID']}_utt{row['Utterance_ID']}"
            if name in clips:
                utterances.append(
                    Utterance(
                        id=f"{split}_{name}",
                        wav=clips[name],
                        speaker=row["Speaker"],
                        gender=GENDERS.get(row["Speaker"]),
                        text=C1.sub(_as_windows, row["Utterance"]),
                        labels={
                            "emotion": row["Emotion"].lower(),
                            "sentiment": row["Sentiment"].lower(),
                        },
                        group=split,
                    )
                )
    if not utterances:
        raise InputError(
            f"data_folder {folder}: no wav of any utterance; MELD comes as "
            "mp4, extract the sound first as recipes/MELD/README.md says"
        )
    if len(utterances) < rows:
        logger.warning(
            "%s: %d of %d utterances have no wav and are left out",
            folder, rows - len(utterances), rows,
        )  # fmt: skip
    return utterances


def _as_windows(match):
    return match[0].encode("latin-1").decode("cp1252", "ignore")


def _tables(root):
    tables = [
        (split, path)
        for split in FOLDERS
        for path in sorted(root.rglob(f"{split}_sent_emo.csv"))[:1]
    ]
    return tables if len(tables) == len(FOLDERS) else []
