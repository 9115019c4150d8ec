"""Calibration: is a probability of 0.8 right eight times in ten?

And from which probability on is an answer worth giving?
"""

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from scipy.stats import ks_2samp, sem
from scipy.stats import t as student
from sklearn.metrics import roc_curve

from ser_peft.evaluation.intervals import FEWEST_SPEAKERS

__all__ = [
    "BINS",
    "calibration",
    "expected_calibration_error",
    "fit_temperature",
    "reliability",
    "scale",
    "trusted_temperature",
    "unsure_below",
]

BINS = 15
"""Number of bins, of equal width as in Guo et al. (2017)."""
LIMITS = 0.05, 20.0
"""Least and largest temperature."""
FEWEST_OF_EACH = 5
"""Right answers, and wrong ones, that a threshold is chosen from at least."""


def reliability(labels, probabilities):
    """Compare confidence with accuracy, bin by bin.

    Arguments
    ---------
    labels : list of int
        True class indices, [N].
    probabilities : array_like
        [N, C]. The largest of a row is its confidence.

    Returns
    -------
    tuple of np.ndarray
        Utterances, accuracy and mean confidence of each of the 15 bins
        ((m - 1) / 15, m / 15] of the confidence, [15]; the latter two are NaN
        where a bin is empty.

    Example
    -------
    >>> counts, accuracy, _ = reliability([0, 1], [[0.9, 0.1], [0.9, 0.1]])
    >>> int(counts[13]), float(accuracy[13])
    (2, 0.5)
    """
    probabilities = np.asarray(probabilities)
    right = probabilities.argmax(1) == labels
    confidence = probabilities.max(1)
    bins = np.ceil(confidence * BINS).astype(int).clip(1, BINS) - 1
    counts = np.bincount(bins, minlength=BINS)
    with np.errstate(invalid="ignore"):
        return counts, *(
            np.bincount(bins, values, BINS) / counts
            for values in (right, confidence)
        )


def expected_calibration_error(labels, probabilities):
    """Expected calibration error (ECE) with 15 equal bins.

    The mean over utterances of the absolute difference between accuracy and
    mean confidence of their bin, as in "On Calibration of Modern Neural
    Networks" (Guo et al., 2017), equation 3.

    Arguments
    ---------
    labels : list of int
        True class indices, [N].
    probabilities : array_like
        [N, C].

    Returns
    -------
    float
        A fraction, 0 at best.

    Example
    -------
    >>> expected_calibration_error([0, 1], [[0.75, 0.25], [0.75, 0.25]])
    0.25
    """
    counts, accuracy, confidence = reliability(labels, probabilities)
    gaps = np.nan_to_num(np.abs(accuracy - confidence))
    return float((counts * gaps).sum() / counts.sum())


def scale(probabilities, temperature):
    """Soften or sharpen probabilities: softmax(logits / temperature).

    Arguments
    ---------
    probabilities : array_like
        Softmax of the logits, [N, C]. Their logarithms are the logits less a
        constant, which softmax does not see.
    temperature : float
        Above 1 softens.

    Returns
    -------
    np.ndarray
        [N, C].

    Example
    -------
    >>> scale([[0.8, 0.2]], 2).round(3).tolist()
    [[0.667, 0.333]]
    """
    return softmax(_logits(probabilities) / temperature, axis=1)


def fit_temperature(labels, probabilities):
    """Find the temperature that calibrates probabilities.

    It has the least negative log-likelihood (Guo et al., 2017), within 0.05
    and 20, and never changes which class is predicted.

    Arguments
    ---------
    labels : list of int
        True class indices of a validation set, [N].
    probabilities : array_like
        [N, C].

    Returns
    -------
    float
        1 where every utterance is classified rightly: the likelihood then
        rises towards a temperature of zero, and nothing can be learnt.
    """
    logits = _logits(probabilities)
    if (logits.argmax(1) == labels).all():
        return 1.0

    def loss(log_temperature):
        scores = log_softmax(logits / np.exp(log_temperature), axis=1)
        return -scores[range(len(scores)), labels].mean()

    found = minimize_scalar(loss, bounds=np.log(LIMITS), method="bounded")
    return float(np.exp(found.x))


def trusted_temperature(labels, probabilities, speakers):
    """Find a temperature and shrink it towards 1, the more the fewer speakers.

    A valid set has few speakers, who differ in how sure a model should be of
    them. One more, for whom 1 is right, is added: with n speakers log T is
    n / (n + 1) of its fit. A temperature below 1, which sharpens, needs clear
    evidence: at least `FEWEST_SPEAKERS`, and a score test of T = 1 whose
    variance is that between speakers (Liang & Zeger, 1986) beyond the 97.5th
    percentile of Student's t.

    Arguments
    ---------
    labels, probabilities
        See `fit_temperature`.
    speakers : list of str
        Speaker of each utterance.

    Returns
    -------
    float

    Example
    -------
    >>> chances = [[0.7, 0.3], [0.6, 0.4], [0.3, 0.7], [0.6, 0.4]] * 9
    >>> labels = [0, 0, 1, 1] * 9
    >>> round(fit_temperature(labels, chances), 2)
    0.41
    >>> trusted_temperature(labels, chances, ["a", "a", "b", "b"] * 9)
    1.0
    """
    fitted = fit_temperature(labels, probabilities)
    names, index = np.unique(np.asarray(speakers, str), return_inverse=True)
    count = len(names)
    if fitted < 1:
        logits = _logits(probabilities)
        means = (softmax(logits, axis=1) * logits).sum(1)
        # Gain of the log-likelihood with 1 / T, at T = 1.
        gains = logits[range(len(logits)), labels] - means
        gains = np.bincount(index, gains)
        if count < FEWEST_SPEAKERS or not (
            gains.mean() > student.ppf(0.975, count - 1) * sem(gains)
        ):
            return 1.0
    return float(fitted ** (count / (count + 1)))


def unsure_below(labels, probabilities):
    """Find the confidence below which answers are better called unsure.

    An answer's confidence is its highest probability. The threshold that best
    tells right answers from wrong ones has the largest difference between the
    share of the right ones at or above it and the share of the wrong ones at
    or above it (Youden's J, 1950); of several that are equally good it is the
    lowest, which leaves the most answers. It lies halfway between two
    confidences that occurred, so that rounding decides nothing.

    The best of many thresholds is better than nothing by chance too. There is
    none, then, where fewer than five answers are right or fewer than five are
    wrong, nor where confidence is not higher in right answers than in wrong
    ones at the level of 5 %: by the Kolmogorov-Smirnov test, whose one-sided
    statistic is the largest J.

    Arguments
    ---------
    labels : list of int
        True class indices of a validation set, [N].
    probabilities : array_like
        Calibrated, [N, C], see `scale`.

    Returns
    -------
    float or None

    Example
    -------
    >>> chances = [[0.9, 0.1]] * 8 + [[0.7, 0.3]] * 8
    >>> round(unsure_below([0] * 8 + [1] * 8, chances), 3)
    0.8
    >>> unsure_below([0, 1] * 8, chances) is None
    True
    """
    probabilities = np.asarray(probabilities)
    right = probabilities.argmax(1) == labels
    confidence = probabilities.max(1)
    if min(right.sum(), (~right).sum()) < FEWEST_OF_EACH:
        return None
    parts = confidence[right], confidence[~right]
    # Exact probabilities of large sets cannot be computed.
    test = ks_2samp(*parts, alternative="less", method="asymp")
    if test.pvalue > 0.05:
        return None
    wrong_kept, right_kept, thresholds = roc_curve(
        right, confidence, drop_intermediate=False
    )
    gain = (right_kept - wrong_kept).round(9)
    # Thresholds fall; the last keeps all and gains nothing.
    best = np.flatnonzero(gain == gain.max())[-1]
    return float(thresholds[best : best + 2].mean())


def calibration(valid, test, temperature=1.0, unsure=None):
    """Find temperature and threshold on valid, judge them on test.

    Arguments
    ---------
    valid, test : dict
        ``label`` [N], ``probabilities`` [N, C], not scaled; valid also has
        ``speaker`` [N]. None instead of valid: both are given.
    temperature : float
        Temperature to judge where there is no valid set.
    unsure : float, optional
        Threshold to judge where there is no valid set.

    Returns
    -------
    dict
        ``temperature`` (see `trusted_temperature`), ``temperature_fitted``
        (see `fit_temperature`), ``valid_speakers`` (how many), ``unsure``
        (see `unsure_below`; None where there is none), and on test ``ece``
        without and ``ece_scaled`` with the temperature, ``coverage`` (share
        of the utterances whose confidence is not below ``unsure``),
        ``accuracy_answered`` (of those; None where there are none) and
        ``accuracy`` (of all), fractions.
    """
    labels, probabilities = test["label"], test["probabilities"]
    fitted = {}
    if valid:
        fitted_on = valid["label"], valid["probabilities"]
        temperature = trusted_temperature(*fitted_on, valid["speaker"])
        unsure = unsure_below(
            valid["label"], scale(valid["probabilities"], temperature)
        )
        fitted = {
            "temperature_fitted": fit_temperature(*fitted_on),
            "valid_speakers": len({*valid["speaker"]}),
        }
    scaled = scale(probabilities, temperature)
    right = scaled.argmax(1) == labels
    answered = scaled.max(1) >= (unsure or 0)
    return {
        "temperature": temperature,
        **fitted,
        "ece": expected_calibration_error(labels, probabilities),
        "ece_scaled": expected_calibration_error(labels, scaled),
        "unsure": unsure,
        "coverage": float(answered.mean()),
        "accuracy_answered": (
            float(right[answered].mean()) if answered.any() else None
        ),
        "accuracy": float(right.mean()),
    }


def _logits(probabilities):
    # A probability that float32 has rounded to zero is not impossible.
    tiny = np.finfo(np.float32).tiny
    return np.log(np.maximum(np.asarray(probabilities, float), tiny))
