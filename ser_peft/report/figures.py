"""Figures of the report, as matplotlib `Figure` objects.

Colours are those of Okabe & Ito (2008), told apart with any kind of colour
vision. `inline_svg` swaps them for CSS variables, so one figure serves a
light page, a dark page and a PNG.
"""

import io
import itertools
import logging
import re
from html import escape

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter

__all__ = [
    "confusion_figure",
    "curve_figure",
    "dimension_figure",
    "inline_svg",
    "layer_figure",
    "learning_figure",
    "reliability_figure",
    "robustness_figure",
    "runs_figure",
    "speaker_figure",
    "usage_figure",
    "utterance_figure",
]

# SpeechBrain logs everything to a file; every font is not worth a line.
logging.getLogger("matplotlib").setLevel(logging.WARNING)

INK, MUTED, LINE = "#1b2430", "#5b6675", "#dde2e9"
BLUE, ORANGE, GREEN = "#0072b2", "#d55e00", "#009e73"
PURPLE, AMBER = "#cc79a7", "#e69f00"  # seen on light and dark pages
CELL = "#004c80"  # no variable: white text on it, on any page
_VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    LINE: "var(--line)",
    BLUE: "var(--blue)",
    ORANGE: "var(--orange)",
    GREEN: "var(--green)",
}
STYLE = {
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


@matplotlib.rc_context(STYLE)
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
    names = [short(name) for name in classes]
    ax.set_xticks(range(n), names)
    if n * max(map(len, names)) > 52:
        ax.tick_params("x", rotation=90)
    ax.set_yticks(range(n), names)
    ax.set(xlim=(-0.5, n - 0.5), ylim=(n - 0.5, -0.5))
    ax.set(xlabel="predicted", ylabel="truth")
    ax.tick_params(labelcolor=INK)
    ax.spines[:].set_visible(False)
    return figure


@matplotlib.rc_context(STYLE)
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


@matplotlib.rc_context(STYLE)
def learning_figure(history, best_epoch=None):
    """Draw losses and what was chosen by, with the best epoch marked.

    Arguments
    ---------
    history : list of dict
        One an epoch (0: the start): `epoch` and any of `train_loss`,
        `valid_loss`, `valid_ua` (fraction) or, without it, `valid_ccc`.
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
    _curve(loss, history, "train_loss", "o-", color=BLUE, label="train")
    _curve(loss, history, "valid_loss", "o--", color=ORANGE, label="valid")
    _curve(score, history, key, "o--", color=ORANGE)
    for ax in (loss, score):
        ax.grid(axis="y")
        if best_epoch is not None:
            ax.axvline(best_epoch, color=GREEN, ls=":", label="best epoch")
    handles = loss.get_lines()
    figure.legend(handles=handles, loc="outside upper center", ncols=3)
    loss.set_ylabel("loss")
    score.set_ylabel(key.removeprefix("valid_").upper())
    if key == "valid_ua":
        score.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    _by_epoch(score, history)
    return figure


@matplotlib.rc_context(STYLE)
def curve_figure(history, curves, ylabel, kept, low=None, baseline=None):
    """Draw measures by epoch, with the kept epoch marked.

    Arguments
    ---------
    history : list of dict
        One an epoch: `epoch` and measures.
    curves : dict
        Key of `history` -> name.
    ylabel : str
        What the measures are, and their unit.
    kept : int
        The epoch that was kept.
    low : float, optional
        Where the measures' axis begins.
    baseline : tuple of (str, dict), optional
        Name of what the measures have to beat, and for each key of `curves`
        the key of `history` that has it. With it all are fractions.

    Returns
    -------
    Figure
    """
    figure = Figure()
    ax = figure.subplots()
    name, baselines = baseline or ("", {})
    for (key, label), style in zip(curves.items(), _styles(), strict=False):
        _curve(ax, history, key, **style, label=label)
        if key in baselines:
            _curve(ax, history, baselines[key], ":", color=style["color"])
    if baseline:
        ax.plot([], [], ":", color=MUTED, label=name)
        ax.yaxis.set_major_formatter(PercentFormatter(1))
    ax.axvline(kept, color=GREEN, ls=":", label="kept epoch")
    ax.grid(axis="y")
    figure.legend(loc="outside upper center", ncols=3)
    ax.set(ylabel=ylabel, ylim=(low, None))
    _by_epoch(ax, history)
    return figure


@matplotlib.rc_context(STYLE)
def usage_figure(counts):
    """Draw how evenly clusters, or the codes of a codebook, are used.

    Arguments
    ---------
    counts : dict
        Name -> how often each one occurred.

    Returns
    -------
    Figure
    """
    figure = Figure()
    ax = figure.subplots()
    ax.axhline(1, color=MUTED, ls=":", lw=1.3, label="even use")
    for (name, count), style in zip(counts.items(), _styles(), strict=False):
        # Beside even use, by rank in percent: comparable at any number.
        count = np.sort(np.asarray(count, float))[::-1]
        used = count[count > 0]
        rank = np.arange(1, len(used) + 1) / len(count)
        label = f"{name}: {len(used)} used"
        ax.plot(rank, used / count.mean(), **style, label=label,
                markevery=0.1)  # fmt: skip
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.grid(axis="y")
    ax.set(xlim=(0, 1.02), xlabel="most used first, share of all")
    ax.set_ylabel("occurrences, times those of even use")
    figure.legend(loc="outside upper center", ncols=2)
    return figure


@matplotlib.rc_context(STYLE)
def utterance_figure(log_mel, labels, seconds, frame_seconds):
    """Draw a spectrogram, and under it a strip of labels a clustering.

    Colours say where clusters change, with lightness too; one that comes back
    in a strip has its colour again.

    Arguments
    ---------
    log_mel : array_like
        Power in dB, [bands, frames]; bands evenly spaced in mel, from 0 to
        8000 Hz.
    labels : dict
        Number of clusters -> cluster of each frame.
    seconds : float
        Duration of `log_mel`.
    frame_seconds : float
        From one label to the next.

    Returns
    -------
    Figure
    """
    # Inches; the width of the page, less margins and the names of strips.
    width, across = 10.2, 8.6
    figure = Figure((width, 3.2 + 0.42 * len(labels)), dpi=200)
    upper, *strips = figure.subplots(
        1 + len(labels), sharex=True, height_ratios=[6, *[1] * len(labels)]
    )  # fmt: skip
    picture = upper.imshow(
        log_mel, extent=(0, seconds, 0, _mel(8000)), aspect="auto",
        origin="lower", cmap="magma", vmin=np.max(log_mel) - 70,
    )  # fmt: skip
    figure.colorbar(
        picture, cax=upper.inset_axes([1.01, 0, 0.012, 1]), label="power (dB)"
    )
    hertz = [250, 500, 1000, 2000, 4000, 8000]
    upper.set_yticks([_mel(f) for f in hertz], hertz)
    upper.set_ylabel("frequency (Hz)")
    colors = matplotlib.colormaps["viridis"]
    for ax, (size, clusters) in zip(strips, labels.items(), strict=True):
        clusters = np.asarray(clusters)
        _, first, where = np.unique(
            clusters, return_index=True, return_inverse=True
        )
        # By appearance, in steps of the golden ratio: neighbours differ.
        shade = first.argsort().argsort()[where] * 0.618 % 1
        length = len(clusters) * frame_seconds
        ax.imshow(colors(shade)[None], extent=(0, length, 0, 1), aspect="auto",
                  interpolation="nearest")  # fmt: skip
        ends = [0, *np.flatnonzero(np.diff(clusters)) + 1, len(clusters)]
        for start, end in zip(ends, ends[1:], strict=False):
            name = str(clusters[start])
            # Where there is room: a digit is 4.5 points wide.
            points = 72 * across * (end - start) * frame_seconds / seconds
            if points > 4.5 * len(name) + 2:
                ax.text(
                    (start + end) / 2 * frame_seconds, 0.46, name, size=7.5,
                    color="black" if shade[start] > 0.55 else "white",
                    ha="center", va="center",
                )  # fmt: skip
        ax.set_yticks([0.5], [f"K = {size}"])
        ax.tick_params("y", labelcolor=INK)
    for ax in (upper, *strips):
        ax.spines[:].set_visible(False)
    figure.axes[-1].set(xlim=(0, seconds))
    (strips or [upper])[-1].set_xlabel("time (s)")
    return figure


@matplotlib.rc_context(STYLE)
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
        names = [short(speakers[i], 10) for i in order]
        ax.set_xticks(range(len(ua)), names)
        if sum(map(len, names)) > 60:
            ax.tick_params("x", rotation=90)
        ax.set_xlabel("speaker")
    else:
        ax.set_xticks([])
        ax.set_xlabel(f"{len(ua)} speakers, sorted")
    ax.set(ylabel="UA", ylim=(0, 1), xlim=(-0.6, len(ua) - 0.4))
    return figure


@matplotlib.rc_context(STYLE)
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
    ax.set_yticks(range(len(groups)), [short(g["name"], 30) for g in groups])
    ax.tick_params("y", labelcolor=INK)
    ax.grid(axis="x")
    ax.set(xlabel="UA" if classes else "CCC", ylim=(len(groups) - 0.5, -0.5))
    return figure


@matplotlib.rc_context(STYLE)
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


@matplotlib.rc_context(STYLE)
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


@matplotlib.rc_context(STYLE)
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
    label = f'<svg role="img" aria-label="{escape(alt)}"'
    return Markup(svg.replace("<svg", label, 1))


def _curve(ax, history, key, *style, **how):
    """Plot a measure by epoch."""
    values = [epoch.get(key) for epoch in history]
    epochs = [epoch["epoch"] for epoch in history]
    # float: an epoch without the value becomes a gap in the line.
    how = {"ms": 3, "markevery": 1 + len(epochs) // 40} | how
    ax.plot(epochs, np.array(values, float), *style, **how)


def _by_epoch(ax, history):
    """Let the horizontal axis count epochs, be it one."""
    ax.set_xlabel("epoch")
    ax.set_xlim(history[0]["epoch"] - 0.5, history[-1]["epoch"] + 0.5)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _styles():
    """Line styles told apart without colour too, for ever."""
    return itertools.cycle(
        {"color": color, "marker": marker, "ls": ls, "ms": 4}
        for color, marker, ls in zip(
            (BLUE, ORANGE, PURPLE, AMBER, MUTED),
            "os^Dv",
            ("-", "--", "-.", "-", "--"),
            strict=True,
        )
    )


def _mel(hertz):
    """The mel scale of HTK."""
    return 2595 * np.log10(1 + hertz / 700)


def _level(ax, y, text, color, style):
    """Mark a fraction `y`: a line, and `text` past its right end."""
    ax.grid(axis="y")
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.axhline(y, color=color, ls=style, lw=1.3)
    where = {"transform": ax.get_yaxis_transform(), "va": "center"}
    ax.text(1.01, y, text, color=color, fontsize=8.5, **where)


def short(name, length=16):
    # A file name that is no valid text can be a speaker; fonts refuse it.
    name = name.encode("utf-8", "backslashreplace").decode("utf-8")
    return name if len(name) <= length else name[: length - 1] + "…"
