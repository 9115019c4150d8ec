"""Is one method better than another? Paired, over speakers."""

import numpy as np

from ser_peft.errors import InputError
from ser_peft.evaluation.metrics import from_confusion, speaker_confusions

__all__ = ["paired_bootstrap"]


def paired_bootstrap(
    labels, first, second, speakers, n_classes, resamples=5000, seed=0
):
    """Difference of UA of two methods on the same utterances.

    Speakers are drawn with replacement, each with all its utterances and what
    both methods said of them (paired cluster bootstrap; Efron & Tibshirani,
    1993; of utterances: Bisani & Ney, ICASSP 2004). The interval is the 2.5th
    to the 97.5th percentile of the difference over the draws. The p-value is
    twice the smaller share of draws in which the difference is at most, or at
    least, zero, one draw added to each: how often other speakers would have
    turned the order round.

    Arguments
    ---------
    labels : list of int
        True class of each utterance. An utterance that was tested with
        several seeds is in the list once a seed.
    first, second : list of int
        What the two methods predicted.
    speakers : list of str
        Speaker of each utterance, at least two.
    n_classes : int
        Number of classes.
    resamples : int
        Number of draws.
    seed : int
        The same seed gives the same interval.

    Returns
    -------
    dict
        ``difference`` (UA of the first minus UA of the second, a fraction),
        ``ci95`` [low, high], ``p`` and ``speakers`` (how many).

    Raises
    ------
    InputError
        If there is but one speaker.

    Example
    -------
    >>> outcome = paired_bootstrap(
    ...     [0, 1] * 4, [0, 1] * 4, [0, 0] * 4, list("aabbccdd"), 2
    ... )
    >>> outcome["difference"], outcome["ci95"], round(outcome["p"], 4)
    (0.5, [0.5, 0.5], 0.0004)
    """
    names, counts = speaker_confusions(labels, first, speakers, n_classes)
    _, others = speaker_confusions(labels, second, speakers, n_classes)
    if len(names) < 2:
        raise InputError(
            f"one test speaker ({names[0]}): no interval over speakers; give "
            "more folds"
        )
    share = np.full(len(names), 1 / len(names))
    drawn = np.random.default_rng(seed).multinomial(
        len(names), share, size=resamples
    )

    def ua(confusions):
        flat = drawn @ confusions.reshape(len(names), -1)
        return from_confusion(flat.reshape(-1, n_classes, n_classes))

    differences = ua(counts) - ua(others)
    below, above = (differences <= 0).sum(), (differences >= 0).sum()
    whole = from_confusion(counts.sum(0)) - from_confusion(others.sum(0))
    return {
        "difference": float(whole),
        "ci95": np.percentile(differences, [2.5, 97.5]).tolist(),
        "p": min(1.0, float(2 * (min(below, above) + 1) / (resamples + 1))),
        "speakers": len(names),
    }
