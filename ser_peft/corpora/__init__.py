"""Readers of corpora: labels, speakers and official folds.

A reader is a module with ``read(folder)``, which lists `Utterance`,
``CLASS_SETS`` (name of a set -> {label: class}) and ``PROTOCOLS`` (name ->
`ser_peft.corpora.protocols.Folds`). Where these depend on the data, it has
the functions ``class_sets(utterances)`` and ``protocols(utterances,
class_set)`` instead. ``ABOUT``, an `About`, may say what else the cards of
models need to know. A reader outside this package is found by its entry
point in the group ``ser_peft.corpora``; see docs/adding_a_corpus.md. Nothing
here needs torch.
"""

import importlib
import itertools
import re
from dataclasses import dataclass, field
from pathlib import Path

from ser_peft.corpora.tables import read_table
from ser_peft.errors import InputError
from ser_peft.io import refuse_pointer

__all__ = [
    "CORPORA",
    "DIMENSIONS",
    "About",
    "Utterance",
    "about_corpus",
    "corpus_folder",
    "load_corpus",
    "read_table",
    "recordings",
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
"""Names of the corpora whose readers are in this package."""
DIMENSIONS = ("arousal", "valence", "dominance")
"""Labels that are numbers, on the corpus's own scale."""


@dataclass(frozen=True)
class Utterance:
    """A labelled recording.

    Arguments
    ---------
    id : str
        Unique in its corpus.
    wav : pathlib.Path
        Path of the audio; ``long.wav#t=1.5,4`` is a stretch, in seconds.
    speaker : str
        Name of the speaker; protocols split speakers, not utterances.
    gender : str, optional
        ``female`` or ``male``, where the corpus says so.
    text : str, optional
        Transcript.
    labels : dict
        The corpus's own labels, by kind: ``{"emotion": "calm"}``.
    group : str, optional
        Session or official split, for protocols that split these.
    votes : dict, optional
        Label -> number of annotators who gave it, where the corpus tells.
    secondary : dict, optional
        Label -> number of annotators who named it besides, likewise.
    """

    id: str
    wav: Path
    speaker: str
    gender: str | None = None
    text: str | None = None
    labels: dict = field(default_factory=dict)
    group: str | None = None
    votes: dict | None = None
    secondary: dict | None = None


@dataclass(frozen=True)
class About:
    """What the card of a model says of the corpus that it was trained on.

    Arguments
    ---------
    language : str, optional
        ISO 639-1 code; None where it is unknown or there are several.
    speech : str, optional
        Kind of speech: ``acted: ...``, ``natural: ...``.
    licence : str, optional
        Name or terms of the licence; None where none is known.
    link : str, optional
        Page with the licence, or the corpus's own.
    commercial : bool, optional
        Whether the licence allows commercial use; None where it is unknown.
    restricted : bool
        Whether the licence forbids to pass recordings on: reports hold no
        clips then.
    """

    language: str | None = None
    speech: str | None = None
    licence: str | None = None
    link: str | None = None
    commercial: bool | None = None
    restricted: bool = False


def load_corpus(name):
    """Find the reader of a corpus.

    Arguments
    ---------
    name : str
        One of `CORPORA`, ``emobox:NAME``, or an entry point's.

    Returns
    -------
    module or ser_peft.corpora.emobox.EmoBox
        With ``read``, and ``CLASS_SETS`` and ``PROTOCOLS`` or the functions
        ``class_sets`` and ``protocols``.

    Raises
    ------
    InputError
        If there is no such corpus, or its entry point names no reader.

    Example
    -------
    >>> sorted(load_corpus("ravdess").CLASS_SETS)
    [4, 7, 8]
    """
    name = str(name or "")
    if name.startswith("emobox:"):
        emobox = importlib.import_module("ser_peft.corpora.emobox")
        return emobox.EmoBox(name.removeprefix("emobox:"))
    if name in CORPORA:
        module = name.replace("-", "_")
        return importlib.import_module(f"ser_peft.corpora.{module}")
    from importlib.metadata import entry_points  # for a corpus of another's

    others = {one.name: one for one in entry_points(group=__name__)}
    if name not in others:
        raise InputError(
            f"corpus {name or 'of no name'}: unknown; choose one of "
            f"{', '.join([*CORPORA, *sorted(others)])}, or emobox:NAME for "
            "one of EmoBox's"
        )
    try:
        reader = others[name].load()
        needed = ["read", "CLASS_SETS", "PROTOCOLS"]
        if hasattr(reader, "class_sets"):
            needed[1:] = ["class_sets", "protocols"]
        for part in needed:
            getattr(reader, part)
        if not isinstance(getattr(reader, "ABOUT", About()), About):
            raise AttributeError("its ABOUT is no ser_peft.corpora.About")
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"corpus {name}: its entry point {others[name].value} is no "
            f"reader ({error}); correct it, as docs/adding_a_corpus.md says"
        ) from error
    return reader


def about_corpus(name):
    """Find what is known of a corpus, for the card of a model.

    Arguments
    ---------
    name : str
        Name in ``results.json``, which may be one that is unknown here.

    Returns
    -------
    About
        Of one that is unknown, nothing but that it is `restricted`.

    Example
    -------
    >>> about_corpus("ravdess").licence, about_corpus("mine").licence
    ('CC BY-NC-SA 4.0', None)
    """
    try:
        return getattr(load_corpus(name), "ABOUT", About())
    except InputError:
        return About(restricted=True)


def corpus_folder(folder, name, expected, found):
    """Check that a folder is the expected corpus.

    Arguments
    ---------
    folder : str or Path
        The ``data_folder`` that the user gave.
    name : str
        The corpus's name.
    expected : str
        Content of such a folder, for the message.
    found : callable
        Takes the folder as Path, returns a list of what it finds in it.

    Returns
    -------
    list
        The result of `found`, never empty.

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
    if not (content := found(folder)):
        for path in itertools.islice(folder.rglob("*.*"), 1000):
            refuse_pointer(path)
        raise InputError(
            f"data_folder {folder}: this is not {name}; expected {expected}"
        )
    return content


def recordings(folder, name, expected, pattern):
    """Find recordings whose paths hold their labels.

    Arguments
    ---------
    folder, name, expected
        See `corpus_folder`.
    pattern : str
        Regular expression of the end of a path, from the beginning of a
        name on and without ``.wav`` or ``.flac``.

    Returns
    -------
    list of (Path, tuple of str)
        A recording, at any depth in the folder, and the groups of its match.
        Sorted by what matched; each of these once.

    Raises
    ------
    InputError
        See `corpus_folder`.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> (folder / "ann_sad.wav").touch()
    >>> ((path, labels),) = recordings(
    ...     folder, "Toy", "files like ann_sad.wav", "(ann|ben)_(sad|glad)"
    ... )
    >>> path.name, labels
    ('ann_sad.wav', ('ann', 'sad'))
    """
    path_end = re.compile(rf"(?:.*/)?({pattern})\.(?:wav|flac)")

    def found(root):
        clips = {}
        for path in sorted(root.rglob("*"), reverse=True):
            if match := path_end.fullmatch(path.relative_to(root).as_posix()):
                end, *labels = match.groups()
                clips[end] = path, tuple(labels)
        return [clip for _, clip in sorted(clips.items())]

    return corpus_folder(folder, name, expected, found)
