"""Containers that PyAV decodes where libsndfile cannot."""

import random
import re

import numpy as np
import pytest
from sounds import write_media

from ser_peft.data.audio import Recording, read_audio
from ser_peft.data.manifests import read_manifests
from ser_peft.data.preparation import prepare
from ser_peft.data.soundfiles import STEP, Sound
from ser_peft.errors import InputError

pytest.importorskip("av")

FAST = {"options": {"movflags": "faststart"}}
# Name -> codec, least correlation with what was written, further options.
KINDS = {
    "phone.m4a": ("aac", 0.98, FAST),
    "film.mp4": ("aac", 0.98, {"video": True, **FAST}),
    "browser.webm": ("libopus", 0.98, {}),
    "film.mkv": ("libopus", 0.98, {"video": True}),
    "lossless.mkv": ("flac", 1 - 1e-6, {"rate": 16000}),
    "phone.3gp": ("aac", 0.98, FAST),
    "camera.mov": ("pcm_s16le", 1 - 1e-6, {"rate": 16000, **FAST}),
    "raw.aac": ("aac", None, {"format": "adts"}),
    "old.avi": ("pcm_s16le", 1 - 1e-6, {"rate": 16000}),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Name -> path, and the samples that were written."""
    folder = tmp_path_factory.mktemp("with ä")
    return {
        name: (
            folder / name,
            write_media(folder / name, codec, **{"rate": 48000, **options}),
        )
        for name, (codec, _, options) in KINDS.items()
    }


@pytest.mark.parametrize("name", KINDS)
def test_whole_files(files, name):
    path, wave = files[name]
    sound = Sound(path)
    blocks = [*sound]
    samples = np.concatenate(blocks)
    assert samples.dtype == np.float32 and samples.shape[1] == 1
    assert len(samples) == sound.frames and not sound.fault
    assert sound.rate == KINDS[name][2].get("rate", 48000)
    assert sound.frames / sound.rate == pytest.approx(2, abs=0.15)
    if KINDS[name][1]:
        likeness = np.corrcoef(samples[: len(wave), 0], wave)[0, 1]
        assert likeness > KINDS[name][1]
    assert all(len(block) % STEP == 0 for block in blocks[:-1])


@pytest.mark.parametrize("name", ["phone.m4a", "browser.webm", "raw.aac"])
def test_a_stretch_is_that_part_of_the_whole(files, name):
    path, _ = files[name]
    whole, part = (np.concatenate([*Sound(path, *t)]) for t in ((), (0.5, 1.2)))
    assert np.array_equal(part, whole[24000:57600])
    with pytest.raises(InputError, match="ends before 9 s; correct the times"):
        [*Sound(path, 9.0, 9.5)]


@pytest.mark.parametrize(
    ("name", "total"),
    [
        ("phone.m4a", "of 2.00 "),
        ("browser.webm", r"of 2.0\d "),
        ("lossless.mkv", "of 2.00 "),
        ("raw.aac", ""),  # does not say how long it would have been
    ],
)
def test_what_is_there_of_a_cut_file_is_read_and_told(
    files, tmp_path, name, total
):
    content = files[name][0].read_bytes()
    (tmp_path / "cut").write_bytes(content[: len(content) * 6 // 10])
    sound = Sound(tmp_path / "cut")
    seconds = sum(map(len, sound)) / sound.rate
    assert 0.9 < seconds < 1.4
    assert sound.fault.startswith(f"{seconds:.2f} ")
    assert re.fullmatch(rf"{seconds:.2f} {total}s", sound.fault)


@pytest.mark.parametrize("name", ["phone.m4a", "browser.webm", "raw.aac"])
def test_damage_of_any_kind_is_told_or_refused(files, tmp_path, name):
    draw, content = random.Random(0), files[name][0].read_bytes()
    for _ in range(30):
        harmed = bytearray(content)
        for _ in range(draw.choice([5, 200])):
            harmed[draw.randrange(16, len(harmed))] = draw.randrange(256)
        (tmp_path / "harmed").write_bytes(harmed)
        try:
            blocks = [*Sound(tmp_path / "harmed")]
        except InputError as error:
            assert "harmed: " in str(error)
        else:
            assert all(np.ndim(block) == 2 for block in blocks)


def test_eight_channels(tmp_path):
    """PyAV would read beyond the planes of so many."""
    import av

    path = tmp_path / "eight.m4a"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("aac", rate=48000, layout="7.1")
        for number in range(40):
            noise = np.full((1, 8 * 1024), 0.1, np.float32)
            frame = av.AudioFrame.from_ndarray(noise, "flt", "7.1")
            frame.sample_rate, frame.pts = 48000, 1024 * number
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    sound = Sound(path)
    assert np.concatenate([*sound]).shape == (sound.frames, 8)


def test_a_video_without_sound(tmp_path):
    write_media(tmp_path / "mute.mp4", None, video=True, audio=False)
    with pytest.raises(InputError, match="mute.mp4: .*no sound in it.*give on"):
        read_audio(tmp_path / "mute.mp4")


def test_an_index_at_the_end_that_is_cut_off(files, tmp_path):
    write_media(tmp_path / "late.m4a", "aac")
    content = (tmp_path / "late.m4a").read_bytes()
    (tmp_path / "late.m4a").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"late.m4a: .*MPEG-4.*convert it"):
        read_audio(tmp_path / "late.m4a")


def test_without_pyav_the_error_names_it(files, monkeypatch):
    monkeypatch.setattr("ser_peft.data.soundfiles.can_decode", lambda: False)
    with pytest.raises(InputError, match=r"MPEG-4.*ser_peft\[media\]'.*ffmpeg"):
        read_audio(files["phone.m4a"][0])


def test_playlists_are_texts(tmp_path):
    """Which could name addresses of the network, and other files."""
    for name, text in {
        "a.m4a": "#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n",
        "b.mkv": "ffconcat version 1.0\nfile /etc/passwd\n",
    }.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match=rf"{name}: .*a text"):
            read_audio(tmp_path / name)


def test_long_ones_are_not_held_in_memory(files, monkeypatch):
    path, _ = files["phone.m4a"]
    whole = Recording(path).read()
    monkeypatch.setattr("ser_peft.data.audio.HELD", 1000)
    long = Recording(path)
    assert not long.held
    assert np.allclose(long.read(), whole, atol=1e-5)


def test_prepared_like_any_recording(tmp_path):
    rows = ["path,label,speaker,split"]
    for speaker, split in enumerate(["train", "train", "valid", "test"]):
        for label in ("calm", "sad"):
            name = f"{speaker}_{label}.m4a"
            pitch = 100 + 50 * speaker + 20 * (label == "sad")
            write_media(tmp_path / name, "aac", pitch=pitch)
            rows.append(f"{name},{label},{speaker},{split}")
    (tmp_path / "data.csv").write_text("\n".join(rows))
    prepare("custom", tmp_path, tmp_path / "out")
    _, manifests = read_manifests(tmp_path / "out")
    durations = [e["duration"] for e in manifests["train"].values()]
    assert durations == pytest.approx([2.0] * 4, abs=0.05)
