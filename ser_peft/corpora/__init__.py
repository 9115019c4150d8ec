"""Where the labels, speakers and official folds of each corpus are.

One module a corpus. Each gives ``read(folder)``, ``CLASS_SETS`` and
``PROTOCOLS``; nothing here needs torch.
"""

import importlib
from dataclasses import dataclass, field
from pathlib import Path

from ser_peft.errors import InputError

__all__ = ["CORPORA", "Utterance", "corpus_folder", "load_corpus"]

CORPORA = ("demo", "ravdess")


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
        As in `CORPORA`.

    Returns
    -------
    module
        With ``read``, ``CLASS_SETS`` and ``PROTOCOLS``.

    Raises
    ------
    InputError
        If there is no such corpus.

    Example
    -------
    >>> sorted(load_corpus("ravdess").CLASS_SETS)
    [4, 7, 8]
    """
    if name not in CORPORA:
        raise InputError(
            f"corpus {name}: unknown; choose one of {', '.join(CORPORA)}"
        )
    return importlib.import_module(f"ser_peft.corpora.{name}")


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
        raise InputError(
            f"data_folder {folder}: this is not {name}; expected {expected}"
        )
    return recordings
