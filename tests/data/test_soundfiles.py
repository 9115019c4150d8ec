"""Files that say something wrong of themselves, or are no sound at all."""

import re
import struct

import numpy as np
import pytest
import soundfile

from ser_peft.data.soundfiles import Sound
from ser_peft.errors import InputError

RATE = 16000
VOICE = 0.3 * np.random.default_rng(0).standard_normal(2 * RATE)
KINDS = {
    "wav": ("WAV", "PCM_16"),
    "float.wav": ("WAV", "FLOAT"),
    "rf64": ("RF64", "PCM_16"),
    "w64": ("W64", "PCM_16"),
    "aiff": ("AIFF", "PCM_16"),
    "au": ("AU", "PCM_16"),
    "nist": ("NIST", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """Kind -> the bytes of a file of 2 s."""
    folder = tmp_path_factory.mktemp("sounds")
    content = {}
    for name, (form, subtype) in KINDS.items():
        soundfile.write(folder / name, VOICE, RATE, subtype, format=form)
        content[name] = (folder / name).read_bytes()
    return content


@pytest.fixture
def read(tmp_path):
    """Function: bytes -> `Sound`, its seconds."""

    def decoded(content, *stretch):
        path = tmp_path / "a clip.bin"
        path.write_bytes(content)
        sound = Sound(path, *stretch)
        samples = np.concatenate([*sound])
        assert len(samples) == sound.frames
        sound.samples = samples
        return sound, sound.frames / sound.rate

    return decoded


def sized(content, offset, form, size):
    """Content with another number in its header."""
    content = bytearray(content)
    struct.pack_into(form, content, offset, size)
    return bytes(content)


@pytest.mark.parametrize("kind", KINDS)
def test_whole_files(sounds, read, kind):
    sound, seconds = read(sounds[kind])
    assert seconds == pytest.approx(2, abs=0.001) and not sound.fault
    assert sound.samples.shape[1] == 1 and sound.samples.dtype == np.float32


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_there_of_a_cut_file_is_read_and_told(sounds, read, kind):
    content = sounds[kind]
    sound, seconds = read(content[: len(content) * 6 // 10])
    assert 0.5 < seconds < 1.3
    # An Ogg does not say how long it would have been.
    total = "" if kind in ("ogg", "opus") else r"of 2\.00 "
    assert re.fullmatch(rf"{seconds:.2f} {total}s", sound.fault)


@pytest.mark.parametrize("size", [0, 2**31 - 4096, 2**31, 2**32 - 1])
def test_streams_are_read_to_their_end(sounds, read, size):
    """Their writers could not go back to say how long they are."""
    for kind, form in {"wav": "<I", "float.wav": "<I", "aiff": ">I"}.items():
        content = sounds[kind]
        name = b"SSND" if kind == "aiff" else b"data"
        content = sized(content, content.index(name) + 4, form, size)
        sound, seconds = read(content)
        assert seconds == pytest.approx(2, abs=0.001) and not sound.fault
        # A stretch, too.
        assert read(content, 0.5, 1.0)[1] == 0.5
    sound, seconds = read(sized(sounds["au"], 8, ">I", size))
    assert seconds == 2 and not sound.fault


@pytest.mark.parametrize("size", [0, 2**64 - 1])
def test_streams_of_more_than_four_gigabytes(sounds, read, size):
    for kind, name, beyond in (("rf64", b"ds64", 16), ("w64", b"data", 16)):
        content = sounds[kind]
        content = sized(content, content.index(name) + beyond, "<Q", size)
        sound, seconds = read(content)
        assert seconds == pytest.approx(2, abs=0.001) and not sound.fault


def test_a_size_that_is_too_small_hides_nothing(sounds, read):
    content = sounds["wav"]
    place = content.index(b"data") + 4
    sound, seconds = read(sized(content, place, "<I", 16000))
    assert seconds == 2
    assert sound.fault == "2.00 s, its header says 0.50 s"


def test_what_follows_the_sound_is_none(sounds, read):
    content = sounds["wav"]
    for more in (
        b"LIST" + struct.pack("<I", 4000) + b"INFO" + 3996 * b"x",
        b"\0" * 5000,
        b"ID3\3" + 5000 * b"x",
        b"TAG" + 5000 * b"x",
    ):
        sound, seconds = read(content + more)
        assert seconds == 2 and not sound.fault
    # Of an odd number of bytes, filled up to an even one, or not.
    odd = content.replace(b"data" + struct.pack("<I", 64000), b"data%b" % (
        struct.pack("<I", 63999)
    ))[:-1]  # fmt: skip
    for fill in (b"", b"\0"):
        sound, _ = read(odd + fill + b"LIST" + struct.pack("<I", 0))
        assert sound.frames == 31999 and not sound.fault


@pytest.mark.parametrize(
    ("frames", "fault"),
    [(0, ""), (64 * 10**9, "2.00 of 4000000.00 s"), (40000, "2.00 of 2.50 s")],
)
def test_a_flac_is_as_long_as_it_is(sounds, read, frames, fault):
    content = bytearray(sounds["flac"])
    number = int.from_bytes(content[18:26], "big") >> 36 << 36 | frames
    content[18:26] = number.to_bytes(8, "big")
    sound, seconds = read(content)
    assert seconds == 2 and sound.fault == fault


def test_damage_within(sounds, read):
    flac = bytearray(sounds["flac"])
    flac[len(flac) // 2] ^= 255
    sound, seconds = read(flac)
    assert 0.5 < seconds < 1.5 and sound.fault == f"{seconds:.2f} of 2.00 s"
    ogg = bytearray(sounds["ogg"])
    ogg[-1000:-900] = bytes(100)
    assert read(ogg)[0].fault


def test_an_mp3_that_does_not_say_its_length(tmp_path, read):
    """libsndfile would take the first frame's bit rate for all of it."""
    loud = np.concatenate([VOICE[:8000], 0.001 * np.tile(VOICE, 4)])
    path = tmp_path / "voice.mp3"
    soundfile.write(path, loud, RATE, bitrate_mode="VARIABLE")
    content = path.read_bytes()
    first = content.index(content[:2], 100)  # behind that with the length
    content = content[first:]
    path.write_bytes(content)
    assert abs(soundfile.info(path).duration - 8.5) > 1
    tag = b"ID3\3\0\0\0\0\7\x68" + bytes(1000)
    for head in (b"", tag):
        sound, seconds = read(head + content)
        assert seconds == pytest.approx(8.5, abs=0.2) and not sound.fault
    middle = len(content) // 2
    content = content[:middle] + bytes(3000) + content[middle + 3000 :]
    sound, seconds = read(content)
    assert 2 < seconds < 7 and sound.fault == f"{seconds:.2f} s"


def test_a_stretch_is_what_was_asked_for(sounds, read):
    for kind in ("wav", "flac"):
        sound, seconds = read(sounds[kind], 0.5, 1.25)
        assert seconds == 0.75 and not sound.fault
        np.testing.assert_allclose(
            sound.samples[:, 0], VOICE[8000:20000].clip(-1, 1), atol=1e-4
        )
        sound, seconds = read(sounds[kind], 1.5, 3)
        assert seconds == 0.5 and sound.fault == "0.50 of 1.50 s"
        with pytest.raises(InputError, match="ends before 3 s"):
            read(sounds[kind], 3, 4)


@pytest.mark.parametrize("rate", [1, 3999, 2 * 10**9])
def test_rates_that_nobody_records_at(sounds, read, rate):
    content = sounds["wav"]
    place = content.index(b"fmt ") + 12
    with pytest.raises(InputError, match=f"clip.bin: .*{rate} Hz"):
        read(sized(content, place, "<I", rate))


LFS = (
    b"version https://git-lfs.github.com/spec/v1\noid sha256:%b\nsize 72862\n"
    % (64 * b"0")
)


@pytest.mark.parametrize(
    ("content", "advice"),
    [
        (b"", "an empty file.*copy or download it again"),
        (LFS, "Git LFS pointer.*`git lfs pull`"),
        (b"\0\0\0\x20ftypM4A \0\0\0\0" + bytes(99),
         "MPEG-4.*`ffmpeg -i '.*a clip.bin' '.*a clip.bin'.wav`"),
        (b"\x1aE\xdf\xa3" + bytes(99), "webm.*ffmpeg"),
        (b"0&\xb2u\x8ef\xcf\x11" + bytes(99), "wma.*ffmpeg"),
        (b"#!AMR\n" + b"\xff", "AMR.*ffmpeg"),
        (b"\xff\xf1\x50\x80" + bytes(99), "AAC.*ffmpeg"),
        (b"RIFF\x20\0\0\0AVI " + bytes(99), "avi.*ffmpeg"),
        (b"PK\3\4" + bytes(99), "archive.*unpack"),
        (b"\0\5\x16\7\0\2\0\0Mac OS X" + bytes(99), "macOS.*remove"),
        (b"\n<!doctype HTML>\n<html>Log in", "web page.*download"),
        ("Nicht gefunden: Ä".encode(), "a text; give the recording"),
        (b"RIFF is what I am not", "a text; give the recording"),
        (b"RIFF\x40\0\0\0WAVEfmt \x10", "damaged.*get it again.*ffmpeg"),
        (bytes(range(256)), "damaged.*get it again.*ffmpeg"),
    ],
    ids=lambda value: None,
)  # fmt: skip
def test_what_is_no_sound_gets_one_thing_to_do(read, content, advice):
    advice = advice.replace("a text; ", r"a text\); ")
    with pytest.raises(InputError) as raised:
        read(content)
    assert re.search(f"a clip.bin: cannot be read as audio .*{advice}",
                     str(raised.value))  # fmt: skip


def test_a_name_decides_nothing(tmp_path, sounds):
    path = tmp_path / "voice.raw"
    path.write_bytes(sounds["wav"])
    assert sum(map(len, Sound(path))) == 2 * RATE


def test_what_is_no_file(tmp_path):
    for name, reason in (("nowhere.wav", "no such file"), ("", "a folder")):
        with pytest.raises(InputError, match=reason):
            [*Sound(tmp_path / name)]
