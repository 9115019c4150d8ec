"""Reading recordings, and checking each of them once."""

import json
import os

import numpy as np
import pytest
import soundfile
import torch
from scipy.signal import resample_poly

from ser_peft import audio
from ser_peft.audio import durations, read_audio
from ser_peft.errors import InputError


def tone(rate, seconds=0.5):
    """200 and 900 Hz, fading in and out."""
    time = np.arange(round(rate * seconds)) / rate
    wave = np.sin(2 * np.pi * 200 * time) + np.sin(2 * np.pi * 900 * time)
    return 0.2 * wave * np.hanning(len(time))


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


def not_there(path):
    pass


def empty_file(path):
    path.touch()


def folder(path):
    path.mkdir()


def text(path):
    path.write_text("RIFF is what I am not\n" * 50)


def cut_header(path):
    soundfile.write(path, tone(16000), 16000)
    path.write_bytes(path.read_bytes()[:20])


def samples(*wave, rate=16000):
    def write(path):
        soundfile.write(path, np.concatenate(wave), rate, "FLOAT")

    return write


LOUD = tone(16000)


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (not_there, "cannot be read"),
        (empty_file, "cannot be read"),
        (folder, "cannot be read"),
        (text, "cannot be read"),
        (cut_header, "cannot be read"),
        (samples([]), "0.000 s .*too short"),
        (samples(LOUD[:1599]), "0.100 s .*too short"),
        (samples(tone(48000)[:4799], rate=48000), "too short"),
        (samples(np.zeros(8000)), "silent"),
        (samples(np.stack([LOUD, -LOUD], 1)), "silent"),
        (samples(LOUD, [np.nan]), "NaN"),
        (samples(LOUD, [-np.inf]), "infinite"),
    ],
)
def test_unusable_audio_is_named(tmp_path, make, what):
    path = tmp_path / "the clip.wav"
    make(path)
    with pytest.raises(InputError, match=f"the clip.wav: .*{what}"):
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
    decode = audio._decode

    def spy(path):
        names.append(os.path.basename(path))
        return decode(path)

    monkeypatch.setattr(audio, "_decode", spy)
    return names


def check(root, names="1.wav 2.wav 3.wav"):
    """Seconds of clips, in order."""
    paths = [str(root / name) for name in names.split()]
    found = durations(paths, root)
    assert [*found] == paths
    return pytest.approx([*found.values()], abs=1e-3)


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
    "content", [b"", b'{"1.wav', b"\xff\xfe", b"[1]", b"null", b"values"]
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
    broken.write_bytes(whole)
    decoded.clear()
    assert check(corpus) == [0.2, 0.4, 0.6]
    assert "1.wav" not in decoded


def test_corpora_and_versions_have_memories_of_their_own(
    corpus, decoded, monkeypatch
):
    check(corpus)
    other = corpus.rename(corpus.with_name("other"))
    check(other)
    monkeypatch.setattr(audio, "version", lambda _: "77.0")
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
