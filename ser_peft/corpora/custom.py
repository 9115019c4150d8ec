"""A corpus of one's own, described by a csv.

Columns ``path``, ``label``, ``speaker`` and, where known, ``gender``,
``text``, ``split``; ``votes_sad`` and the like, how many annotators said so;
any further ones are kept as labels. See recipes/Custom.
"""

import logging
import math
import os
from collections import defaultdict
from pathlib import Path
from unicodedata import normalize

from ser_peft.corpora import DIMENSIONS, Utterance, corpus_folder, read_table
from ser_peft.corpora.balance import split_speakers
from ser_peft.corpora.protocols import (
    SPLITS,
    Folds,
    by_name,
    class_sets,
    relabel,
    spelt_alike,
)
from ser_peft.corpora.tables import number, whole
from ser_peft.errors import InputError
from ser_peft.io import find_file

__all__ = ["class_sets", "protocols", "read"]

logger = logging.getLogger(__name__)

NEEDED = ("path", "label", "speaker")
OPTIONAL = ("gender", "text", "split", *DIMENSIONS)
GENDERS = {"f": "female", "m": "male"}
SPELLINGS = {name: name for name in SPLITS}
SPELLINGS |= {"validation": "valid", "dev": "valid"}
FOLDS = 5
VOTES = "votes_"
"""Beginning of the columns that count annotators by label."""


def protocols(utterances, class_set=None):
    """Protocol of a csv: its column split, or folds of speakers.

    Arguments
    ---------
    utterances : list of Utterance
        From `read`.
    class_set : dict, optional
        Label -> class of those that take part; by default each label is a
        class. An empty one takes everything as one class.

    Returns
    -------
    dict
        ``split``, or ``speaker-folds``: 5 folds that are as alike in their
        classes as can be, each with every class. They are fewer, with a
        warning, if a class has fewer speakers. Each is tested once, while
        the next one is valid.

    Raises
    ------
    InputError
        If there are fewer than 3 speakers, in all or of a class.
    """
    if utterances[0].group:
        return by_name(Folds("split", [["test"]], [["valid"]], by="group"))
    if class_set is None:
        names = {u.labels["emotion"] for u in utterances if u.labels["emotion"]}
        class_set = {name: name for name in names}
    chosen = relabel(utterances, class_set)
    parts = _parts([(u.speaker, label) for u, label in chosen])
    return by_name(Folds("speaker-folds", parts))


def _parts(clips):
    """Split the speakers of clips (speaker, class) into the folds' tests."""
    speakers = defaultdict(set)
    for speaker, label in clips:
        speakers[label].add(speaker)
    everybody = set().union(*speakers.values())
    if len(everybody) < 3:
        raise InputError(
            f"speaker: {len(everybody)} of them, {len(clips)} clips: too "
            "few to train, validate and test on different ones; give at least "
            "3 speakers, or a column split"
        )
    rarest = min(speakers, key=lambda label: (len(speakers[label]), str(label)))
    few = len(speakers[rarest])
    who = f"class '{rarest}' has {few} speaker{'s' * (few > 1)} only "
    who += f"({', '.join(sorted(speakers[rarest]))})"
    if few < 3:
        raise InputError(
            f"label: {who}: too few to train, validate and test on different "
            "ones; add speakers, leave its rows out, merge it with another "
            "class (classes in the yaml: a map), or give a column split"
        )
    most = min(FOLDS, few)
    for count in (*range(most, 2, -1), most):
        parts = split_speakers(clips, count)
        if all(
            names & {*part} for names in speakers.values() for part in parts
        ):
            break
    if count < few:
        who = "in more, a class would be missing from some"
    elif few == len(everybody):
        who = f"there are {few} speakers only"
    if count < FOLDS:
        logger.warning("custom: %d folds, not %d: %s", count, FOLDS, who)
    return parts


def read(folder):
    """List the utterances of a csv.

    Arguments
    ---------
    folder : str or Path
        The csv, or a folder that holds just one. Its paths are relative to
        where it is; ``long.wav#t=1.5,4`` is a stretch, in seconds.

    Returns
    -------
    list of Utterance
        In the csv's order. The id is the path as written, ``group`` the
        split; labels are ``emotion`` (empty where there are only votes) and
        the further columns, of which ``arousal``, ``valence`` and
        ``dominance`` are numbers.

    Raises
    ------
    InputError
        If there is no such csv, or a cell in it cannot be used.
    """
    table = Path(folder)
    if not table.is_file():
        # macOS writes ._my.csv beside my.csv on foreign disks.
        table, *more = corpus_folder(
            folder, "Custom", "just one csv",
            lambda root: [*root.glob("[!.]*.csv")],
        )  # fmt: skip
        if more:
            raise InputError(
                f"data_folder {folder}: {len(more) + 1} csv files; give one"
            )
    rows = read_table(table, NEEDED, OPTIONAL)
    if not rows:
        raise InputError(f"{table}: no rows")
    utterances, absent, first = [], [], {}
    for where, row in rows:
        utterance = _utterance(table.parent, where, dict(row))
        utterances.append(utterance)
        if not os.path.isfile(str(utterance.wav).partition("#t=")[0]):
            absent.append((where, utterance.wav))
        other = first.setdefault(os.path.normpath(utterance.wav), where)
        if other != where:
            raise InputError(
                f"{where}, column path: '{utterance.id}' is also in {other}"
            )
    if absent:
        where, wav = absent[0]
        more = ", ".join(other.rpartition(" ")[2] for other, _ in absent[1:10])
        raise InputError(
            f"{where}, column path: no such file: {wav}"
            + (f"; {len(absent)} rows name none, also {more}" if more else "")
        )
    if twins := spelt_alike(u.speaker for u in utterances):
        logger.warning(
            "%s, column speaker: %s are taken for different people, since "
            "their capitals differ", table, " and ".join(twins),
        )  # fmt: skip
    missing = {*SPLITS} - {u.group for u in utterances}
    if utterances[0].group and missing:
        raise InputError(f"{table}, column split: no row is {min(missing)}")
    return utterances


def _utterance(root, where, cells):
    """Utterance of a row."""
    votes = {
        normalize("NFC", name.removeprefix(VOTES)): whole(where, name, cell)
        for name, cell in cells.items()
        if name.startswith(VOTES)
    }
    votes = {name: count for name, count in votes.items() if count}
    for name in NEEDED:
        # Annotators need not have agreed on one.
        if not (cells[name] or (votes and name == "label")):
            raise InputError(f"{where}, column {name}: is empty")
    if "no_majority" in cells:
        raise InputError(
            f"{where}, column no_majority: a name that ser_peft uses; rename it"
        )
    path = cells.pop("path")
    # One name written in two ways that look alike is one name.
    label = normalize("NFC", cells.pop("label"))
    speaker = normalize("NFC", cells.pop("speaker"))
    name, mark, times = path.partition("#t=")
    wav = find_file(root / name)
    if not os.path.isfile(wav):  # as Windows writes it
        wav = find_file(root / name.replace("\\", "/"))
    split = cells.pop("split", None)
    if split is not None and split.lower() not in SPELLINGS:
        raise InputError(
            f"{where}, column split: '{split}' is not one of "
            f"{', '.join(SPELLINGS)}"
        )
    gender = cells.pop("gender", "").lower()
    text = cells.pop("text", None)
    labels = {
        name: cell
        for name, cell in cells.items()
        if cell and not name.startswith(VOTES)
    }
    for name in labels.keys() & set(DIMENSIONS):
        labels[name] = number(where, name, labels[name])
        if math.isnan(labels[name]):  # as pandas writes what is missing
            del labels[name]
    return Utterance(
        id=path,
        wav=Path(f"{wav}{mark}{times}"),
        speaker=speaker,
        gender=GENDERS.get(gender, gender) or None,
        text=text or None,
        labels={**labels, "emotion": label},
        group=split and SPELLINGS[split.lower()],
        votes=votes or None,
    )
