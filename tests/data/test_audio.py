"""Reading recordings, and checking each of them once."""

import json
import os
import re
import resource
import time
import tracemalloc
import unicodedata

import numpy as np
import pytest
import soundfile
import torch
from scipy.signal import resample_poly

from ser_peft.data import audio
from ser_peft.data.audio import durations, read_audio, resample
from ser_peft.errors import InputError


def tone(rate, seconds=0.5):
    """200 and 900 Hz, fading in and out."""
    at = np.arange(round(rate * seconds)) / rate
    wave = np.sin(2 * np.pi * 200 * at) + np.sin(2 * np.pi * 900 * at)
    return 0.2 * wave * np.hanning(len(at))


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
        wav = torch.from_numpy(tone(rate, 1)).float()
        assert torch.allclose(
            resample(wav, rate, 16000),
            torch.from_numpy(tone(16000, 1)).float(),
            atol=2e-3,
        )
    assert time.process_time() - start < 1
    assert memory_peak() - peak < 100


def memory_peak():
    """MiB of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def not_there(path):
    pass


def samples(*wave, rate=16000):
    def write(path):
        soundfile.write(path, np.concatenate(wave), rate, "FLOAT")

    return write


LOUD = tone(16000)


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


def cut(path, share=0.5):
    """Leave a share of a file's bytes."""
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])


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
    short = read_audio(path)
    monkeypatch.setattr(audio, "HELD", 0)
    monkeypatch.setattr("ser_peft.data.soundfiles.BLOCK", 0)
    recording = audio.Recording(path)
    assert not recording.held and len(recording) == len(short)
    assert torch.equal(recording.read(), short)
    for count in (1, 3, 7):
        windows = recording.windows(len(short), count)
        for one, other in zip(windows, short.tensor_split(count), strict=True):
            assert torch.equal(one, other)
    beginning = torch.cat([*recording.windows(1000, 2)])
    assert torch.equal(beginning, short[:1000])


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


# -------------------------------------------------------------------- memory


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """Folder of three clips of 0.2, 0.4 and 0.6 s, with a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / "corpus"
    root.mkdir()
    for i in (1, 2, 3):
        rate = 8000 * i
        soundfile.write(root / f"{i}.wav", tone(rate, 0.2 * i), rate)
    return root


@pytest.fixture
def decoded(monkeypatch):
    """Names of the files decoded since."""
    names = []
    recording = audio.Recording

    def spy(path):
        names.append(os.path.basename(path))
        return recording(path)

    monkeypatch.setattr(audio, "Recording", spy)
    return names


def check(root, names="1.wav 2.wav 3.wav"):
    """Seconds of clips, in order."""
    paths = [str(root / name) for name in names.split()]
    found = durations({root: paths}, listing(root))
    assert [*found] == paths
    return pytest.approx([*found.values()], abs=1e-3)


def listing(root):
    """Where what is wrong is listed."""
    return root.parent / "manifests.audio.txt"


def memory(root):
    """The one file that the check of a corpus leaves."""
    (path,) = (root.parent / "cache").rglob("*.json")
    assert path.parents[1] == root.parent / "cache" / "ser_peft"
    return path


def test_what_was_fine_is_not_decoded_again(corpus, decoded):
    assert check(corpus) == [0.2, 0.4, 0.6]
    assert sorted(decoded) == ["1.wav", "2.wav", "3.wav"]
    before = memory(corpus).stat()
    assert check(corpus) == [0.2, 0.4, 0.6]
    assert len(decoded) == 3
    assert memory(corpus).stat() == before


def test_only_what_changed_is_decoded_again(corpus, decoded):
    check(corpus, "1.wav 2.wav")
    # One is of another size, one only newer, one is new.
    soundfile.write(corpus / "1.wav", tone(8000, 0.3), 8000)
    stat = os.stat(corpus / "2.wav")
    os.utime(corpus / "2.wav", ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert check(corpus) == [0.3, 0.4, 0.6]
    assert sorted(decoded) == "1.wav 1.wav 2.wav 2.wav 3.wav".split()
    assert check(corpus, "3.wav 1.wav") == [0.6, 0.3]
    assert len(decoded) == 5


def test_stretches_of_a_file_are_clips(corpus, decoded):
    names = "3.wav 3.wav#t=0.1,0.3 3.wav#t=0.2,0.6"
    assert check(corpus, names) == [0.6, 0.2, 0.4]
    assert check(corpus, names) == [0.6, 0.2, 0.4]
    assert len(decoded) == 3


@pytest.mark.parametrize(
    "content",
    [b"", b'{"1.wav', b"\xff\xfe", b"[1]", b"null", b'{"a": 0.5}', b"values"],
)
def test_a_broken_memory_is_made_anew(corpus, decoded, content):
    check(corpus)
    path = memory(corpus)
    if content == b"values":
        wrong = dict.fromkeys(json.loads(path.read_text()), [1])
        content = json.dumps(wrong).encode()
    path.write_bytes(content)
    assert check(corpus) == [0.2, 0.4, 0.6]
    assert len(decoded) == 6
    assert check(corpus) == [0.2, 0.4, 0.6]
    assert len(decoded) == 6


def test_a_broken_file_is_found_again_and_the_others_remembered(
    corpus, decoded
):
    broken = corpus / "2.wav"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:30])
    for _ in range(2):
        with pytest.raises(InputError, match="2.wav: cannot be read"):
            check(corpus)
    assert decoded.count("2.wav") == 2
    broken.unlink()
    with pytest.raises(InputError, match="2.wav: cannot be read"):
        check(corpus)
    listing(corpus).touch()
    broken.write_bytes(whole)
    decoded.clear()
    assert check(corpus) == [0.2, 0.4, 0.6]
    assert "1.wav" not in decoded
    assert not listing(corpus).exists()


def test_all_that_are_broken_are_named(corpus):
    names = [f"broken {i:02d}.wav" for i in range(13)]
    for name in names:
        (corpus / name).touch()
    (corpus / names[1]).write_text("nothing to hear")
    paths = {corpus: [corpus / name for name in ["1.wav", *names]]}
    with pytest.raises(InputError) as raised:
        durations(paths, listing(corpus))
    line = str(raised.value)
    assert line.startswith("13 of 14 recordings cannot be used: broken 00.wav,")
    assert "broken 09.wav and 3 more" in line and "broken 10.wav" not in line
    assert str(listing(corpus)) in line
    assert line.endswith(
        f"{corpus}/broken 00.wav: cannot be read as audio (an empty file); "
        "copy or download it again"
    )
    lines = listing(corpus).read_text().splitlines()
    assert len(lines) == 13
    for name, told in zip(names, lines, strict=True):
        assert told.startswith(f"{corpus / name}: cannot be read")


def test_what_is_odd_is_told_every_time(corpus, decoded, caplog):
    samples(np.stack([LOUD, -LOUD], 1))(corpus / "2.wav")
    cut(corpus / "3.wav")
    for _ in range(2):
        caplog.clear()
        assert check(corpus) == [0.2, 0.5, 0.3]
        assert caplog.messages == [
            "1 of 3 recordings: channels in opposite phase; one of them is "
            f"taken: 2.wav (number 1 of 2) (all in {listing(corpus)})",
            "1 of 3 recordings: cut off or damaged; what is there is read: "
            f"3.wav (0.30 of 0.60 s) (all in {listing(corpus)})",
        ]
        assert len(listing(corpus).read_text().splitlines()) == 2
    assert len(decoded) == 3


def test_recordings_of_several_corpora(corpus, decoded):
    other = corpus.with_name("other")
    other.mkdir()
    (other / "1.wav").touch()
    paths = {corpus: [corpus / "1.wav"], other: [other / "1.wav"]}
    with pytest.raises(InputError, match="other/1.wav: .*empty"):
        durations(paths, listing(corpus))
    soundfile.write(other / "1.wav", tone(16000), 16000)
    found = durations(paths, listing(corpus))
    assert [*found.values()] == pytest.approx([0.2, 0.5], abs=1e-3)
    assert len([*corpus.parent.rglob("audio/*.json")]) == 2


def test_long_recordings_are_told(corpus, caplog):
    soundfile.write(corpus / "2.wav", np.tile(LOUD, 61), 16000)
    check(corpus)
    (told,) = caplog.messages
    assert re.match("1 of 3 recordings are longer than 30 s, as .*2.wav", told)


def test_names_in_another_form_of_unicode(corpus):
    decomposed = unicodedata.normalize("NFD", "für")
    (corpus / "1.wav").rename(corpus / f"{decomposed}.wav")
    (corpus / "ä").mkdir()
    (corpus / "2.wav").rename(corpus / "ä" / f"{decomposed}.wav")
    names = "für.wav", unicodedata.normalize("NFD", "ä/") + "für.wav#t=0,0.2"
    assert check(corpus, " ".join(names)) == [0.2, 0.2]
    assert len(read_audio(corpus / "für.wav")) == 3200


def test_corpora_and_checks_have_memories_of_their_own(
    corpus, decoded, monkeypatch
):
    check(corpus)
    other = corpus.rename(corpus.with_name("other"))
    check(other)
    monkeypatch.setattr(audio, "CHECKS", audio.CHECKS + 1)
    check(other)
    assert len(decoded) == 9
    assert len([*(other.parent / "cache").rglob("*.json")]) == 3


def test_without_a_place_to_remember_it_works(corpus, caplog):
    (corpus.parent / "cache").write_text("no folder")
    assert check(corpus) == [0.2, 0.4, 0.6]
    assert "not written" in caplog.text


def test_home_is_where_the_cache_is(corpus, tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    check(corpus)
    assert [*(tmp_path / "home/.cache/ser_peft/audio").glob("*.json")]
