"""Scores of ensembles beside those of their members."""

import itertools
import math
import statistics

import numpy as np
from sklearn.metrics import cohen_kappa_score

from ser_peft.evaluation.calibration import BINS, reliability
from ser_peft.evaluation.intervals import interval, jackknife, no_interval
from ser_peft.evaluation.metrics import (
    METRICS,
    concordance,
    concordance_interval,
    scores,
    speaker_interval,
)
from ser_peft.evaluation.paired import paired_difference

__all__ = ["compare_with_members", "scores_with_intervals"]


def compare_with_members(answers, about):
    """Compare ensembles with their members, over one or several test sets.

    Arguments
    ---------
    answers : list of tuple of (dict, list of dict)
        Of each test set the answers of the ensemble and those of each member,
        see `run_results`, on the same utterances in the same order.
    about : dict
        ``classes`` and ``dimensions``.

    Returns
    -------
    dict
        ``scores`` of the ensembles, all test sets pooled: of each of
        `METRICS` and ``ece`` (with dimensions also ``ccc``) ``value``,
        ``ci95`` over speakers, and ``reason``, why there is none.
        ``mean`` and ``members_mean``: of each score ``mean`` and ``std`` over
        the test sets, of the members after their mean in each.
        With classes ``difference`` (see `paired_difference`): of the UA of the
        ensembles and the mean of their members'; ``recalls``: class ->
        ``ensemble`` and ``members``, None where no label has it; ``confusion``
        of the ensembles; and ``agreement`` (see `_agreement`).
    """
    found = {
        "scores": scores_with_intervals([whole for whole, _ in answers], about),
        "mean": _spread(
            [
                _values(scores_with_intervals([whole], about))
                for whole, _ in answers
            ]
        ),
        "members_mean": _spread(
            [
                _means(
                    [
                        _values(scores_with_intervals([one], about))
                        for one in own
                    ]
                )
                for _, own in answers
            ]
        ),
    }
    if not about["classes"]:
        return found
    classes = about["classes"]
    confusion, theirs = 0, 0
    for whole, own in answers:
        matrices = [
            np.array(
                scores(one["label"], one["predicted"], classes)["confusion"]
            )
            for one in (whole, *own)
        ]
        confusion = confusion + matrices[0]
        theirs = theirs + np.mean(matrices[1:], 0)
    return {
        **found,
        "difference": _difference(answers, classes),
        "recalls": {
            name: {
                "ensemble": _share(confusion[i, i], confusion[i].sum()),
                "members": _share(theirs[i, i], theirs[i].sum()),
            }
            for i, name in enumerate(classes)
        },
        "confusion": confusion.tolist(),
        "agreement": _agreement(answers),
    }


def scores_with_intervals(answers, about):
    """Scores of a model on test sets pooled.

    Arguments
    ---------
    answers : list of dict
        Answers on each test set, see `run_results`.
    about : dict
        ``classes`` and ``dimensions``.

    Returns
    -------
    dict
        Of each of `METRICS`, ``ece`` and ``ccc`` ``value``, ``ci95`` and
        ``reason``, see `compare_with_members`.
    """
    found, classes = {}, about["classes"]
    pooled = {
        key: np.concatenate([one[key] for one in answers])
        for key in answers[0]
        if key not in ("id", "gender")
    }
    if classes:
        judged = pooled["label"], pooled["predicted"], pooled["speaker"]
        values = scores(*judged[:2], classes)
        for metric in METRICS:
            ends, reason = speaker_interval(*judged, classes, metric)
            found[metric] = _score(values[metric], ends, reason)
        found["ece"] = _calibration_error(pooled, classes)
    if about["dimensions"]:
        values = pooled["values"], pooled["predicted_values"]
        ends, reason = concordance_interval(*values, pooled["speaker"])
        found["ccc"] = _score(float(concordance(*values).mean()), ends, reason)
    return found


def _score(value, ends, reason):
    return {"value": value, "ci95": ends, "reason": reason}


def _calibration_error(pooled, classes):
    """Expected calibration error, with its interval over speakers."""
    names = np.unique(pooled["speaker"])
    units = np.zeros((len(names), 2, BINS))
    for row, name in zip(units, names, strict=True):
        mine = pooled["speaker"] == name
        counts, accuracy, confidence = reliability(
            pooled["label"][mine], pooled["probabilities"][mine]
        )
        row[0] = counts
        row[1] = np.nan_to_num(counts * (accuracy - confidence))

    def measure(sums):
        gaps = np.abs(sums[..., 1, :]).sum(-1)
        return gaps / sums[..., 0, :].sum(-1)

    ends, reason = (
        None,
        no_interval(pooled["speaker"], pooled["label"], classes),
    )
    if reason:
        return _score(float(measure(units.sum(0))), None, reason)
    value, error = jackknife(units, measure)
    ends, reason = interval(value, error, len(names))
    return _score(value, ends, reason)


def _values(found):
    return {key: one["value"] for key, one in found.items()}


def _means(rows):
    return {key: statistics.fmean(r[key] for r in rows) for key in rows[0]}


def _spread(rows):
    """Mean and standard deviation of each score over test sets."""
    columns = {key: [row[key] for row in rows] for key in rows[0]}
    return {
        key: {
            "mean": statistics.fmean(column),
            "std": statistics.stdev(column) if len(column) > 1 else None,
        }
        for key, column in columns.items()
    }


def _difference(answers, classes):
    """Ensembles against the mean of their members, paired over speakers."""
    # Every test set counts alike, whatever the number of its members.
    most = math.lcm(*(len(own) for _, own in answers))
    rows = [
        (whole["label"], whole["predicted"], one["predicted"], whole["speaker"])
        for whole, own in answers
        for one in own * (most // len(own))
    ]
    labels, ours, theirs, speakers = (
        [*itertools.chain(*column)] for column in zip(*rows, strict=True)
    )
    return paired_difference(labels, ours, theirs, speakers, classes)


def _agreement(answers):
    """Agreement of the members with each other.

    Returns
    -------
    dict
        ``equal``, the share of equal predictions of two members, over all
        pairs; ``kappa``, agreement beyond chance (Cohen, 1960); ``all_equal``,
        the share of utterances that all members predict alike;
        ``right_where_equal`` and ``right_elsewhere``, the accuracy of the
        ensemble on these and on the others; ``any_right``, the share that at
        least one member has right. None where there is nothing to compare.
    """
    pairs, equal, right, any_right = [], [], [], []
    for whole, own in answers:
        label = np.array(whole["label"])
        said = np.array([one["predicted"] for one in own])
        pairs += itertools.combinations(said, 2)
        equal.append((said == said[0]).all(0))
        right.append(label == whole["predicted"])
        any_right.append((said == label).any(0))
    equal, right, any_right = map(np.concatenate, (equal, right, any_right))
    same = kappa = None
    if pairs:
        one, other = map(np.concatenate, zip(*pairs, strict=True))
        same = float((one == other).mean())
        if len({*one, *other}) > 1:
            kappa = float(cohen_kappa_score(one, other))
    return {
        "equal": same,
        "kappa": kappa,
        "all_equal": float(equal.mean()),
        "right_where_equal": _share(right[equal].sum(), equal.sum()),
        "right_elsewhere": _share(right[~equal].sum(), (~equal).sum()),
        "any_right": float(any_right.mean()),
    }


def _share(part, whole):
    return float(part / whole) if whole else None
