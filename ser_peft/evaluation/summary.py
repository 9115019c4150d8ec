"""Mean and spread over the folds and seeds of many runs."""

import json
import re
import statistics
from collections import defaultdict
from pathlib import Path

from ser_peft.errors import InputError

__all__ = ["format_table", "markdown", "summarize"]

_METRICS = ("ua", "wa", "macro_f1")
_GROUP = ("corpus", "protocol", "n_classes", "backbone", "method")
_NEEDED = (
    "corpus protocol protocol_sha fold seed backbone method classes ua wa "
    "macro_f1 trainable_parameters train_seconds"
).split()


def summarize(paths):
    """Gather the results of many runs.

    Runs of one corpus, protocol, number of classes, backbone and method are
    one group: its folds and seeds are averaged, nothing else is.

    Arguments
    ---------
    paths : list of str or Path
        `results.json` files, or folders searched at any depth.

    Returns
    -------
    dict
        `groups`, a list of dicts, and `warnings`, a list of str. A group
        has corpus, protocol, n_classes, backbone, method, runs, folds,
        folds_total, seeds, trainable_parameters (adapter, head),
        train_seconds (mean), and for each of ua, wa and macro_f1 a dict of
        fractions: `mean` and `std` over runs (ddof 1; None for a single
        run), `std_folds` over the folds of the means over seeds (None with
        one seed or one fold). In each corpus, protocol and number of classes
        the linear probe comes first, then the best UA.

    Raises
    ------
    InputError
        Nothing found, a file that is not a finished `results.json`, or runs
        of one fold that were not made on the same utterances.

    Example
    -------
    >>> summary = summarize(["results/RAVDESS"])  # doctest: +SKIP
    >>> print(format_table(summary))  # doctest: +SKIP
    """
    runs = [_read(path) for path in _find(paths)]
    _refuse_mixed_protocols(runs)
    groups = defaultdict(list)
    for run in runs:
        groups[tuple(run[key] for key in _GROUP)].append(run)
    made = [_group(group) for group in groups.values()]
    made.sort(
        key=lambda g: (
            (g["corpus"], g["protocol"], g["n_classes"]),
            not _is_probe(g["method"]),
            -g["ua"]["mean"],
        )
    )
    warnings = [text for group in groups.values() for text in _warn(group)]
    return {"groups": made, "warnings": warnings}


def format_table(summary):
    """Lay a summary out as markdown tables for a terminal.

    Arguments
    ---------
    summary : dict
        What `summarize` returned.

    Returns
    -------
    str
        One table for each corpus, protocol and number of classes; rates in
        %, mean ± standard deviation over runs, then the warnings.
    """
    tables = defaultdict(list)
    for group in summary["groups"]:
        title = (group["corpus"], group["protocol"], group["n_classes"])
        tables[title].append(group)
    head = ["method", "backbone", "UA %", "WA %", "macro F1 %"]
    head += ["runs", "folds", "seeds", "adapter", "head", "train s"]
    lines = []
    for (corpus, protocol, n_classes), groups in tables.items():
        lines += [f"## {corpus}, {protocol}, {n_classes} classes", ""]
        rows = [
            [
                group["method"],
                group["backbone"],
                *(_spread(group[metric]) for metric in _METRICS),
                str(group["runs"]),
                _folds(group),
                str(len(group["seeds"])),
                f"{group['trainable_parameters']['adapter']:,}",
                f"{group['trainable_parameters']['head']:,}",
                f"{group['train_seconds']:,.0f}",
            ]
            for group in groups
        ]
        lines += [*markdown(head, rows), ""]
    if any(group["ua"]["std_folds"] is not None for group in summary["groups"]):
        lines.append(
            "± is over runs; in brackets over folds, seeds averaged first."
        )
    lines += [f"warning: {text}" for text in summary["warnings"]]
    return "\n".join(lines).rstrip() + "\n"


def _find(paths):
    found = {}
    for path in map(Path, paths):
        if not path.exists():
            raise InputError(f"{path}: no such file or folder; check the path")
        files = [path]
        if path.is_dir():
            # A killed run leaves hidden scratch folders: not results.
            files = [
                file
                for file in sorted(path.rglob("results.json"))
                if "/." not in f"/{file.relative_to(path).as_posix()}"
            ]
        found |= {file.resolve(): file for file in files}
    if not found:
        raise InputError(
            f"no results.json under {', '.join(map(str, paths))}; give the "
            "output folders of finished runs"
        )
    return found.values()


def _read(path):
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # not JSON, or not text
        raise InputError(
            f"{path}: not whole JSON ({error}); copy it again, or run that "
            "training again"
        ) from error
    missing = [
        key for key in _NEEDED if not isinstance(run, dict) or key not in run
    ]
    if missing:
        raise InputError(
            f"{path}: not the results.json of a run (no {missing[0]!r}); "
            "leave it out"
        )
    return {**run, "n_classes": len(run["classes"]), "file": str(path)}


def _refuse_mixed_protocols(runs):
    """Runs of one fold are compared; they must have had the same test."""
    first = {}
    for run in runs:
        keys = ("corpus", "protocol", "n_classes", "fold")
        other = first.setdefault(tuple(run[key] for key in keys), run)
        if run["protocol_sha"] != other["protocol_sha"]:
            raise InputError(
                f"{run['file']} and {other['file']}: fold {run['fold']} of "
                f"{run['corpus']} ({run['protocol']}) was not the same "
                "utterances in both (protocol_sha differs); summarize them "
                "apart"
            )


def _group(runs):
    folds = _sorted({run["fold"] for run in runs})
    seeds = _sorted({run["seed"] for run in runs})
    return {
        **{key: runs[0][key] for key in _GROUP},
        "runs": len(runs),
        "folds": folds,
        "folds_total": runs[0].get("folds_total"),
        "seeds": seeds,
        **{metric: _statistics(runs, metric, seeds) for metric in _METRICS},
        "trainable_parameters": runs[0]["trainable_parameters"],
        "train_seconds": statistics.fmean(r["train_seconds"] for r in runs),
    }


def _statistics(runs, metric, seeds):
    by_fold = defaultdict(list)
    for run in runs:
        by_fold[run["fold"]].append(run[metric])
    means = [statistics.fmean(values) for values in by_fold.values()]
    values = [run[metric] for run in runs]
    return {
        "mean": statistics.fmean(values),
        "std": _std(values),
        "std_folds": _std(means) if len(seeds) > 1 else None,
    }


def _std(values):
    return statistics.stdev(values) if len(values) > 1 else None


def _warn(runs):
    name = f"{runs[0]['method']} on {runs[0]['backbone']}"
    files = defaultdict(list)
    for run in runs:
        files[run["fold"], run["seed"]].append(run["file"])
    for (fold, seed), made in files.items():
        if len(made) > 1:
            yield (
                f"{name}: {len(made)} runs of fold {fold}, seed {seed}, all "
                f"counted: {', '.join(made)}"
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


def _spread(metric):
    text = f"{100 * metric['mean']:.1f}"
    if metric["std"] is not None:
        text += f" ± {100 * metric['std']:.1f}"
    if metric["std_folds"] is not None:
        text += f" ({100 * metric['std_folds']:.1f})"
    return text


def _folds(group):
    count, total = len(group["folds"]), group["folds_total"]
    if total and count < total:
        return f"{','.join(map(str, group['folds']))} of {total}"
    return str(count)


def markdown(head, rows):
    """Lay rows out as a markdown table whose columns align.

    Arguments
    ---------
    head : list of str
        Names of the columns; the first two are aligned left.
    rows : list of list of str
        Their cells.

    Returns
    -------
    list of str
        Lines.

    Example
    -------
    >>> print("\\n".join(markdown(["a", "b", "c"], [["x", "y", "10"]])))
    | a | b |  c |
    | - | - | -- |
    | x | y | 10 |
    """
    rows = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    rule = ["-" * width for width in widths]
    return [
        "| "
        + " | ".join(
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        + " |"
        for row in (head, rule, *rows)
    ]
