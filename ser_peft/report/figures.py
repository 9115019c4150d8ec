"""Figures of a run and of many runs, as matplotlib `Figure` objects."""

from collections import defaultdict

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.patches import Patch, Rectangle
from scipy.stats import binomtest

from ser_peft.report.drawing import (
    NARROWEST,
    Color,
    add_legend,
    at_least,
    common_prefix,
    line_styles,
    mark_levels,
    set_ticks,
    short,
    short_names,
    styled,
    subplots,
)

__all__ = [
    "confusion_figure",
    "confusion_picture",
    "curves_figure",
    "dimension_figure",
    "layer_figure",
    "reliability_figure",
    "robustness_figure",
    "runs_figure",
    "speaker_figure",
]

_NAMED_SPEAKERS = 30
"""Number of speakers that have room for their names."""
_DIAMOND = {"marker": "D", "ms": 6, "mec": Color.INK}
"""Style of a mark that stands out."""


@styled
def confusion_figure(confusion, classes):
    """Draw a confusion matrix: counts, and colour and % by row.

    Arguments
    ---------
    confusion : array_like
        Counts [C, C], rows are the truth. A zero leaves its cell empty.
    classes : list of str
        Class names.

    Returns
    -------
    Figure
    """
    counts = np.asarray(confusion)
    n = len(classes)
    figure, ax = subplots(size=(max(5.6, 0.75 * n), max(4.6, 0.62 * n)))
    for row, column in np.argwhere(counts):
        share = counts[row, column] / counts[row].sum()
        # Opacity rather than a colour map: an empty cell has the colour of
        # the page, light or dark. The power keeps rare confusions visible.
        cell = (column - 0.48, row - 0.48), 0.96, 0.96
        ax.add_patch(Rectangle(*cell, fc=(Color.CELL, share**0.6), lw=0))
        ax.text(
            column,
            row,
            f"{100 * share:.0f}%\n{counts[row, column]}",
            ha="center",
            va="center",
            color="white" if share > 0.5 else Color.INK,
            fontsize=10 if n <= 6 else 8,
        )
    names = short_names(classes)
    ax.set_xticks(range(n), names)
    if n * max(map(len, names)) > 52:
        ax.tick_params("x", rotation=90)
    ax.set_yticks(range(n), names)
    ax.set(xlim=(-0.5, n - 0.5), ylim=(n - 0.5, -0.5))
    ax.set(xlabel="predicted", ylabel="truth")
    ax.tick_params(labelcolor=Color.INK)
    ax.spines[:].set_visible(False)
    return figure


def confusion_picture(confusion, classes):
    """Draw a confusion matrix, and describe it.

    Arguments
    ---------
    confusion, classes
        As in `confusion_figure`.

    Returns
    -------
    tuple of (Figure, str)
    """
    return confusion_figure(confusion, classes), (
        f"Confusion matrix of {', '.join(classes)}, rows are the truth: "
        f"{np.asarray(confusion).tolist()}"
    )


@styled
def dimension_figure(truth, predicted):
    """Draw predicted against true values, with the diagonal.

    Arguments
    ---------
    truth, predicted : array_like
        Values [N]. More than a thousand are drawn as densities, not points.

    Returns
    -------
    Figure
    """
    figure, ax = subplots()
    ends = np.min([truth, predicted]), np.max([truth, predicted])
    ax.plot(ends, ends, color=Color.MUTED, ls=":", lw=1.3)
    if len(truth) > 1000:
        # Opacity, as in the confusion matrix.
        shades = LinearSegmentedColormap.from_list(
            "", [(Color.CELL, 0), (Color.CELL, 1)]
        )
        ax.hexbin(truth, predicted, gridsize=30, mincnt=1, bins="log",
                  cmap=shades, lw=0)  # fmt: skip
    else:
        ax.scatter(truth, predicted, s=14, color=Color.BLUE, alpha=0.45, lw=0)
    set_ticks(ax.xaxis)
    set_ticks(ax.yaxis)
    ax.set(xlabel="truth", ylabel="predicted")
    return figure


@styled
def curves_figure(history, panels, kept):
    """Draw measures by epoch, with the start and the kept epochs marked.

    Arguments
    ---------
    history : list of dict
        One dict per epoch: `epoch` and any measures. Epoch 0 is what
        training started from; it is drawn as a diamond and a line across.
    panels : list of dict
        One dict per pair of axes, from top to bottom: `label` of the vertical
        axis and `curves` (key of `history` -> name; curves of the same name
        look alike). Optional are `percent` (whether measures are fractions),
        `low` (start of the vertical axis) and `rivals`: the name of what the
        measures have to beat, and key of `curves` -> its key of `history`.
    kept : list of int
        Epochs of the model that was kept; several if it is their average.

    Returns
    -------
    Figure
    """
    figure, axes = subplots(len(panels), sharex=True, squeeze=False)
    styles, marks = defaultdict(line_styles().__next__), {}
    start = {} if history[0]["epoch"] else history[0]
    epochs = history[1:] if start else history
    every = {"markevery": 1 + len(epochs) // 40}
    alone = "_" if len(epochs) == 1 else None
    for ax, panel in zip(axes.flat, panels, strict=True):
        rival, rival_keys = panel.get("rivals", (None, {}))
        for key, name in panel["curves"].items():
            style = styles[name]
            (marks[name],) = _curve(ax, epochs, key, **style, **every)
            dotted = {"color": style["color"], "ls": ":", "lw": 1.3}
            if key in rival_keys:
                _curve(ax, epochs, rival_keys[key], marker=alone, **dotted)
                marks[rival] = ax.plot([], [], color=Color.MUTED, ls=":")[0]
            if start.get(key) is not None:
                ax.axhline(start[key], **dotted)
                (marks["start"],) = ax.plot(
                    [0], start[key], ls="", c=style["color"], **_DIAMOND
                )
        for epoch in kept:
            marks["kept"] = ax.axvline(epoch, color=Color.GREEN, zorder=1)
        set_ticks(ax.yaxis, panel.get("percent", False))
        ax.set(ylabel=panel["label"], ylim=(panel.get("low"), None))
    add_legend(figure, [*marks.values()], [*marks])
    set_ticks(ax.xaxis, integer=True)
    ax.set_xlabel("epoch")
    beside = max(0.5, len(history) / 50)
    ax.set_xlim(history[0]["epoch"] - beside, history[-1]["epoch"] + beside)
    figure.align_ylabels()
    return figure


def _curve(ax, epochs, key, **style):
    """Plot a measure by epoch."""
    # float: an epoch without the value becomes a gap in the line.
    values = np.array([epoch.get(key) for epoch in epochs], float)
    return ax.plot([epoch["epoch"] for epoch in epochs], values, **style)


@styled
def speaker_figure(speakers, ua, chance, genders=None):
    """Draw one bar per speaker, sorted, with the mean over speakers.

    Arguments
    ---------
    speakers : list of str
        Speaker names, shown without the prefix that all share. More than 30
        speakers are counted, not named.
    ua : array_like
        UA of each speaker, a fraction.
    chance : float
        UA of guessing, a fraction.
    genders : list of str, optional
        Gender of each speaker, shown as colour.

    Returns
    -------
    Figure
    """
    order = np.argsort(ua, kind="stable")
    ua = np.asarray(ua)[order]
    figure, ax = subplots()
    shown = np.asarray(genders or [""] * len(ua), str)[order]
    # A manifest may also say "unknown": the third colour, shared by all.
    palette = [Color.BLUE, Color.ORANGE, *[Color.MUTED] * len(ua)]
    colors = dict(zip(np.unique(shown), palette, strict=False))
    ax.bar(range(len(ua)), ua, color=[colors[gender] for gender in shown])
    if genders and {*genders} != {"unknown"}:
        patches = [Patch(color=color) for color in colors.values()]
        add_legend(figure, patches, [*colors])
    if len(ua) <= _NAMED_SPEAKERS:
        prefix = common_prefix(speakers)
        names = [speakers[i].removeprefix(prefix) for i in order]
        names = short_names(names, 12)
        ax.set_xticks(range(len(ua)), names)
        if sum(map(len, names)) + len(names) > 60:
            ax.tick_params("x", rotation=90)
        ax.set_xlabel(f"speaker, {short(prefix, 40)}…" if prefix else "speaker")
    else:
        ax.set_xticks([])
        ax.set_xlabel(f"{len(ua)} speakers, sorted by UA")
    # Few bars are no wider than those of eight.
    margin = max(0, 8 - len(ua)) / 2 + 0.6
    ax.set(ylabel="UA", ylim=(0, 1), xlim=(-margin, len(ua) - 1 + margin))
    set_ticks(ax.yaxis, percent=True)
    mark_levels(
        ax,
        (ua.mean(), f"mean {100 * ua.mean():.0f}%", Color.INK, "-"),
        (chance, "chance", Color.MUTED, ":"),
    )
    return figure


@styled
def runs_figure(groups):
    """Draw the UA of every run, by method, and the UA of pooled test sets.

    Without classes: the CCC of every run, and its mean.

    Arguments
    ---------
    groups : list of dict
        Groups of `ser_peft.evaluation.summary.summarize`, of one corpus,
        protocol and number of classes.

    Returns
    -------
    Figure
    """
    figure, ax = subplots(size=(5.6, 1.3 + 0.5 * len(groups)))
    for row, group in enumerate(groups):
        scores = [point["score"] for point in group["points"]]
        # Side by side, so that equal scores do not hide each other.
        beside = row + np.linspace(-0.2, 0.2, len(scores) + 2)[1:-1]
        runs = ax.scatter(
            scores, beside, s=26, color=Color.BLUE, alpha=0.65, lw=0
        )
        pooled = group["pooled"] or {"ua": np.mean(scores), "ua_ci95": None}
        ends = pooled["ua_ci95"] or [pooled["ua"]] * 2
        ax.plot(ends, [row, row], color=Color.INK, lw=1.3)
        (mean,) = ax.plot(pooled["ua"], row, ls="", c=Color.ORANGE, **_DIAMOND)
    classes = groups[0]["n_classes"]
    name = "pooled, 95% interval" if classes else "mean"
    marks = {"one fold and seed": runs, name: mean}
    left, right = at_least(ax.get_xlim(), NARROWEST)
    if classes and 1 / classes > left - 0.1:  # near enough to be shown
        left = min(left, 1 / classes - 0.02)
        line = ax.axvline(1 / classes, color=Color.MUTED, ls=":", lw=1.3)
        marks["chance"] = line
    ax.set_xlim(max(left, -1.02), min(right, 1.02))
    set_ticks(ax.xaxis, percent=bool(classes))
    add_legend(figure, [*marks.values()], [*marks])
    names = [group["name"] for group in groups]
    ax.set_yticks(range(len(groups)), short_names(names, 26))
    ax.tick_params("y", labelcolor=Color.INK)
    ax.set(xlabel="UA" if classes else "CCC", ylim=(len(groups) - 0.5, -0.5))
    return figure


@styled
def layer_figure(weights):
    """Draw the weight of each hidden state in the head's mix.

    Arguments
    ---------
    weights : list of float
        Softmaxed weight of each hidden state; index 0 is the encoder's input.

    Returns
    -------
    Figure
    """
    figure, ax = subplots()
    ax.bar(range(len(weights)), weights, color=Color.BLUE)
    set_ticks(ax.xaxis, integer=True)
    set_ticks(ax.yaxis, percent=True)
    ax.set(xlabel="hidden state (0 = encoder input)", ylabel="weight")
    ax.set_xlim(-0.6, len(weights) - 0.4)
    mark_levels(ax, (1 / len(weights), "uniform", Color.MUTED, ":"))
    return figure


@styled
def reliability_figure(right, confidences):
    """Draw accuracy by confidence, and the distribution of confidence.

    There are up to 15 bins of equally many utterances, at least ten. Bands are
    95 % intervals of a bin's accuracy (Wilson).

    Arguments
    ---------
    right : array_like
        Whether each utterance was recognised, [N].
    confidences : dict
        Name -> the largest probability of each utterance, [N]; at most two.

    Returns
    -------
    Figure
    """
    figure, axes = subplots(2, sharex=True, height_ratios=(4, 1))
    upper, lower = axes
    upper.plot([0, 1], [0, 1], color=Color.MUTED, ls=":", lw=1.3)
    right = np.asarray(right)
    marks = []
    for confidence, style in zip(
        confidences.values(), line_styles(), strict=False
    ):
        order = np.argsort(confidence, kind="stable")
        parts = np.array_split(order, np.clip(len(order) // 10, 1, 15))
        hits = [right[part] for part in parts]
        where = [np.mean(confidence[part]) for part in parts]
        bands = [
            binomtest(int(hit.sum()), len(hit)).proportion_ci(method="wilson")
            for hit in hits
        ]
        marks += upper.plot(where, [hit.mean() for hit in hits], **style)
        upper.fill_between(where, *zip(*bands, strict=True), lw=0, alpha=0.18,
                           color=style["color"])  # fmt: skip
    lower.hist(
        [*confidences.values()], np.linspace(0, 1, 16),
        color=[Color.BLUE, Color.ORANGE][: len(confidences)],
        weights=[np.full(len(right), 1 / len(right))] * len(confidences),
    )  # fmt: skip
    add_legend(figure, marks, [*confidences])
    for ax in axes:
        set_ticks(ax.xaxis, percent=True)
        set_ticks(ax.yaxis, percent=True)
    upper.set(ylabel="accuracy", ylim=(0, 1.02), xlim=(0, 1))
    lower.set(ylabel="share", xlabel="confidence")
    lower.tick_params("x", pad=6)  # 0% is at both axes
    figure.align_ylabels()
    return figure


@styled
def robustness_figure(ua, chance):
    """Draw one bar for each condition of the test set.

    Arguments
    ---------
    ua : dict
        Condition -> UA, a fraction; the undisturbed test set comes first.
    chance : float
        UA of guessing, a fraction.

    Returns
    -------
    Figure
    """
    figure, ax = subplots()
    colors = [Color.BLUE] + [Color.ORANGE] * (len(ua) - 1)
    bars = ax.bar(range(len(ua)), ua.values(), color=colors)
    ax.bar_label(bars, fmt=lambda share: f"{share:.0%}", padding=2)
    # On two lines: babble / 20 dB.
    ax.set_xticks(range(len(ua)), [name.replace(" ", "\n", 1) for name in ua])
    set_ticks(ax.yaxis, percent=True)
    ax.set(ylabel="UA", ylim=(0, 1))
    mark_levels(ax, (chance, "chance", Color.MUTED, ":"))
    return figure
