"""UA, WA, F1 and CCC, with an interval that respects speakers.

UA (unweighted accuracy) is balanced accuracy, the mean of per-class recalls,
WA (weighted accuracy) plain accuracy: the two names of speech emotion
recognition since the INTERSPEECH 2009 Emotion Challenge (Schuller et al.,
2009); some papers swap them. UA and macro F1 average over the classes that
occur among the labels, weighted F1 by how often they do. CCC is the
concordance correlation coefficient of Lin (1989), the measure of dimensional
emotion since the Audio/Visual Emotion Challenge 2015 (Ringeval et al., 2015).
"""

import numpy as np
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    f1_score,
    recall_score,
)

from ser_peft.errors import InputError

__all__ = [
    "concordance",
    "concordance_bootstrap",
    "from_confusion",
    "scores",
    "speaker_bootstrap",
    "speaker_confusions",
]


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
        such class), `confusion` (counts, rows are the truth) and
        `test_utterances`.

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
    present = np.unique(labels)
    recalls = recall_score(labels, predictions, labels=present, average=None)
    recall_of = dict(zip(present.tolist(), recalls.tolist(), strict=True))
    return {
        "ua": float(recalls.mean()),
        "wa": float(accuracy_score(labels, predictions)),
        **{
            f"{average}_f1": float(
                f1_score(labels, predictions, labels=present, average=average)
            )
            for average in ("macro", "weighted")
        },
        "per_class_recall": {
            name: recall_of.get(i) for i, name in enumerate(classes)
        },
        "confusion": confusion.tolist(),
        "test_utterances": len(labels),
    }


def speaker_confusions(labels, predictions, speakers, n_classes):
    """Count one confusion matrix a speaker.

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


def speaker_bootstrap(
    labels,
    predictions,
    speakers,
    n_classes,
    metric="ua",
    resamples=1000,
    seed=0,
):
    """95 % percentile interval of a metric, resampling whole speakers.

    Utterances of one speaker are not independent, so the speaker is what is
    drawn with replacement (cluster bootstrap; Efron & Tibshirani, 1993). With
    one speaker only, utterances are drawn instead, and the interval says
    nothing about other speakers.

    Arguments
    ---------
    labels, predictions : list of int
        Class indices, one an utterance.
    speakers : list of str
        Speaker of each utterance.
    n_classes : int
        Number of classes C.
    metric : str
        "ua", "wa", "macro_f1" or "weighted_f1".
    resamples : int
        Number of bootstrap draws.
    seed : int
        The same seed gives the same interval.

    Returns
    -------
    tuple of (float, float)
        Lower and upper bound, fractions.

    Example
    -------
    >>> speaker_bootstrap([0, 1, 0, 1], [0, 1, 1, 0], list("aabb"), 2)
    (0.0, 1.0)
    """
    rng = np.random.default_rng(seed)
    _, counts = speaker_confusions(labels, predictions, speakers, n_classes)
    n_speakers = len(counts)
    flat = counts.reshape(n_speakers, -1)
    # How often each unit is drawn is multinomial, so a resample is one row
    # of a matrix product over confusion matrices, not a list of utterances.
    if n_speakers > 1:
        share = np.full(n_speakers, 1 / n_speakers)
        drawn = rng.multinomial(n_speakers, share, size=resamples) @ flat
    else:
        drawn = rng.multinomial(
            flat.sum(), flat[0] / flat.sum(), size=resamples
        )
    values = from_confusion(
        drawn.reshape(resamples, n_classes, n_classes), metric
    )
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


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


def concordance_bootstrap(truth, predicted, speakers, resamples=1000, seed=0):
    """95 % percentile interval of the mean CCC, resampling whole speakers.

    Arguments
    ---------
    truth, predicted : array_like
        [N, D].
    speakers : list of str
        Speaker of each utterance; with one only, utterances are drawn.
    resamples, seed : int
        As for `speaker_bootstrap`.

    Returns
    -------
    tuple of (float, float)
        Lower and upper bound.
    """
    units = moments = _moments(truth, predicted)
    names, index = np.unique(np.asarray(speakers, str), return_inverse=True)
    if len(names) > 1:
        units = np.zeros((len(names), *moments.shape[1:]))
        np.add.at(units, index, moments)
    drawn = np.random.default_rng(seed).multinomial(
        len(units), np.full(len(units), 1 / len(units)), size=resamples
    )
    values = _from_moments(np.einsum("rn,nmd->rmd", drawn, units))
    low, high = np.percentile(values.mean(-1), [2.5, 97.5])
    return float(low), float(high)


def _moments(truth, predicted):
    """What a CCC is made of, to be summed over utterances, [N, 6, D]."""
    x, y = np.asarray(truth, float), np.asarray(predicted, float)
    # Whatever is common to both cancels; sums of squares stay exact.
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
