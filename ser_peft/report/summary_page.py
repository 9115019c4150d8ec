"""Page of a summary of many runs."""

import itertools
import os
from pathlib import Path
from urllib.parse import quote

from ser_peft.evaluation.summary import title_of
from ser_peft.report import figures
from ser_peft.report.rendering import render
from ser_peft.report.tables import comparison_table, group_table

__all__ = ["render_summary"]


def render_summary(summary, folder=None):
    """Render a summary as one HTML page that needs nothing else.

    Arguments
    ---------
    summary : dict
        What `ser_peft.evaluation.summary.summarize` returned.
    folder : str or Path, optional
        Folder that the page will be in; it links the reports of the runs by
        paths relative to that. No links without it.

    Returns
    -------
    str
        The page: styles and figures inside, no script, no network.
    """
    sections, pictures = [], {}
    titles = itertools.groupby(summary["groups"], title_of)
    for number, (title, groups) in enumerate(titles):
        groups = [*groups]
        head, rows = group_table(groups)
        backbone, *others = {row[1] for row in rows}
        if not others:  # it stands above the table
            head, *rows = (row[:1] + row[2:] for row in (head, *rows))
        sections.append(
            {
                "title": title,
                "groups": groups,
                "backbone": None if others else backbone,
                "head": head,
                "rows": rows,
                "every_run": [
                    (group["name"], point, _link(point["file"], folder))
                    for group in groups
                    for point in group["points"]
                ],
                "comparisons": comparison_table(summary, title),
            }
        )
        pictures[f"runs{number}"] = (
            figures.runs_figure(groups),
            "Score of every run, by method; the table has the means",
        )
        with_classes = [group for group in groups if group["pooled"]]
        for i, group in enumerate(with_classes):
            pictures[f"confusion{number}_{i}"] = figures.confusion_picture(
                group["pooled"]["confusion"], group["classes"]
            )
    return render(
        "summary",
        pictures,
        sections=sections,
        runs=sum(group["runs"] for group in summary["groups"]),
        warnings=summary["warnings"],
    )


def _link(file, folder):
    """Link from a folder to the report beside a ``results.json``, or None."""
    report = Path(file).with_name("report.html")
    if folder is None or not report.exists():
        return None
    return quote(os.fsencode(os.path.relpath(report, folder)))
