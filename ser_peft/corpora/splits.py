"""Splits that are honest: checked, measured for leaks, fingerprinted."""

import hashlib
from math import isfinite

from ser_peft.corpora.transcripts import clean_text
from ser_peft.errors import InputError

__all__ = [
    "check_splits",
    "fingerprint",
    "has_all",
    "leaks",
    "missing_classes",
]


def check_splits(
    manifests, classes, shares_speakers=False, dimensions=(), side_classes=()
):
    """Refuse splits that cannot be trained or judged honestly.

    Arguments
    ---------
    manifests : dict
        Split -> {id: entry}; entries have ``speaker``, ``emotion`` and
        the dimensions.
    classes : list of str
        Class names; empty for dimensions alone.
    shares_speakers : bool
        A speaker may be in two splits, as a protocol's `shares_speakers`.
    dimensions : list of str
        Names of the numbers to predict.
    side_classes : list of str
        Further classes, of train alone.

    Raises
    ------
    InputError
        If there is only one class, or nothing to predict, a split is empty,
        an utterance or a speaker is in two of them, a class is missing from
        train or a dimension never varies there, or an entry lacks a
        dimension or has an unknown class.
    """
    if len(classes) == 1 or not (classes or dimensions):
        raise InputError(
            f"classes: {', '.join(classes) or 0}: give at least two classes, "
            "or 0 and dimensions"
        )
    first = {"speaker": {}, "utterance": {}}
    for split, entries in manifests.items():
        if not entries:
            raise InputError(f"{split}: no utterances; check fold and classes")
        names = [*classes, *(side_classes if split == "train" else ())]
        for key, entry in entries.items():
            if classes and entry.get("emotion") not in names:
                raise InputError(
                    f"{split}: {key} has class '{entry.get('emotion')}', which "
                    f"is not one of {', '.join(names)}"
                )
            if not has_all(entry, dimensions):
                raise InputError(
                    f"{split}: {key} needs a number for each of "
                    f"{', '.join(dimensions)}"
                )
            units = {"utterance": key}
            if not shares_speakers:
                units = {"speaker": entry["speaker"], **units}
            for kind, name in units.items():
                other = first[kind].setdefault(name, split)
                if other != split:
                    raise InputError(
                        f"{kind} {name} is in {other} and in {split}; every "
                        f"{kind} may be in one split only"
                    )
    trained = {"train": manifests["train"]}
    if missing := missing_classes(trained, [*classes, *side_classes]):
        raise InputError(
            f"train: no utterance of class '{missing['train'][0]}'; add some, "
            "or leave the class out (classes, train_classes in the yaml)"
        )
    for name in dimensions:
        if len({entry[name] for entry in manifests["train"].values()}) == 1:
            raise InputError(
                f"train: {name} is the same for every utterance; leave it out "
                "(dimensions in the yaml)"
            )


def missing_classes(manifests, classes):
    """Classes without an utterance in a split.

    Arguments
    ---------
    manifests : dict
        Split -> {id: entry}; entries have ``emotion``.
    classes : list of str
        Class names.

    Returns
    -------
    dict
        Split -> list of str; only splits that lack some. `check_splits`
        refuses them in train.

    Example
    -------
    >>> test = {"1": {"emotion": "sad"}}
    >>> missing_classes({"test": test}, ["happy", "sad"])
    {'test': ['happy']}
    """
    missing = {}
    for split, entries in manifests.items():
        present = {entry.get("emotion") for entry in entries.values()}
        if absent := [name for name in classes if name not in present]:
            missing[split] = absent
    return missing


def has_all(labels, dimensions):
    """Whether labels hold a finite number for each dimension.

    Example
    -------
    >>> has_all({"arousal": 2.5, "valence": "high"}, ["arousal", "valence"])
    False
    """
    values = [labels.get(name) for name in dimensions]
    return all(
        isinstance(v, (int, float)) and not isinstance(v, bool) and isfinite(v)
        for v in values
    )


def leaks(manifests):
    """Shares of the test set that training has met before.

    Arguments
    ---------
    manifests : dict
        Split -> {id: entry}; entries have ``speaker`` and, where known,
        ``dialogue`` and ``text``.

    Returns
    -------
    dict
        Fractions: ``speakers`` of the test speakers; of the test utterances
        ``dialogues``, those whose dialogue trains too, ``sentences``, those
        whose words do, and ``labelled_sentences``, those whose words do with
        the same class. A kind that no utterance tells is left out.

    Example
    -------
    >>> a, b = ({"speaker": "a", "text": t} for t in ("Yes.", "yes."))
    >>> leaks({"train": {"1": a}, "test": {"2": b}})
    {'speakers': 1.0, 'sentences': 1.0, 'labelled_sentences': 1.0}
    """
    train, test = (
        [_traits(entry) for entry in manifests[split].values()]
        for split in ("train", "test")
    )
    shares = {}
    for kind in train[0]:
        met = {traits[kind] for traits in train} - {None}
        found = [traits[kind] for traits in test]
        if kind == "speakers":  # one utterance of theirs is as good as all
            found = set(found)
        if set(found) != {None}:
            shares[kind] = sum(value in met for value in found) / len(found)
    return shares


def _traits(entry):
    """Traits of a manifest's entry that others may share; None if unknown."""
    words = clean_text(entry.get("text", "")).casefold() or None
    return {
        "speakers": entry["speaker"],
        "dialogues": entry.get("dialogue"),
        "sentences": words,
        "labelled_sentences": words and (words, entry.get("emotion")),
    }


def fingerprint(manifests):
    """Hash of the splits' utterances, speakers and classes.

    Arguments
    ---------
    manifests : dict
        Split -> {id: entry}.

    Returns
    -------
    str
        First 12 hex digits of a SHA-256.
    """
    lines = sorted(
        f"{split}\t{key}\t{entry['speaker']}\t{entry.get('emotion')}"
        for split, entries in manifests.items()
        for key, entry in entries.items()
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]
