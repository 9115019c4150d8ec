"""Scores of the pooled sets of several folds, each speaker once a seed.

A fold has few speakers; all folds of a seed have all of them. Of inner folds
this is *pooled valid*, by which settings are chosen: `ser_peft.corpora.inner`.
"""

import statistics
from collections import defaultdict

import numpy as np

from ser_peft.evaluation.metrics import from_confusion, speaker_interval
from ser_peft.evaluation.paired import paired_difference
from ser_peft.evaluation.ranking import order
from ser_peft.evaluation.runs import paired_predictions, pooled_predictions

__all__ = ["DIP", "SEEDS_METRICS", "dip", "pool"]

SEEDS_METRICS = ("ua", "wa", "macro_f1")
DIP = 0.1
"""A fall of the pooled valid UA under its start that is told, a fraction."""


def pool(runs):
    """Pool the scored sets of the runs of one group.

    Arguments
    ---------
    runs : list of dict
        From `ser_peft.evaluation.runs.read_runs`, of one group with classes.

    Returns
    -------
    dict
        - of all runs together: confusion (counts), ua, ua_ci95 over speakers,
          ua_ci95_reason (why there is none);
        - by_seed, a list: seed, folds and, of all of them pooled, ua, wa,
          macro_f1; over_seeds: of each of these, of the seeds that have all
          folds, ``mean`` and ``std`` (ddof 1; None for one seed) and
          ``std_folds`` (None); None where no seed has all folds;
        - start, of what the runs started from (None where one has no such
          predictions): from, ua, and, of the UA of the kept models minus it
          on the same utterances, what
          `ser_peft.evaluation.paired.paired_difference` returns;
        - curve, of inner folds: epoch and the ua of valid after it, pooled
          over all runs, for the epochs that all have; 0 is the start.
    """
    classes = runs[0]["classes"]
    confusion = np.sum([run["confusion"] for run in runs], 0)
    ends, reason = None, "no predictions.csv"
    if all(run["predictions"] for run in runs):
        ends, reason = speaker_interval(*pooled_predictions(runs), classes)
    by_seed = defaultdict(list)
    for run in runs:
        by_seed[run["seed"]].append(run)
    seeds = []
    for seed in sorted(by_seed, key=order):
        counts = np.sum([run["confusion"] for run in by_seed[seed]], 0)
        folds = sorted({run["fold"] for run in by_seed[seed]}, key=order)
        found = {m: float(from_confusion(counts, m)) for m in SEEDS_METRICS}
        seeds.append({"seed": seed, "folds": folds, **found})
    every = len({run["fold"] for run in runs})
    whole = [one for one in seeds if len(one["folds"]) == every]
    return {
        "confusion": confusion.tolist(),
        "ua": float(from_confusion(confusion)),
        "ua_ci95": ends,
        "ua_ci95_reason": reason,
        "by_seed": seeds,
        "over_seeds": {
            metric: _spread([one[metric] for one in whole])
            for metric in SEEDS_METRICS
        },
        "start": _start(runs),
        "curve": _curve(runs) if runs[0]["scored_on"] == "valid" else [],
    }


def _spread(values):
    if not values:
        return None
    std = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "std": std, "std_folds": None}


def _start(runs):
    """What the runs started from, on the same utterances."""
    if not all(r["predictions"] and r["start_predictions"] for r in runs):
        return None
    rows = []
    for run in runs:
        start = {"predictions": run["start_predictions"]}
        rows += paired_predictions(run, start)
    speakers, labels, kept, start = zip(*rows, strict=True)
    compared = paired_difference(
        labels, kept, start, speakers, runs[0]["classes"]
    )
    counts = np.zeros((len(runs[0]["classes"]),) * 2, int)
    np.add.at(counts, (labels, start), 1)
    return {
        "from": runs[0]["start"]["from"],
        "ua": float(from_confusion(counts)),
        **compared,
    }


def _curve(runs):
    """Pooled valid UA after each epoch that all runs have."""
    by_epoch = [
        {
            past["epoch"]: past["valid_confusion"]
            for past in run["history"]
            if "valid_confusion" in past
        }
        for run in runs
    ]
    return [
        {
            "epoch": epoch,
            "ua": float(
                from_confusion(np.sum([one[epoch] for one in by_epoch], 0))
            ),
        }
        for epoch in sorted(set.intersection(*map(set, by_epoch)))
    ]


def dip(curve):
    """Tell where a curve falls more than `DIP` under its start.

    Arguments
    ---------
    curve : list of dict
        Of `pool`.

    Returns
    -------
    str or None
        None where it does not, or has no start.

    Example
    -------
    >>> rows = [(0, 0.84), (1, 0.66), (2, 0.85)]
    >>> dip([{"epoch": epoch, "ua": ua} for epoch, ua in rows])
    'after epoch 1 UA is 66.0%, 18.0 points under the start (84.0%)'
    >>> dip([{"epoch": 1, "ua": 0.5}])
    """
    if len(curve) < 2 or curve[0]["epoch"]:
        return None
    start, lowest = curve[0]["ua"], min(curve[1:], key=lambda one: one["ua"])
    if start - lowest["ua"] <= DIP:
        return None
    return (
        f"after epoch {lowest['epoch']} UA is {lowest['ua']:.1%}, "
        f"{100 * (start - lowest['ua']):.1f} points under the start "
        f"({start:.1%})"
    )
