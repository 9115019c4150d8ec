"""Style shared by all figures: colours, axes, labels, and SVG for a page.

Colours are those of Okabe & Ito (2008), told apart with any kind of colour
vision. `inline_svg` swaps them for CSS variables, so one figure serves a
light page, a dark page and a PNG.
"""

import io
import itertools
import logging
import os
import re
from html import escape

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import Formatter, MaxNLocator

__all__ = [
    "NARROWEST",
    "Color",
    "STYLE",
    "ExactTicks",
    "add_legend",
    "at_least",
    "common_prefix",
    "inline_svg",
    "line_styles",
    "mark_levels",
    "set_ticks",
    "short",
    "short_names",
    "styled",
    "subplots",
]

# SpeechBrain logs to a file, which need not have a line for every font.
logging.getLogger("matplotlib").setLevel(logging.WARNING)


class Color:
    """Colours, told apart with any kind of colour vision."""

    INK, MUTED, LINE = "#1b2430", "#5b6675", "#dde2e9"
    BLUE, ORANGE, GREEN = "#0072b2", "#d55e00", "#009e73"
    # Seen on light and dark pages; white text on `CELL` too.
    PURPLE, AMBER, CELL = "#cc79a7", "#e69f00", "#004c80"


_VARIABLES = {
    value: f"var(--{name.lower()})"
    for name, value in vars(Color).items()
    if name in ("INK", "MUTED", "LINE", "BLUE", "ORANGE", "GREEN")
}
NARROWEST = 0.05
"""UA that an axis of several models spans at least: less is noise."""
STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": Color.LINE,
    "axes.labelcolor": Color.MUTED,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.use": True,
    "figure.figsize": (5.6, 4.3),  # inches; one column of the report
    "font.size": 9.5,
    "grid.color": Color.LINE,
    "legend.frameon": False,
    "svg.fonttype": "none",  # real text: small, selectable, searchable
    "text.color": Color.INK,
    "text.parse_math": False,  # a "$" in a class name is a dollar sign
    "xtick.color": Color.MUTED,
    "xtick.major.size": 0,
    "ytick.color": Color.MUTED,
    "ytick.major.size": 0,
}


styled = matplotlib.rc_context(STYLE)
"""Decorator of functions that draw a figure."""


def subplots(*rows, size=None, **how):
    """New figure and its axes.

    Arguments
    ---------
    *rows, **how
        As for `matplotlib.figure.Figure.subplots`.
    size : tuple of (float, float), optional
        Width and height in inches; by default one column of the report.

    Returns
    -------
    tuple of (Figure, Axes or np.ndarray)
    """
    figure = Figure(size)
    return figure, figure.subplots(*rows, **how)


class ExactTicks(Formatter):
    """Tick labels with as many decimals as the finest tick needs, no more.

    Arguments
    ---------
    percent : bool
        Whether values are fractions, to be shown in %.

    Example
    -------
    >>> ExactTicks(percent=True).format_ticks([0.8, 0.825, 0.85])
    ['80.0%', '82.5%', '85.0%']
    >>> ExactTicks().format_ticks([0, 1000, 2000])
    ['0', '1,000', '2,000']
    """

    def __init__(self, percent=False):
        self.factor, self.unit = (100, "%") if percent else (1, "")

    def format_ticks(self, values):
        """Label all ticks of an axis, with equally many decimals.

        On a logarithmic axis each has as many as it needs.
        """
        values = self.factor * np.asarray(values, float)
        if self.axis is not None and self.axis.get_scale() == "log":
            return [f"{value:g}{self.unit}" for value in values]
        tolerance = 1e-6 * (np.ptp(values) or np.abs(values).max())
        decimals = 0
        while np.abs(values.round(decimals) - values).max() > tolerance:
            decimals += 1
        return [f"{v.round(9) + 0:,.{decimals}f}{self.unit}" for v in values]

    def __call__(self, value, position=None):
        """Label a single value, as under the mouse."""
        return self.format_ticks([value])[0]


def set_ticks(axis, percent=False, integer=False):
    """Give an axis a grid, and ticks that say exactly where they are.

    Arguments
    ---------
    axis : matplotlib.axis.Axis
        One axis of a figure.
    percent : bool
        Whether its values are fractions, to be shown in %.
    integer : bool
        Whether only whole numbers exist, as of epochs; without a grid.
    """
    axis.grid(not integer)
    axis.set_major_formatter(ExactTicks(percent))
    if axis.get_scale() != "log":
        few = {"min_n_ticks": 1, "integer": True} if integer else {}
        axis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], **few))


def line_styles():
    """Yield line styles, told apart without colour too, without end."""
    return itertools.cycle(
        {"color": color, "marker": marker, "ls": ls, "ms": 4}
        for color, marker, ls in zip(
            (Color.BLUE, Color.ORANGE, Color.PURPLE, Color.AMBER, Color.MUTED),
            "os^Dv",
            ("-", "--", "-.", "-", "--"),
            strict=True,
        )
    )


def add_legend(figure, handles, names=None):
    """Put a legend above a figure, in as many columns as fit side by side.

    Arguments
    ---------
    figure : Figure
        Already large enough.
    handles : list of Artist
        Lines, bars or marks.
    names : list of str, optional
        Their names; by default their labels.
    """
    names = names or [handle.get_label() for handle in handles]
    # In points: a mark and its margins, a letter.
    each = 52 + 5.4 * max(map(len, names))
    columns = max(1, int(72 * figure.get_figwidth() // each))
    figure.legend(handles, names, loc="outside upper center", ncols=columns)


def mark_levels(ax, *levels):
    """Draw horizontal lines, named past their right ends, names kept apart.

    Arguments
    ---------
    ax : Axes
        With its final limits.
    *levels : tuple of (float, str, str, str)
        Height, name, colour and line style.
    """
    low, high = ax.get_ylim()
    free = low
    for y, name, color, style in sorted(levels):
        ax.axhline(y, color=color, ls=style, lw=1.3)
        free = max(y, free)
        ax.text(
            1.01, free, name, color=color, fontsize=8.5, va="center",
            transform=ax.get_yaxis_transform(),
        )  # fmt: skip
        free += 0.055 * (high - low)


def short(name, length=16):
    """Name without its middle if it is too long.

    Both ends stay, since names of runs differ at either.

    Example
    -------
    >>> short("MSP-IMPROV-session3-F07")
    'MSP-IMPR…on3-F07'
    """
    # A file name that is no valid text can be a speaker; fonts refuse it.
    name = name.encode("utf-8", "backslashreplace").decode("utf-8")
    if len(name) <= length:
        return name
    return f"{name[: length // 2]}…{name[(length // 2) + 1 - length :]}"


def short_names(names, length=16):
    """Names without their middles if they are too long, but still different.

    Example
    -------
    >>> short_names(["student_1_of_the_first", "student_2_of_the_first"])
    ['…student_1_of_the…', '…student_2_of_the…']
    """
    shortened = [short(name, length) for name in names]
    for label in {*shortened}:
        alike = [i for i, other in enumerate(shortened) if other == label]
        start = len(os.path.commonprefix([names[i] for i in alike]))
        start = max(0, start - length // 2)
        if len(alike) > 1:  # show where they begin to differ
            for i in alike:
                shortened[i] = f"…{names[i][start:][:length]}…"
    return shortened


def at_least(limits, span):
    """Limits of an axis, widened on both sides if they span too little.

    Example
    -------
    >>> at_least((0.5, 0.5), 0.25)
    (0.375, 0.625)
    """
    low, high = limits
    missing = max(0, span - (high - low)) / 2
    return low - missing, high + missing


def common_prefix(names):
    """Prefix that all names share, up to a separator or to their numbers.

    Arguments
    ---------
    names : list of str
        Names of speakers, say.

    Returns
    -------
    str
        Empty where it has fewer than three letters: they may stay.

    Example
    -------
    >>> common_prefix(["ravdess_01", "ravdess_02"])
    'ravdess_'
    >>> common_prefix(["1001", "1002"]), common_prefix(["anna", "anne"])
    ('', '')
    """
    if len(names) < 2:
        return ""
    prefix = re.sub(r"\d+$", "", os.path.commonprefix(names))
    if not all(name[len(prefix) :][:1].isdigit() for name in names):
        prefix = re.sub(r"[^\W_]+$", "", prefix)
    return prefix if len(prefix) > 2 else ""


def inline_svg(figure, name, description):
    """Turn a figure into SVG to be put inside an HTML page.

    Arguments
    ---------
    figure : Figure
        Any figure in this style.
    name : str
        Short name, unique on the page: keeps the SVG's ids apart.
    description : str
        What a reader who cannot see the figure should know.

    Returns
    -------
    markupsafe.Markup
        One `<svg>` element, its text escaped, with no link to anywhere.
    """
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    # HTML knows SVG without its namespaces; ids of groups repeat by figure.
    svg = re.sub(r' (?:xmlns(?::\w+)?="[^"]*"|id="[\w.]+_\d+")', "", svg)
    for color, variable in _VARIABLES.items():
        svg = svg.replace(color, variable)
    label = f'<svg role="img" aria-label="{escape(description)}"'
    return Markup(svg.replace("<svg", label, 1))
