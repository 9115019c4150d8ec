"""What the arguments of `ser-peft predict` name."""

import io
import json

import pytest

from ser_peft.errors import InputError
from ser_peft.inference.listing import Listing


@pytest.fixture
def tree(tmp_path):
    """Some empty files in folders."""
    for name in ("b/2.wav", "b/1.FLAC", "b/notes.txt", "a/ä [1].mp3", "c.m4a"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    return tmp_path


def names(listing, root):
    return [path.replace(f"{root}/", "") for path, _ in listing]


def test_folders_are_walked_in_order(tree):
    listing = Listing([str(tree)])
    expected = ["c.m4a", "a/ä [1].mp3", "b/1.FLAC", "b/2.wav"]
    assert names(listing, tree) == names(listing, tree) == expected


def test_globs_files_and_folders_together(tree):
    odd = str(tree / "a/ä [1].mp3")  # a file, though it looks like a pattern
    places = [str(tree / "**/*.wav"), odd, str(tree / "b"), "nowhere.wav"]
    assert names(Listing(places), tree) == [
        "b/2.wav", "a/ä [1].mp3", "b/1.FLAC", "b/2.wav", "nowhere.wav",
    ]  # fmt: skip


def test_a_list_on_standard_input_is_read_once(monkeypatch):
    content = "x y.wav\r\n\nä.wav\n".encode() + b"\xff.wav"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    listing = Listing(["-"])
    expected = ["x y.wav", "ä.wav", "\udcff.wav"]
    assert [path for path, _ in listing] == expected
    assert [path for path, _ in listing] == expected


def test_manifests_and_their_texts(tmp_path):
    entries = {
        "a": {"wav": "{data_root}/a.wav", "text": "Hello"},
        "b": {"wav": "/data/b.wav"},
    }
    path = tmp_path / "test.json"
    path.write_text(json.dumps(entries))
    with pytest.raises(InputError, match=r"protocol.json: names no data_fol"):
        [*Listing([str(path)])]
    about = json.dumps({"data_folder": "/corpus"})
    (tmp_path / "protocol.json").write_text(about)
    expected = [("/corpus/a.wav", "Hello"), ("/data/b.wav", None)]
    assert [*Listing([str(path)])] == expected
    for wrong in ("[]", "{", '{"a": {}}', '{"a": {"wav": 3}}', '{"a": 1}'):
        path.write_text(wrong)
        with pytest.raises(InputError, match="is no manifest"):
            [*Listing([str(path)])]
    path.write_text("{}")
    with pytest.raises(InputError, match="no entries"):
        [*Listing([str(path)])]


def test_nothing_there_is_told(tree):
    (tree / "empty").mkdir()
    for place, message in (
        ("empty", "no sound files in this folder"),
        ("*.wav", "no file matches"),
    ):
        with pytest.raises(InputError, match=message):
            [*Listing([str(tree / place)])]


def test_texts_are_of_files(tree):
    listing = Listing(["x.wav", "y.wav"], ["One", "Two"])
    assert [*listing] == [("x.wav", "One"), ("y.wav", "Two")]
    for places in (["x.wav"], [str(tree), "x.wav"]):
        with pytest.raises(InputError, match="--texts: 2 for"):
            Listing(places, ["One", "Two"])
