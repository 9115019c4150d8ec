"""UA, WA, F1 and CCC, with intervals over speakers.

UA (unweighted accuracy) is balanced accuracy, the mean of per-class recalls,
WA (weighted accuracy) plain accuracy: the two names of speech emotion
recognition since the INTERSPEECH 2009 Emotion Challenge (Schuller et al.,
2009); some papers swap them. UA and macro F1 average over the classes that
occur among the labels, weighted F1 by how often they do. CCC is the
concordance correlation coefficient of Lin (1989), the measure of dimensional
emotion since the Audio/Visual Emotion Challenge 2015 (Ringeval et al., 2015).
"""

from functools import partial

import numpy as np
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix

from ser_peft.errors import InputError
from ser_peft.evaluation.intervals import interval, jackknife, no_interval

__all__ = [
    "METRICS",
    "concordance",
    "concordance_interval",
    "confusion_interval",
    "from_confusion",
    "missing_classes",
    "over_classes",
    "scores",
    "speaker_confusions",
    "speaker_interval",
]

METRICS = ("ua", "wa", "macro_f1", "weighted_f1")
"""Scores of classes, see `from_confusion`."""


def scores(labels, predictions, classes):
    """Score the predictions of one test set.

    Arguments
    ---------
    labels, predictions : list of int
        True and predicted class of each utterance, as indices into
        `classes`.
    classes : list of str
        Class names.

    Returns
    -------
    dict
        `ua`, `wa`, `macro_f1` and `weighted_f1` (fractions),
        `per_class_recall` (name -> fraction, None where the labels have no
        such class), `missing_classes` (the names of those), `confusion`
        (counts, rows are the truth) and `test_utterances`.

    Raises
    ------
    InputError
        No utterances, or an index outside `classes`.

    Example
    -------
    >>> result = scores([0, 0, 0, 1], [0, 0, 1, 1], ["angry", "sad"])
    >>> round(result["ua"], 3), result["wa"], result["confusion"]
    (0.833, 0.75, [[2, 1], [0, 1]])
    """
    labels, predictions = _indices(labels, predictions, len(classes))
    confusion = confusion_matrix(
        labels, predictions, labels=range(len(classes))
    )
    return {
        **{m: float(from_confusion(confusion, m)) for m in METRICS},
        "per_class_recall": {
            name: float(confusion[i, i] / truth) if truth else None
            for i, (name, truth) in enumerate(
                zip(classes, confusion.sum(1), strict=True)
            )
        },
        "missing_classes": missing_classes(confusion, classes),
        "confusion": confusion.tolist(),
        "test_utterances": len(labels),
    }


def missing_classes(confusion, classes):
    """Names of the classes that no label has: UA is over the others.

    Arguments
    ---------
    confusion : array_like
        Counts [C, C], rows are the truth.
    classes : list of str
        Class names.

    Returns
    -------
    list of str

    Example
    -------
    >>> missing_classes([[2, 1], [0, 0]], ["angry", "sad"])
    ['sad']
    """
    found = np.sum(confusion, axis=1) > 0
    pairs = zip(classes, found, strict=False)
    return [name for name, here in pairs if not here]


def over_classes(missing, n_classes):
    """Text that names the classes a UA is over, if not all.

    Arguments
    ---------
    missing : list of str
        From `missing_classes`.
    n_classes : int
        Number of all classes.

    Returns
    -------
    str

    Example
    -------
    >>> f"UA 0.662{over_classes(['angry'], 4)}"
    'UA 0.662 over 3 of 4 classes (no angry)'
    >>> over_classes([], 4)
    ''
    """
    if not missing:
        return ""
    count = n_classes - len(missing)
    return f" over {count} of {n_classes} classes (no {', '.join(missing)})"


def speaker_confusions(labels, predictions, speakers, n_classes):
    """Confusion matrix of each speaker.

    Arguments
    ---------
    labels, predictions : list of int
        Class indices, one an utterance.
    speakers : list of str
        Speaker of each utterance.
    n_classes : int
        Number of classes C.

    Returns
    -------
    tuple of (list of str, np.ndarray)
        Speakers, sorted, and their counts [S, C, C] (rows are the truth).
    """
    labels, predictions = _indices(labels, predictions, n_classes)
    names, index = np.unique(np.asarray(speakers, str), return_inverse=True)
    counts = np.zeros((len(names), n_classes, n_classes), int)
    np.add.at(counts, (index, labels, predictions), 1)
    return names.tolist(), counts


def from_confusion(confusion, metric="ua"):
    """Compute a metric from any number of confusion matrices at once.

    Arguments
    ---------
    confusion : np.ndarray
        Counts [..., C, C], rows are the truth.
    metric : str
        "ua", "wa", "macro_f1" or "weighted_f1".

    Returns
    -------
    np.ndarray
        Fractions [...].

    Example
    -------
    >>> float(from_confusion(np.array([[2, 1], [0, 1]]), "wa"))
    0.75
    """
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    truth = confusion.sum(-1)
    if metric == "wa":
        return hits.sum(-1) / truth.sum(-1)
    whole = truth if metric == "ua" else (truth + confusion.sum(-2)) / 2
    # An absent class is left out of the mean: a speaker, or a resample of
    # speakers, need not have shown every emotion.
    present = truth > 0
    rates = hits / np.where(whole > 0, whole, 1)
    if metric == "weighted_f1":
        return (rates * truth).sum(-1) / truth.sum(-1)
    return rates.sum(-1, where=present) / present.sum(-1)


def speaker_interval(labels, predictions, speakers, classes, metric="ua"):
    """95 % interval of a metric over speakers.

    See `ser_peft.evaluation.intervals`. Speakers who score alike, as where
    everything is right, do not show how others would: then utterances are
    counted as if each had another speaker (Clopper & Pearson, 1934).

    Arguments
    ---------
    labels, predictions : list of int
        Class indices, one an utterance.
    speakers : list of str
        Speaker of each utterance.
    classes : list of str
        Class names.
    metric : str
        "ua", "wa", "macro_f1" or "weighted_f1".

    Returns
    -------
    tuple of (list of float or None, str or None)
        Lower and upper bound, fractions; or the reason why there are none.

    Example
    -------
    >>> ends, _ = speaker_interval(
    ...     [0, 1] * 4, [0, 1, 0, 0, 0, 1, 1, 1], list("aabbccdd"), ["x", "y"]
    ... )
    >>> [round(end, 2) for end in ends]
    [0.21, 0.97]
    >>> speaker_interval([0, 1], [0, 1], ["a", "b"], ["x", "y"])
    (None, '2 speakers, 4 are needed')
    """
    _, counts = speaker_confusions(labels, predictions, speakers, len(classes))
    if reason := no_interval(speakers, labels, classes):
        return None, reason
    return confusion_interval(counts, metric), None


def confusion_interval(counts, metric="ua"):
    """95 % interval of a metric, of any number of speakers.

    Arguments
    ---------
    counts : np.ndarray
        Confusion matrix of each speaker, [S, C, C].
    metric : str
        See `speaker_interval`, which refuses too few speakers.

    Returns
    -------
    list of float
        Lower and upper bound, fractions.
    """
    value, error = jackknife(counts, partial(from_confusion, metric=metric))
    ends, _ = interval(value, error, len(counts))
    if ends is None:
        total = int(counts.sum())
        alone = binomtest(round(value * total), total).proportion_ci()
        ends = [float(alone.low), float(alone.high)]
    return ends


def concordance(truth, predicted):
    """Concordance correlation coefficient of each dimension.

    2 cov(x, y) / (var x + var y + (mean x - mean y)^2): 1 where all are
    equal; unlike a correlation it falls with a wrong mean or spread.

    Arguments
    ---------
    truth, predicted : array_like
        [N, D].

    Returns
    -------
    np.ndarray
        In [-1, 1], [D]; 0 where nothing varies.

    Example
    -------
    >>> concordance([[1.0], [2.0], [3.0]], [[2.0], [3.0], [4.0]]).round(3)
    array([0.571])
    """
    return _from_moments(_moments(truth, predicted).sum(0))


def concordance_interval(truth, predicted, speakers):
    """95 % interval of the mean CCC over speakers.

    Arguments
    ---------
    truth, predicted : array_like
        [N, D].
    speakers : list of str
        Speaker of each utterance.

    Returns
    -------
    tuple of (list of float or None, str or None)
        Lower and upper bound; or the reason why there are none.
    """
    moments = _moments(truth, predicted)
    names, index = np.unique(np.asarray(speakers, str), return_inverse=True)
    units = np.zeros((len(names), *moments.shape[1:]))
    np.add.at(units, index, moments)
    if reason := no_interval(speakers):
        return None, reason
    value, error = jackknife(units, lambda sums: _from_moments(sums).mean(-1))
    return interval(value, error, len(units), low=-1.0)


def _moments(truth, predicted):
    """Moments that a CCC is computed from, a row an utterance, [N, 6, D]."""
    x, y = np.asarray(truth, float), np.asarray(predicted, float)
    # A shift of both cancels, and keeps sums of squares exact.
    x, y = x - x.mean(0), y - x.mean(0)
    return np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], 1)


def _from_moments(sums):
    n, *sums = np.moveaxis(sums, -2, 0)
    x, y, xx, yy, xy = (total / n for total in sums)
    spread = xx - x * x + yy - y * y + (x - y) ** 2
    covariance = xy - x * y
    return 2 * covariance / np.where(spread > 0, spread, 1)


def _indices(labels, predictions, n_classes):
    labels = np.asarray(labels, int)
    predictions = np.asarray(predictions, int)
    if not labels.size:
        raise InputError(
            "no utterances to score: the test manifest is empty; prepare the "
            "corpus again"
        )
    for index in (labels, predictions):
        if index.min() < 0 or index.max() >= n_classes:
            raise InputError(
                f"class index {index.min()}..{index.max()} does not fit the "
                f"{n_classes} classes given; use the classes of the manifest"
            )
    return labels, predictions
