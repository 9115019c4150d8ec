"""95 % intervals of scores over speakers.

Utterances of one speaker are not independent, so speakers are counted.
The standard error is the jackknife's, which leaves out one speaker at a time
(Tukey, 1958; Efron & Tibshirani, "An Introduction to the Bootstrap", 1993,
chapter 11); its interval is Student's t with one degree of freedom less than
there are speakers (MacKinnon, Nielsen & Webb, "Fast and reliable jackknife and
bootstrap methods for cluster-robust inference", Journal of Applied
Econometrics, 2023), on the logit scale, where it stays within what a score can
be. The percentiles of a bootstrap are too narrow with few speakers, and too
wide where utterances are drawn within speakers, whose noise is in the spread
between speakers already: ``benchmarks/coverage_of_intervals.py`` measures all
three, ``docs/scores.md`` has its table.
"""

import numpy as np
from scipy.special import expit, logit
from scipy.stats import t as student

__all__ = ["FEWEST_SPEAKERS", "interval", "jackknife", "no_interval"]

FEWEST_SPEAKERS = 4
"""With three, an interval is 4.3 standard errors either way, guessed from
three numbers."""


def no_interval(speakers, labels=(), classes=()):
    """Reason why there are too few speakers for an interval, or None.

    Arguments
    ---------
    speakers : list of str
        Speaker of each utterance.
    labels : list of int
        True class of each utterance, where there are classes.
    classes : list of str
        Class names.

    Returns
    -------
    str or None
        There must be four speakers, and two for each class that occurs.

    Example
    -------
    >>> no_interval(["a", "b", "a"])
    '2 speakers, 4 are needed'
    >>> no_interval(list("abcd"), [0, 0, 0, 1], ["angry", "sad"])
    '1 speaker for sad, 2 are needed'
    """
    spoken = np.asarray(speakers, str)
    of_class = {
        f" for {classes[index]}": spoken[np.asarray(labels) == index]
        for index in np.unique(labels).astype(int)
    }
    for name, heard in {"": spoken, **of_class}.items():
        count = len(np.unique(heard))
        needed = 2 if name else FEWEST_SPEAKERS
        if count < needed:
            many = "s" * (count > 1)
            return f"{count} speaker{many}{name}, {needed} are needed"
    return None


def jackknife(units, measure):
    """Compute a score and its standard error over speakers.

    Arguments
    ---------
    units : np.ndarray
        Sums over the utterances of each speaker that the score is computed
        from, [S, ...].
    measure : callable
        Takes sums [..., *units.shape[1:]], returns scores [...].

    Returns
    -------
    tuple of (float, float)

    Example
    -------
    >>> units = np.array([[1.0, 2], [2, 2], [0, 2]])
    >>> value, error = jackknife(units, lambda x: x[..., 0] / x[..., 1])
    >>> value, round(error, 3)  # std / sqrt(3) of 0.5, 1 and 0
    (0.5, 0.289)
    """
    whole = units.sum(0)
    without = measure(whole - units)
    error = np.sqrt((len(units) - 1) * without.var())
    return float(measure(whole)), float(error)


def interval(value, error, n_speakers, low=0.0, high=1.0):
    """Student's t interval on the logit scale.

    Arguments
    ---------
    value, error : float
        From `jackknife`.
    n_speakers : int
        Number of speakers.
    low, high : float
        Least and largest value of the score.

    Returns
    -------
    tuple of (list of float or None, str or None)
        Both ends, or the reason why there are none: speakers who score alike
        do not show how others would.

    Example
    -------
    >>> ends, _ = interval(0.9, 0.02, 24)
    >>> [round(end, 3) for end in ends]
    [0.85, 0.934]
    >>> interval(1.0, 0.0, 24)
    (None, 'all speakers score alike')
    """
    if error < 1e-9:
        return None, "all speakers score alike"
    share = (value - low) / (high - low)
    # The slope of the logit turns the error into one on its scale.
    reach = error / (high - low) / (share * (1 - share))
    reach *= student.ppf(0.975, n_speakers - 1)
    ends = expit(logit(share) + np.array([-reach, reach]))
    return (low + (high - low) * ends).tolist(), None
