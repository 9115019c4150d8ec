"""A summary as tables of text, for a terminal and for the page."""

import itertools

from ser_peft.errors import printable
from ser_peft.evaluation.summary import lacks, short_name, title_of

__all__ = [
    "comparison_table",
    "ends",
    "format_table",
    "group_table",
    "markdown",
    "over",
    "points",
    "spread",
]

_COLUMNS = {
    "method": lambda g: g["method"] + (g["settings"] and f" ({g['settings']})"),
    "backbone": lambda g: short_name(g["backbone"]),
    "UA %": lambda g: spread(g["ua"], 100, 1),
    "WA %": lambda g: spread(g["wa"], 100, 1),
    "macro F1 %": lambda g: spread(g["macro_f1"], 100, 1),
    "weighted F1 %": lambda g: spread(g["weighted_f1"], 100, 1),
    "CCC": lambda g: spread(g["ccc_mean"], 1, 3),
    "start": lambda g: spread(
        g["start"], *((100, 1) if g["classes"] else (1, 3))
    ),
    "common": lambda g: _common(g),
    "UA over": lambda g: over(g),
    "runs": lambda g: str(g["runs"]),
    "folds": lambda g: _folds(g),
    "incomplete, lacks": lambda g: lacks(g),
    "seeds": lambda g: str(len(g["seeds"])),
    "adapter": lambda g: f"{g['trainable_parameters']['adapter']:,}",
    "head": lambda g: f"{g['trainable_parameters']['head']:,}",
    "MB": lambda g: _number(g["model_bytes"], 1e-6),
    "s/step": lambda g: _number(g["step_seconds"], 1),
    "train s": lambda g: f"{g['train_seconds']:,.0f}",
}
_SCORES = ("UA %", "WA %", "macro F1 %", "weighted F1 %", "CCC")
_NOTHING = {
    **dict.fromkeys((*_SCORES, "start"), "–"),
    "UA over": "all classes",
    "incomplete, lacks": "",
}
"""What a column need not be shown for."""


def format_table(summary):
    """Lay a summary out as markdown tables for a terminal.

    Arguments
    ---------
    summary : dict
        What `summarize` returned.

    Returns
    -------
    str
        Two tables for each corpus, protocol and number of classes: groups,
        with rates in %, mean ± standard deviation over runs, and comparisons;
        then the warnings.
    """
    lines = []
    for title, groups in itertools.groupby(summary["groups"], title_of):
        corpus, protocol, n_classes = title
        lines += [f"## {corpus}, {protocol}, {n_classes} classes", ""]
        lines += [*markdown(*group_table([*groups])), ""]
        head, rows = comparison_table(summary, title)
        if rows:
            lines += [*markdown(head, rows), ""]
    if any(len(group["seeds"]) > 1 for group in summary["groups"]):
        lines.append(
            "± is over runs; in brackets over folds, seeds averaged first."
        )
    if any(group["missing"] for group in summary["groups"]):
        lines.append(
            "Common: the mean score on the folds and seeds that all rows "
            "have; by it they are ranked."
        )
    if summary["comparisons"]:
        lines.append(
            "Difference: UA of the pooled test sets, paired, 95 % interval "
            "over speakers."
        )
    lines += [f"warning: {text}" for text in summary["warnings"]]
    return "\n".join(map(printable, lines)).rstrip() + "\n"


def group_table(groups):
    """Lay groups out.

    Arguments
    ---------
    groups : list of dict
        Of one corpus, protocol and number of classes.

    Returns
    -------
    tuple of (list of str, list of list of str)
        Names of the columns, without scores that no group has and without
        what is right with all, and rows.
    """
    columns = {
        name: [cell(group) for group in groups]
        for name, cell in _COLUMNS.items()
    }
    for name, nothing in _NOTHING.items():
        if set(columns[name]) == {nothing}:
            del columns[name]
    if "incomplete, lacks" not in columns:
        del columns["common"]
    return [*columns], [*map(list, zip(*columns.values(), strict=True))]


def comparison_table(summary, title):
    """Lay comparisons out.

    Arguments
    ---------
    summary : dict
        What `summarize` returned.
    title : tuple
        Corpus, protocol and number of classes.

    Returns
    -------
    tuple of (list of str, list of list of str)
        Names of the columns, and rows.
    """
    head = "method|against|UA points|95 % interval|p|runs|speakers".split("|")
    rows = []
    for comparison in summary["comparisons"]:
        if title_of(comparison) != title:
            continue
        rows.append(
            [
                comparison["first"],
                comparison["second"],
                *points(comparison),
                str(comparison["runs"]),
                str(comparison["speakers"]),
            ]
        )
    return head, rows


def points(compared):
    """Lay a paired difference out: points, their interval, p.

    Arguments
    ---------
    compared : dict
        `difference`, `ci95`, `p` and `reason`, of
        `ser_peft.evaluation.paired.paired_difference`.

    Returns
    -------
    list of str

    Example
    -------
    >>> found = {"difference": 0.021, "ci95": [-0.01, 0.05], "p": 0.0004}
    >>> points(found)
    ['+2.1', '-1.0 to +5.0', '<0.001']
    >>> few = "3 speakers, 4 are needed"
    >>> points(found | {"ci95": None, "p": None, "reason": few})
    ['+2.1', 'none: 3 speakers, 4 are needed', '–']
    """
    p = compared["p"]
    told = "–"
    if p is not None:
        told = f"{p:.3f}" if p >= 0.001 else "<0.001"
    return [
        f"{100 * compared['difference']:+.1f}",
        ends(compared, "{:+.1f}"),
        told,
    ]


def ends(found, form):
    """Lay an interval out in %, or why there is none.

    Arguments
    ---------
    found : dict
        `ci95`, fractions, and where it is None `reason`.
    form : str
        Format of an end.

    Returns
    -------
    str
    """
    if found["ci95"] is None:
        return f"none: {found['reason']}"
    return " to ".join(form.format(100 * end) for end in found["ci95"])


def spread(metric, scale, digits):
    """Lay a mean out with what it is the mean of.

    Arguments
    ---------
    metric : dict or None
        `mean`, and `std` and `std_folds`, which may be None.
    scale : float
        100 for per cent.
    digits : int
        Behind the point.

    Returns
    -------
    str

    Example
    -------
    >>> spread({"mean": 0.7, "std": 0.1, "std_folds": None}, 100, 1)
    '70.0 ± 10.0'
    """
    if metric is None:
        return "–"
    text = f"{scale * metric['mean']:.{digits}f}"
    if metric["std"] is not None:
        text += f" ± {scale * metric['std']:.{digits}f}"
    if metric["std_folds"] is not None:
        text += f" ({scale * metric['std_folds']:.{digits}f})"
    return text


def over(group):
    """Say over which classes the UA of a group is.

    Arguments
    ---------
    group : dict
        Of `summarize`.

    Returns
    -------
    str

    Example
    -------
    >>> missing = [{"fold": 1, "classes": ["sad"]}]
    >>> over({"missing_classes": missing, "n_classes": 4})
    '3 of 4 in fold 1'
    """
    by_count = {}
    for fold in group["missing_classes"]:
        count = group["n_classes"] - len(fold["classes"])
        by_count.setdefault(count, []).append(str(fold["fold"]))
    told = [
        f"{count} of {group['n_classes']} in fold {', '.join(folds)}"
        for count, folds in by_count.items()
    ]
    return "; ".join(told) or "all classes"


def _common(group):
    if group["common"] is None:
        return "–"
    scale, digits = (100, 1) if group["n_classes"] else (1, 3)
    return f"{scale * group['common']:.{digits}f}"


def _number(value, scale):
    return "–" if value is None else f"{scale * value:.2f}"


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
