"""Groups of runs, ranked on the folds and seeds that all of them have."""

import statistics
from collections import defaultdict

__all__ = ["lacks", "level", "order", "rank", "title_of", "unequal"]

TITLE = ("corpus", "protocol", "n_classes")
"""Keys that two groups must share to be compared."""


def title_of(item):
    """Corpus, protocol and number of classes of a group or comparison."""
    return tuple(item[key] for key in TITLE)


def order(value):
    """Sorting key of folds and seeds: a fold may be a name, a seed None."""
    value = "" if value is None else value
    return isinstance(value, str), value


def level(groups):
    """Add to groups the points that each lacks, and its score on common ones.

    Arguments
    ---------
    groups : list of dict
        Groups of `summarize`, to be compared with each other; get ``missing``
        and ``common``.
    """
    seeds = defaultdict(set)
    for group in groups:
        for point in group["points"]:
            seeds[point["fold"]] |= {point["seed"]} - {None}
    scores = []
    for group in groups:
        found = defaultdict(list)
        for point in group["points"]:
            given = {point["seed"]}
            if given == {None}:  # a probe, which goes with any seed
                given = seeds[point["fold"]] or given
            for seed in given:
                found[point["fold"], seed].append(point["score"])
        scores.append(found)
    made = set().union(*scores)
    common = set.intersection(*map(set, scores))
    for group, found in zip(groups, scores, strict=True):
        lacked = made.difference(found)
        group["missing"] = [
            {"fold": fold, "seed": seed}
            for fold, seed in sorted(lacked, key=lambda c: [*map(order, c)])
        ]
        means = [statistics.fmean(found[cell]) for cell in common]
        group["common"] = statistics.fmean(means) if means else None


def rank(group):
    """Sorting key of the groups of one title, the best first.

    Arguments
    ---------
    group : dict
        Group of `summarize`, after `level`.

    Returns
    -------
    tuple
    """
    if group.get("scored_on") == "valid" and group["pooled"]:
        # A fold alone may lack classes; pooled valid is what chooses.
        return len(group["missing"]), -group["pooled"]["ua"]
    if group["common"] is not None:
        return 0, -group["common"]
    score = group["ua" if group["classes"] else "ccc_mean"]["mean"]
    return len(group["missing"]), -score


def lacks(group):
    """Folds and seeds that a group lacks and others have, as text.

    Arguments
    ---------
    group : dict
        Group of `summarize`.

    Returns
    -------
    str
        Empty where it lacks none.

    Example
    -------
    >>> missing = [{"fold": 2, "seed": 8}, {"fold": 3, "seed": 8}]
    >>> lacks({"folds": [1, 2], "missing": missing})
    'fold 2 seed 8, fold 3'
    """
    told = [
        f"fold {cell['fold']}"
        + f" seed {cell['seed']}" * (cell["fold"] in group["folds"])
        for cell in group["missing"]
    ]
    return ", ".join(dict.fromkeys(told))


def unequal(groups):
    """Warnings of the groups that lack folds or seeds.

    Arguments
    ---------
    groups : list of dict
        Groups of one title, after `level`.

    Yields
    ------
    str
    """
    lacking = [group for group in groups if group["missing"]]
    for group in lacking:
        yield f"{group['name']}: incomplete, lacks {lacks(group)}"
    if lacking:
        title = "{}, {}, {} classes".format(*title_of(lacking[0]))
        if lacking[0].get("scored_on") == "valid":
            yield (
                f"{title}: pooled valid of fewer folds is that of fewer "
                "speakers; the most complete come first"
            )
            return
        yield (
            f"{title}: no fold and seed that all rows have; they are not "
            "ranked, the most complete come first"
            if lacking[0]["common"] is None
            else f"{title}: ranked by the folds and seeds that all rows have"
        )
