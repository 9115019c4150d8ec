"""Ensembles beside their members: tables for a terminal, and a page."""

from ser_peft.errors import printable
from ser_peft.evaluation.markdown import markdown_table
from ser_peft.evaluation.summary import short_name
from ser_peft.report import figures
from ser_peft.report.cells import interval_cell, paired_cells
from ser_peft.report.drawing import (
    NARROWEST,
    Color,
    add_legend,
    at_least,
    set_ticks,
    short_names,
    styled,
    subplots,
)
from ser_peft.report.rendering import render
from ser_peft.report.tables import (
    lay_out,
    spread_cell,
)

__all__ = ["format_ensembles", "members_figure", "render_ensembles"]


def format_ensembles(found):
    """Lay ensembles out as markdown tables for a terminal.

    Arguments
    ---------
    found : dict
        From `ser_peft.evaluation.ensembles.ensembles`.

    Returns
    -------
    str
    """
    title = (
        f"## {found['corpus']}, {found['protocol']}, "
        f"{len(found['classes'])} classes"
    )
    tables = _tables(found)
    shown = [tables[key] for key in ("folds", "scores") if key in tables]
    return "\n".join(
        [f"{printable(title)}\n", *(markdown_table(*one) for one in shown)]
    )


def render_ensembles(found):
    """Render ensembles as one HTML page that needs nothing else.

    Arguments
    ---------
    found : dict
        From `ser_peft.evaluation.ensembles.ensembles`.

    Returns
    -------
    str
        The page: styles and figures inside, no script, no network.
    """
    score = "ua" if found["classes"] else "ccc"
    told = [
        f"fold {one['fold']}: members "
        + ", ".join(
            f"{m['scores'][score]['value']:.3f}" for m in one["members"]
        )
        + f", ensemble {one['scores'][score]['value']:.3f}"
        for one in found["ensembles"]
    ]
    pictures = {
        "members": (
            members_figure(found["ensembles"], score, len(found["classes"])),
            f"{score.upper()} of members and ensembles. {'; '.join(told)}",
        )
    }
    if found["classes"]:
        pictures["confusion"] = figures.confusion_picture(
            found["pooled"]["confusion"], found["classes"]
        )
    return render(
        "ensemble",
        pictures,
        e=found,
        score=score.upper(),
        tables=_tables(found),
        utterances=sum(one["test_utterances"] for one in found["ensembles"]),
    )


@styled
def members_figure(ensembles, score, n_classes):
    """Draw the score of every member, their mean, and the ensemble's.

    Arguments
    ---------
    ensembles : list of dict
        Of `ser_peft.evaluation.ensembles.ensembles`; one a row.
    score : str
        "ua" or "ccc".
    n_classes : int
        Number of classes, 0 without any.

    Returns
    -------
    Figure
    """
    figure, ax = subplots(size=(5.6, 1.3 + 0.5 * len(ensembles)))
    for row, one in enumerate(ensembles):
        members = [m["scores"][score]["value"] for m in one["members"]]
        dots = ax.scatter(
            members,
            [row] * len(members),
            s=30,
            color=Color.BLUE,
            alpha=0.6,
            lw=0,
        )
        (mean,) = ax.plot(
            one["members_mean"][score]["mean"], row,
            ls="", marker="|", ms=16, mew=2, color=Color.INK,
        )  # fmt: skip
        (diamond,) = ax.plot(
            one["scores"][score]["value"], row,
            ls="", marker="D", ms=7, mec=Color.INK, color=Color.ORANGE,
        )  # fmt: skip
    left, right = at_least(ax.get_xlim(), NARROWEST)
    ax.set_xlim(max(left, -1.02), min(right, 1.02))
    add_legend(figure, [dots, mean, diamond], ["member", "mean", "ensemble"])
    set_ticks(ax.xaxis, percent=bool(n_classes))
    names = short_names([f"fold {one['fold']}" for one in ensembles])
    ax.set_yticks(range(len(names)), names)
    ax.tick_params("y", labelcolor=Color.INK)
    ax.set(xlabel=score.upper(), ylim=(len(ensembles) - 0.5, -0.5))
    return figure


def _tables(found):
    """Names of the columns and rows of each table, as text."""
    ensembles, pooled = found["ensembles"], found["pooled"]
    several = len(ensembles) > 1
    rows = [row for one in ensembles for row in _rows(one)]
    tables = {
        "scores": lay_out(
            [row for row in rows if not several or "member" not in row],
            {
                "fold": lambda r: str(r["fold"]),
                "model": lambda r: r["model"],
                **_SCORES,
            },
        ),
        "members": lay_out(
            [row for row in rows if "member" in row],
            {
                "fold": lambda r: str(r["fold"]),
                "model": lambda r: r["model"],
                "backbone": lambda r: short_name(r["member"]["backbone"]),
                "method": lambda r: r["member"]["method"],
                "seed": lambda r: _text(r["member"]["seed"]),
                **_SCORES,
            },
        ),
    }
    if several:
        tables["folds"] = lay_out(
            [
                {"model": "mean of members", "spread": pooled["members_mean"]},
                {
                    "model": "ensemble",
                    "spread": pooled["mean"],
                    "scores": pooled["scores"],
                },
            ],
            {"model": lambda r: r["model"], **_FOLDS},
        )
    if found["classes"]:
        compared = [(f"fold {one['fold']}", one) for one in ensembles]
        compared += [("all", pooled)] * several
        tables["difference"] = (
            ["test set", "speakers", "UA points", "95 % interval", "p"],
            [
                [name, str(one["difference"]["speakers"])]
                + paired_cells(one["difference"])
                for name, one in compared
            ],
        )
        tables["recalls"] = (
            ["class", "mean of members %", "ensemble %", "points"],
            [
                [name, *_recall_cells(one)]
                for name, one in pooled["recalls"].items()
            ],
        )
        tables["agreement"] = (
            ["test set", *_AGREEMENT],
            [
                [
                    name,
                    *(cell(one["agreement"]) for cell in _AGREEMENT.values()),
                ]
                for name, one in compared
            ],
        )
    return tables


def _rows(one):
    """Rows of one ensemble: its members, their mean, itself."""
    for member in one["members"]:
        yield {
            "fold": one["fold"],
            "model": member["name"],
            "member": member,
            "scores": member["scores"],
        }
    mean = {k: {"value": v["mean"]} for k, v in one["members_mean"].items()}
    yield {"fold": one["fold"], "model": "mean of members", "scores": mean}
    yield {"fold": one["fold"], "model": "ensemble", "scores": one["scores"]}


def _value(key, form="{:.1f}", factor=100):
    """Cell of a score and its interval."""

    def cell(row):
        found = row["scores"].get(key)
        if found is None:
            return "–"
        text = form.format(factor * found["value"])
        ends = found.get("ci95")
        if ends:
            low, high = (form.format(factor * end) for end in ends)
            text += f" ({low} to {high})"
        return text

    return cell


def _spread_of(key, fractions=True):
    """Cell of a score's mean and deviation over folds."""
    return lambda row: spread_cell(
        row["spread"].get(key) and row["spread"][key] | {"std_folds": None},
        fractions,
    )


def _pooled(row):
    found = row.get("scores", {}).get("ua")
    return interval_cell(found, "{:.1f}") if found else "–"


def _share(key):
    def cell(found):
        return "–" if found[key] is None else f"{100 * found[key]:.1f}"

    return cell


def _text(value):
    return "–" if value is None else str(value)


def _recall_cells(one):
    if one["members"] is None:
        return ["–"] * 3
    mine, theirs = one["ensemble"], one["members"]
    points = round(100 * (mine - theirs), 1) + 0
    return [f"{100 * theirs:.1f}", f"{100 * mine:.1f}", f"{points:+.1f}"]


_SCORES = {
    "UA %": _value("ua"),
    "WA %": _value("wa"),
    "macro F1 %": _value("macro_f1"),
    "ECE %": _value("ece"),
    "CCC": _value("ccc", "{:.3f}", 1),
}
_FOLDS = {
    "UA %": _spread_of("ua"),
    "WA %": _spread_of("wa"),
    "macro F1 %": _spread_of("macro_f1"),
    "ECE %": _spread_of("ece"),
    "CCC": _spread_of("ccc", False),
    "95 % interval of UA, pooled": _pooled,
}
_AGREEMENT = {
    "two alike %": _share("equal"),
    "kappa": lambda a: "–" if a["kappa"] is None else f"{a['kappa']:.2f}",
    "all alike %": _share("all_equal"),
    "right there %": _share("right_where_equal"),
    "right elsewhere %": _share("right_elsewhere"),
    "any right %": _share("any_right"),
}
