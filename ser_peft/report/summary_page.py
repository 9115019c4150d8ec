"""Page of a summary of many runs."""

import itertools

from ser_peft.evaluation.summary import title_of
from ser_peft.report import figures
from ser_peft.report.rendering import render
from ser_peft.report.tables import comparison_table, group_table

__all__ = ["render_summary"]


def render_summary(summary):
    """Render a summary as one HTML page that needs nothing else.

    Arguments
    ---------
    summary : dict
        What `ser_peft.evaluation.summary.summarize` returned.

    Returns
    -------
    str
        The page: styles and figures inside, no script, no network.
    """
    sections, pictures = [], {}
    for title, groups in itertools.groupby(summary["groups"], title_of):
        groups = [*groups]
        section = _section(title, groups) | {
            "number": len(sections),
            "comparisons": comparison_table(summary, title),
        }
        pictures[f"runs{len(sections)}"] = (
            figures.runs_figure(groups),
            f"{section['score']} of every run, by method; the table has the "
            "means",
        )
        with_classes = [group for group in groups if group["pooled"]]
        for i, group in enumerate(with_classes):
            pictures[f"confusion{len(sections)}_{i}"] = (
                figures.confusion_picture(
                    group["pooled"]["confusion"], group["classes"]
                )
            )
        sections.append(section)
    return render(
        "summary",
        pictures,
        sections=sections,
        runs=sum(group["runs"] for group in summary["groups"]),
        warnings=summary["warnings"],
    )


def _section(title, groups):
    """Collect what the page shows of one title but for its comparisons."""
    corpus, protocol, n_classes = title
    head, rows = group_table(groups)
    backbone, *others = {row[1] for row in rows}
    if not others:  # it stands above the table
        head, *rows = (row[:1] + row[2:] for row in (head, *rows))
    return {
        "corpus": corpus,
        "protocol": protocol,
        "n_classes": n_classes,
        "groups": groups,
        "backbone": None if others else backbone,
        "head": head,
        "rows": rows,
        "spread_of_folds": any(len(group["seeds"]) > 1 for group in groups),
        "score": "UA" if n_classes else "CCC",
        "without_interval": [
            f"{group['name']} ({group['pooled']['ua_ci95_reason']})"
            for group in groups
            if n_classes and group["pooled"]["ua_ci95"] is None
        ],
    }
