"""Protocols: which speakers train, validate and are tested in each fold."""

from dataclasses import dataclass, field, replace

from ser_peft.corpora.votes import class_votes
from ser_peft.errors import InputError

__all__ = [
    "FOUR",
    "SPLITS",
    "Folds",
    "RandomSplit",
    "Whole",
    "by_name",
    "check_fold",
    "class_sets",
    "classes_of",
    "relabel",
    "spelt_alike",
]

SPLITS = ("train", "valid", "test")
FOUR = ("neutral", "angry", "sad", "happy")
"""The order that all 4-class models share."""


@dataclass(frozen=True)
class Folds:
    """Fixed folds of speakers, or of groups such as sessions.

    Arguments
    ---------
    name : str
        The protocol's name; goes into every result.
    test : list of list of str
        Test speakers (or groups) of each fold.
    valid : list of list of str, optional
        Valid speakers (or groups) of each fold; by default those that the
        next fold tests, and the last fold those of the first.
    train : list of list of str, optional
        Training speakers (or groups) of each fold; by default all others.
    by : str
        ``speaker`` or ``group`` (session, official split).
    label : str
        The label that is the emotion, where a corpus has several.
    where : dict
        Only utterances with these labels take part.
    shares_speakers : bool
        An official split may have a speaker in several sets: results say so,
        instead of an error.

    Example
    -------
    >>> from ser_peft.corpora import Utterance
    >>> folds = Folds("demo", test=[["a"], ["b"], ["c"]])
    >>> clips = [Utterance(s, s + ".wav", s) for s in "abc"]
    >>> {k: [u.id for u in v] for k, v in folds.split(clips, 1).items()}
    {'train': ['c'], 'valid': ['b'], 'test': ['a']}
    """

    name: str
    test: list
    valid: list | None = None
    train: list | None = None
    by: str = "speaker"
    label: str = "emotion"
    where: dict = field(default_factory=dict)
    shares_speakers: bool = False

    def __post_init__(self):
        if self.valid is None:
            object.__setattr__(self, "valid", self.test[1:] + self.test[:1])

    @property
    def folds(self):
        """Number of folds; they count from 1."""
        return len(self.test)

    def split(self, utterances, fold, labels=None):
        """Split utterances into train, valid and test.

        Arguments
        ---------
        utterances : list of Utterance
            The whole corpus.
        fold : int
            From 1.
        labels : dict, optional
            Utterance id -> class; unused here, see `RandomSplit.split`.

        Returns
        -------
        dict
            ``train``, ``valid`` and ``test`` lists.

        Raises
        ------
        InputError
            If there is no such fold.
        """
        check_fold(self, fold)
        parts = {"valid": self.valid[fold - 1], "test": self.test[fold - 1]}
        if self.train is not None:
            parts["train"] = self.train[fold - 1]
        else:
            everybody = {getattr(u, self.by) for u in utterances}
            parts["train"] = everybody.difference(*parts.values())
        # One in two lists is in both splits: check_splits will find it.
        return {
            split: [
                utterance
                for utterance in utterances
                if getattr(utterance, self.by) in parts[split]
                and self.where.items() <= utterance.labels.items()
            ]
            for split in SPLITS
        }


@dataclass(frozen=True)
class RandomSplit:
    """Utterances drawn at random, 81/9/10, so that speakers are shared.

    The classes have the same shares in all three splits. Speakers, dialogues
    and sentences are in several: scores compare with papers that did the
    same, and are too good.

    Arguments
    ---------
    name : str
        The protocol's name; goes into every result.
    seed : int
        Seed of the draw.
    label : str
        The label that is the emotion, where a corpus has several.

    Example
    -------
    >>> from ser_peft.corpora import Utterance
    >>> clips = [Utterance(str(i), f"{i}.wav", "a") for i in range(100)]
    >>> labels = {str(i): "sad" if i % 2 else "happy" for i in range(100)}
    >>> splits = RandomSplit("demo").split(clips, 1, labels)
    >>> {name: len(split) for name, split in splits.items()}
    {'train': 81, 'valid': 9, 'test': 10}
    """

    name: str
    seed: int = 0
    label: str = "emotion"

    folds = 1
    shares_speakers = True

    def split(self, utterances, fold, labels):
        """Split utterances into train, valid and test.

        Arguments
        ---------
        utterances, fold
            See `Folds.split`.
        labels : dict
            Utterance id -> class, or None.

        Returns
        -------
        dict
            ``train``, ``valid`` and ``test`` lists.

        Raises
        ------
        InputError
            If there is no such fold, or too few utterances of a class.
        """
        # Imported here: it takes half a second, and few protocols need it.
        from sklearn.model_selection import train_test_split

        check_fold(self, fold)
        splits = {"train": utterances}
        for split in ("test", "valid"):
            try:
                splits["train"], splits[split] = train_test_split(
                    splits["train"],
                    test_size=0.1,
                    random_state=self.seed,
                    stratify=[str(labels[u.id]) for u in splits["train"]],
                )
            except ValueError as error:
                raise InputError(
                    f"protocol {self.name}: the utterances are too few "
                    f"({error}); choose another one"
                ) from error
        return {split: splits[split] for split in SPLITS}


@dataclass(frozen=True)
class Whole:
    """Test split of all utterances, for a model of other corpora.

    Arguments
    ---------
    label : str
        The label that is the emotion, where a corpus has several.

    Example
    -------
    >>> from ser_peft.corpora import Utterance
    >>> splits = Whole().split([Utterance("1", "1.wav", "a")], 1)
    >>> {name: len(split) for name, split in splits.items()}
    {'train': 0, 'valid': 0, 'test': 1}
    """

    label: str = "emotion"

    name = "whole"
    folds = 1
    shares_speakers = False

    def split(self, utterances, fold, labels=None):
        """Put all utterances into test; see `Folds.split`."""
        check_fold(self, fold)
        return {"train": [], "valid": [], "test": utterances}


def check_fold(protocol, fold):
    """Refuse a fold that a protocol does not have."""
    if fold not in range(1, protocol.folds + 1):
        raise InputError(
            f"--fold={fold}: {protocol.name} has folds 1 to {protocol.folds}"
        )


def by_name(*protocols):
    """Protocols by their names, as a corpus's ``PROTOCOLS``.

    Example
    -------
    >>> [*by_name(Whole(), RandomSplit("random"))]
    ['whole', 'random']
    """
    return {protocol.name: protocol for protocol in protocols}


def classes_of(class_set):
    """Class names of a class set, in its order.

    Example
    -------
    >>> classes_of({"hap": "happy", "exc": "happy", "sad": "sad"})
    ['happy', 'sad']
    """
    return list(dict.fromkeys(class_set.values()))


def class_sets(utterances):
    """Class sets of a corpus whose own labels are the classes.

    Arguments
    ---------
    utterances : list of Utterance
        The whole corpus.

    Returns
    -------
    dict
        ``all``: every label, the four common ones first, then by alphabet;
        ``4`` where these four occur.

    Raises
    ------
    InputError
        If two labels differ in their capitals alone.

    Example
    -------
    >>> from ser_peft.corpora import Utterance
    >>> names = ("bored", "sad", "neutral")
    >>> clips = [Utterance(n, n, "a", labels={"emotion": n}) for n in names]
    >>> {k: [*v] for k, v in class_sets(clips).items()}
    {'all': ['neutral', 'sad', 'bored']}
    """
    names = {u.labels["emotion"] for u in utterances} - {""}
    if twins := spelt_alike(names):
        raise InputError(
            f"label: '{twins[0]}' and '{twins[1]}' differ in their capitals "
            "alone; write one of them, or map both in the yaml, as classes: "
            f"{{{twins[0]}: {twins[1]}, {twins[1]}: {twins[1]}}}"
        )
    common = [name for name in FOUR if name in names]
    order = [*common, *sorted(names - set(common))]
    sets = {"all": {name: name for name in order}}
    if len(common) == len(FOUR):
        sets[4] = {name: name for name in FOUR}
    return sets


def spelt_alike(names):
    """Find names that differ in their capitals alone.

    Arguments
    ---------
    names : iterable of str
        Names of classes or speakers.

    Returns
    -------
    tuple of str
        The first two such, by alphabet; empty if there are none.

    Example
    -------
    >>> spelt_alike(["sad", "angry", "Angry", "sad"])
    ('Angry', 'angry')
    """
    first = {}
    for name in sorted(set(names)):
        other = first.setdefault(name.casefold(), name)
        if other != name:
            return other, name
    return ()


def relabel(utterances, class_set, kind="emotion"):
    """Keep the utterances that a class set names, with their classes.

    Arguments
    ---------
    utterances : list of Utterance
        Utterances with the corpus's own labels.
    class_set : dict
        The corpus's label -> class; labels that it does not name are left
        out. An empty one keeps everything, without classes.
    kind : str
        The label that is the emotion, where a corpus has several.

    Returns
    -------
    list of (Utterance, str or None)
        Utterances, their votes counted by class, and their classes.

    Raises
    ------
    InputError
        If the class set names a label that the corpus does not have.
    """
    if not class_set:
        return [(utterance, None) for utterance in utterances]
    known = {u.labels[kind] for u in utterances if u.labels.get(kind)}
    unknown = [label for label in class_set if label not in known]
    if unknown:
        raise InputError(
            f"classes: label '{unknown[0]}' does not occur in the data, "
            f"which has {', '.join(sorted(known))}"
        )
    return [
        (
            replace(u, votes=class_votes(u.votes, class_set)) if u.votes else u,
            class_set[u.labels[kind]],
        )
        for u in utterances
        if u.labels.get(kind) in class_set
    ]
