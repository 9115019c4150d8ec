"""A comparison of models: tables for a terminal, and a page."""

from ser_peft.errors import printable
from ser_peft.evaluation.markdown import markdown_table
from ser_peft.evaluation.summary import short_name
from ser_peft.report import comparison_figures, figures
from ser_peft.report.cells import interval_cell, paired_cells
from ser_peft.report.rendering import render
from ser_peft.report.tables import (
    INNER,
    is_inner,
    lay_out,
    missing_classes_cell,
    spread_cell,
)

__all__ = ["format_comparison", "render_comparison"]


def format_comparison(comparison):
    """Lay a comparison out as markdown tables for a terminal.

    Arguments
    ---------
    comparison : dict
        What `ser_peft.evaluation.compare.compare` returned.

    Returns
    -------
    str
        Tables of scores, agreement, size and latency, one row per model, and
        the warnings.
    """
    folds = ", ".join(map(str, comparison["folds"]))
    title = (
        f"## {comparison['corpus']}, {comparison['protocol']}, fold {folds}, "
        f"{len(comparison['classes'])} classes"
    ) + INNER * is_inner([comparison])
    tables = [markdown_table(*table) for table in _tables(comparison).values()]
    notes = [
        f"Agreement and UA points: with {comparison['reference']}. Latency: "
        "median / 95th percentile of a batch; ratios: median (middle half); "
        "clips of "
        f"{comparison['timing']['seconds']:g} s.",
        *(f"warning: {text}" for text in comparison["warnings"]),
    ]
    lines = (f"{printable(line)}\n" for line in notes)
    return "\n".join([f"{printable(title)}\n", *tables, "".join(lines)])


def render_comparison(comparison):
    """Render a comparison as one HTML page that needs nothing else.

    Arguments
    ---------
    comparison : dict
        What `ser_peft.evaluation.compare.compare` returned.

    Returns
    -------
    str
        The page: styles and figures inside, no script, no network.
    """
    models, classes = comparison["models"], comparison["classes"]
    places, labels = (comparison["map"][key] for key in ("points", "labels"))
    numbers = "; ".join(
        f"{m['name']}: {m['ua']['mean']:.1%}, "
        f"{m['latency'][0]['median_ms']:.3g} ms"
        for m in models
    )
    pictures = {
        "trade_off": (
            comparison_figures.trade_off_figure(models),
            f"UA and median latency. {numbers}",
        ),
        "latency": (
            comparison_figures.latency_figure(models),
            "Latency of each model in each setting; the table has the numbers",
        ),
    }
    for i, model in enumerate(models):
        pictures[f"confusion{i}"] = figures.confusion_picture(
            model["confusion"], classes
        )
    for i, (name, place) in enumerate(places.items()):
        pictures[f"map{i}"] = (
            comparison_figures.map_figure(place, labels, classes),
            f"Map of {len(labels)} {comparison['scored_on']} utterances by "
            f"{name}, coloured by {', '.join(classes)}",
        )
    return render(
        "comparison", pictures, c=comparison, tables=_tables(comparison)
    )


def _tables(comparison):
    """Names of the columns and rows of each table, as text."""
    models = comparison["models"]
    settings = [
        f"{t['batch']} clip{'s' * (t['batch'] > 1)}, "
        f"{t['threads']} thread{'s' * (t['threads'] > 1)}"
        for t in models[0]["latency"]
    ]

    def by_setting(title, models, cell):
        rows = [[m["name"], *map(cell, m["latency"])] for m in models]
        return [title, *settings], rows

    return {
        "scores": lay_out(models, _SCORES),
        "agreement": (
            [*_AGREEMENT, "UA points", "95 % interval", "p"],
            [
                [cell(model) for cell in _AGREEMENT.values()]
                + paired_cells(model["agreement"])
                for model in models[1:]
            ],
        ),
        "size": lay_out(models, _SIZE),
        "latency": by_setting("ms", models, _milliseconds),
        "ratio": by_setting(f"times {models[0]['name']}", models[1:], _ratio),
    }


def _name(model):
    return model["name"]


def _agreed(key, factor=100, decimals=1):
    """Cell of one measure of agreement."""

    def cell(model):
        value = model["agreement"][key]
        return "–" if value is None else f"{factor * value:.{decimals}f}"

    return cell


def _of_parts(key):
    """Cell of what a model's encoder of speech and that of text have."""

    def cell(model):
        parts = [model, model["text"]] if model["text"] else [model]
        return " + ".join(short_name(part[key]) for part in parts)

    return cell


def _milliseconds(timing):
    return f"{timing['median_ms']:.1f} / {timing['p95_ms']:.1f}"


def _ratio(timing):
    low, high = timing["ratio_quartiles"]
    return f"{timing['ratio']:.2f} ({low:.2f} to {high:.2f})"


_SCORES = {
    "model": _name,
    "UA %": lambda m: spread_cell(m["ua"]),
    "95 % interval": lambda m: interval_cell(m["ua"], "{:.1f}"),
    "WA %": lambda m: spread_cell(m["wa"]),
    "macro F1 %": lambda m: spread_cell(m["macro_f1"]),
    "weighted F1 %": lambda m: spread_cell(m["weighted_f1"]),
    "runs": lambda m: str(m["runs"]),
    "start": lambda m: spread_cell(m["start"]),
    "UA over": missing_classes_cell,
    # Where the transcripts of a model that reads are from.
    "text": lambda m: ", ".join((m["text"] or {}).get("sources", "–")),
}
_AGREEMENT = {
    "model": _name,
    "equal %": _agreed("equal"),
    "right where right %": _agreed("right_where_right"),
    "right where wrong %": _agreed("right_where_wrong"),
    "kappa": _agreed("kappa", 1, 2),
}
_SIZE = {
    "model": _name,
    "backbone": _of_parts("backbone"),
    "layers": lambda m: " + ".join(map(str, m["layers"])),
    "method": _of_parts("method"),
    "parameters": lambda m: f"{m['parameters']['total']:,}",
    "trained": lambda m: f"{m['parameters']['trained']:,}",
    "adapter": lambda m: f"{m['parameters']['adapter']:,}",
    "saved MB": lambda m: f"{m['model_bytes'] / 1e6:.2f}",
    "whole MB": lambda m: f"{m['inference_bytes'] / 1e6:.1f}",
}
