"""Files and folders are whole or absent."""

import json
import multiprocessing
import os
import signal
import stat
from pathlib import Path

import pytest

from ser_peft.errors import InputError
from ser_peft.io import atomic_path, check_writable, write_json


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_replaces_the_old_one(tmp_path):
    path = tmp_path / "deep" / "er" / "a.txt"
    for text in ("old", "new"):
        with atomic_path(str(path)) as tmp:
            assert tmp.suffix == ".txt" and tmp != path
            tmp.write_text(text)
            # Not there before the block has ended.
            assert not path.exists() or path.read_text() == "old"
        assert path.read_text() == text
    assert names(path.parent) == ["a.txt"]


def test_a_folder_replaces_the_old_one(tmp_path):
    path = tmp_path / "model"
    for files in (["a", "b"], ["b", "c"]):
        with atomic_path(path) as tmp:
            tmp.mkdir()
            for name in files:
                (tmp / name).touch()
        assert names(path) == files
    assert names(tmp_path) == ["model"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_the_old_one(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(error), atomic_path(path) as tmp:
        tmp.write_text("ne")
        raise error
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_kill_leaves_the_old_one(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write():
        with atomic_path(path) as tmp:
            tmp.write_text("ne")
            os.kill(os.getpid(), signal.SIGKILL)

    child = multiprocessing.get_context("fork").Process(target=write)
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    assert path.read_text() == "old"
    # What is left is hidden.
    assert [name for name in names(tmp_path) if name[0] != "."] == ["a.txt"]


def test_nothing_written_is_an_error(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), atomic_path(path):
        pass
    assert path.read_text() == "old"


def test_others_may_read_it(tmp_path):
    """The temporary folder is for the user alone; the result is not."""
    before = os.umask(0o022)
    try:
        write_json(tmp_path / "a.json", {})
        with atomic_path(tmp_path / "model") as tmp:
            tmp.mkdir()
    finally:
        os.umask(before)
    mode = stat.S_IMODE((tmp_path / "a.json").stat().st_mode)
    assert mode == 0o644
    assert stat.S_IMODE((tmp_path / "model").stat().st_mode) == 0o755


def test_write_json(tmp_path):
    content = {"ua": 0.1 + 0.2, "names": ["é", "中"], "none": None}
    write_json(tmp_path / "a.json", content)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == content
    assert text.endswith("}\n") and "\n  " in text
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"set": {1}})
    assert json.loads((tmp_path / "a.json").read_text()) == content


def test_no_device_is_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="pipe: is no file"):
        write_json(tmp_path / "pipe", {})
    assert [p.name for p in tmp_path.iterdir()] == ["pipe"]
    assert (tmp_path / "pipe").is_fifo()


def test_folders_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    for folder in ("file", "file/a/b"):
        with pytest.raises(InputError, match="out .*file is no folder that"):
            check_writable(tmp_path / folder, "out")
    if Path("/proc/self").exists():
        with pytest.raises(InputError, match="out /proc/x: /proc is no folder"):
            check_writable("/proc/x", "out")
    check_writable(tmp_path / "a" / "b", "out")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
