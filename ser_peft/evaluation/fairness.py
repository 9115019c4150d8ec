"""Fairness: does a model serve all groups of speakers alike?

Fairness measures are defined for two classes. Here each class is taken
against the rest and the largest difference counts: one emotion that fails one
group is not averaged away. PEFT-SER (Feng & Narayanan, 2023) takes the
multi-class measures of holisticai, which average the absolute differences
over classes: with two groups, that is the mean over ``by_class``.
"""

import numpy as np

from ser_peft.errors import InputError
from ser_peft.evaluation.metrics import from_confusion, speaker_confusions

__all__ = ["fairness", "group_columns", "worst_speaker"]

FEWEST_OF_GROUP = 2
"""Fewest speakers of a group that is compared: two groups of two are the four
speakers that an interval needs."""
MOST_GROUPS = 12
"""Most values of a column of groups: one with more is an id or a
measurement."""


def group_columns(entries, columns=()):
    """Find the group of each utterance of a manifest.

    Arguments
    ---------
    entries : dict
        Id -> entry of a manifest.
    columns : list of str
        Keys of the entries; ``gender`` is added where an entry has it.

    Returns
    -------
    dict
        Column -> {id: group}, None where an entry has none. Whole numbers
        further apart than 12, as ages are, become groups of ten: ``20-29``.

    Raises
    ------
    InputError
        If no entry has a column, or it has more than 12 values.

    Example
    -------
    >>> group_columns({"a": {"gender": "male"}, "b": {}})
    {'gender': {'a': 'male', 'b': None}}
    """
    if not isinstance(columns, (list, tuple)):
        raise InputError(
            f"fairness_columns: {columns} is no list; write [{columns}]"
        )
    had = {
        key
        for entry in entries.values()
        for key, value in entry.items()
        if value is not None
    }
    groups = {}
    for column in dict.fromkeys([*({"gender"} & had), *columns]):
        if column not in had:
            raise InputError(
                f"fairness_columns: the test manifest has no '{column}'; it "
                f"has {', '.join(sorted(had))}"
            )
        values = {id_: entry.get(column) for id_, entry in entries.items()}
        known = {*values.values()} - {None}
        whole = all(isinstance(value, int) for value in known)
        wide = whole and max(known) - min(known) > MOST_GROUPS
        name = _tens if wide else str
        groups[column] = {
            id_: None if value is None else name(value)
            for id_, value in values.items()
        }
        count = len({*groups[column].values()} - {None})
        if count > MOST_GROUPS:
            raise InputError(
                f"fairness_columns: '{column}' has {count} values in the test "
                f"manifest; give columns of at most {MOST_GROUPS}"
            )
    return groups


def fairness(labels, predictions, speakers, groups, classes):
    """Compare the groups of one column.

    Groups are compared if they have at least two speakers and every class of
    the test set: a group of one shows that speaker, not the group. Other
    groups have UA and counts only.

    Arguments
    ---------
    labels, predictions : list of int
        Class indices, one an utterance.
    speakers : list of str
        Speaker of each utterance.
    groups : list of str
        Group of each utterance, None where it is unknown, which not all are.
    classes : list of str
        Class names.

    Returns
    -------
    dict
        ``groups``: name -> ``ua`` (None where a class does not occur),
        ``utterances``, ``speakers``. ``unknown``: utterances of no known
        group. ``reason``: why groups are not compared; None where they are.
        All that follows is None with fewer than two groups to compare.
        ``ua_gap``: the best group's UA less the worst's.
        ``statistical_parity_difference``: by how much P(predicted = c) differs
        between two groups at most (Dwork et al., 2012).
        ``equal_opportunity_difference``: the same of P(predicted = c | label
        = c), which is the recall (Hardt et al., 2016). ``by_class``: both
        for each class c (the latter None where c does not occur), of which
        the two above are the maximum. All are fractions.

    Example
    -------
    >>> result = fairness(
    ...     [0, 1, 0, 1], [0, 1, 1, 1], list("abcd"), list("ffmm"), ["x", "y"]
    ... )
    >>> result["groups"]["m"], result["ua_gap"], result["reason"]
    ({'ua': 0.5, 'utterances': 2, 'speakers': 2}, 0.5, None)
    >>> result["equal_opportunity_difference"]
    1.0
    """
    known = np.array([group is not None for group in groups])
    labels, predictions, speakers, groups = (
        np.asarray(column)[known]
        for column in (labels, predictions, speakers, groups)
    )
    rows, counts = _by_group(labels, predictions, groups, classes)
    for name, row in rows.items():
        row["speakers"] = len(np.unique(speakers[groups.astype(str) == name]))
    compared = [
        row["ua"] is not None and row["speakers"] >= FEWEST_OF_GROUP
        for row in rows.values()
    ]
    found = {"ua_gap": None, "by_class": {}}
    if sum(compared) > 1:
        # Counts of the compared groups [G, C, C], rows are the truth; each
        # of the groups has every class that the test set has.
        counts = counts[compared]
        predicted = counts.sum(1) / counts.sum((1, 2))[:, None]
        truth = counts.sum(2)
        recall = counts.diagonal(axis1=1, axis2=2) / np.maximum(truth, 1)
        found = {
            "ua_gap": float(np.ptp(from_confusion(counts))),
            "by_class": {
                name: {
                    "statistical_parity": float(np.ptp(predicted[:, i])),
                    "equal_opportunity": float(np.ptp(recall[:, i]))
                    if truth[:, i].any()
                    else None,
                }
                for i, name in enumerate(classes)
            },
        }

    def worst(measure):
        values = [row[measure] for row in found["by_class"].values()]
        return max((x for x in values if x is not None), default=None)

    return {
        "groups": rows,
        "unknown": int((~known).sum()),
        "reason": None if found["by_class"] else _reason(rows),
        "statistical_parity_difference": worst("statistical_parity"),
        "equal_opportunity_difference": worst("equal_opportunity"),
        **found,
    }


def _reason(rows):
    """Reason why groups are not compared."""
    told = [
        f"{name} has {row['speakers']} speaker{'s' * (row['speakers'] > 1)}"
        + (" and lacks a class" if row["ua"] is None else "")
        for name, row in rows.items()
    ]
    return (
        f"{', '.join(told)}: a comparison needs two groups of at least "
        f"{FEWEST_OF_GROUP} speakers with every class"
    )


def worst_speaker(labels, predictions, speakers, classes):
    """Find the speaker with the lowest UA.

    Arguments
    ---------
    labels, predictions : list of int
        Class indices, one an utterance.
    speakers : list of str
        Speaker of each utterance.
    classes : list of str
        Class names.

    Returns
    -------
    dict
        ``speaker``, ``ua`` (fraction) and ``utterances`` of the lowest UA
        among the speakers with every class of the test set; None where there
        is no such speaker.

    Example
    -------
    >>> worst_speaker([0, 1, 0, 1], [0, 1, 0, 0], list("aabb"), ["x", "y"])
    {'speaker': 'b', 'ua': 0.5, 'utterances': 2}
    """
    rows, _ = _by_group(labels, predictions, speakers, classes)
    whole = [
        {"speaker": name, **row}
        for name, row in rows.items()
        if row["ua"] is not None
    ]
    return min(whole, key=lambda row: row["ua"], default=None)


def _tens(number):
    return f"{number // 10 * 10}-{number // 10 * 10 + 9}"


def _by_group(labels, predictions, groups, classes):
    """UA and support of each group, by name, and confusions [G, C, C].

    UA is None unless the group has every class that the labels have.
    """
    names, counts = speaker_confusions(
        labels, predictions, groups, len(classes)
    )
    has_all = (counts.sum(-1) > 0)[:, np.unique(labels)].all(1)
    rows = {
        name: {
            "ua": float(ua) if whole else None,
            "utterances": int(count.sum()),
        }
        for name, count, ua, whole in zip(
            names, counts, from_confusion(counts), has_all, strict=True
        )
    }
    return rows, counts
