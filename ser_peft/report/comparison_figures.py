"""Figures of a comparison of models."""

import itertools

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

__all__ = ["latency_figure", "map_figure", "trade_off_figure"]


@styled
def trade_off_figure(models):
    """Draw UA against latency, one mark per model, the first a diamond.

    Arguments
    ---------
    models : list of dict
        Models of `ser_peft.evaluation.compare.compare`. Latencies are those
        of the first setting.

    Returns
    -------
    Figure
    """
    figure, ax = subplots()
    markers = itertools.chain("D", itertools.cycle("os^vP<>"))
    marks = [
        ax.errorbar(
            model["latency"][0]["median_ms"],
            model["ua"]["mean"],
            model["ua"]["std"],
            fmt=marker, ms=8, color=color, label=name,
            ecolor=Color.INK, mec=Color.INK, capsize=3,
        )
        for model, name, color, marker in zip(
            models, _names(models), _colors(), markers, strict=False
        )
    ]  # fmt: skip
    ax.margins(0.1, 0.15)
    ax.set_ylim(at_least(ax.get_ylim(), NARROWEST))
    ax.set_xlim(left=max(0, ax.get_xlim()[0]))
    set_ticks(ax.xaxis)
    set_ticks(ax.yaxis, percent=True)
    add_legend(figure, marks)
    setting = models[0]["latency"][0]
    ax.set(ylabel="UA", xlabel=f"median ms, {_words(setting)}")
    return figure


@styled
def latency_figure(models):
    """Draw latencies: one bar per model and setting.

    Bars end at the median, the lines beyond them at the 95th percentile.

    Arguments
    ---------
    models : list of dict
        Models of `ser_peft.evaluation.compare.compare`; the first is the
        reference.

    Returns
    -------
    Figure
    """
    settings = models[0]["latency"]
    size = 5.6, len(settings) * (0.62 + 0.27 * len(models))
    figure, axes = subplots(len(settings), size=size)
    colors = [Color.ORANGE] + [Color.BLUE] * (len(models) - 1)
    names = _names(models)
    for ax, setting, *timings in zip(
        axes, settings, *(m["latency"] for m in models), strict=True
    ):
        medians = np.array([timing["median_ms"] for timing in timings])
        slow = [timing["p95_ms"] for timing in timings] - medians
        bars = ax.barh(
            range(len(models)), medians, 0.66, color=colors,
            xerr=[np.zeros(len(models)), slow],
            error_kw={"ecolor": Color.INK, "lw": 1.2, "capsize": 2},
        )  # fmt: skip
        ax.bar_label(
            bars, [_ms(median) for median in medians], padding=4, fontsize=8.5
        )
        ax.set_yticks(range(len(models)), names)
        ax.tick_params("y", labelcolor=Color.INK)
        ax.set_title(
            _words(setting), loc="left", fontsize=9.5, color=Color.MUTED
        )
        # Room for the numbers.
        ax.set(ylim=(len(models) - 0.4, -0.6),
               xlim=(0, 1.18 * max(medians + slow)))  # fmt: skip
        set_ticks(ax.xaxis)
    axes[-1].set_xlabel("ms per batch")
    return figure


@styled
def map_figure(points, labels, classes):
    """Draw a map of utterances, coloured by their true class.

    Arguments
    ---------
    points : array_like
        [N, 2].
    labels : list of int
        True class index of each utterance.
    classes : list of str
        Class names.

    Returns
    -------
    Figure
    """
    figure, ax = subplots()
    points, labels = np.asarray(points), np.asarray(labels)
    # 7 colours and 8 shapes: pairs repeat after 56 classes.
    shapes = itertools.cycle("os^DvP<>")
    looks = zip(short_names(classes), _colors(), shapes, strict=False)
    marks = [
        ax.scatter(*points[labels == i].T, s=22, color=color, marker=marker,
                   alpha=0.75, lw=0, label=name)
        for i, (name, color, marker) in enumerate(looks)
    ]  # fmt: skip
    add_legend(figure, marks)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(True)
    return figure


def _names(models):
    """Short names of models."""
    return short_names([model["name"] for model in models], 22)


def _colors():
    """Yield colours without end."""
    return itertools.cycle(
        (
            Color.ORANGE,
            Color.BLUE,
            Color.GREEN,
            Color.PURPLE,
            Color.AMBER,
            Color.MUTED,
            Color.INK,
        )
    )


def _ms(milliseconds):
    """Format three digits, or all of a larger number."""
    return format(milliseconds, ",.0f" if milliseconds >= 100 else ".3g")


def _words(setting):
    """Put a setting of `ser_peft.evaluation.latency.latency` in words."""
    batch, threads = setting["batch"], setting["threads"]
    return f"batch of {batch}, {threads} thread{'s' if threads > 1 else ''}"
