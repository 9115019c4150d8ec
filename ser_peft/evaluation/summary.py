"""Mean and spread over the folds and seeds of many runs."""

import itertools
import re
import statistics
from collections import defaultdict
from pathlib import Path

import numpy as np

from ser_peft.errors import InputError
from ser_peft.evaluation.comparison import paired_bootstrap
from ser_peft.evaluation.metrics import from_confusion, speaker_bootstrap
from ser_peft.evaluation.runs import read_runs

__all__ = ["short_name", "summarize", "title_of"]

_METRICS = ("ua", "wa", "macro_f1", "weighted_f1", "ccc_mean")
_TITLE = ("corpus", "protocol", "n_classes")


def summarize(paths, compare=None):
    """Gather the results of many runs.

    Runs of one corpus, protocol, list of classes, backbone, method and
    settings (the ``hyperparams.yaml`` beside the results, but for seed, fold
    and folders) are one group: its folds and seeds are averaged, nothing else
    is. Two groups are compared on the folds and seeds that both have, see
    `ser_peft.evaluation.comparison.paired_bootstrap`; a linear probe has no
    seed and goes with any.

    Arguments
    ---------
    paths : list of str or Path
        `results.json` files, or folders searched at any depth.
    compare : tuple of (str, str), optional
        Two methods, or names of groups where a method is in several; by
        default every group is compared with the best.

    Returns
    -------
    dict
        `groups` and `comparisons`, lists of dicts, and `warnings`, a list of
        str. A group has name, corpus, protocol, n_classes, classes, backbone,
        method, settings (what tells it from its likes, or ""), runs, folds,
        folds_total, seeds, points (fold, seed and score of each run),
        trainable_parameters (adapter, head), train_seconds (mean),
        step_seconds and model_bytes (mean; None where unknown), for each of
        ua, wa, macro_f1, weighted_f1 (fractions) and ccc_mean a dict: `mean`
        and `std` over runs (ddof 1; None for a single run), `std_folds` over
        the folds of the means over seeds (None with one seed or one fold), or
        None where runs have none, and `pooled`, of all test sets together:
        confusion (counts), ua and its ua_ci95 over speakers (None without the
        runs' ``predictions.csv``), or None without classes. In each corpus,
        protocol and number of classes the linear probe comes first, then the
        best score: UA, or mean CCC where there are no classes. A comparison
        has corpus, protocol, n_classes, first, second (names), runs, folds,
        seeds and what `paired_bootstrap` returns; classes are compared only.

    Raises
    ------
    InputError
        Nothing found, a file that is not a finished `results.json`, runs
        of one fold that were not made on the same utterances, or a comparison
        that cannot be made.

    Example
    -------
    >>> summary = summarize(["results/RAVDESS"])  # doctest: +SKIP
    >>> len(summary["groups"])  # doctest: +SKIP
    8
    """
    by_key = defaultdict(list)
    for run in read_runs(paths):
        same = "corpus", "protocol", "backbone", "method", "settings"
        # Scores with transcripts of two kinds are two results.
        texts = {*(run.get("text") or {}).get("sources", ())} - {"none"}
        key = (
            *(run[name] for name in same),
            tuple(run["classes"]),
            tuple(sorted(texts)),
        )
        by_key[key].append(run)
    members = [(_group(runs), runs) for runs in by_key.values()]
    members.sort(
        key=lambda member: (
            title_of(member[0]),
            not _is_probe(member[0]["method"]),
            -_score(member[0]),
        )
    )
    summary = {
        "groups": [group for group, _ in members],
        "comparisons": [],
        "warnings": [text for member in members for text in _warn(*member)],
    }
    for _, same in itertools.groupby(members, lambda m: title_of(m[0])):
        same = [*same]
        _name(same)
        if compare:
            pairs = [[_pick(same, name) for name in compare]]
        else:
            best = max(same, key=lambda member: _score(member[0]))
            pairs = [(best, other) for other in same if other is not best]
            pairs = pairs if best[0]["classes"] else []
        for first, second in pairs:
            if first is None or second is None:
                continue
            try:
                summary["comparisons"].append(_compare(first, second))
            except InputError as error:
                if compare:
                    raise
                summary["warnings"].append(str(error))
    if compare and not summary["comparisons"]:
        names = [repr(group["name"]) for group in summary["groups"]]
        raise InputError(
            f"--compare {' '.join(compare)}: not both there; there are "
            f"{', '.join(names)}"
        )
    return summary


def title_of(item):
    """Corpus, protocol and number of classes of a group or comparison."""
    return tuple(item[key] for key in _TITLE)


def short_name(backbone):
    """A Hugging Face id as it is; the name of a local folder."""
    path = Path(backbone)
    return path.name if path.is_absolute() else backbone


def _group(runs):
    folds = _sorted({run["fold"] for run in runs})
    seeds = _sorted({run["seed"] for run in runs})
    same = (*_TITLE, "classes", "backbone", "method")
    return {
        **{key: runs[0][key] for key in same},
        "runs": len(runs),
        "folds": folds,
        "folds_total": runs[0].get("folds_total"),
        "seeds": seeds,
        **{metric: _statistics(runs, metric, seeds) for metric in _METRICS},
        "points": [
            {
                "fold": run["fold"],
                "seed": run["seed"],
                "score": run["ua" if run["classes"] else "ccc_mean"],
            }
            for run in runs
        ],
        "pooled": _pool(runs) if runs[0]["classes"] else None,
        "trainable_parameters": runs[0]["trainable_parameters"],
        **{
            key: _mean([run[key] for run in runs])
            for key in ("train_seconds", "step_seconds", "model_bytes")
        },
    }


def _score(group):
    """What groups are ordered by."""
    return group["ua" if group["classes"] else "ccc_mean"]["mean"]


def _mean(values):
    return None if None in values else statistics.fmean(values)


def _pool(runs):
    """All test sets together."""
    confusion = np.sum([run["confusion"] for run in runs], 0)
    interval = None
    if all(run["predictions"] for run in runs):
        rows = [row for run in runs for row in run["predictions"].values()]
        speakers, labels, predicted = zip(*rows, strict=True)
        interval = speaker_bootstrap(
            labels, predicted, speakers, len(confusion)
        )
    return {
        "confusion": confusion.tolist(),
        "ua": float(from_confusion(confusion)),
        "ua_ci95": interval and [*interval],
    }


def _name(members):
    """Add to groups of one corpus what tells them apart."""
    backbones = {group["backbone"] for group, _ in members}
    for group, runs in members:
        alike = [
            set(others[0]["settings"])
            for other, others in members
            if (other["method"], other["backbone"])
            == (group["method"], group["backbone"])
            and others[0]["settings"]
        ]
        mine = runs[0]["settings"]
        own = [line for line in mine if line not in set.intersection(*alike)]
        # A key of the top level says it best.
        own = [line for line in own if line[0] != " "] or own
        if alike and not mine:
            own = ["no hyperparams.yaml"]
        elif len(alike) > 1 and not own:
            others = set.union(*alike).difference(mine)
            line = min(others, key=lambda line: (line[0] == " ", line))
            own = [f"no {line.strip()}"]
        group["settings"] = ", ".join(map(str.strip, own[:3]))
        group["name"] = group["method"]
        if len(backbones) > 1:
            group["name"] += f" on {short_name(group['backbone'])}"
        if group["settings"]:
            group["name"] += f" ({group['settings']})"


def _pick(members, name):
    """The group that is meant, or None."""
    exact = [m for m in members if m[0]["name"] == name]
    found = exact or [m for m in members if m[0]["method"] == name]
    if len(found) > 1:
        names = ", ".join(repr(group["name"]) for group, _ in found)
        raise InputError(
            f"--compare {name}: is several; give the name of one: {names}"
        )
    return found[0] if found else None


def _compare(first, second):
    """Two groups on the folds and seeds that both have."""
    (one, one_runs), (other, other_runs) = first, second
    names = f"{one['name']} and {other['name']}"
    if not one["classes"]:
        raise InputError(f"{names}: not compared, they have no classes")
    rows, pairs = [], {}
    for a, b in itertools.product(one_runs, other_runs):
        seeds = {a["seed"], b["seed"]} - {None}
        pair = a["fold"], *seeds
        if a["fold"] != b["fold"] or len(seeds) > 1 or pair in pairs:
            continue
        pairs[pair] = seeds
        for run in (a, b):
            if not run["predictions"]:
                raise InputError(
                    f"{names}: not compared, no predictions.csv beside "
                    f"{run['file']}"
                )
        rows += [
            (*row, b["predictions"][id_][2])
            for id_, row in a["predictions"].items()
        ]
    if not pairs:
        raise InputError(f"{names}: not compared, no fold and seed in common")
    speakers, labels, said, also_said = zip(*rows, strict=True)
    return {
        **{key: one[key] for key in _TITLE},
        "first": one["name"],
        "second": other["name"],
        "runs": len(pairs),
        "folds": _sorted({pair[0] for pair in pairs}),
        "seeds": _sorted(set().union(*pairs.values())),
        **paired_bootstrap(labels, said, also_said, speakers, one["n_classes"]),
    }


def _statistics(runs, metric, seeds):
    values = [run.get(metric) for run in runs]
    if None in values:
        return None
    by_fold = defaultdict(list)
    for run in runs:
        by_fold[run["fold"]].append(run[metric])
    means = [statistics.fmean(values) for values in by_fold.values()]
    return {
        "mean": statistics.fmean(values),
        "std": _std(values),
        "std_folds": _std(means) if len(seeds) > 1 else None,
    }


def _std(values):
    return statistics.stdev(values) if len(values) > 1 else None


def _warn(group, runs):
    name = f"{group['method']} on {group['backbone']}"
    files = defaultdict(list)
    for run in runs:
        files[run["fold"], run["seed"]].append(run["file"])
    for (fold, seed), made in files.items():
        if len(made) > 1:
            yield (
                f"{name}: {len(made)} runs of fold {fold}, seed {seed}, all "
                f"counted: {', '.join(made)}"
            )
    if any(run.get("shares_speakers") for run in runs):
        yield (
            f"{name}: training heard speakers of the test set "
            f"({group['protocol']}); the scores are not those of unheard ones"
        )
    sizes = {tuple(run["trainable_parameters"].items()) for run in runs}
    if len(sizes) > 1:
        yield (
            f"{name}: runs differ in trainable parameters, so in more than "
            "fold and seed"
        )


def _is_probe(method):
    return re.fullmatch(r"(linear[ _-])?probe", method, re.I) is not None


def _sorted(values):
    # A fold may also have a name, which no number compares with.
    return sorted(values, key=lambda v: (isinstance(v, str), v))
