"""The page of a pretraining, read back as a browser would."""

import re

import numpy as np
import pytest
import torch
from pages import HOSTILE, Page

from ser_peft.report import figures, pretraining_figures
from ser_peft.report.pretraining_page import write_pretraining_report


def run(stage, **measures):
    """Arguments of `write_pretraining_report` after `folder`, by name."""
    history = [
        {
            "epoch": epoch,
            "train_loss": 4 / epoch,
            "valid_loss": 5 / epoch,
            **{f"valid_{key}": value for key, value in measures.items()},
            "lr_adapter": 1e-4,
            "seconds": 2.5,
        }
        for epoch in (1, 2, 3)
    ]
    results = {
        "stage": stage,
        "corpus": "RAVDESS",
        "protocol": "5-fold",
        "protocol_sha": "5ca1ab1e",
        "fold": 5,
        "seed": 7,
        "backbone": "openai/whisper-tiny.en",
        "method": "LoRA",
        "trainable_parameters": {"adapter": 1_234_567, "objective": 4_321},
        "kept_epoch": 2,
        "kept": history[1],
        "epochs": 3,
        "steps": 1500,
        "train_seconds": 3725.0,
        "versions": {"torch": "2.11.0"},
    }
    return {"results": results, "history": history}


@pytest.fixture
def tapt():
    """A codebook of two groups."""
    measured = run("tapt", accuracy=0.25, chance=0.0125, perplexity=5.5)
    return measured | {"counts": torch.tensor([[4, 0, 4], [3, 2, 1]])}


def two_clusterings():
    """A run with everything: an utterance of 0.8 s, the command."""
    measured = run(
        "ptapt", accuracy_8=0.4, largest_8=0.2, perplexity_8=7.5,
        accuracy_1000=0.1, largest_1000=0.025, perplexity_1000=512.5,
    )  # fmt: skip
    measured["results"]["command"] = "python train_ptapt.py ptapt.yaml"
    measured["results"]["clusters"] = [
        {
            "clusters": size,
            "used": size - 1,
            "perplexity": 0.75 * size,
            "largest": 0.21,
            "purity": purity,
            "largest_class": 0.283,
            "mutual_information": 0.1234,
        }
        for size, purity in ((8, 0.412), (1000, 0.618))
    ]
    rng = np.random.default_rng(0)
    return measured | {
        "counts": [torch.ones(8), torch.arange(1000)],
        "example": {
            "id": "03-01-05",
            "emotion": "angry",
            "wave": rng.normal(0, 0.1, 12800),
            "labels": {8: [5] * 20 + [2] * 20, 1000: [*range(40)]},
            "seconds_per_frame": 0.02,
        },
    }


@pytest.fixture
def ptapt():
    """To be changed."""
    return two_clusterings()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Its page."""
    return read(tmp_path_factory.mktemp("whole"), two_clusterings())


def read(folder, measured):
    """The page that was written, as text and taken apart."""
    write_pretraining_report(folder, **measured)
    assert [path.name for path in folder.iterdir()] == ["report.html"]
    text = (folder / "report.html").read_text()
    page = Page(text)
    page.shown = re.sub(r" (?=[.,])", "", " ".join(page.shown.split()))
    return text, page


def test_tapt_by_hand(tmp_path, tapt):
    _, page = read(tmp_path, tapt)
    for said in (
        "TAPT: LoRA on openai/whisper-tiny.en",
        "25.0% 20.0 × chance (1.2%)",
        "codebook perplexity 5.5 of 6 at most",
        "this is epoch 2 of 3, the one kept",
        "group 1: 2 used",
        "2 2.000 2.500 25.0% 1.2% 5.5 0.0001 – 2.5 s",
        "1,234,567 trainable parameters",
        "1 h 2 min, 3 epochs, 1,500 steps",
        "torch 2.11.0",
    ):
        assert said in page.shown
    assert len(page.images) == 4 and "Clusters and emotions" not in page.shown


def test_ptapt_by_hand(whole):
    _, page = whole
    for said in (
        "P-TAPT: LoRA",
        "K = 8 40.0% 2.0 × largest cluster (20.0%)",
        "K = 1000 10.0% 4.0 × largest cluster (2.5%)",
        "clusters with frames 7 999",
        "purity 41.2% 61.8%",
        "largest emotion 28.3% 28.3%",
        "mutual information in nats 0.123 0.123",
        "K = 1000: 999 used",
        "03-01-05, angry. Log-mel spectrogram, and under it",
        "command python train_ptapt.py ptapt.yaml",
    ):
        assert said in page.shown
    assert "codebook" not in page.shown.lower() and len(page.images) == 4


def test_figures_are_described(whole):
    text, page = whole
    told = [image["aria-label"] for image in page.images]
    assert all(image["role"] == "img" for image in page.images)
    assert len({*told}) == 4
    assert "K = 8, 8 of 8 used; K = 1000, 999 of 1000 used" in told[2]
    assert "03-01-05, 0.8 s" in told[3]
    assert "2 of 8 clusters, 40 of 1000 clusters" in told[3]
    ids = re.findall(r' id="([^"]*)"', text)
    assert ids and len(ids) == len({*ids})


def test_without_what_is_optional(tmp_path, tapt, ptapt):
    for measured, pictures in ((tapt, 3), (ptapt, 2)):
        for name in ("counts", "example"):
            measured.pop(name, None)
        for name in ("clusters", "command", "protocol_sha"):
            measured["results"].pop(name, None)
        _, page = read(tmp_path, measured)
        assert len(page.images) == pictures
        for absent in (" at most", "Use of", "emotions", "command", "hash"):
            assert absent not in page.shown


def test_after_one_epoch_in_which_nothing_was_masked(tmp_path):
    measured = run("tapt", accuracy=0.0, chance=0.0, perplexity=1.0)
    measured["history"] = measured["history"][:1]
    measured["results"] |= {"epochs": 1, "kept_epoch": 1}
    _, page = read(tmp_path, measured)
    assert "0.0 × chance (0.0%)" in page.shown and "1 epoch," in page.shown


def test_page_needs_no_network(whole):
    text, page = whole
    assert "http:" not in text and "https:" not in text
    pictures = [link for link in page.links if link[0] != "#"]
    # Spectrogram, its scale, two strips.
    assert len(pictures) == 4
    assert all(link.startswith("data:image/png;base64,") for link in pictures)
    assert not {"script", "link", "iframe", "img"} & {*page.tags}
    assert "url(" not in text.replace("url(#", "")
    assert "default-src 'none'" in text and "img-src data:" in text


def test_hostile_names_are_shown_not_obeyed(tmp_path, ptapt, whole):
    _, clean = whole
    results = ptapt["results"]
    for key in ("corpus", "protocol", "backbone", "method", "fold"):
        results[key] = HOSTILE
    results["versions"] = {HOSTILE: HOSTILE}
    results["trainable_parameters"] = {HOSTILE: 1}
    results["command"] = HOSTILE
    ptapt["example"] |= {"id": HOSTILE, "emotion": HOSTILE}
    _, page = read(tmp_path, ptapt)
    assert {*page.tags} == {*clean.tags}
    assert len(page.links) == len(clean.links)
    assert page.shown.count(HOSTILE) > 10


def test_a_failure_leaves_the_older_page(tmp_path, tapt, monkeypatch):
    text, _ = read(tmp_path, tapt)

    def broken(*_):
        raise RuntimeError("no fonts")

    monkeypatch.setattr(pretraining_figures, "usage_figure", broken)
    with pytest.raises(RuntimeError):
        write_pretraining_report(tmp_path, **tapt)
    assert (tmp_path / "report.html").read_text() == text


def test_a_long_utterance_is_cut(tmp_path, ptapt, whole):
    assert "the first" not in whole[1].shown
    example = ptapt["example"]
    example["wave"] = np.tile(example["wave"], 15)
    example["labels"] = {8: [1] * 400 + [2] * 200}
    _, page = read(tmp_path, ptapt)
    assert "the first 8 s" in page.shown
    assert "8.0 s, and under it" in page.images[3]["aria-label"]
    assert "1 of 8 clusters" in page.images[3]["aria-label"]


def test_curves_and_baselines():
    history = [
        {"epoch": 1, "a": 0.2, "low": 0.1},
        {"epoch": 2, "a": 0.3, "low": 0.1},
        {"epoch": 3, "low": 0.1},
    ]
    panel = {
        "label": "share",
        "curves": {"a": "A"},
        "percent": True,
        "low": 0,
        "rivals": ("chance", {"a": "low"}),
    }
    figure = figures.curves_figure(history, [panel], [2])
    curve, low, _, kept = figure.axes[0].lines
    assert [*curve.get_ydata()[:2]] == [0.2, 0.3]
    assert np.isnan(curve.get_ydata()[2])
    assert [*low.get_ydata()] == [0.1] * 3
    assert low.get_color() == curve.get_color()
    assert [*kept.get_xdata()] == [2, 2]


def test_usage_is_sorted_and_beside_even_use():
    figure = pretraining_figures.usage_figure({"K = 4": [0, 1, 6, 1]})
    even, line = figure.axes[0].lines
    assert [*even.get_ydata()] == [1, 1]
    assert [*line.get_ydata()] == [3, 0.5, 0.5]
    assert [*line.get_xdata()] == [0.25, 0.5, 0.75]


def test_labels_lie_under_their_time():
    figure = pretraining_figures.utterance_figure(
        np.zeros((80, 100)), {64: [7] * 25 + [9] * 24 + [7]}, 1.0, 0.02
    )
    upper, strip = figure.axes
    assert upper.get_xlim() == strip.get_xlim() == (0, 1)
    (picture,) = strip.images
    assert picture.get_extent() == [0, 1, 0, 1]
    colors = picture.get_array()[0]
    assert (colors[:25] == colors[-1]).all()
    assert (colors[25:49] == colors[25]).all()
    assert np.abs(colors[25] - colors[0]).max() > 0.3
    named = [(text.get_text(), text.get_position()[0]) for text in strip.texts]
    # The last one has room for one digit.
    assert named == [
        ("7", pytest.approx(0.25)),
        ("9", pytest.approx(0.74)),
        ("7", pytest.approx(0.99)),
    ]
