"""Streams and timelines: the same windows, whatever the chunks."""

import csv
import tracemalloc

import numpy as np
import pytest
import soundfile
from loud_detector import LoudDetector

from ser_peft.errors import InputError
from ser_peft.inference import streams
from ser_peft.inference.recognizer import Recognizer
from ser_peft.inference.timeline import label_of, text_grid, write_rows

RATE = 16000


class Pitch(Recognizer):
    """Names a tone high or low by its crossings of zero."""

    classes = ["low", "high"]
    dimensions = {"pitch": (400.0, 200.0)}

    def __init__(self):
        self.batches = []

    def score(self, wavs, lengths, texts=None):
        self.batches.append(lengths.tolist())
        rows = []
        for wav, length in zip(wavs, lengths, strict=True):
            sounding = np.trim_zeros(np.sign(wav[:length]))
            crossings = np.count_nonzero(np.diff(sounding >= 0)) / 2
            pitch = crossings / max(1, len(sounding)) * RATE
            logit = (pitch - 400) / 100
            rows.append([-logit, logit, pitch])
        return np.array(rows, np.float32)


@pytest.fixture
def loud(monkeypatch):
    monkeypatch.setattr(streams, "SpeechDetector", LoudDetector)


def tone(hertz, seconds, rate=RATE):
    """A tone, float32 [T]."""
    at = np.arange(round(seconds * rate)) / rate
    return 0.3 * np.sin(2 * np.pi * hertz * at).astype(np.float32)


def quiet(seconds, rate=RATE):
    return np.zeros(round(seconds * rate), np.float32)


def talk(rate=RATE):
    """Low from 1 to 3 s, high from 4 to 9.3, low from 9.8 to 10.13."""
    parts = [
        quiet(1, rate), tone(200, 2, rate), quiet(1, rate),
        tone(800, 5.3, rate), quiet(0.5, rate), tone(200, 0.33, rate),
    ]  # fmt: skip
    return np.concatenate(parts)


def heard(windows):
    """Numbers of windows, to compare."""
    return [
        [w.start, w.end, w.speech, *w.scores.values(), *w.dimensions.values()]
        for w in windows
    ]


def same(windows, others):
    assert [w.label for w in windows] == [w.label for w in others]
    for one, other in zip(heard(windows), heard(others), strict=True):
        assert one == pytest.approx(other, abs=1e-4)
    return True


def pushed(stream, wav, sizes):
    windows, at = [], 0
    for size in sizes:
        windows += stream.push(wav[at : at + size])
        at += size
    assert at >= len(wav)
    return windows + stream.close()


def test_windows(loud):
    windows = Pitch().timeline(talk()).windows
    assert [w.start for w in windows] == list(range(11))
    assert windows[-1].end == pytest.approx(10.13)
    labels = [w.label for w in windows]
    assert labels[:4] == [None, "low", "low", None]
    assert labels[4:9] == ["high"] * 5
    assert windows[3].speech == 0 and windows[3].scores == {}
    assert windows[1].speech == pytest.approx(1, abs=0.05)
    # Two utterances reach into this one, which hears each by itself.
    pitches = [part.scores[2] for part in windows[9].heard]
    assert pitches == pytest.approx([800, 200], rel=0.05)


def test_segments(loud):
    found = Pitch().timeline(talk())
    assert [s.label for s in found.segments] == ["low", "high", "low"]
    times = [t for s in found.segments for t in (s.start, s.end)]
    assert times == pytest.approx([1, 3, 4, 9.3, 9.8, 10.13], abs=0.033)
    assert found.segments[1].dimensions["pitch"] == pytest.approx(800, rel=0.05)


@pytest.mark.parametrize("size", [1, 160, 4001, 70000, 1 << 22])
def test_chunks_do_not_matter(loud, size):
    wav = talk()[: 3 * RATE if size == 1 else None]
    expected = Pitch().timeline(wav).windows
    found = pushed(Pitch().stream(), wav, [size] * -(-len(wav) // size))
    assert same(found, expected)


def test_random_chunks_and_hops(loud):
    generator = np.random.default_rng(3)
    for window, hop in ((4.0, 1.0), (2.0, 2.0), (1.5, 0.333), (3.0, 0.7)):
        sizes = generator.integers(0, 30000, 40)
        found = pushed(Pitch().stream(window, hop), talk(), sizes)
        assert same(found, Pitch().timeline(talk(), window, hop).windows)
        # No sample is left out, and none is answered for twice.
        starts, ends = zip(*((w.start, w.end) for w in found), strict=True)
        assert starts[1:] == pytest.approx(ends[:-1])
        assert ends[-1] == pytest.approx(10.13)


def test_windows_come_when_they_are_complete(loud):
    stream = Pitch().stream(window=4.0, hop=1.0)
    wav, came = talk(), []
    for start in range(0, len(wav), 1600):
        for window in stream.push(wav[start : start + 1600]):
            came.append((window.end, (start + 1600) / RATE))
    # 1.5 s after the second that they are about: half of 4 s less 1 s.
    for end, now in came:
        assert end + 1.5 <= now < end + 1.5 + 0.14
    assert len(came) == 8
    assert len(stream.close()) == 3


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_rates(loud, rate, tmp_path):
    wav = talk(rate)
    found = pushed(
        Pitch().stream(rate=rate), wav, [997] * (len(wav) // 997 + 1)
    )
    soundfile.write(tmp_path / "a.wav", wav, rate, "FLOAT")
    assert same(found, Pitch().timeline(tmp_path / "a.wav").windows)
    assert [w.label for w in found[4:9]] == ["high"] * 5


def test_types_of_samples(loud):
    wav = np.round(talk() * 32767).astype(np.int16)
    expected = Pitch().timeline((wav / 32768).astype(np.float32)).windows
    for samples in (wav, wav.astype(np.int32) << 16, (wav / 32768).tolist()):
        assert same(pushed(Pitch().stream(), samples, [1 << 20]), expected)


def test_the_same_speech_is_scored_once(loud):
    model = Pitch()
    wav = np.concatenate([quiet(2), tone(200, 0.5), quiet(3)])
    model.timeline(wav, window=4.0, hop=0.5)
    assert sum(map(len, model.batches)) == 1


def test_silence_is_not_scored(loud):
    model = Pitch()
    windows = pushed(model.stream(), quiet(20), [1600] * 200)
    assert len(windows) == 20 and model.batches == []
    assert {w.label for w in windows} == {None}


@pytest.mark.parametrize("seconds", [0, 0.01, 0.5, 3.99])
def test_short_streams(loud, seconds):
    windows = pushed(Pitch().stream(), tone(800, seconds), [1 << 20])
    assert sum(w.end - w.start for w in windows) == pytest.approx(seconds)
    if seconds >= 0.5:
        assert windows[0].label == "high"


def test_no_piece_is_too_short_for_an_encoder(loud):
    """Nor longer than the window."""
    generator = np.random.default_rng(5)
    model = Pitch()
    for window, hop in ((4.0, 1.0), (1.0, 1.0), (0.5, 0.1), (2.0, 0.5)):
        parts = []
        for _ in range(60):
            seconds = generator.exponential(0.4, 2)
            parts += [tone(300, seconds[0]), quiet(seconds[1])]
        model.batches = []
        model.timeline(np.concatenate(parts), window, hop)
        lengths = np.concatenate(model.batches) / RATE
        assert 0.1 <= lengths.min() and lengths.max() <= window
        # Few lengths, of which torch keeps something for each.
        if window == 4.0:
            assert np.mean(lengths % 0.25 == 0) > 0.5


def test_unsure(loud):
    wav = np.concatenate([tone(800, 2), quiet(1), tone(401, 2)])
    found = Pitch().timeline(wav, unsure=0.9)
    assert [(s.label, s.unsure) for s in found.segments] == [
        ("high", False),
        (None, True),
    ]
    assert [label_of(s) for s in found.segments] == ["high", "unsure"]
    model = Pitch()
    model.unsure = 0.9
    # The model's own is for those who ask for it.
    assert not any(s.unsure for s in model.timeline(wav).segments)
    assert model.timeline(wav, unsure="auto").segments[1].unsure
    assert model.stream(unsure="auto").push(wav)[0].label == "high"


def test_labels_change_within_an_utterance(loud):
    found = Pitch().timeline(np.concatenate([tone(200, 8), tone(800, 8)]))
    assert [s.label for s in found.segments] == ["low", "high"]
    assert found.segments[0].end == found.segments[1].start
    assert found.segments[0].end == pytest.approx(8, abs=1)


def test_very_short_stretches_are_no_segments(loud):
    """Of an utterance that begins just before a second ends."""
    wav = np.concatenate([quiet(1.8), tone(200, 0.6), tone(800, 5)])
    [segment] = Pitch().timeline(wav, window=1.0, hop=1.0).segments
    assert segment.label == "high"
    assert segment.start == pytest.approx(1.8, abs=0.033)


def test_smoothing_is_the_documented_mean(loud):
    found = Pitch().timeline(
        np.concatenate([tone(200, 5), tone(800, 5)]), window=2.0, hop=0.5
    )
    change = found.segments[1]
    parts = [part for window in found.windows for part in window.heard]
    middles = [(w.start + w.end) / 2 for w in found.windows]
    total, seconds = 0.0, 0.0
    for one, middle in zip(parts, middles, strict=True):
        if not change.start <= one.start < change.end:
            continue
        weights = [
            max(0, 1 - abs(middle - m) / 1.0)
            * max(0, min(one.end, o.last) - max(one.start, o.first))
            for o, m in zip(parts, middles, strict=True)
        ]
        mean = np.average([o.scores for o in parts], 0, weights)
        total = total + mean * (one.end - one.start)
        seconds += one.end - one.start
    mean = total / seconds
    assert change.dimensions["pitch"] == pytest.approx(mean[2], rel=1e-5)
    assert change.scores["high"] == pytest.approx(
        1 / (1 + np.exp(mean[0] - mean[1])), abs=1e-5
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": 0.1}, "window 0.1: give seconds from 0.5"),
        ({"window": 40.0}, "window 40.0: .* to 30, the model's longest"),
        ({"window": float("nan")}, "window nan"),
        ({"hop": 5.0}, "hop 5.0: give seconds from 0.1 to the window, 4.0"),
        ({"hop": 0.0}, "hop 0.0"),
        ({"rate": 0}, "rate 0"),
        ({"rate": "8k"}, "rate '8k'"),
    ],
)
def test_settings_are_checked(loud, settings, message):
    model = Pitch()
    model.max_samples = 30 * RATE
    with pytest.raises(InputError, match=message):
        model.stream(**settings)


def test_pushes_are_checked(loud):
    stream = Pitch().stream()
    with pytest.raises(InputError, match="NaN or infinite"):
        stream.push(np.array([0.1, np.nan]))
    with pytest.raises(InputError, match="samples: "):
        stream.push(np.zeros((3, 100)))
    stream.close()
    with pytest.raises(InputError, match="is closed"):
        stream.push(quiet(1))


def test_damaged_scores_are_named(loud, monkeypatch):
    monkeypatch.setattr(
        Pitch, "score", lambda *_: np.full((1, 3), np.nan, np.float32)
    )
    with pytest.raises(InputError, match=r"recording, from 1\.\d s on"):
        Pitch().timeline(np.concatenate([quiet(2), tone(200, 1)]))


def test_tables(loud, tmp_path):
    found = Pitch().timeline(talk(), unsure=0.9)
    found.write(tmp_path / "a.csv")
    with open(tmp_path / "a.csv", encoding="utf-8", newline="") as file:
        rows = [*csv.DictReader(file)]
    assert [*rows[0]] == ["start", "end", "label", "low", "high", "pitch"]
    assert [row["label"] for row in rows] == ["low", "high", "low"]
    assert float(rows[1]["end"]) == pytest.approx(9.3, abs=0.033)
    write_rows(tmp_path / "w.csv", found.windows, found)
    with open(tmp_path / "w.csv", encoding="utf-8", newline="") as file:
        rows = [*csv.DictReader(file)]
    assert len(rows) == 11
    assert rows[0] == {
        "start": "0.000", "end": "1.000", "speech": "0.000", "label": "",
        "low": "", "high": "", "pitch": "",
    }  # fmt: skip
    with pytest.raises(InputError, match="csv or .TextGrid"):
        found.write(tmp_path / "a.txt")


def test_text_grid(loud, tmp_path):
    found = Pitch().timeline(talk())
    found.name, found.classes = "a", ['lo"w', "high"]
    found.segments[0].label = 'lo"w'
    found.write(tmp_path / "a.TextGrid")
    text = (tmp_path / "a.TextGrid").read_text("utf-8")
    assert text == text_grid(found)
    assert 'text = "lo""w"' in text and "size = 2\n" in text
    # Intervals of a tier meet, from 0 to the end.
    [tier, _] = text.split("class = ")[2:]
    times = [
        float(line.split("= ")[1]) for line in tier.splitlines() if "xm" in line
    ]
    assert times[:2] == [0, 10.13] == [times[2], times[-1]]
    assert times[3:-1:2] == times[4::2]


def test_hours_in_the_memory_of_a_minute(loud, tmp_path, monkeypatch):
    """But for the rows; a recording this long is read in blocks."""
    monkeypatch.setattr("ser_peft.data.audio.HELD", RATE)
    minute = np.concatenate([talk()] * 6)
    peaks = []
    for minutes in (1, 20):
        path = tmp_path / f"{minutes}.wav"
        with soundfile.SoundFile(path, "w", RATE, 1, "PCM_16") as file:
            for _ in range(minutes):
                file.write(minute)
        tracemalloc.start()
        found = Pitch().timeline(path)
        rows, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        peaks.append(peak - rows)
        assert len(found.windows) == pytest.approx(61 * minutes, abs=5)
    # The audio alone is 77 MB.
    assert peaks[1] < peaks[0] + 4e6


def test_streams_hold_no_more_than_a_window(loud):
    stream = Pitch().stream()
    wav = talk()
    for _ in range(6):
        stream.push(wav)
    tracemalloc.start()
    for _ in range(60):
        stream.push(wav)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 1e6
