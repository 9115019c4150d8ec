"""Page of a summary of many runs."""

import itertools
import os
from collections import defaultdict
from pathlib import Path
from urllib.parse import quote

from ser_peft.evaluation.pooled import dip
from ser_peft.evaluation.summary import title_of
from ser_peft.report import figures
from ser_peft.report.drawing import short_names
from ser_peft.report.rendering import percent, render
from ser_peft.report.tables import comparison_table, group_table, is_inner

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
                "inner": is_inner(groups),
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
        curves = {
            group["name"]: group["pooled"]["curve"]
            for group in groups
            if group["pooled"] and group["pooled"].get("curve")
        }
        sections[-1]["curves"] = {
            name: dip(curve) for name, curve in curves.items()
        }
        if curves:
            pictures[f"curves{number}"] = _curves(curves)
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


def _curves(curves):
    """Draw and describe pooled valid by epoch, of each group by its name."""
    history = defaultdict(dict)
    for name, curve in curves.items():
        for past in curve:
            history[past["epoch"]][name] = past["ua"]
    panel = {
        "label": "pooled valid UA",
        "curves": dict(zip(curves, short_names([*curves], 40), strict=True)),
        "percent": True,
    }
    epochs = [{"epoch": e, **history[e]} for e in sorted(history)]
    told = [
        f"{name}: {', '.join(percent(past['ua']) for past in curve)}"
        for name, curve in curves.items()
    ]
    return figures.curves_figure(epochs, [panel], ()), "; ".join(told)


def _link(file, folder):
    """Link from a folder to the report beside a ``results.json``, or None."""
    report = Path(file).with_name("report.html")
    if folder is None or not report.exists():
        return None
    return quote(os.fsencode(os.path.relpath(report, folder)))
