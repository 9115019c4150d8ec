"""Figures of a comparison, in the style of `ser_peft.report.figures`."""

import itertools

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from ser_peft.report.figures import (
    AMBER,
    BLUE,
    GREEN,
    INK,
    MUTED,
    ORANGE,
    PURPLE,
    STYLE,
    short,
)

__all__ = ["latency_figure", "map_figure", "trade_off_figure"]


@matplotlib.rc_context(STYLE)
def trade_off_figure(models):
    """Draw UA against latency, one mark a model, the first one apart.

    Arguments
    ---------
    models : list of dict
        Of `ser_peft.evaluation.compare.compare`. A model's latency is that
        of its first setting.

    Returns
    -------
    Figure
    """
    figure = Figure()
    ax = figure.subplots()
    slowest = max(m["latency"][0]["median_ms"] for m in models)
    for model in models:
        x, ua = model["latency"][0]["median_ms"], model["ua"]
        first = model is models[0]
        style = {"fmt": "D", "ms": 8, "color": ORANGE} if first else {
            "fmt": "o", "ms": 7, "color": BLUE
        }  # fmt: skip
        ax.errorbar(
            x, ua["mean"], ua["std"], **style, ecolor=INK, mec=INK, capsize=3
        )
        # Beside it: a model of the same latency is above or below.
        left = x > slowest / 2
        ax.annotate(
            short(model["name"], 24),
            (x, ua["mean"]),
            xytext=(-9 if left else 9, 0),
            textcoords="offset points",
            ha="right" if left else "left",
            va="center",
            fontsize=8.5,
        )
    ax.margins(0.22, 0.25)
    ax.set_xlim(left=max(0, ax.get_xlim()[0]))
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.grid()
    setting = models[0]["latency"][0]
    ax.set(ylabel="UA", xlabel=f"median ms, {_words(setting)}")
    return figure


@matplotlib.rc_context(STYLE)
def latency_figure(models):
    """Draw a bar a model in each setting: the median, to the 95th percentile.

    Arguments
    ---------
    models : list of dict
        Of `ser_peft.evaluation.compare.compare`; the first is the reference.

    Returns
    -------
    Figure
    """
    settings = models[0]["latency"]
    panels = len(settings)
    figure = Figure((5.6, panels * (0.62 + 0.27 * len(models))))
    axes = np.ravel(figure.subplots(panels))
    colors = [ORANGE] + [BLUE] * (len(models) - 1)
    names = [short(model["name"], 22) for model in models]
    for ax, setting, *timings in zip(
        axes, settings, *(m["latency"] for m in models), strict=True
    ):
        medians = np.array([timing["median_ms"] for timing in timings])
        slow = [timing["p95_ms"] for timing in timings] - medians
        rows = range(len(models))
        error = {"ecolor": INK, "lw": 1.2, "capsize": 2}
        ax.barh(
            rows, medians, 0.66, color=colors, error_kw=error,
            xerr=[np.zeros(len(models)), slow],
        )  # fmt: skip
        ends = medians + slow
        for row, (end, median) in enumerate(zip(ends, medians, strict=True)):
            ax.text(end + 0.02 * max(ends), row, _ms(median), va="center",
                    fontsize=8.5)  # fmt: skip
        ax.set_yticks(rows, names)
        ax.tick_params("y", labelcolor=INK)
        ax.set_title(_words(setting), loc="left", fontsize=9.5, color=MUTED)
        ax.set(ylim=(len(models) - 0.4, -0.6), xlim=(0, 1.14 * max(ends)))
        ax.grid(axis="x")
    axes[-1].set_xlabel("ms a batch")
    return figure


@matplotlib.rc_context(STYLE)
def map_figure(points, labels, classes):
    """Draw a map of utterances, coloured by what was to be recognised.

    Arguments
    ---------
    points : array_like
        [N, 2].
    labels : list of int
        Class of each.
    classes : list of str
        Class names.

    Returns
    -------
    Figure
    """
    figure = Figure()
    ax = figure.subplots()
    points, labels = np.asarray(points), np.asarray(labels)
    colors = itertools.cycle((BLUE, ORANGE, GREEN, PURPLE, AMBER, MUTED, INK))
    # Told apart by shape too; 7 and 8 meet again after 56.
    for i, (color, marker) in enumerate(
        zip(colors, itertools.cycle("os^DvP<>"), strict=False)
    ):
        if i == len(classes):
            break
        mine = points[labels == i]
        ax.scatter(*mine.T, s=22, color=color, marker=marker, alpha=0.75, lw=0,
                   label=short(classes[i]))  # fmt: skip
    figure.legend(loc="outside upper center", ncols=4)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(True)
    return figure


def _ms(milliseconds):
    """Three digits, or all of them."""
    form = ",.0f" if milliseconds >= 100 else ".3g"
    return format(milliseconds, form)


def _words(setting):
    """A setting of `ser_peft.evaluation.latency.latency` in words."""
    batch, threads = setting["batch"], setting["threads"]
    return f"batch of {batch}, {threads} thread{'s' if threads > 1 else ''}"
