"""Checking each recording of a corpus once."""

import json
import os
import re
import unicodedata

import numpy as np
import pytest
import soundfile
from sounds import LOUD, cut, samples, tone

from ser_peft.data import checking
from ser_peft.data.audio import read_audio
from ser_peft.data.checking import durations
from ser_peft.errors import InputError


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
    recording = checking.Recording

    def spy(path):
        names.append(os.path.basename(path))
        return recording(path)

    monkeypatch.setattr(checking, "Recording", spy)
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
    monkeypatch.setattr(checking, "CHECKS", checking.CHECKS + 1)
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
