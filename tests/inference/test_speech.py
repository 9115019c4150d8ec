"""Finding speech: voices are found; silence, noise and chords are not."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ser_peft.inference.speech import FRAME, SpeechDetector, stretches

ROOT = Path(__file__).resolve().parents[2]
RATE = 16000


def found(wav):
    """Stretches of speech, in seconds."""
    detector = SpeechDetector()
    chances = np.concatenate([detector(wav), detector.close()])
    assert len(chances) == -(-len(wav) // FRAME)
    return [
        (start * FRAME / RATE, stop * FRAME / RATE)
        for start, stop in stretches(chances, pause=12)
    ]


@pytest.fixture(scope="module")
def voices(tmp_path_factory):
    """Sentences of two synthetic voices, in 4 emotions."""
    if find_spec("espeakng_loader") is None:
        pytest.skip("espeakng-loader is not installed")
    folder = tmp_path_factory.mktemp("voices") / "demo"
    script = ROOT / "recipes" / "Demo" / "make_corpus.py"
    subprocess.run(
        [sys.executable, script, folder, "--voices=2", "--clips=1"],
        check=True,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    files = sorted(folder.glob("*/*.flac"))
    assert len(files) == 8
    return [soundfile.read(file, dtype="float32")[0] for file in files]


def between():
    """Three seconds each of what is no speech."""
    generator = np.random.default_rng(0)
    at = np.arange(3 * RATE) / RATE
    white = generator.standard_normal(len(at))
    pink = np.fft.rfft(white)
    pink[1:] /= np.sqrt(np.arange(1, len(pink)))
    beats = np.exp(-4 * (at % 0.5))
    chord = sum(np.sin(2 * np.pi * hertz * at) for hertz in (262, 330, 392))
    sounds = {
        "silence": 0 * at,
        "white": white,
        "pink": np.fft.irfft(pink, len(at)),
        "hum": np.sin(2 * np.pi * 50 * at) + np.sin(2 * np.pi * 150 * at) / 3,
        "chords": beats * chord,
    }
    return {
        name: 0.1 * wav / max(np.abs(wav).max(), 1)
        for name, wav in sounds.items()
    }


def test_speech_between_other_sounds(voices):
    others = between()
    parts, speech, at = [], [], 0.0
    for number, wav in enumerate(voices):
        other = [*others.values()][number % len(others)]
        at += len(other) / RATE
        speech.append((at, at + len(wav) / RATE))
        at = speech[-1][1]
        parts += [other, wav]
    stretches = found(np.concatenate(parts).astype(np.float32))
    for start, stop in speech:  # each sentence, but for its pauses
        heard = sum(max(0, min(stop, b) - max(start, a)) for a, b in stretches)
        assert heard > 0.6 * (stop - start)
    total = sum(b - a for a, b in stretches)
    inside = sum(
        max(0, min(stop, b) - max(start, a))
        for a, b in stretches
        for start, stop in speech
    )
    assert total - inside < 0.1 * len(speech)


@pytest.mark.parametrize("name", between())
def test_no_speech(name):
    assert found(between()[name].astype(np.float32)) == []


def test_chunks_do_not_matter(voices):
    wav = np.concatenate(voices[:2])
    whole = SpeechDetector()
    expected = np.concatenate([whole(wav), whole.close()])
    generator = np.random.default_rng(1)
    pieces, chances, at = SpeechDetector(), [], 0
    while at < len(wav):
        size = int(generator.integers(0, 3000))
        chances.append(pieces(wav[at : at + size]))
        at += size
    chances = np.concatenate([*chances, pieces.close()])
    assert chances == pytest.approx(expected, abs=1e-6)
    assert expected.max() > 0.9


def test_stretches():
    chances = np.array([0.2] * 5 + [0.9] * 20 + [0.2] * 5 + [0.1] * 30)
    # Between the thresholds it goes on, and does not begin.
    assert stretches(chances, 12) == [(5, 30)]
    click = np.array([0.0] * 20 + [0.9] * 5 + [0.0] * 20)
    assert stretches(click, 12) == []
    # Here something may have been cut off.
    assert stretches(click[:24], 12) == [(20, 24)]
    assert stretches(click[22:], 12) == [(0, 3)]
    assert stretches(np.empty(0), 12) == []


def test_the_detector_is_missing():
    script = (
        "import sys; sys.modules['silero_vad'] = None\n"
        "from ser_peft.inference.speech import SpeechDetector\n"
        "SpeechDetector()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True
    )
    assert "finding speech needs silero-vad: pip install" in done.stderr
