"""Paired test over speakers: is one method better than another?"""

import numpy as np
from scipy.stats import t as student

from ser_peft.evaluation.intervals import interval, jackknife, no_interval
from ser_peft.evaluation.metrics import from_confusion, speaker_confusions

__all__ = ["paired_difference"]


def paired_difference(labels, first, second, speakers, classes):
    """Difference of UA of two methods on the same utterances.

    Speakers are left out one by one, each with all its utterances and both
    methods' predictions: a speaker who is hard for both says nothing about
    their order (for utterances: Bisani & Ney, ICASSP 2004). The interval is
    that of `ser_peft.evaluation.intervals`, p that of Student's t test with
    its standard error.

    Arguments
    ---------
    labels : list of int
        True class of each utterance. An utterance that was tested with
        several seeds is in the list once a seed.
    first, second : list of int
        Class that each of the two methods predicted.
    speakers : list of str
        Speaker of each utterance.
    classes : list of str
        Class names.

    Returns
    -------
    dict
        ``difference`` (UA of the first minus UA of the second, a fraction),
        ``ci95`` [low, high] and ``p``, both None with too few speakers or
        where all differ alike, ``reason`` (why they are None) and
        ``speakers`` (how many).

    Example
    -------
    >>> outcome = paired_difference(
    ...     [0, 1] * 4, [0, 1] * 4, [0, 0, 0, 1] * 2, list("aabbccdd"), "xy"
    ... )
    >>> outcome["difference"], round(outcome["p"], 3)
    (0.25, 0.196)
    >>> paired_difference([0, 1], [0, 1], [0, 0], ["a", "b"], "xy")["reason"]
    '2 speakers, 4 are needed'
    """
    names, counts = speaker_confusions(labels, first, speakers, len(classes))
    _, others = speaker_confusions(labels, second, speakers, len(classes))
    units = np.stack([counts, others], 1)

    def measure(pair):
        return -np.diff(from_confusion(pair))[..., 0]

    ends, p = None, None
    reason = no_interval(speakers, labels, classes)
    if not reason:
        difference, error = jackknife(units, measure)
        ends, reason = interval(difference, error, len(names), low=-1.0)
    if ends:
        # On the scale of the interval, so that the two never disagree.
        statistic = np.arctanh(abs(difference)) * (1 - difference**2) / error
        p = float(2 * student.sf(statistic, len(names) - 1))
    return {
        "difference": float(measure(units.sum(0))),
        "ci95": ends,
        "p": p,
        "reason": reason,
        "speakers": len(names),
    }
