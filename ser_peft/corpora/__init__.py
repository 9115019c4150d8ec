"""Where the labels, speakers and official folds of each corpus are.

One module a corpus. Each gives ``read(folder)``, ``CLASS_SETS`` and
``PROTOCOLS``, or, where these depend on what is read, the functions
``class_sets(utterances)`` and ``protocols(utterances)``; nothing here needs
torch.
"""

import csv
import importlib
import itertools
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path

from ser_peft.errors import InputError
from ser_peft.io import refuse_pointer

__all__ = [
    "CORPORA",
    "DIMENSIONS",
    "Utterance",
    "corpus_folder",
    "load_corpus",
    "read_table",
]

CORPORA = (
    "crema-d",
    "custom",
    "demo",
    "emodb",
    "emov-db",
    "iemocap",
    "meld",
    "msp-improv",
    "msp-podcast",
    "ravdess",
)

DIMENSIONS = ("arousal", "valence", "dominance")
"""Labels that are numbers, on the corpus's own scale."""


@dataclass(frozen=True)
class Utterance:
    """One labelled recording.

    Arguments
    ---------
    id : str
        Unique in its corpus.
    wav : pathlib.Path
        Where the audio is.
    speaker : str
        Who speaks; protocols deal speakers, not utterances.
    gender : str, optional
        ``female`` or ``male``, where the corpus says so.
    text : str, optional
        Transcript.
    labels : dict
        The corpus's own labels, by kind: ``{"emotion": "calm"}``.
    group : str, optional
        What a protocol deals besides speakers: a session, an official split.
    """

    id: str
    wav: Path
    speaker: str
    gender: str | None = None
    text: str | None = None
    labels: dict = field(default_factory=dict)
    group: str | None = None


def load_corpus(name):
    """Find the module of a corpus.

    Arguments
    ---------
    name : str
        As in `CORPORA`, or ``emobox:NAME``.

    Returns
    -------
    module or ser_peft.corpora.emobox.EmoBox
        With ``read``, and ``CLASS_SETS`` and ``PROTOCOLS`` or the functions
        ``class_sets`` and ``protocols``.

    Raises
    ------
    InputError
        If there is no such corpus.

    Example
    -------
    >>> sorted(load_corpus("ravdess").CLASS_SETS)
    [4, 7, 8]
    """
    if name.startswith("emobox:"):
        emobox = importlib.import_module("ser_peft.corpora.emobox")
        return emobox.EmoBox(name.removeprefix("emobox:"))
    if name not in CORPORA:
        raise InputError(
            f"corpus {name}: unknown; choose one of {', '.join(CORPORA)}, or "
            "emobox:NAME for one of EmoBox's"
        )
    module = name.replace("-", "_")
    return importlib.import_module(f"ser_peft.corpora.{module}")


def corpus_folder(folder, name, expected, found):
    """Check that a folder is the corpus it is said to be.

    Arguments
    ---------
    folder : str or Path
        What the user gave as ``data_folder``.
    name : str
        The corpus's name.
    expected : str
        What such a folder holds, for the message.
    found : callable
        Takes the folder as Path, gives the recordings in it.

    Returns
    -------
    list
        What `found` gave, never empty.

    Raises
    ------
    InputError
        If there is no such folder or nothing is found in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(
            f"data_folder {folder}: no such folder; give the {name} folder "
            f"({expected})"
        )
    recordings = found(folder)
    if not recordings:
        for path in itertools.islice(folder.rglob("*.*"), 1000):
            refuse_pointer(path)
        raise InputError(
            f"data_folder {folder}: this is not {name}; expected {expected}"
        )
    return recordings


def read_table(path, columns):
    """Read a csv whose first row names the columns.

    Arguments
    ---------
    path : str or Path
        In utf-8 or, as older Windows programs write, cp1252.
    columns : iterable of str
        Those it must have.

    Returns
    -------
    list of (str, dict)
        For each row where it is, as ``data.csv, row 2``, and its cells.

    Raises
    ------
    InputError
        If the file cannot be read, lacks a column, or a row ends early.
    """
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror})"
        ) from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode("cp1252", errors="replace")
    table = csv.DictReader(StringIO(text, newline=""), skipinitialspace=True)
    try:
        names = table.fieldnames or []
        rows = [(f"{path}, row {i}", row) for i, row in enumerate(table, 2)]
    except csv.Error as error:
        raise InputError(f"{path}: is no csv ({error})") from error
    for name in columns:
        if name not in names:
            raise InputError(
                f"{path}: no column '{name}'; it has {', '.join(names)[:200]}"
            )
        for where, row in rows:
            if row[name] is None:
                raise InputError(f"{where}, column {name}: the row ends early")
    return rows
