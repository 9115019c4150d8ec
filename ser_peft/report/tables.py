"""Tables of text, for a terminal and for pages."""

import itertools

from ser_peft.errors import printable
from ser_peft.evaluation.markdown import markdown_table
from ser_peft.evaluation.summary import lacks, short_name, title_of
from ser_peft.evaluation.votes import AMBIGUITY
from ser_peft.report.cells import interval_cell, paired_cells

__all__ = [
    "INNER",
    "comparison_table",
    "epoch_table",
    "format_summary",
    "group_table",
    "is_inner",
    "lay_out",
    "missing_classes_cell",
    "spread_cell",
]

INNER = ": inner folds, scored on valid; no test speaker was read"
"""End of the heading of what chooses settings, and is no score of a test."""


def format_summary(summary):
    """Lay a summary out as markdown tables for a terminal.

    Arguments
    ---------
    summary : dict
        What `ser_peft.evaluation.summary.summarize` returned.

    Returns
    -------
    str
        Two tables for each corpus, protocol and number of classes: groups,
        with rates in %, mean ± standard deviation over runs, and comparisons;
        then the warnings. Inner folds have tables of their own, of pooled
        valid.
    """
    text = ""
    for title, groups in itertools.groupby(summary["groups"], title_of):
        groups = [*groups]
        heading = "## {}, {}, {} classes".format(*title)
        heading += INNER * is_inner(groups)
        text += f"{printable(heading)}\n\n"
        text += markdown_table(*group_table(groups)) + "\n"
        head, rows = comparison_table(summary, title)
        if rows:
            text += markdown_table(head, rows) + "\n"
    lines = []
    if any(len(group["seeds"]) > 1 for group in summary["groups"]):
        lines.append(
            "± is over runs; in brackets over folds, seeds averaged first."
        )
    if any(group["missing"] for group in summary["groups"]):
        lines.append(
            "Common: the mean score on the folds and seeds that all rows "
            "have; rows are ranked by it."
        )
    if summary["comparisons"]:
        lines.append(
            "Difference: UA of the pooled sets, paired, 95 % interval over "
            "speakers."
        )
    if any(is_inner([group]) for group in summary["groups"]):
        lines.append(
            "Pooled valid: predictions of all inner folds together, each "
            "speaker once a seed; ± is over seeds, the interval over speakers. "
            "Start: what the runs started from, on the same utterances; points "
            "over it are paired."
        )
    lines += [f"warning: {text}" for text in summary["warnings"]]
    return (text + "\n".join(map(printable, lines))).rstrip() + "\n"


def group_table(groups):
    """Lay groups out, one per row.

    Arguments
    ---------
    groups : list of dict
        Groups of one corpus, protocol and number of classes.

    Returns
    -------
    tuple of (list of str, list of list of str)
        Names of the columns and rows, see `lay_out`. The columns about
        incomplete groups are left out if all are complete.
    """
    columns = _INNER_COLUMNS if is_inner(groups) else _GROUP_COLUMNS
    if not any(group["missing"] for group in groups):
        unused = ("common", "incomplete, lacks")
        columns = {k: cell for k, cell in columns.items() if k not in unused}
    return lay_out(groups, columns)


def is_inner(groups):
    """Whether groups of one title are scored on valid, see `INNER`."""
    return groups[0].get("scored_on") == "valid"


def comparison_table(summary, title):
    """Lay paired comparisons out, one per row.

    Arguments
    ---------
    summary : dict
        What `ser_peft.evaluation.summary.summarize` returned.
    title : tuple
        Corpus, protocol and number of classes.

    Returns
    -------
    tuple of (list of str, list of list of str)
        Names of the columns and rows.
    """
    head = "method|against|UA points|95 % interval|p|runs|speakers".split("|")
    return head, [
        [
            compared["first"],
            compared["second"],
            *paired_cells(compared),
            str(compared["runs"]),
            str(compared["speakers"]),
        ]
        for compared in summary["comparisons"]
        if title_of(compared) == title
    ]


def epoch_table(history, measures):
    """Lay the measures of a training out, one epoch per row.

    Arguments
    ---------
    history : list of dict
        One dict per epoch.
    measures : dict
        Key of `history` -> name and format, in addition to losses, learning
        rates and time.

    Returns
    -------
    tuple of (list of str, list of list of str)
        Names of the columns and rows.
    """
    formats = {
        "epoch": ("epoch", "{}"),
        "train_loss": ("train loss", "{:.3f}"),
        "valid_loss": ("valid loss", "{:.3f}"),
        **measures,
        "lr_adapter": ("adapter lr", "{:.2g}"),
        "lr_head": ("head lr", "{:.2g}"),
        "seconds": ("time", "{:.1f} s"),
    }
    return [name for name, _ in formats.values()], [
        [
            "–" if epoch.get(key) is None else form.format(epoch[key])
            for key, (_, form) in formats.items()
        ]
        for epoch in history
    ]


def lay_out(items, columns):
    """Lay items out, one per row, without columns that say nothing.

    Arguments
    ---------
    items : list
        Items, such as groups or models.
    columns : dict
        Name -> function that returns an item's cell. A column in which all
        cells are "–" or "all classes" is left out.

    Returns
    -------
    tuple of (list of str, list of list of str)
        Names of the columns and rows.

    Example
    -------
    >>> lay_out([1, 2], {"n": str, "start": lambda n: "–"})
    (['n'], [['1'], ['2']])
    """
    cells = {
        name: [cell(item) for item in items] for name, cell in columns.items()
    }
    told = {
        name: column
        for name, column in cells.items()
        if {*column} not in ({"–"}, {"all classes"})
    }
    return [*told], [[*row] for row in zip(*told.values(), strict=True)]


def spread_cell(metric, fractions=True):
    """Cell of a mean with its spread.

    Arguments
    ---------
    metric : dict or None
        `mean`, and `std` and `std_folds`, which may be None.
    fractions : bool
        Whether to show it in % with one decimal; otherwise with three.

    Returns
    -------
    str

    Example
    -------
    >>> spread_cell({"mean": 0.7, "std": 0.1, "std_folds": None})
    '70.0 ± 10.0'
    """
    if metric is None:
        return "–"
    text = _score(metric["mean"], fractions)
    if metric["std"] is not None:
        text += f" ± {_score(metric['std'], fractions)}"
    if metric["std_folds"] is not None:
        text += f" ({_score(metric['std_folds'], fractions)})"
    return text


def missing_classes_cell(group):
    """Cell that names the folds whose test set lacks classes.

    Arguments
    ---------
    group : dict
        `n_classes`, and `missing_classes` as `summarize` has them.

    Returns
    -------
    str

    Example
    -------
    >>> missing = [{"fold": 1, "classes": ["sad"]}]
    >>> missing_classes_cell({"missing_classes": missing, "n_classes": 4})
    '3 of 4 in fold 1'
    """
    by_count = {}
    for fold in group["missing_classes"]:
        count = group["n_classes"] - len(fold["classes"])
        by_count.setdefault(count, []).append(str(fold["fold"]))
    cells = [
        f"{count} of {group['n_classes']} in fold {', '.join(folds)}"
        for count, folds in by_count.items()
    ]
    return "; ".join(cells) or "all classes"


def _score(value, fractions):
    return f"{100 * value:.1f}" if fractions else f"{value:.3f}"


def _common(group):
    if group["common"] is None:
        return "–"
    return _score(group["common"], group["n_classes"])


def _folds(group):
    count, total = len(group["folds"]), group["folds_total"]
    if total and count < total:
        return f"{','.join(map(str, group['folds']))} of {total}"
    return str(count)


def _decimal(value, factor=1):
    return "–" if value is None else f"{factor * value:.2f}"


def _reads(group):
    count = group.get("test_reads", 1)
    return f"up to {count}" if count > 1 else "–"


def _pooled(key):
    """Cell of a metric of pooled valid."""
    return lambda g: spread_cell(g["pooled"] and g["pooled"]["over_seeds"][key])


def _interval(group):
    if not (pooled := group["pooled"]):
        return "–"
    ends = {"ci95": pooled["ua_ci95"], "reason": pooled["ua_ci95_reason"]}
    return interval_cell(ends, "{:.1f}")


def _start(cell):
    """Cell of what a group started from, where it has that."""

    def of_group(group):
        start = (group["pooled"] or {}).get("start")
        return cell(start) if start else "–"

    return of_group


_NAMES = {
    "method": lambda g: g["method"] + (g["settings"] and f" ({g['settings']})"),
    "backbone": lambda g: short_name(g["backbone"]),
}
_GROUP_COLUMNS = {
    **_NAMES,
    "UA %": lambda g: spread_cell(g["ua"]),
    "WA %": lambda g: spread_cell(g["wa"]),
    "macro F1 %": lambda g: spread_cell(g["macro_f1"]),
    "weighted F1 %": lambda g: spread_cell(g["weighted_f1"]),
    "CCC": lambda g: spread_cell(g["ccc_mean"], False),
    "JS distance": lambda g: spread_cell(g["js_distance"], False),
    **{
        f"UA %, {name}": lambda g, name=name: spread_cell(
            g["ua_by_ambiguity"][name]
        )
        for name in AMBIGUITY
    },
    "start": lambda g: spread_cell(g["start"], g["n_classes"]),
    "common": _common,
    "UA over": missing_classes_cell,
    "runs": lambda g: str(g["runs"]),
    "folds": _folds,
    "incomplete, lacks": lacks,
    "seeds": lambda g: str(len(g["seeds"])),
    "test reads": _reads,
    "adapter": lambda g: f"{g['trainable_parameters']['adapter']:,}",
    "head": lambda g: f"{g['trainable_parameters']['head']:,}",
    "MB": lambda g: _decimal(g["model_bytes"], 1e-6),
    "s/step": lambda g: _decimal(g["step_seconds"]),
    "train s": lambda g: f"{g['train_seconds']:,.0f}",
}
_INNER_COLUMNS = {
    **_NAMES,
    "pooled valid UA %": _pooled("ua"),
    "95 % interval": _interval,
    "WA %": _pooled("wa"),
    "macro F1 %": _pooled("macro_f1"),
    "mean valid CCC": _GROUP_COLUMNS["CCC"],
    "start UA %": _start(lambda start: _score(start["ua"], True)),
    "points over start": _start(lambda start: paired_cells(start)[0]),
    "their 95 % interval": _start(lambda start: paired_cells(start)[1]),
    **{
        name: _GROUP_COLUMNS[name]
        for name in (
            *("runs", "folds", "incomplete, lacks", "seeds", "adapter"),
            *("head", "s/step", "train s"),
        )
    },
}
