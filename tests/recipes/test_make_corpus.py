"""The script runs in processes of its own, as it is meant to."""

import csv
import json
import os
import runpy
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ser_peft.corpora import demo

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "recipes" / "Demo" / "make_corpus.py"

needs_espeak = pytest.mark.skipif(
    find_spec("espeakng_loader") is None,
    reason="espeakng-loader is not installed",
)


def make(out, *flags):
    """In a process of its own, as the synthesiser must be."""
    return subprocess.run(
        [sys.executable, SCRIPT, out, *flags],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


@pytest.fixture
def refused(monkeypatch, capsys):
    """Function: arguments -> the one line of an error before any speech."""

    def run(*argv):
        monkeypatch.setattr(sys, "argv", ["make_corpus.py", *map(str, argv)])
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(SCRIPT, run_name="__main__")
        assert stop.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    return run


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*.*")
    }


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A male and a female voice, each emotion and sentence once."""
    out = tmp_path_factory.mktemp("made") / "demo"
    done = make(out, "--voices=2", "--clips=4")
    assert done.returncode == 0, done.stderr
    return out


@needs_espeak
def test_is_a_demo_corpus(corpus):
    utterances = demo.read(corpus)
    assert len(utterances) == 2 * 4 * 4
    assert {u.speaker for u in utterances} == {"m1", "f1"}
    for utterance in utterances:
        wave, rate = soundfile.read(utterance.wav)
        assert (rate, wave.ndim) == (16000, 1)
        assert 1.0 < len(wave) / rate < 5.0
        assert np.sqrt(np.mean(wave**2)) > 1e-3
        assert 0.02 < np.abs(wave).max() < 1.0


@needs_espeak
def test_emotions_go_the_right_way(corpus):
    seconds, level = {}, {}
    for utterance in demo.read(corpus):
        wave, rate = soundfile.read(utterance.wav)
        emotion = utterance.labels["emotion"]
        seconds.setdefault(emotion, []).append(len(wave) / rate)
        level.setdefault(emotion, []).append(np.sqrt(np.mean(wave**2)))
    seconds = {k: np.mean(v) for k, v in seconds.items()}
    level = {k: np.mean(v) for k, v in level.items()}
    assert seconds["angry"] < seconds["neutral"] < seconds["sad"]
    assert seconds["happy"] < seconds["neutral"]
    assert level["angry"] > level["neutral"] > level["sad"]


def pitch(wave, rate):
    """Median fundamental frequency (Hz) of the loud frames."""
    frames = np.lib.stride_tricks.sliding_window_view(wave, 1024)[::512]
    power = (frames**2).mean(1)
    lags = np.arange(rate // 400, rate // 60)
    found = []
    for frame in frames[power > np.quantile(power, 0.6)]:
        spectrum = np.abs(np.fft.rfft(frame * np.hanning(1024), 2048)) ** 2
        found.append(rate / lags[np.argmax(np.fft.irfft(spectrum)[lags])])
    return np.median(found)


@needs_espeak
def test_happy_is_heard_higher_than_sad(corpus):
    heard = {"happy": [], "sad": []}
    for utterance in demo.read(corpus):
        if utterance.labels["emotion"] in heard:
            wave, rate = soundfile.read(utterance.wav)
            octave = np.log2(pitch(wave, rate))
            heard[utterance.labels["emotion"]].append(octave)
    assert np.mean(heard["happy"]) > np.mean(heard["sad"]) + 0.1


@needs_espeak
def test_same_seed_same_files(corpus, tmp_path):
    same, other = tmp_path / "same", tmp_path / "other"
    make(same, "--voices=2", "--clips=4")
    make(other, "--voices=2", "--clips=4", "--seed=1")
    assert contents(same) == contents(corpus)
    assert contents(other).keys() == contents(corpus).keys()
    assert contents(other) != contents(corpus)


@needs_espeak
def test_second_run_does_nothing(corpus, monkeypatch, capsys):
    before = {p: p.stat().st_mtime_ns for p in corpus.rglob("*")}
    argv = ["make_corpus.py", str(corpus), "--voices=2", "--clips=4"]
    monkeypatch.setattr(sys, "argv", argv)
    runpy.run_path(SCRIPT, run_name="__main__")
    assert "already made" in capsys.readouterr().out
    assert before == {p: p.stat().st_mtime_ns for p in corpus.rglob("*")}


@needs_espeak
def test_settings_are_written_down(corpus):
    rendering = json.loads((corpus / "rendering.json").read_text())
    assert rendering["made"] == {"seed": 0, "voices": 2, "clips": 4}
    assert rendering["clips"].keys() == {u.id for u in demo.read(corpus)}
    snr = [clip["snr"] for clip in rendering["clips"].values()]
    assert 15 <= min(snr) < max(snr) <= 30


def test_never_replaces_what_it_did_not_make(refused, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    assert "holds something else" in refused(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("flag", ["--voices=17", "--clips=0", "--seed=-1"])
def test_bad_flags(refused, tmp_path, flag):
    assert flag.split("=")[0] in refused(tmp_path / "demo", flag)
    assert not (tmp_path / "demo").exists()


def test_says_what_to_install(refused, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    assert "pip install espeakng-loader" in refused(tmp_path / "demo")
    assert not (tmp_path / "demo").exists()


def test_clips_are_joined_to_a_conversation(tmp_path, monkeypatch, capsys):
    """What the table says is where it says."""
    rng = np.random.default_rng(0)
    entries = {}
    for number, emotion in enumerate(("sad", "happy", "angry")):
        path = tmp_path / f"{number}.wav"
        wav = rng.normal(0, 0.1, 4000 + 800 * number)
        soundfile.write(path, wav, 16000)
        entries[str(number)] = {"wav": str(path), "emotion": emotion}
    manifest, out = tmp_path / "test.json", tmp_path / "talk.flac"
    manifest.write_text(json.dumps(entries))
    script = ROOT / "recipes" / "Demo" / "make_conversation.py"
    argv = [str(script), str(manifest), str(out), "--clips=3"]
    monkeypatch.setattr(sys, "argv", argv)
    runpy.run_path(str(script), run_name="__main__")
    wav, rate = soundfile.read(out)
    with open(tmp_path / "talk.csv", newline="", encoding="utf-8") as file:
        rows = [*csv.DictReader(file)]
    assert sorted(row["emotion"] for row in rows) == ["angry", "happy", "sad"]
    for row in rows:
        start, end = (round(float(row[key]) * rate) for key in ("start", "end"))
        number = [e["emotion"] for e in entries.values()].index(row["emotion"])
        clip, _ = soundfile.read(tmp_path / f"{number}.wav")
        assert abs(end - start - len(clip)) <= 16
        # The table is exact to a millisecond.
        best = max(
            np.corrcoef(wav[start + s : start + s + 3000], clip[:3000])[0, 1]
            for s in range(-16, 17)
        )
        assert best > 0.99
    monkeypatch.setattr(sys, "argv", [*argv[:3], "--clips=4"])
    with pytest.raises(SystemExit):
        runpy.run_path(str(script), run_name="__main__")
    assert "--clips 4: give 1 to 3" in capsys.readouterr().err
