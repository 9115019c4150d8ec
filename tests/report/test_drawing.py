"""What all figures share: ticks, names, levels."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from ser_peft.report.drawing import (
    ExactTicks,
    add_legend,
    common_prefix,
    mark_levels,
    set_ticks,
    short,
    short_names,
)


def labels(low, high, percent=False, integer=False):
    """Ticks of an axis between two values: where they are, what they say."""
    figure = Figure()
    ax = figure.subplots()
    ax.set_xlim(low, high)
    set_ticks(ax.xaxis, percent, integer)
    figure.draw_without_rendering()
    shown = [text.get_text() for text in ax.get_xticklabels()]
    return ax.get_xticks(), shown


@pytest.mark.parametrize(
    ("low", "high"),
    [(0, 1), (0.6607, 0.6615), (0.8, 0.99), (-3, 4), (0.1, 12), (0, 44000)],
)
@pytest.mark.parametrize("percent", [True, False])
def test_ticks_say_where_they_are(low, high, percent):
    places, shown = labels(low, high, percent)
    read = [float(text.replace(",", "").rstrip("%")) for text in shown]
    factor = 100 if percent else 1
    assert read == pytest.approx([factor * place for place in places])
    assert len({*shown}) == len(shown) > 2
    decimals = {len(text.rstrip("%").partition(".")[2]) for text in shown}
    assert len(decimals) == 1
    assert "-0" not in shown and "-0%" not in shown


@pytest.mark.parametrize("last", [1, 4, 24, 100])
def test_whole_numbers_have_whole_ticks(last):
    places, shown = labels(-0.5, last + 0.5, integer=True)
    assert (places == places.round()).all()
    assert shown == [f"{place:.0f}" for place in places]


def test_logarithmic_ticks_have_their_own_decimals():
    ax = Figure().subplots()
    ax.set_yscale("log")
    set_ticks(ax.yaxis)
    formatter = ax.yaxis.get_major_formatter()
    assert formatter.format_ticks([0.01, 1, 100]) == ["0.01", "1", "100"]
    assert ExactTicks(percent=True)(0.125) == "12.5%"


@pytest.mark.parametrize(
    ("names", "prefix"),
    [
        (["ravdess_01", "ravdess_12"], "ravdess_"),
        (["Ses01F", "Ses01M", "Ses02F"], "Ses"),
        (["corpus/anna", "corpus/anne"], "corpus/"),
        (["1001", "1091"], ""),
        (["anna", "anne"], ""),
        (["F1", "F2"], ""),  # too short to be worth it
        (["speaker_1"], ""),
        (["abc", "abc1"], ""),
    ],
)
def test_common_prefix(names, prefix):
    assert common_prefix(names) == prefix


def test_shortened_names_stay_different():
    names = [f"student_{i}_with_a_long_name/fold1" for i in range(9)] + ["a"]
    shown = short_names(names, 12)
    assert len({*shown}) == 10 and shown[-1] == "a"
    assert max(map(len, shown)) <= 14
    assert short("\udce9") == "\\udce9"  # what no font has


def test_names_of_close_levels_do_not_overlap():
    ax = Figure().subplots()
    ax.set_ylim(0, 1)
    mark_levels(ax, (0.26, "mean", "k", "-"), (0.25, "chance", "k", ":"))
    assert [line.get_ydata()[0] for line in ax.lines] == [0.25, 0.26]
    low, high = (text.get_position()[1] for text in ax.texts)
    assert low == 0.25 and high > 0.3


def test_legend_is_as_wide_as_the_figure():
    figure = Figure((5.6, 4.3))
    lines = figure.subplots().plot(np.zeros((2, 8)))
    add_legend(figure, lines, ["a long name of a model"] * 8)
    figure.canvas.draw()
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.x1
