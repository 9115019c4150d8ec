"""Clips of recordings inside of the report."""

import base64
import io
import re

import numpy as np
import pytest
import soundfile
from pages import HOSTILE, Page
from sounds import tone

from ser_peft.data.manifests import shareable
from ser_peft.report import clips
from ser_peft.report.run_page import render_run

RATE = 22050


@pytest.fixture
def recordings(tmp_path):
    """Id -> path of 12 s of noise, and of a stretch of it."""
    rng = np.random.default_rng(0)
    rise = np.repeat(np.linspace(0.1, 0.9, 24), RATE // 2)
    for name in "ab":
        noise = rise * rng.uniform(-0.5, 0.5, 12 * RATE)
        soundfile.write(tmp_path / f"{name}.wav", noise, RATE)
    return {
        "a": str(tmp_path / "a.wav"),
        "b": f"{tmp_path / 'b.wav'}#t=6,7.5",
        "gone": str(tmp_path / "gone.wav"),
    }


def decoded(uri):
    """Samples of a data URI, [T] at 16 kHz."""
    kind, content = uri.split(",")
    assert kind == "data:audio/mpeg;base64"
    wav, rate = soundfile.read(io.BytesIO(base64.b64decode(content)))
    assert rate == 16000 and wav.ndim == 1
    return wav


def test_clips_are_the_beginnings(recordings):
    found = clips.embed(["b", "unknown", "gone", "a"], recordings)
    assert [*found] == ["b", "a"]
    assert len(decoded(found["a"])) / 16000 == pytest.approx(8, abs=0.1)
    part = decoded(found["b"])
    assert len(part) / 16000 == pytest.approx(1.5, abs=0.1)
    # The stretch is of the middle, where the noise is louder.
    assert part.std() > 0.09 > 0.06 > decoded(found["a"])[:16000].std()


def test_a_page_has_a_budget(recordings, monkeypatch):
    many = {str(i): recordings["a"] for i in range(4)}
    (one,) = clips.embed(["0"], many).values()
    assert 10 * len(one) < clips.BUDGET  # ten of the longest are in a page
    monkeypatch.setattr(clips, "BUDGET", int(2.5 * len(one)))
    found = clips.embed(["3", "2", "1"], many)
    assert [*found] == ["3", "2"]
    assert sum(map(len, found.values())) <= clips.BUDGET


ABOUT = {"corpus": "ravdess", "data_folder": "/data/ä"}
ENTRIES = {"1": {"wav": "{data_root}/1.wav"}, "2": {"wav": "/x/2.wav#t=0,1"}}
PATHS = {"1": "/data/ä/1.wav", "2": "/x/2.wav#t=0,1"}


def test_recordings_that_may_be_passed_on():
    assert shareable(ABOUT, ENTRIES) == PATHS
    assert shareable(ABOUT, ENTRIES, False) == {}
    for corpus in ("iemocap", "msp-improv", "msp-podcast", "emobox:x", "new"):
        about = ABOUT | {"corpus": corpus}
        assert shareable(about, ENTRIES) == {}
        assert shareable(about, ENTRIES, True) == PATHS
    pooled = {"1": ENTRIES["1"] | {"corpus": "ravdess"}}
    about = ABOUT | {"corpus": "pooled"}
    assert len(shareable(about, pooled)) == 1
    pooled["2"] = ENTRIES["2"] | {"corpus": "iemocap"}
    assert shareable(about, pooled) == {}


@pytest.fixture
def run(tmp_path):
    """Arguments of `render_run`: all three answers are wrong."""
    soundfile.write(tmp_path / "tone.wav", tone(16000), 16000)
    ids = ["first", HOSTILE, "third"]
    classes = ["angry", "sad"]
    none = dict.fromkeys(
        "seed best_epoch peak_memory_mb valid_ua ua_ci95 start".split()
    )
    return {
        "results": {
            **none, "corpus": "ravdess", "protocol": "p", "protocol_sha": "0",
            "fold": 1, "folds_total": 5, "backbone": "b", "method": "lora",
            "classes": classes, "ua": 0.0, "wa": 0.0, "macro_f1": 0.0,
            "weighted_f1": 0.0, "confusion": [[0, 2], [1, 0]],
            "ua_ci95_reason": "few", "test_speakers": ["s"], "epochs": 0,
            "trainable_parameters": {"adapter": 1, "head": 1},
            "total_parameters": 2, "train_seconds": 1.0, "kept": "it",
            "test_utterances": 3, "versions": {},
        },
        "predictions": {
            "id": ids, "speaker": ["s"] * 3, "label": [0, 0, 1],
            "predicted": [1, 1, 0],
            "probabilities": [[0.1, 0.9], [0.2, 0.8], [0.7, 0.3]],
        },
        "recordings": {
            "first": str(tmp_path / "tone.wav"),
            HOSTILE: str(tmp_path / "tone.wav"),
            "third": str(tmp_path / "gone.wav"),
        },
    }  # fmt: skip


def test_players_beside_the_mistakes(run):
    text = render_run(**run)
    page = Page(text)
    assert page.tags.count("audio") == 2  # of the third the file is gone
    assert "script" not in page.tags and "listen" in page.shown
    uris = re.findall(r'<audio[^>]*src="(data:[^"]+)"', text, re.DOTALL)
    for uri in uris:
        assert len(decoded(uri)) == pytest.approx(8000, abs=1600)
    assert re.search("Content-Security-Policy[^>]*media-src data:", text)
    # In the row of its own utterance.
    row = re.search(r"<tr><th[^>]*>first</th>.*?</tr>", text, re.DOTALL)[0]
    assert row.count("<audio") == 1 and 'aria-label="first"' in row
    assert "first 8 s at most, in this page itself" in " ".join(
        page.shown.split()
    )


def test_no_players_where_none_may_be(run):
    run["recordings"] = {}
    page = Page(render_run(**run))
    assert "audio" not in page.tags and "listen" not in page.shown
    assert "in this page itself" not in page.shown
