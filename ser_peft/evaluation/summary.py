"""Mean and spread over the folds and seeds of many runs, and comparisons."""

import itertools
import re
import statistics
from collections import defaultdict
from pathlib import Path

from ser_peft.errors import InputError
from ser_peft.evaluation.metrics import METRICS, over_classes
from ser_peft.evaluation.paired import paired_difference
from ser_peft.evaluation.pooled import dip, pool
from ser_peft.evaluation.ranking import (
    TITLE,
    lacks,
    level,
    order,
    rank,
    title_of,
    unequal,
)
from ser_peft.evaluation.results import below_start
from ser_peft.evaluation.runs import paired_predictions, read_runs
from ser_peft.evaluation.votes import AMBIGUITY

__all__ = ["lacks", "level", "short_name", "summarize", "title_of"]


def summarize(paths, compare=None):
    """Average the results of many runs over folds and seeds.

    Runs of one corpus, protocol, list of classes, backbone, method and
    settings (the ``hyperparams.yaml`` beside the results, but for seed, fold
    and folders) are one group. Two groups are compared on the folds and seeds
    that both have, see `ser_peft.evaluation.paired.paired_difference`; a
    linear probe has no seed and goes with any.

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
        ``groups`` and ``comparisons``, lists of dicts, and ``warnings``, a
        list of str. In each corpus, protocol and number of classes the linear
        probe comes first, then the best common score; without a common score
        the most complete group comes first. A group has

        - name, corpus, protocol, n_classes, classes, backbone, method, runs,
          folds, folds_total, seeds;
        - settings, which tell it from groups of the same method, or "";
        - points: fold, seed and score (UA, or mean CCC where there are no
          classes) of each run;
        - missing: fold and seed of runs that it lacks and others of its
          corpus, protocol and number of classes have; common: its mean score
          on the folds and seeds that all of these have, or None;
        - ua, wa, macro_f1, weighted_f1 (fractions), ccc_mean, and start (test
          score of what the runs started from): None where runs have none,
          else ``mean`` and ``std`` over runs (ddof 1; None for one run), and
          ``std_folds`` over the folds of the means over seeds (None with one
          seed or one fold);
        - js_distance (to the annotators' votes), and ua_by_ambiguity, a dict
          of `ser_peft.evaluation.votes.AMBIGUITY`, likewise;
        - missing_classes: fold and classes of each test set that lacks some,
          whose UA is over the others;
        - scored_on: test, or valid of inner folds, which come in groups of
          their own; test_reads: how often the test set of a run was read, at
          most;
        - pooled, of all scored sets together, see
          `ser_peft.evaluation.pooled.pool`; None without classes;
        - trainable_parameters (adapter, head), train_seconds, step_seconds
          and model_bytes (means; None where unknown).

        A comparison, of groups with classes only, has corpus, protocol,
        n_classes, first, second (names), runs, folds, seeds and what
        `paired_difference` returns.

    Raises
    ------
    InputError
        If nothing is found, a file is not a finished `results.json`, runs of
        one fold were not made on the same utterances, or a comparison cannot
        be made.

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
    by_title = defaultdict(list)
    for runs in by_key.values():
        group = _group(runs)
        by_title[title_of(group)].append((group, runs))
    summary = {"groups": [], "comparisons": [], "warnings": []}
    for _, same in sorted(by_title.items()):
        level([group for group, _ in same])
        same.sort(key=lambda m: (not _is_probe(m[0]["method"]), *rank(m[0])))
        _name(same)
        groups = [group for group, _ in same]
        summary["groups"] += groups
        for member in same:
            summary["warnings"] += _warn(*member)
        summary["warnings"] += unequal(groups)
        if compare:
            pairs = [[_pick(same, name) for name in compare]]
        else:
            best = min(same, key=lambda member: rank(member[0]))
            pairs = [(best, other) for other in same if other is not best]
            pairs = pairs if best[0]["classes"] else []
        for pair in pairs:
            try:
                if None not in pair:
                    summary["comparisons"].append(_compare(*pair))
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


def short_name(backbone):
    """A Hugging Face id as it is; the name of a local folder."""
    path = Path(backbone)
    return path.name if path.is_absolute() else backbone


def _group(runs):
    """Averages of runs that differ in fold and seed alone."""
    seeds = _sorted({run["seed"] for run in runs})
    score = "ua" if runs[0]["classes"] else "ccc_mean"

    def spread(values):
        if None in values:
            return None
        by_fold = defaultdict(list)
        for run, value in zip(runs, values, strict=True):
            by_fold[run["fold"]].append(value)
        means = map(statistics.fmean, by_fold.values())
        return {
            "mean": statistics.fmean(values),
            "std": _std(values),
            "std_folds": _std([*means]) if len(seeds) > 1 else None,
        }

    same = (*TITLE, "classes", "backbone", "method", "trainable_parameters")
    return {
        **{key: runs[0][key] for key in same},
        "scored_on": runs[0]["scored_on"],
        "test_reads": max(run["test_reads"] for run in runs),
        "runs": len(runs),
        "folds": _sorted({run["fold"] for run in runs}),
        "folds_total": runs[0].get("folds_total"),
        "seeds": seeds,
        **{
            key: spread([run.get(key) for run in runs])
            for key in (*METRICS, "ccc_mean")
        },
        "start": spread([(run.get("start") or {}).get(score) for run in runs]),
        "js_distance": spread(
            [(run.get("votes") or {}).get("js_distance") for run in runs]
        ),
        "ua_by_ambiguity": {
            name: spread([_of_ambiguity(run, name) for run in runs])
            for name in AMBIGUITY
        },
        "points": [
            {
                **{key: run[key] for key in ("fold", "seed", "file")},
                "score": run[score],
            }
            for run in runs
        ],
        "missing_classes": [
            {"fold": fold, "classes": missing}
            for fold, missing in _missing_classes(runs).items()
        ],
        "pooled": pool(runs) if runs[0]["classes"] else None,
        **{
            key: _mean([run[key] for run in runs])
            for key in ("train_seconds", "step_seconds", "model_bytes")
        },
    }


def _of_ambiguity(run, name):
    """UA of a group of clips by the entropy of their votes, or None."""
    groups = (run.get("votes") or {}).get("by_ambiguity", {})
    return groups.get(name, {}).get("ua")


def _missing_classes(runs):
    """Fold -> classes that its test set lacks, for folds that lack some."""
    missing = {run["fold"]: run.get("missing_classes") for run in runs}
    return {fold: missing[fold] for fold in _sorted(missing) if missing[fold]}


def _mean(values):
    return None if None in values else statistics.fmean(values)


def _name(members):
    """Add to groups of one corpus settings and names that differ."""
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
        # A key of the top level tells most.
        own = [line for line in own if line[0] != " "] or own
        # What a Brain is given stands in keys of the same name.
        own = [line for line in own if not line.startswith("brain:")] or own
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
    """Group of a name or method, or None."""
    exact = [m for m in members if m[0]["name"] == name]
    found = exact or [m for m in members if m[0]["method"] == name]
    if len(found) > 1:
        names = ", ".join(repr(group["name"]) for group, _ in found)
        raise InputError(
            f"--compare {name}: is several; give the name of one: {names}"
        )
    return found[0] if found else None


def _compare(first, second):
    """Compare two groups on the folds and seeds that both have."""
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
        rows += paired_predictions(a, b)
    if not pairs:
        raise InputError(f"{names}: not compared, no fold and seed in common")
    speakers, *judged = zip(*rows, strict=True)
    return {
        **{key: one[key] for key in TITLE},
        "first": one["name"],
        "second": other["name"],
        "runs": len(pairs),
        "folds": _sorted({pair[0] for pair in pairs}),
        "seeds": _sorted(set().union(*pairs.values())),
        **paired_difference(*judged, speakers, one["classes"]),
    }


def _std(values):
    return statistics.stdev(values) if len(values) > 1 else None


def _warn(group, runs):
    """Warnings of one group."""
    name = f"{group['method']} on {short_name(group['backbone'])}"
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
    for run in runs:
        which = f"fold {run['fold']}, seed {run['seed']}"
        if run["test_reads"] > 1:
            yield (
                f"{name}: {which}: the test set was read {run['test_reads']} "
                "times; a choice made after the first is no honest one"
            )
        if run["scored_on"] == "test" and (below := below_start(run)):
            yield f"{name}: {which}: {below}"
    yield from _warn_of_pooled(name, group["folds"], group["pooled"] or {})
    for fold, missing in _missing_classes(runs).items():
        over = over_classes(missing, group["n_classes"])
        yield f"{name}: UA of fold {fold} is{over}"
    sizes = {tuple(run["trainable_parameters"].items()) for run in runs}
    if len(sizes) > 1:
        yield (
            f"{name}: runs differ in trainable parameters, so in more than "
            "fold and seed"
        )


def _warn_of_pooled(name, folds, pooled):
    """Warnings of pooled scores, most of them of pooled valid."""
    lacking = [
        one["seed"]
        for one in pooled.get("by_seed", ())
        if len(one["folds"]) < len(folds)
    ]
    if lacking:
        yield (
            f"{name}: seed {', '.join(map(str, lacking))}: lacks folds that "
            "others have; not in the mean over seeds of the pooled scores"
        )
    if not pooled.get("curve"):
        return
    start = pooled["start"]
    if start and start["difference"] < 0:
        yield (
            f"{name}: the pooled valid UA of the kept models, "
            f"{pooled['ua']:.1%}, is under that of what they started from "
            f"({start['from']}), {start['ua']:.1%}"
        )
    if fall := dip(pooled["curve"]):
        yield f"{name}: pooled valid {fall}"


def _is_probe(method):
    return re.fullmatch(r"(linear[ _-])?probe", method, re.I) is not None


def _sorted(values):
    return sorted(values, key=order)
