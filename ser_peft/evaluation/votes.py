"""Scores against annotators' votes: distance, divergence, ambiguity.

The Jensen-Shannon distance of a clip is the square root of the divergence of
the predicted probabilities and the votes' distribution, with logarithms to
base 2: 0 where they are the same, 1 where they have no class in common (Lin,
1991; Endres and Schindelin, 2003). The votes of a few annotators are more
uneven than what all would say, and this distance favours predictions that are
as uneven. The Kullback-Leibler divergence of the predictions from the votes
does not: its expectation is least for what all would say.
"""

import numpy as np
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy

from ser_peft.evaluation.intervals import interval, jackknife, no_interval
from ser_peft.evaluation.metrics import scores

__all__ = ["AMBIGUITY", "vote_scores"]

AMBIGUITY = ("unanimous", "less ambiguous", "more ambiguous")
"""Names of the groups of clips by the entropy of their votes."""


def vote_scores(entries, measured, classes):
    """Score a test set against its annotators' votes.

    Arguments
    ---------
    entries : dict
        Test manifest, id -> entry; those with ``votes`` count.
    measured : dict
        See `ser_peft.evaluation.results.run_results`.
    classes : list of str
        Class names.

    Returns
    -------
    dict
        Empty where no clip has votes, else ``votes``: ``utterances``;
        ``annotators``, votes a clip on average; ``js_distance``, the mean
        over clips, ``js_distance_ci95`` over speakers and
        ``js_distance_ci95_reason``, why there is none; ``kl_divergence``, the
        mean over clips, bits; ``by_ambiguity``, a
        dict of `AMBIGUITY` -> ``entropy`` (least and largest, bits),
        ``utterances``, ``ua``, ``wa`` and ``js_distance``. Unanimous clips
        have no entropy; the median of the others' divides these.

    Example
    -------
    >>> entries = {"1": {"votes": {"sad": 3}}, "2": {"votes": {"sad": 1}}}
    >>> measured = {
    ...     "id": ["1", "2"],
    ...     "speaker": ["a", "b"],
    ...     "label": [1, 1],
    ...     "predicted": [1, 0],
    ...     "probabilities": np.eye(2)[[1, 0]],
    ... }
    >>> found = vote_scores(entries, measured, ["angry", "sad"])["votes"]
    >>> found["js_distance"], found["js_distance_ci95_reason"]
    (0.5, '2 speakers, 4 are needed')
    """
    if not classes:
        return {}
    votes = np.array(
        [
            [entries[id_].get("votes", {}).get(c, 0) for c in classes]
            for id_ in measured["id"]
        ],
        float,
    ).reshape(-1, len(classes))
    # Not those whose votes are all for other classes.
    (rows,) = votes.sum(1).nonzero()
    if not rows.size:
        return {}
    votes = votes[rows]
    chances = np.asarray(measured["probabilities"])[rows]
    # Not a number where rounding makes the divergence of equals negative.
    distances = np.nan_to_num(jensenshannon(chances, votes, base=2, axis=1))
    label, predicted, speakers = (
        np.asarray(measured[key])[rows]
        for key in ("label", "predicted", "speaker")
    )
    ends, reason = _interval(distances, speakers.tolist())
    bits = entropy(votes, base=2, axis=1).round(6)
    split = np.median(bits[bits > 0]) if bits.any() else 0
    kinds = np.where(bits > split, 2, np.where(bits > 0, 1, 0))
    by_ambiguity = {}
    for kind in np.unique(kinds).tolist():
        some = kinds == kind
        found = scores(label[some], predicted[some], classes)
        by_ambiguity[AMBIGUITY[kind]] = {
            "entropy": [float(bits[some].min()), float(bits[some].max())],
            "utterances": int(some.sum()),
            **{key: found[key] for key in ("ua", "wa", "missing_classes")},
            "js_distance": float(distances[some].mean()),
        }
    return {
        "votes": {
            "utterances": len(rows),
            "annotators": float(votes.sum(1).mean()),
            "js_distance": float(distances.mean()),
            "js_distance_ci95": ends,
            "js_distance_ci95_reason": reason,
            "kl_divergence": float(
                entropy(votes, chances.clip(1e-12), base=2, axis=1).mean()
            ),
            "by_ambiguity": by_ambiguity,
        }
    }


def _interval(distances, speakers):
    """95 % interval of the mean over speakers, or why there is none."""
    if reason := no_interval(speakers):
        return None, reason
    names, index = np.unique(speakers, return_inverse=True)
    sums = np.zeros((len(names), 2))
    np.add.at(sums, index, np.stack([distances, np.ones_like(distances)], 1))
    value, error = jackknife(sums, lambda s: s[..., 0] / s[..., 1])
    return interval(value, error, len(names))
