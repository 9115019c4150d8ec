"""``ser-peft timeline``: tables and a page, or one line that says why not."""

import csv
import sys

import numpy as np
import pytest
import soundfile
import torch
from loud_detector import LoudDetector
from pages import Page

from ser_peft.adapters import PeftLobe
from ser_peft.cli import main
from ser_peft.heads import LinearHead
from ser_peft.inference import EmotionModel, load_model, streams
from ser_peft.lobes import load_lobe

RATE = 16000


@pytest.fixture(scope="module")
def model(tiny_backbones, tmp_path_factory):
    """Folder of a tiny model."""
    torch.manual_seed(0)
    encoder = PeftLobe(load_lobe(tiny_backbones["whisper"]), "frozen")
    classes = ["neutral", "angry"]
    folder = tmp_path_factory.mktemp("timeline") / "model"
    head = LinearHead(encoder, classes, ["arousal"])
    dimensions = {"arousal": (3.0, 1.0)}
    EmotionModel(encoder, head, classes, dimensions=dimensions).save(folder)
    return folder


@pytest.fixture
def recording(tmp_path, monkeypatch):
    """Two stretches that are loud, in 9 s; a path with a space and an ä."""
    monkeypatch.setattr(streams, "SpeechDetector", LoudDetector)
    at = np.arange(9 * RATE) / RATE
    loud = ((at > 1) & (at < 4)) | ((at > 6) & (at < 8))
    path = tmp_path / "ein Gespräch" / "a.flac"
    path.parent.mkdir()
    soundfile.write(path, 0.3 * np.sin(1000 * at) * loud, RATE)
    return path


def run(*argv):
    main(["timeline", *map(str, argv)])


def test_tables_and_page(model, recording, capsys):
    out = recording.with_suffix(".csv")
    windows = recording.with_name("windows.csv")
    run(model, recording, "--out", out, "--windows", windows)
    assert "2 segments, 5.0 s of speech in 9.0 s" in capsys.readouterr().out
    with open(out, encoding="utf-8", newline="") as file:
        rows = [*csv.DictReader(file)]
    assert [float(row["start"]) for row in rows] == pytest.approx(
        [1, 6], abs=0.033
    )
    assert [*rows[0]] == [
        "start", "end", "label", "neutral", "angry", "arousal",
    ]  # fmt: skip
    assert len(windows.read_text("utf-8").splitlines()) == 10
    run(model, recording, "--out", recording.with_suffix(".TextGrid"))
    assert (
        recording.with_suffix(".TextGrid")
        .read_text("utf-8")
        .startswith('File type = "ooTextFile"')
    )
    page = recording.with_suffix(".html")
    run(model, recording, "--out", page)
    shown = Page(page.read_text("utf-8"))
    assert "a.flac" in shown.shown and "audio" in shown.tags
    run(model, recording, "--out", page, "--no-audio", "--unsure", "0.999")
    shown = Page(page.read_text("utf-8"))
    assert "unsure" in shown.shown and "audio" not in shown.tags


def test_a_stream_gives_the_timeline_of_a_file(model, recording):
    """With a real encoder, whatever the batches that the chunks make."""
    model = load_model(model)
    expected = model.timeline(recording).windows
    wav, _ = soundfile.read(recording, dtype="int16")
    for size in (1000, 40000):
        stream, windows = model.stream(), []
        for start in range(0, len(wav), size):
            windows += stream.push(torch.tensor(wav[start : start + size]))
        windows += stream.close()
        for one, other in zip(windows, expected, strict=True):
            assert one.label == other.label
            assert one.scores == pytest.approx(other.scores, abs=1e-4)
            assert one.dimensions == pytest.approx(other.dimensions, abs=1e-4)
    assert sum(bool(one.scores) for one in expected) == 5


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--out", "a.txt"], "--out a.txt: give a .csv, .TextGrid or .html"),
        (["--out", "a.csv", "--window", "0"], "window 0.0: give seconds"),
        (["--out", "a.csv", "--hop", "9"], "hop 9.0: give seconds"),
        (["--out", "a.csv", "--unsure", "0"], "--unsure 0: give more than 0"),
        (["--out", "a.csv", "--windows", "b"], "--windows b: give a .csv"),
        ([], "the following arguments are required: --out"),
    ],
)
def test_refusals(model, recording, monkeypatch, capsys, flags, message):
    monkeypatch.chdir(recording.parent)
    with pytest.raises(SystemExit) as stop:
        run(model, recording, *flags)
    assert stop.value.code == 2
    [line] = capsys.readouterr().err.splitlines()[-1:]
    assert line.startswith("error: ") and message in line
    assert [*recording.parent.iterdir()] == [recording]


def test_a_page_needs_more_than_an_onnx_file(
    model, recording, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "ser_peft.report.timeline_page", None)
    with pytest.raises(SystemExit) as stop:
        run(model, recording, "--out", "a.html")
    assert stop.value.code == 2
    assert "error: --out a.html: a page needs" in capsys.readouterr().err


def test_recordings_that_cannot_be_used(model, tmp_path, capsys):
    broken = tmp_path / "broken.wav"
    broken.write_text("no audio")
    for path in (broken, tmp_path / "absent.wav"):
        with pytest.raises(SystemExit) as stop:
            run(model, path, "--out", tmp_path / "a.csv")
        assert stop.value.code == 2
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: {path}: cannot be read as audio")
    assert not (tmp_path / "a.csv").exists()
