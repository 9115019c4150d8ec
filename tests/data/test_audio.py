"""Reading recordings: rates, channels, what is odd, what is refused."""

import resource
import time
import tracemalloc

import numpy as np
import pytest
import soundfile
import torch
from scipy.signal import resample_poly
from sounds import LOUD, cut, samples, tone

from ser_peft.data import audio
from ser_peft.data.audio import read_audio, resample
from ser_peft.errors import InputError


@pytest.mark.parametrize("kind", ["wav", "flac"])
@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000])
def test_any_rate_becomes_16_khz(tmp_path, kind, rate):
    path = tmp_path / f"clip.{kind}"
    soundfile.write(path, tone(rate), rate)
    sig = read_audio(path)
    assert sig.shape == (8000,) and sig.dtype == torch.float32
    np.testing.assert_allclose(sig.numpy(), tone(16000), atol=2e-3)


def test_resampling_removes_what_16_khz_cannot_hold(tmp_path):
    rate = 48000
    time = np.arange(rate) / rate
    wave = tone(rate, 1) + 0.2 * np.sin(2 * np.pi * 11000 * time)
    soundfile.write(tmp_path / "clip.wav", wave, rate, "FLOAT")
    ours = read_audio(tmp_path / "clip.wav").numpy()
    middle = slice(800, -800)
    theirs = resample_poly(wave, 1, 3)
    np.testing.assert_allclose(ours[middle], theirs[middle], atol=2e-3)
    np.testing.assert_allclose(ours[middle], tone(16000, 1)[middle], atol=2e-3)


def test_channels_are_averaged(tmp_path):
    left, right = tone(16000), 0.5 * tone(16000)[::-1]
    soundfile.write(
        tmp_path / "clip.wav", np.stack([left, right], 1), 16000, "FLOAT"
    )
    sig = read_audio(tmp_path / "clip.wav")
    np.testing.assert_allclose(sig, (left + right) / 2, atol=1e-6)


def test_no_rate_is_dear():
    """A kernel for 44099 Hz would take 3 GB, and as many seconds."""
    start, peak = time.process_time(), memory_peak()
    for rate in (44099, 47999, 16001):
        wav = resample(tone(rate, 1), rate, 16000)
        np.testing.assert_allclose(wav, tone(16000, 1), atol=2e-3)
    assert time.process_time() - start < 1
    assert memory_peak() - peak < 100


def memory_peak():
    """MiB of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def not_there(path):
    pass


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (not_there, "cannot be read as audio"),
        (samples([]), "0.000 s .*too short"),
        (samples(LOUD[:1599]), "0.100 s .*too short"),
        (samples(tone(48000)[:4799], rate=48000), "too short"),
        (samples(np.zeros(8000)), r"silent \(all zeros\)"),
        (samples(LOUD / 1e4), "silent but for rounding noise"),
        (samples(LOUD, [np.nan]), "NaN"),
        (samples(LOUD, [-np.inf]), "infinite"),
        (samples(np.stack([LOUD, [np.inf] * 8000], 1)), "infinite"),
        (samples(LOUD, [1e9]), r"samples up to 1e\+09"),
        (samples(LOUD * 1e30), r"samples up to .*e\+29"),
    ],
)
def test_unusable_audio_is_named(tmp_path, make, what):
    path = tmp_path / "the clip.wav"
    make(path)
    with pytest.raises(InputError, match=f"the clip.wav: .*{what}"):
        read_audio(path)


def test_times_that_are_none(tmp_path):
    samples(LOUD)(tmp_path / "clip.wav")
    for times in ("", "1", "a,b", "1,2,3", "nan,1", "-1,1", "0,inf"):
        with pytest.raises(InputError, match="#t=.*in seconds"):
            read_audio(f"{tmp_path / 'clip.wav'}#t={times}")


# ----------------------------------------------- what cannot be right, but read

NOISE = np.random.default_rng(0).standard_normal((2, 8000)) * 1e-3
HUM = 0.4 * np.sin(2 * np.pi * 50 * np.arange(8000) / 16000)


@pytest.mark.parametrize(
    ("channels", "which"),
    [
        ([LOUD, -LOUD], 1),
        ([LOUD, -LOUD - (np.arange(8000) % 7 == 0) / 32768], None),
        ([0.8 * LOUD, -LOUD], 2),
        ([LOUD + NOISE[0], -LOUD + NOISE[1]], None),
        ([LOUD + HUM, -LOUD + HUM], 1),
        ([0 * LOUD, LOUD, -LOUD], 2),
        ([LOUD, LOUD, -LOUD], 1),
        ([NOISE[0], 0.9 * LOUD, -LOUD, NOISE[1]], 3),
    ],
)
def test_of_channels_in_opposite_phase_one_is_taken(
    tmp_path, caplog, channels, which
):
    path = tmp_path / "a clip.wav"
    samples(np.stack(channels, 1))(path)
    sig = read_audio(path, warn=True)
    assert sig.untyped_storage().nbytes() == 4 * len(sig)
    sig = sig.numpy()
    if which is None:
        which = 1 + int(np.abs(sig - channels[1]).max() < 1e-5)
    np.testing.assert_allclose(sig, channels[which - 1], atol=1e-6)
    (told,) = caplog.messages
    assert told == (
        f"{path}: channels in opposite phase; one of them is taken "
        f"(number {which} of {len(channels)})"
    )


@pytest.mark.parametrize(
    "channels",
    [
        [LOUD, 0 * LOUD],
        [0 * LOUD, LOUD, 0 * LOUD],
        [LOUD + HUM / 10, LOUD - HUM / 10],
        [LOUD + NOISE[0], LOUD - NOISE[0]],
    ],
)
def test_the_mean_is_of_channels_that_hold_something(
    tmp_path, caplog, channels
):
    samples(np.stack(channels, 1))(tmp_path / "clip.wav")
    sig = read_audio(tmp_path / "clip.wav", warn=True)
    np.testing.assert_allclose(sig, LOUD, atol=1e-6)
    assert not caplog.messages


@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
@pytest.mark.parametrize("bits", [16, 24, 32])
def test_floats_that_are_integers_are_scaled(tmp_path, caplog, subtype, bits):
    path = tmp_path / "clip.wav"
    stored = np.round(LOUD * 2 ** (bits - 1))
    soundfile.write(path, stored, 16000, subtype)
    sig = read_audio(path, warn=True)
    np.testing.assert_allclose(sig, LOUD, atol=2e-5)
    (told,) = caplog.messages
    peak = np.abs(stored).max().astype(np.float32)
    assert told == (
        f"{path}: samples far beyond 1; taken for integers and scaled (up to "
        f"{peak:.0f}: of {bits} bits)"
    )


def test_loud_floats_stay_as_they_are(tmp_path, caplog):
    samples(LOUD * 10)(tmp_path / "clip.wav")
    sig = read_audio(tmp_path / "clip.wav", warn=True)
    np.testing.assert_allclose(sig, LOUD * 10, atol=1e-6)
    assert not caplog.messages


def test_a_cut_recording_is_told(tmp_path, caplog):
    path = tmp_path / "clip.wav"
    samples(LOUD)(path)
    cut(path)
    assert len(read_audio(path)) == pytest.approx(4000, abs=30)
    assert not caplog.messages
    read_audio(path, warn=True)
    (told,) = caplog.messages
    assert told == (
        f"{path}: cut off or damaged; what is there is read (0.25 of 0.50 s)"
    )


@pytest.fixture
def nothing_held(monkeypatch):
    """Every recording counts as a long one."""
    monkeypatch.setattr(audio, "HELD", 0)


@pytest.mark.parametrize("rate", [8000, 16000, 44100, 44099])
@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "mp3", "phase"])
def test_a_long_file_is_read_like_a_short_one(
    tmp_path, monkeypatch, kind, rate
):
    if kind == "mp3":
        rate = 48000 if rate > 16000 else 16000
    path = tmp_path / f"clip.{kind.replace('phase', 'wav')}"
    left = tone(rate, 3)  # of several blocks
    right = -left if kind == "phase" else 0.5 * left[::-1]
    soundfile.write(path, np.stack([left, right], 1), rate)
    short = read_audio(path).numpy()
    monkeypatch.setattr(audio, "HELD", 0)
    monkeypatch.setattr("ser_peft.data.soundfiles.BLOCK", 0)
    recording = audio.Recording(path)
    assert not recording.held and len(recording) == len(short)
    assert np.array_equal(recording.read(), short)
    for count in (1, 3, 7):
        windows = recording.windows(len(short), count)
        parts = np.array_split(short, count)
        for one, other in zip(windows, parts, strict=True):
            assert np.array_equal(one, other)
    beginning = np.concatenate([*recording.windows(1000, 2)])
    assert np.array_equal(beginning, short[:1000])


def test_a_long_file_is_never_held(tmp_path, monkeypatch):
    monkeypatch.setattr(audio, "HELD", 1 << 19)
    rate, minutes = 48000, 3
    path = tmp_path / "clip.wav"
    with soundfile.SoundFile(path, "w", rate, 2) as file:
        for _ in range(2 * minutes):
            file.write(np.tile(tone(rate, 30)[:, None], 2))
    tracemalloc.start()
    try:
        recording = audio.Recording(path)
        for window in recording.windows(len(recording), 12):
            assert len(window) == 15 * 16000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # 15 s are 1 MB, the whole file as floats 69.
    assert peak < 12e6


@pytest.mark.parametrize("seconds", [1, 3])
def test_a_long_file_that_changes_meanwhile(tmp_path, nothing_held, seconds):
    path = tmp_path / "clip.wav"
    soundfile.write(path, tone(16000, 2), 16000)
    recording = audio.Recording(path)
    soundfile.write(path, tone(16000, seconds), 16000)
    with pytest.raises(InputError, match="clip.wav: was changed while"):
        recording.read()
    with pytest.raises(InputError, match="clip.wav: was changed while"):
        [*recording.windows(len(recording), 2)]


def test_what_is_wrong_with_a_long_file(tmp_path, nothing_held):
    path = tmp_path / "clip.wav"
    wave = tone(16000, 2)
    for odd, message in ((0 * wave, "silent"), (wave[:100], "too short")):
        soundfile.write(path, odd, 16000)
        with pytest.raises(InputError, match=message):
            read_audio(path)
    wave[-1] = np.nan
    soundfile.write(path, wave, 16000, "FLOAT")
    with pytest.raises(InputError, match="NaN"):
        read_audio(path)


def test_shortest_clip_is_read(tmp_path):
    samples(LOUD[:1600])(tmp_path / "clip.wav")
    assert len(read_audio(tmp_path / "clip.wav")) == 1600
