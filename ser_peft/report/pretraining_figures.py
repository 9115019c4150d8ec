"""Figures of a pretraining: clusters or codes, and one utterance."""

import matplotlib
import numpy as np

from ser_peft.report.drawing import (
    Color,
    ExactTicks,
    add_legend,
    line_styles,
    set_ticks,
    styled,
    subplots,
)

__all__ = ["usage_figure", "utterance_figure"]


@styled
def usage_figure(counts):
    """Draw the use of clusters, or of the codes of a codebook, by rank.

    Arguments
    ---------
    counts : dict
        Name -> number of occurrences of each cluster or code.

    Returns
    -------
    Figure
    """
    figure, ax = subplots()
    marks = [ax.axhline(1, color=Color.MUTED, ls=":", lw=1.3, label="even use")]
    for (name, count), style in zip(
        counts.items(), line_styles(), strict=False
    ):
        # Relative to even use, by rank in percent: comparable at any number.
        count = np.sort(np.asarray(count, float))[::-1]
        used = count[count > 0]
        rank = np.arange(1, len(used) + 1) / len(count)
        label = f"{name}: {len(used)} used"
        marks += ax.plot(rank, used / count.mean(), **style, label=label,
                         markevery=0.1)  # fmt: skip
    ax.set_yscale("log")
    set_ticks(ax.xaxis, percent=True)
    set_ticks(ax.yaxis)
    ax.set(xlim=(0, 1.02), xlabel="most frequent first, share of all")
    ax.set_ylabel("occurrences, relative to even use")
    add_legend(figure, marks)
    return figure


@styled
def utterance_figure(log_mel, labels, seconds, frame_seconds):
    """Draw a spectrogram, and under it one strip of labels per clustering.

    Neighbouring clusters differ in colour and lightness. A cluster that comes
    back in a strip has the same colour again.

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
        Time from one label to the next.

    Returns
    -------
    Figure
    """
    # Inches; the width of the page, less margins and the names of strips.
    width, across = 10.2, 8.6
    figure, axes = subplots(
        1 + len(labels), size=(width, 3.2 + 0.42 * len(labels)),
        sharex=True, height_ratios=[6, *[1] * len(labels)],
    )  # fmt: skip
    figure.set_dpi(200)
    upper, *strips = axes
    picture = upper.imshow(
        log_mel, extent=(0, seconds, 0, _mel(8000)), aspect="auto",
        origin="lower", cmap="magma", vmin=np.max(log_mel) - 70,
    )  # fmt: skip
    scale = upper.inset_axes([1.01, 0, 0.012, 1])
    figure.colorbar(picture, cax=scale, label="power (dB)", format=ExactTicks())
    hertz = [250, 500, 1000, 2000, 4000, 8000]
    upper.set_yticks([_mel(f) for f in hertz], hertz)
    upper.set_ylabel("frequency (Hz)")
    colors = matplotlib.colormaps["viridis"]
    for ax, (size, clusters) in zip(strips, labels.items(), strict=True):
        clusters = np.asarray(clusters)
        _, first, where = np.unique(
            clusters, return_index=True, return_inverse=True
        )
        # In order of appearance, by the golden ratio: neighbours differ.
        shade = first.argsort().argsort()[where] * 0.618 % 1
        length = len(clusters) * frame_seconds
        ax.imshow(colors(shade)[None], extent=(0, length, 0, 1), aspect="auto",
                  interpolation="nearest")  # fmt: skip
        ends = [0, *np.flatnonzero(np.diff(clusters)) + 1, len(clusters)]
        for start, end in zip(ends, ends[1:], strict=False):
            name = str(clusters[start])
            # Only if there is room: a digit is 4.5 points wide.
            points = 72 * across * (end - start) * frame_seconds / seconds
            if points > 4.5 * len(name) + 2:
                ax.text(
                    (start + end) / 2 * frame_seconds, 0.46, name, size=7.5,
                    color="black" if shade[start] > 0.55 else "white",
                    ha="center", va="center",
                )  # fmt: skip
        ax.set_yticks([0.5], [f"K = {size}"])
        ax.tick_params("y", labelcolor=Color.INK)
    for ax in axes:
        ax.spines[:].set_visible(False)
    upper.set(xlim=(0, seconds))
    strips[-1].xaxis.set_major_formatter(ExactTicks())
    strips[-1].set_xlabel("time (s)")
    return figure


def _mel(hertz):
    """Convert hertz to mel, by the formula of HTK."""
    return 2595 * np.log10(1 + hertz / 700)
