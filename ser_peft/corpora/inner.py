"""Inner folds: settings are chosen on all but an outer fold's test speakers."""

import re
from dataclasses import dataclass

from ser_peft.corpora.balance import split_speakers
from ser_peft.corpora.protocols import Folds, check_fold
from ser_peft.errors import InputError

__all__ = ["InnerFolds", "inner_folds", "inner_name"]

FOLDS = 5


@dataclass(frozen=True)
class InnerFolds:
    """Folds within the train and valid speakers of an outer fold.

    Each of these speakers is valid in one inner fold and trains in the
    others. There is no test split: scores are those of valid.

    Arguments
    ---------
    name : str
        The outer protocol's name and ``/inner``, with the number of an outer
        fold that is not the first.
    outer : Folds
        The outer protocol.
    outer_fold : int
        From 1.
    valid : list of list of str
        Valid speakers (or groups) of each inner fold.
    by : str
        ``speaker`` or ``group``.
    held_out : list of str
        Test speakers of the outer fold.
    """

    name: str
    outer: Folds
    outer_fold: int
    valid: list
    by: str
    held_out: list

    shares_speakers = False

    @property
    def folds(self):
        """Number of folds; they count from 1."""
        return len(self.valid)

    @property
    def label(self):
        """The label that is the emotion."""
        return self.outer.label

    def split(self, utterances, fold, labels=None):
        """Split utterances into ``train`` and ``valid``; see `Folds.split`."""
        check_fold(self, fold)
        outer = self.outer.split(utterances, self.outer_fold)
        dealt = {u.id for split in ("train", "valid") for u in outer[split]}
        splits = {"train": [], "valid": []}
        for utterance in utterances:
            if utterance.id in dealt:
                own = getattr(utterance, self.by) in self.valid[fold - 1]
                splits["valid" if own else "train"].append(utterance)
        return splits


def inner_name(name):
    """Outer protocol and fold of a name of inner folds.

    Arguments
    ---------
    name : str
        Name of a protocol.

    Returns
    -------
    tuple of (str, int) or None
        None where it names no inner folds.

    Example
    -------
    >>> inner_name("peft-ser/inner"), inner_name("peft-ser/inner3")
    (('peft-ser', 1), ('peft-ser', 3))
    """
    found = re.fullmatch(r"(.+)/inner([1-9]\d*)?", name)
    return found and (found[1], int(found[2] or 1))


def inner_folds(outer, outer_fold, utterances, labels):
    """Deal the speakers of an outer fold's train and valid into inner folds.

    The inner folds are as alike as can be in their classes and genders.
    Where the outer protocol deals sessions, and more than two are left, so do
    they: people who talk to each other stay together.

    Arguments
    ---------
    outer : Folds
        A protocol.
    outer_fold : int
        From 1.
    utterances : list of Utterance
        Those of the chosen classes.
    labels : dict
        Utterance id -> class, or None.

    Returns
    -------
    InnerFolds
        5 folds, or as many as there are speakers if these are fewer.

    Raises
    ------
    InputError
        If the protocol has no folds of speakers, or too few speakers are
        left.
    """
    if not isinstance(outer, Folds) or outer.shares_speakers:
        raise InputError(
            f"protocol {outer.name}/inner: {outer.name} does not keep the "
            "speakers of train and test apart, so that no inner folds are "
            "without test speakers; choose a protocol that does"
        )
    name = f"{outer.name}/inner" + (str(outer_fold) if outer_fold > 1 else "")
    if outer_fold > outer.folds:
        raise InputError(
            f"protocol {name}: {outer.name} has folds 1 to {outer.folds}"
        )
    splits = outer.split(utterances, outer_fold)
    rest = splits["train"] + splits["valid"]
    held_out = {u.speaker for u in splits["test"]}
    if both := held_out & {u.speaker for u in rest}:
        raise InputError(
            f"protocol {name}: speaker {min(both)} is in test and in another "
            "split; every speaker may be in one split only"
        )
    sessions = outer.train is None and len({u.group for u in rest}) > 2
    by = outer.by if sessions else "speaker"
    # A speaker's gender counts as one more class of each clip.
    clips = [
        (getattr(u, by), kind)
        for u in rest
        for kind in (labels[u.id], f"gender {u.gender}")
    ]
    units = {unit for unit, _ in clips}
    if len(units) < 2:
        raise InputError(
            f"protocol {name}: {len(units)} {by}s besides those of test: too "
            "few to train and validate on different ones; choose another "
            "protocol"
        )
    valid = split_speakers(clips, min(FOLDS, len(units)))
    return InnerFolds(name, outer, outer_fold, valid, by, sorted(held_out))
