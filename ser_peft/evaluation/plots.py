"""Figures of the report, as matplotlib `Figure` objects.

Colours are those of Okabe & Ito (2008), told apart with any kind of colour
vision. `inline_svg` swaps them for CSS variables, so one figure serves a
light page, a dark page and a PNG.
"""

import io
import logging
import re
from html import escape

import matplotlib
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter

__all__ = [
    "confusion_figure",
    "dimension_figure",
    "inline_svg",
    "layer_figure",
    "learning_figure",
    "reliability_figure",
    "robustness_figure",
    "runs_figure",
    "speaker_figure",
]

# SpeechBrain logs everything to a file; every font is not worth a line.
logging.getLogger("matplotlib").setLevel(logging.WARNING)

INK, MUTED, LINE = "#1b2430", "#5b6675", "#dde2e9"
BLUE, ORANGE, GREEN = "#0072b2", "#d55e00", "#009e73"
CELL = "#004c80"  # no variable: white text on it, on any page
_VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    LINE: "var(--line)",
    BLUE: "var(--blue)",
    ORANGE: "var(--orange)",
    GREEN: "var(--green)",
}
_STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.use": True,
    "figure.figsize": (5.6, 4.3),  # inches; one column of the report
    "font.size": 9.5,
    "grid.color": LINE,
    "legend.frameon": False,
    "svg.fonttype": "none",  # real text: small, selectable, searchable
    "text.color": INK,
    "text.parse_math": False,  # a "$" in a class name is a dollar sign
    "xtick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.color": MUTED,
    "ytick.major.size": 0,
}


@matplotlib.rc_context(_STYLE)
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
    figure = Figure((max(5.6, 0.75 * n), max(4.6, 0.62 * n)))
    ax = figure.subplots()
    for row, column in np.argwhere(counts):
        share = counts[row, column] / counts[row].sum()
        # Opacity rather than a colour map: an empty cell has the colour of
        # the page, light or dark. The power keeps rare confusions visible.
        cell = (column - 0.48, row - 0.48), 0.96, 0.96
        ax.add_patch(Rectangle(*cell, fc=(CELL, share**0.6), lw=0))
        ax.text(
            column,
            row,
            f"{100 * share:.0f}%\n{counts[row, column]}",
            ha="center",
            va="center",
            color="white" if share > 0.5 else INK,
            fontsize=10 if n <= 6 else 8,
        )
    names = [_short(name) for name in classes]
    ax.set_xticks(range(n), names)
    if n * max(map(len, names)) > 52:
        ax.tick_params("x", rotation=90)
    ax.set_yticks(range(n), names)
    ax.set(xlim=(-0.5, n - 0.5), ylim=(n - 0.5, -0.5))
    ax.set(xlabel="predicted", ylabel="truth")
    ax.tick_params(labelcolor=INK)
    ax.spines[:].set_visible(False)
    return figure


@matplotlib.rc_context(_STYLE)
def dimension_figure(truth, predicted):
    """Draw predicted against true values, with the diagonal.

    Arguments
    ---------
    truth, predicted : array_like
        [N]; each a point, of more than a thousand where they are dense.

    Returns
    -------
    Figure
    """
    figure = Figure()
    ax = figure.subplots()
    ends = np.min([truth, predicted]), np.max([truth, predicted])
    ax.plot(ends, ends, color=MUTED, ls=":", lw=1.3)
    if len(truth) > 1000:
        # Opacity, as in the confusion matrix.
        shades = LinearSegmentedColormap.from_list("", [(CELL, 0), (CELL, 1)])
        ax.hexbin(truth, predicted, gridsize=30, mincnt=1, bins="log",
                  cmap=shades, lw=0)  # fmt: skip
    else:
        ax.scatter(truth, predicted, s=14, color=BLUE, alpha=0.45, lw=0)
    ax.grid()
    ax.set(xlabel="truth", ylabel="predicted")
    return figure


@matplotlib.rc_context(_STYLE)
def learning_figure(history, best_epoch=None):
    """Draw losses and what was chosen by, with the best epoch marked.

    Arguments
    ---------
    history : list of dict
        One an epoch: `epoch` and any of `train_loss`, `valid_loss`,
        `valid_ua` (fraction) or, without it, `valid_ccc`.
    best_epoch : int, optional
        The epoch of best valid UA, or CCC.

    Returns
    -------
    Figure
    """
    figure = Figure()
    loss, score = figure.subplots(2, sharex=True)
    key = "valid_ua"
    if not any(key in epoch for epoch in history):
        key = "valid_ccc"
    epochs = [epoch["epoch"] for epoch in history]

    def draw(ax, key, label, style):
        values = [epoch.get(key) for epoch in history]
        # float: an epoch without the value becomes a gap in the line.
        ax.plot(epochs, np.array(values, float), style, ms=3, label=label)

    loss.set_prop_cycle(color=[BLUE, ORANGE])
    score.set_prop_cycle(color=[ORANGE])
    draw(loss, "train_loss", "train", "o-")
    draw(loss, "valid_loss", "valid", "o--")
    draw(score, key, "valid", "o--")
    for ax in (loss, score):
        ax.grid(axis="y")
        if best_epoch:
            ax.axvline(best_epoch, color=GREEN, ls=":", label="best epoch")
    handles = loss.get_lines()
    figure.legend(handles=handles, loc="outside upper center", ncols=3)
    loss.set_ylabel("loss")
    score.set(ylabel=key.removeprefix("valid_").upper(), xlabel="epoch")
    if key == "valid_ua":
        score.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    score.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


@matplotlib.rc_context(_STYLE)
def speaker_figure(speakers, ua, chance, genders=None):
    """Draw one bar a speaker, sorted, with the mean over speakers.

    Arguments
    ---------
    speakers : list of str
        Speaker names; more than 30 are counted, not named.
    ua : array_like
        Fractions, one a speaker.
    chance : float
        Fraction, drawn as a second line.
    genders : list of str, optional
        Gender of each speaker, shown as colour.

    Returns
    -------
    Figure
    """
    order = np.argsort(ua, kind="stable")
    ua = np.asarray(ua)[order]
    figure = Figure()
    ax = figure.subplots()
    shown = np.asarray(genders or [""] * len(ua), str)[order]
    # A manifest may also say "unknown": the third colour, shared by all.
    palette = [BLUE, ORANGE, *[MUTED] * len(ua)]
    for gender, color in zip(np.unique(shown), palette, strict=False):
        mine = np.flatnonzero(shown == gender)
        ax.bar(mine, ua[mine], color=color, label=gender)
    if genders:
        figure.legend(loc="outside upper center", ncols=3)
    _level(ax, ua.mean(), f"mean {100 * ua.mean():.0f}%", INK, "-")
    _level(ax, chance, "chance", MUTED, ":")
    if len(ua) <= 30:
        names = [_short(speakers[i], 10) for i in order]
        ax.set_xticks(range(len(ua)), names)
        if sum(map(len, names)) > 60:
            ax.tick_params("x", rotation=90)
        ax.set_xlabel("speaker")
    else:
        ax.set_xticks([])
        ax.set_xlabel(f"{len(ua)} speakers, sorted")
    ax.set(ylabel="UA", ylim=(0, 1), xlim=(-0.6, len(ua) - 0.4))
    return figure


@matplotlib.rc_context(_STYLE)
def runs_figure(groups):
    """Draw the UA of every run, by method, and that of all test sets pooled.

    Without classes it is the CCC, and its mean.

    Arguments
    ---------
    groups : list of dict
        Of `ser_peft.evaluation.summary.summarize`, of one corpus, protocol
        and number of classes.

    Returns
    -------
    Figure
    """
    figure = Figure((5.6, 1.3 + 0.5 * len(groups)))
    ax = figure.subplots()
    for row, group in enumerate(groups):
        scores = [point["score"] for point in group["points"]]
        # Side by side, so that equal ones are seen.
        beside = row + np.linspace(-0.2, 0.2, len(scores) + 2)[1:-1]
        runs = ax.scatter(scores, beside, s=26, color=BLUE, alpha=0.65, lw=0)
        pooled = group["pooled"] or {"ua": np.mean(scores), "ua_ci95": None}
        ends = pooled["ua_ci95"] or [pooled["ua"]] * 2
        ax.plot(ends, [row, row], color=INK, lw=1.3)
        (mean,) = ax.plot(pooled["ua"], row, "D", ms=6, c=ORANGE, mec=INK)
    classes = groups[0]["n_classes"]
    name = "pooled, 95% interval" if classes else "mean"
    marks = {"one fold and seed": runs, name: mean}
    left, right = ax.get_xlim()
    if classes:
        if 1 / classes > left - 0.1:  # near enough to be shown
            left = min(left, 1 / classes - 0.02)
            line = ax.axvline(1 / classes, color=MUTED, ls=":", lw=1.3)
            marks["chance"] = line
        ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.set_xlim(max(left, -1.02), min(right, 1.02))
    figure.legend(
        marks.values(), marks.keys(), loc="outside upper center", ncols=3
    )
    ax.set_yticks(range(len(groups)), [_short(g["name"], 30) for g in groups])
    ax.tick_params("y", labelcolor=INK)
    ax.grid(axis="x")
    ax.set(xlabel="UA" if classes else "CCC", ylim=(len(groups) - 0.5, -0.5))
    return figure


@matplotlib.rc_context(_STYLE)
def layer_figure(weights):
    """Draw the weight of each hidden state in the head's mix.

    Arguments
    ---------
    weights : list of float
        Softmaxed weights, one a hidden state, index 0 the encoder's input.

    Returns
    -------
    Figure
    """
    figure = Figure()
    ax = figure.subplots()
    ax.bar(range(len(weights)), weights, color=BLUE)
    _level(ax, 1 / len(weights), "uniform", MUTED, ":")
    ax.set_xticks(range(0, len(weights), 1 + len(weights) // 17))
    ax.set(xlabel="hidden state (0 = encoder input)", ylabel="weight")
    ax.set_xlim(-0.6, len(weights) - 0.4)
    return figure


@matplotlib.rc_context(_STYLE)
def reliability_figure(curves):
    """Draw accuracy by confidence, and how often there is such confidence.

    Arguments
    ---------
    curves : dict
        Name -> utterances, accuracy and confidence of each bin, from
        `ser_peft.evaluation.calibration.reliability`; at most two.

    Returns
    -------
    Figure
    """
    figure = Figure()
    upper, lower = figure.subplots(2, sharex=True, height_ratios=(4, 1))
    upper.plot([0, 1], [0, 1], color=MUTED, ls=":", lw=1.3)
    styles = ((BLUE, "o-", -1), (ORANGE, "s--", 1))
    for (name, curve), (color, style, side) in zip(
        curves.items(), styles, strict=False
    ):
        counts, accuracy, confidence = curve
        full = counts > 0
        upper.plot(
            confidence[full], accuracy[full], style, ms=4, c=color, label=name
        )
        width = 1 / len(counts)
        centers = (np.arange(len(counts)) + 0.5 + 0.2 * side) * width
        lower.bar(centers, counts / counts.sum(), 0.36 * width, color=color)
    figure.legend(
        handles=upper.get_lines()[1:], loc="outside upper center", ncols=3
    )
    for ax in (upper, lower):
        ax.grid(axis="y")
        ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    upper.set(ylabel="accuracy", ylim=(0, 1.02), xlim=(0, 1))
    lower.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    lower.set(ylabel="share", xlabel="confidence")
    return figure


@matplotlib.rc_context(_STYLE)
def robustness_figure(ua, chance):
    """Draw one bar for each condition of the test set.

    Arguments
    ---------
    ua : dict
        Condition -> UA, a fraction; the undisturbed one comes first.
    chance : float
        Fraction.

    Returns
    -------
    Figure
    """
    figure = Figure()
    ax = figure.subplots()
    colors = [BLUE] + [ORANGE] * (len(ua) - 1)
    bars = ax.bar(range(len(ua)), ua.values(), color=colors)
    ax.bar_label(bars, fmt=lambda share: f"{share:.0%}", padding=2)
    # On two lines: babble / 20 dB.
    ax.set_xticks(range(len(ua)), [name.replace(" ", "\n", 1) for name in ua])
    _level(ax, chance, "chance", MUTED, ":")
    ax.set(ylabel="UA", ylim=(0, 1))
    return figure


def inline_svg(figure, name, alt):
    """Turn a figure into SVG to be put inside an HTML page.

    Arguments
    ---------
    figure : Figure
        What to draw.
    name : str
        Short name, unique on the page: keeps the SVG's ids apart.
    alt : str
        What a reader who cannot see the figure should know.

    Returns
    -------
    str
        One `<svg>` element, its text escaped, with no link to anywhere.
    """
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    # HTML knows SVG without its namespaces; ids of groups repeat by figure.
    svg = re.sub(r' (?:xmlns(?::\w+)?="[^"]*"|id="[\w.]+_\d+")', "", svg)
    for color, variable in _VARIABLES.items():
        svg = svg.replace(color, variable)
    label = f'<svg role="img" aria-label="{escape(alt)}"'
    return svg.replace("<svg", label, 1)


def _level(ax, y, text, color, style):
    """Mark a fraction `y`: a line, and `text` past its right end."""
    ax.grid(axis="y")
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.axhline(y, color=color, ls=style, lw=1.3)
    where = {"transform": ax.get_yaxis_transform(), "va": "center"}
    ax.text(1.01, y, text, color=color, fontsize=8.5, **where)


def _short(name, length=16):
    # A file name that is no valid text can be a speaker; fonts refuse it.
    name = name.encode("utf-8", "backslashreplace").decode("utf-8")
    return name if len(name) <= length else name[: length - 1] + "…"
