"""Manifests as they are read: validated before they are used."""

import json
import logging
import os
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, with_config
from typing_extensions import NotRequired, TypedDict

from ser_peft.corpora import about_corpus
from ser_peft.corpora.protocols import SPLITS
from ser_peft.corpora.splits import check_splits, fingerprint
from ser_peft.data.audio import MIN_SECONDS
from ser_peft.errors import InputError
from ser_peft.storage.schema import Name, Number, Place, Scalar, Text, read_json

__all__ = ["path_of", "read_manifests", "shareable"]

logger = logging.getLogger(__name__)

AGAIN = "make the manifests again with `ser-peft prepare`"
LARGEST = 1 << 30
"""Size of the largest manifest that is read, bytes."""
LONGEST = 1e6
"""No recording is longer, seconds: 11 days."""

_Count = Annotated[int, Field(ge=0, lt=1 << 53)]
_Fold = Annotated[int, Field(ge=1, lt=1 << 31)]


@with_config(strict=True)
class Entry(TypedDict, extra_items=Scalar):
    """Entry of an utterance; a corpus's other labels are texts or numbers."""

    wav: Place
    duration: Annotated[float, Field(ge=MIN_SECONDS, lt=LONGEST)]
    speaker: Name
    emotion: NotRequired[Name]
    gender: NotRequired[Text]
    text: NotRequired[Text]
    text_source: NotRequired[Text]
    corpus: NotRequired[Name]


@with_config(strict=True)
class Confounding(TypedDict, total=False):
    """See `ser_peft.corpora.balance.confounding`."""

    confounded: bool
    speakers: _Count
    one_class: _Count
    same_class: Number
    expected: Number
    beyond_chance: Number
    rarest: Name
    rarest_speakers: _Count


@with_config(strict=True, extra="allow")
class About(TypedDict):
    """``protocol.json``; its other keys are the request it was made for."""

    corpus: Name
    protocol: Name
    protocol_sha: Name
    fold: _Fold
    folds_total: _Fold
    classes: list[Name]
    data_folder: Place
    side_classes: NotRequired[list[Name]]
    dimensions: NotRequired[list[Name]]
    scored_on: NotRequired[Literal["valid", "test"]]
    held_out_speakers: NotRequired[list[Name]]
    shares_speakers: NotRequired[bool]
    leaks: NotRequired[dict[Name, Number]]
    missing_classes: NotRequired[dict[Name, list[Name]]]
    confounding: NotRequired[Confounding]


def read_manifests(folder):
    """Read the manifests of one fold.

    Arguments
    ---------
    folder : str or Path
        Manifests folder, from `ser_peft.data.writing.write_manifests`.

    Returns
    -------
    about : dict
        ``protocol.json``. Its ``protocol_sha`` is the hash of the manifests
        as read; if the file has another one, a warning says so.
    manifests : dict
        Split -> {id: entry}; without test for inner folds, whose
        ``scored_on`` is valid.

    Raises
    ------
    InputError
        If a file is missing, broken or not what manifests are, the data
        folder is not there, or the splits are not honest. Names the file,
        the utterance, the key and the value.
    """
    folder = Path(folder)

    def read(name, schema):
        return read_json(
            folder / f"{name}.json",
            schema,
            "is not as `ser-peft prepare` writes it",
            AGAIN,
            "make the manifests with `ser-peft prepare`",
            LARGEST,
        )

    about = read("protocol", About)
    inner = about.get("scored_on") == "valid"
    manifests = {
        split: read(split, dict[Any, Entry])
        for split in (SPLITS[:2] if inner else SPLITS)
    }
    for key in ("dimensions", "side_classes"):  # which few have
        about.setdefault(key, [])
    _check_about(about, folder / "protocol.json")
    check_splits(
        manifests,
        about["classes"],
        about.get("shares_speakers", False),
        about["dimensions"],
        about["side_classes"],
    )
    sha = fingerprint(manifests)
    if sha != about["protocol_sha"]:
        logger.warning(
            "%s: protocol_sha is %s, but the manifests have %s: they were "
            "changed, and results go by the latter",
            folder / "protocol.json", about["protocol_sha"], sha,
        )  # fmt: skip
    return about | {"protocol_sha": sha}, manifests


def _check_about(about, path):
    """Check what no schema can."""
    classes = [*about["classes"], *about["side_classes"]]
    for key, names in ("classes", classes), ("dimensions", about["dimensions"]):
        for name, count in Counter(names).items():
            if count > 1:
                raise InputError(
                    f"{path}: {key}: {json.dumps(name)} is there {count} "
                    f"times; {AGAIN}"
                )
    if about["fold"] > about["folds_total"]:
        raise InputError(
            f"{path}: fold: {about['fold']} of {about['folds_total']}; {AGAIN}"
        )
    if not os.path.isdir(about["data_folder"]):
        raise InputError(
            f"{path}: data_folder: no such folder: {about['data_folder']}; "
            f"correct it if the corpus has moved, or {AGAIN}"
        )


def path_of(entry, about):
    """Path of an entry's recording, from the folder of ``protocol.json``."""
    return entry["wav"].replace("{data_root}", about["data_folder"], 1)


def shareable(about, entries, wanted="auto"):
    """Paths of recordings that a report may hold clips of.

    Arguments
    ---------
    about : dict
        ``protocol.json`` of the manifests.
    entries : dict
        Manifest, id -> entry.
    wanted : bool or str
        True, False, or "auto": unless the licence of a corpus forbids to
        pass its recordings on, see `ser_peft.corpora.About`.

    Returns
    -------
    dict
        Id -> path; empty where no recording may be in a report.
    """
    if wanted == "auto":
        corpora = {
            entry.get("corpus", about["corpus"]) for entry in entries.values()
        }
        wanted = not any(about_corpus(name).restricted for name in corpora)
    if not wanted:
        return {}
    return {id_: path_of(entry, about) for id_, entry in entries.items()}
