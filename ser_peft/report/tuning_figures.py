"""Figures of a search of settings."""

import numpy as np

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

__all__ = ["history_figure", "importance_figure", "slice_figure"]

_LOOKS = {
    "complete": {"marker": "o", "color": Color.BLUE, "label": "trial"},
    "pruned": {
        "marker": "x", "color": Color.MUTED, "label": "stopped early",
    },
    "own": {"marker": "s", "color": Color.GREEN, "label": "the yaml as it is"},
    "best": {"marker": "D", "color": Color.ORANGE, "label": "best"},
}  # fmt: skip
"""Marks of trials, told apart without colour too."""


@styled
def history_figure(trials, best):
    """Draw the UA of trial after trial, with intervals, and the best so far.

    Arguments
    ---------
    trials : list of dict
        Trials that have a UA: ``number``, ``state``, ``ua``, ``ua_ci95``.
    best : int
        Number of the best.

    Returns
    -------
    Figure
    """
    figure, ax = subplots()
    marks = {}
    for trial in trials:
        look = _look(trial, best)
        whole = look != "pruned"
        if whole and trial["ua_ci95"]:
            ax.plot([trial["number"]] * 2, trial["ua_ci95"], lw=1.2,
                    color=Color.LINE, zorder=1)  # fmt: skip
        marks[look] = ax.scatter(
            trial["number"], trial["ua"], s=34, zorder=3, **_LOOKS[look]
        )
    done = [trial for trial in trials if trial["state"] == "complete"]
    so_far = np.maximum.accumulate([trial["ua"] for trial in done])
    (line,) = ax.step(
        [trial["number"] for trial in done], so_far, where="post",
        color=Color.ORANGE, lw=1.3, ls="--", label="best so far",
    )  # fmt: skip
    ax.set_ylim(at_least(ax.get_ylim(), NARROWEST))
    set_ticks(ax.xaxis, integer=True)
    set_ticks(ax.yaxis, percent=True)
    ax.set(xlabel="trial", ylabel="pooled valid UA")
    add_legend(figure, [*marks.values(), line])
    return figure


@styled
def slice_figure(trials, best, key, part):
    """Draw the UA of trials by their value of one key.

    Arguments
    ---------
    trials : list of dict
        Trials that have a UA, with ``parameters``.
    best : int
        Number of the best.
    key : str
        The key.
    part : Range or Choice
        What was tried of it: ``log``, and ``texts`` of a choice.

    Returns
    -------
    Figure
    """
    figure, ax = subplots(size=(5.6, 3.4))
    texts = getattr(part, "texts", None)
    marks, heard = {}, {}
    for trial in trials:
        value, look = trial["parameters"][key], _look(trial, best)
        if texts:
            # Side by side, so that equal scores do not hide each other.
            count = heard[value] = heard.get(value, 0) + 1
            value = texts.index(value) + 0.06 * (count % 7 - 3)
        marks[look] = ax.scatter(
            value, trial["ua"], s=34, zorder=3, **_LOOKS[look]
        )
    if texts:
        names = short_names([text or "null" for text in texts])
        ax.set_xticks(range(len(texts)), names)
        ax.set_xlim(-0.5, len(texts) - 0.5)
    else:
        ax.set_xscale("log" if part.log else "linear")
        set_ticks(ax.xaxis)
    ax.set_ylim(at_least(ax.get_ylim(), NARROWEST))
    set_ticks(ax.yaxis, percent=True)
    ax.set(xlabel=key, ylabel="pooled valid UA")
    add_legend(figure, [*marks.values()])
    return figure


@styled
def importance_figure(importances):
    """Draw the share of each key in the spread of UA.

    Arguments
    ---------
    importances : dict
        Key -> share, the largest first.

    Returns
    -------
    Figure
    """
    figure, ax = subplots(size=(5.6, 1.1 + 0.4 * len(importances)))
    shares = [*importances.values()]
    bars = ax.barh(range(len(shares)), shares, 0.62, color=Color.BLUE)
    ax.bar_label(bars, [f"{s:.0%}" for s in shares], padding=4, fontsize=8.5)
    ax.set_yticks(range(len(shares)), short_names([*importances], 26))
    ax.tick_params("y", labelcolor=Color.INK)
    ax.set(ylim=(len(shares) - 0.4, -0.6), xlim=(0, 1.12 * max(shares)))
    set_ticks(ax.xaxis, percent=True)
    ax.set_xlabel("share of the spread of UA")
    return figure


def _look(trial, best):
    if trial["state"] != "complete":
        return "pruned"
    if trial["number"] == best:
        return "best"
    return "complete" if trial["number"] else "own"
