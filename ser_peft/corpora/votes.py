"""Annotators' votes: from a corpus's labels to a training's classes."""

from collections import Counter
from dataclasses import replace

__all__ = ["class_votes", "majority_missing", "named", "plurality", "tally"]


def named(text):
    """Labels of a list that annotators may end with words of their own.

    Arguments
    ---------
    text : str
        Labels separated by commas, ``Other`` and what follows it last.

    Returns
    -------
    list of str

    Example
    -------
    >>> named("Happy, Excited,Other (well, odd)")
    ['Happy', 'Excited', 'Other']
    """
    known, other, _ = text.partition("Other")
    names = [name.strip() for name in known.split(",")]
    return [name for name in [*names, other] if name.isalpha()]


def tally(ratings):
    """Count what the annotators of an utterance said.

    Arguments
    ---------
    ratings : iterable of (str, list of str)
        Each annotator's label, and all those that it named.

    Returns
    -------
    dict
        ``votes`` and ``secondary`` of an `Utterance`.

    Example
    -------
    >>> tally([("H", ["Happy", "Sad"]), ("H", ["Happy"])])
    {'votes': {'H': 2}, 'secondary': {'Happy': 2, 'Sad': 1}}
    """
    first, others = Counter(), Counter()
    for label, labels in ratings:
        first[label] += 1
        others.update({*labels})
    return {
        "votes": dict(sorted(first.items())) or None,
        "secondary": dict(sorted(others.items())) or None,
    }


def class_votes(votes, class_set):
    """Count votes by class.

    Votes for labels that the class set does not name are dropped: what is
    learned and judged is a distribution over the classes.

    Arguments
    ---------
    votes : dict or None
        The corpus's label -> number of annotators.
    class_set : dict
        The corpus's label -> class.

    Returns
    -------
    dict or None
        Class -> number of annotators; None where there are none.

    Example
    -------
    >>> votes = {"hap": 1, "exc": 2, "oth": 1}
    >>> class_votes(votes, {"hap": "happy", "exc": "happy", "sad": "sad"})
    {'happy': 3}
    """
    counts = Counter()
    for label, count in (votes or {}).items():
        if label in class_set:
            counts[class_set[label]] += count
    return {name: n for name, n in counts.items() if n} or None


def plurality(votes, classes):
    """Class with most votes; of several, the first one in their order.

    Arguments
    ---------
    votes : dict
        Class -> number of annotators.
    classes : list of str
        Class names.

    Returns
    -------
    str

    Example
    -------
    >>> plurality({"sad": 2, "happy": 2}, ["neutral", "happy", "sad"])
    'happy'
    """
    return max(classes, key=lambda name: votes.get(name, 0))


def majority_missing(utterances, class_set, kind="emotion"):
    """Find utterances that votes can train, though their label is no class.

    Arguments
    ---------
    utterances : list of Utterance
        The whole corpus.
    class_set : dict
        The corpus's label -> class.
    kind : str
        The label that is the emotion, where a corpus has several.

    Returns
    -------
    list of (Utterance, str)
        Those on which the annotators did not agree, or agreed on something
        that is no class, and half of whose votes at least are for classes:
        with a label ``no_majority``, these votes by class, and their
        `plurality`.

    Example
    -------
    >>> from ser_peft.corpora import Utterance
    >>> odd = Utterance("1", "1.wav", "a", votes={"sad": 1, "ang": 1})
    >>> other = Utterance("2", "2.wav", "a", votes={"sad": 1, "fru": 2})
    >>> found = majority_missing([odd, other], {"sad": "s", "ang": "a"})
    >>> [(utterance.id, name) for utterance, name in found]
    [('1', 's')]
    """
    names, found = [*dict.fromkeys(class_set.values())], []
    for u in utterances:
        if u.labels.get(kind) not in class_set and u.votes:
            inside = class_votes(u.votes, class_set) or {}
            if 2 * sum(inside.values()) >= sum(u.votes.values()):
                labels = {**u.labels, "no_majority": True}
                known = replace(u, labels=labels, votes=inside)
                found.append((known, plurality(inside, names)))
    return found
