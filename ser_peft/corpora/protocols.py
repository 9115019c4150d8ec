"""Who trains, who validates, who is tested: deals of speakers, not clips."""

import hashlib
from dataclasses import dataclass, field
from math import isfinite

from ser_peft.corpora.transcripts import clean_text
from ser_peft.errors import InputError

__all__ = [
    "Folds",
    "RandomSplit",
    "Whole",
    "check_splits",
    "class_sets",
    "classes_of",
    "fingerprint",
    "has_all",
    "leaks",
    "missing_classes",
    "relabel",
    "spelt_alike",
]

SPLITS = ("train", "valid", "test")
FOUR = ("neutral", "angry", "sad", "happy")
"""The order that all 4-class models share."""


@dataclass(frozen=True)
class Folds:
    """Fixed folds: who is valid and who is test, the rest trains.

    Arguments
    ---------
    name : str
        Goes into every result.
    test : list of list of str
        Test speakers (or groups) of each fold.
    valid : list of list of str
        Valid speakers (or groups) of each fold.
    train : list of list of str, optional
        Who trains in each fold, where that is not all the rest.
    by : str
        What is dealt: ``speaker`` or ``group`` (session, official split).
    label : str
        Which of the corpus's labels is the emotion, where it has several.
    where : dict
        Only utterances with these labels take part.
    shares_speakers : bool
        For official splits with speakers in several sets: it is said, not
        refused.

    Example
    -------
    >>> from ser_peft.corpora import Utterance
    >>> folds = Folds("demo", test=[["a"]], valid=[["b"]])
    >>> clips = [Utterance(s, s + ".wav", s) for s in "abc"]
    >>> {k: [u.id for u in v] for k, v in folds.deal(clips, 1).items()}
    {'train': ['c'], 'valid': ['b'], 'test': ['a']}
    """

    name: str
    test: list
    valid: list
    train: list | None = None
    by: str = "speaker"
    label: str = "emotion"
    where: dict = field(default_factory=dict)
    shares_speakers: bool = False

    @property
    def folds(self):
        """Number of folds; they count from 1."""
        return len(self.test)

    def deal(self, utterances, fold, labels=None):
        """Split utterances.

        Arguments
        ---------
        utterances : list of Utterance
            The whole corpus.
        fold : int
            From 1.
        labels : dict, optional
            Utterance id -> class; of no matter here.

        Returns
        -------
        dict
            ``train``, ``valid`` and ``test`` lists.

        Raises
        ------
        InputError
            If there is no such fold.
        """
        _check_fold(self, fold)
        valid, test = self.valid[fold - 1], self.test[fold - 1]
        splits = {split: [] for split in SPLITS}
        for utterance in utterances:
            if any(utterance.labels.get(k) != v for k, v in self.where.items()):
                continue
            dealt = getattr(utterance, self.by)
            # Not `elif`: who is listed twice must show in check_splits.
            if dealt in test:
                splits["test"].append(utterance)
            if dealt in valid:
                splits["valid"].append(utterance)
            if (
                dealt not in test + valid
                if self.train is None
                else dealt in self.train[fold - 1]
            ):
                splits["train"].append(utterance)
        return splits


@dataclass(frozen=True)
class RandomSplit:
    """Utterances drawn at random, 81/9/10: what is tested leaks.

    The classes have the same shares in all three. Speakers, dialogues and
    sentences are in several: scores are comparable to papers that did the
    same, and too good.

    Arguments
    ---------
    name : str
        Goes into every result.
    seed : int
        Of the draw.
    label : str
        Which of the corpus's labels is the emotion, where it has several.

    Example
    -------
    >>> from ser_peft.corpora import Utterance
    >>> clips = [Utterance(str(i), f"{i}.wav", "a") for i in range(100)]
    >>> labels = {str(i): "sad" if i % 2 else "happy" for i in range(100)}
    >>> splits = RandomSplit("demo").deal(clips, 1, labels)
    >>> {split: len(dealt) for split, dealt in splits.items()}
    {'train': 81, 'valid': 9, 'test': 10}
    """

    name: str
    seed: int = 0
    label: str = "emotion"

    folds = 1
    shares_speakers = True

    def deal(self, utterances, fold, labels):
        """Split utterances.

        Arguments
        ---------
        utterances, fold
            See `Folds.deal`.
        labels : dict
            Utterance id -> class, or None.

        Returns
        -------
        dict
            ``train``, ``valid`` and ``test`` lists.

        Raises
        ------
        InputError
            If there is no such fold, or too little of a class.
        """
        # Here: it takes half a second, and few protocols need it.
        from sklearn.model_selection import train_test_split

        _check_fold(self, fold)
        splits, rest = {}, utterances
        for split in ("test", "valid"):
            try:
                rest, splits[split] = train_test_split(
                    rest,
                    test_size=0.1,
                    random_state=self.seed,
                    stratify=[str(labels[u.id]) for u in rest],
                )
            except ValueError as error:
                raise InputError(
                    f"protocol {self.name}: the utterances are too few "
                    f"({error}); choose another one"
                ) from error
        return {"train": rest, "valid": splits["valid"], "test": splits["test"]}


@dataclass(frozen=True)
class Whole:
    """All utterances are tested, by a model of other corpora.

    Arguments
    ---------
    label : str
        Which of the corpus's labels is the emotion, where it has several.

    Example
    -------
    >>> from ser_peft.corpora import Utterance
    >>> splits = Whole().deal([Utterance("1", "1.wav", "a")], 1)
    >>> {split: len(dealt) for split, dealt in splits.items()}
    {'train': 0, 'valid': 0, 'test': 1}
    """

    label: str = "emotion"

    name = "whole"
    folds = 1
    shares_speakers = False

    def deal(self, utterances, fold, labels=None):
        """Split utterances; see `Folds.deal`."""
        _check_fold(self, fold)
        return {"train": [], "valid": [], "test": utterances}


def _check_fold(protocol, fold):
    if fold not in range(1, protocol.folds + 1):
        raise InputError(
            f"--fold={fold}: {protocol.name} has folds 1 to {protocol.folds}"
        )


def classes_of(class_set):
    """The class names of a mapping, in their order.

    Example
    -------
    >>> classes_of({"hap": "happy", "exc": "happy", "sad": "sad"})
    ['happy', 'sad']
    """
    return list(dict.fromkeys(class_set.values()))


def class_sets(utterances):
    """The class sets of a corpus that has none but its labels.

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
    names = {u.labels["emotion"] for u in utterances}
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
        Of classes, of speakers.

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
    """Keep what a class set names and give it its class.

    Arguments
    ---------
    utterances : list of Utterance
        With the corpus's own labels.
    class_set : dict
        The corpus's label -> class; what it does not name is left out.
    kind : str
        Which of the labels.

    Returns
    -------
    list of (Utterance, str)
        Utterances and their classes.

    Raises
    ------
    InputError
        If the class set names a label that the corpus does not have.
    """
    known = {u.labels[kind] for u in utterances if u.labels.get(kind)}
    unknown = [label for label in class_set if label not in known]
    if unknown:
        raise InputError(
            f"classes: label '{unknown[0]}' does not occur in the data, "
            f"which has {', '.join(sorted(known))}"
        )
    return [
        (u, class_set[u.labels[kind]])
        for u in utterances
        if u.labels.get(kind) in class_set
    ]


def check_splits(manifests, classes, shares_speakers=False, dimensions=()):
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

    Raises
    ------
    InputError
        If there is but one class, or nothing to predict, a split is empty, an
        utterance or a speaker is in two of them, a class is missing from
        train or a dimension never varies there, or an entry lacks one or has
        an unknown class.
    """
    if len(classes) == 1 or not (classes or dimensions):
        raise InputError(
            f"classes: {', '.join(classes) or 0}: give at least two classes, "
            "or 0 and dimensions"
        )
    speakers, ids = {}, {}
    for split, entries in manifests.items():
        if not entries:
            raise InputError(f"{split}: no utterances; check fold and classes")
        for key, entry in entries.items():
            if classes and entry.get("emotion") not in classes:
                raise InputError(
                    f"{split}: {key} has class '{entry.get('emotion')}', which "
                    f"is not one of {', '.join(classes)}"
                )
            if not has_all(entry, dimensions):
                raise InputError(
                    f"{split}: {key} needs a number for each of "
                    f"{', '.join(dimensions)}"
                )
            other = speakers.setdefault(entry["speaker"], split)
            if other != split and not shares_speakers:
                raise InputError(
                    f"speaker {entry['speaker']} is in {other} and in "
                    f"{split}; every speaker may be in one split only"
                )
            other = ids.setdefault(key, split)
            if other != split:
                raise InputError(
                    f"{key} is in {other} and in {split}; every utterance may "
                    "be in one split only"
                )
    train = manifests["train"].values()
    if missing := missing_classes(manifests, classes).get("train"):
        raise InputError(
            f"train: no utterance of class '{missing[0]}'; add some, or "
            "leave the class out (classes in the yaml)"
        )
    for name in dimensions:
        if len({entry[name] for entry in train}) == 1:
            raise InputError(
                f"train: {name} is the same for every utterance; leave it out "
                "(dimensions in the yaml)"
            )


def missing_classes(manifests, classes):
    """Classes that valid or test has no utterance of.

    Arguments
    ---------
    manifests : dict
        Split -> {id: entry}; entries have ``emotion``.
    classes : list of str
        Class names.

    Returns
    -------
    dict
        Split -> list of str, of splits that lack some. `check_splits` refuses
        a train that does.

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
    """How much of what is tested training has met before.

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
        the same class. What no utterance tells is left out.

    Example
    -------
    >>> a, b = ({"speaker": "a", "text": t} for t in ("Yes.", "yes."))
    >>> leaks({"train": {"1": a}, "test": {"2": b}})
    {'speakers': 1.0, 'sentences': 1.0, 'labelled_sentences': 1.0}
    """
    kinds = {
        "speakers": lambda entry: entry["speaker"],
        "dialogues": lambda entry: entry.get("dialogue"),
        "sentences": _words,
        "labelled_sentences": lambda entry: (
            _words(entry) and (_words(entry), entry.get("emotion"))
        ),
    }
    shares = {}
    for kind, of in kinds.items():
        train, test = (
            [of(entry) for entry in manifests[split].values()]
            for split in ("train", "test")
        )
        if kind == "speakers":  # one utterance of theirs is as good as all
            test = list(set(test))
        known = set(train) - {None}
        if any(value is not None for value in test):
            shares[kind] = sum(v in known for v in test) / len(test)
    return shares


def _words(entry):
    return clean_text(entry.get("text", "")).casefold() or None


def fingerprint(manifests):
    """Hash of who is where with which class: equal protocols, equal hash.

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
