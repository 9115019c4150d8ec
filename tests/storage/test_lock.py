"""A folder has one writer at a time."""

import fcntl
import multiprocessing
import os
import re
import signal
import socket
import threading
import time

import pytest

from ser_peft.cli import main
from ser_peft.errors import InputError
from ser_peft.storage.lock import check_free, only_process

fork = multiprocessing.get_context("fork")


@pytest.fixture
def holder(tmp_path):
    """A process that holds `tmp_path / "run"`."""

    def hold(ready):
        with only_process(tmp_path / "run", "out"):
            # As a DataLoader's worker, that outlives its parent for a while.
            fork.Process(target=time.sleep, args=[60]).start()
            ready.set()
            time.sleep(60)

    ready = fork.Event()
    process = fork.Process(target=hold, args=[ready])
    process.start()
    ready.wait(60)
    yield process
    process.kill()
    process.join()


def test_the_second_is_refused_in_one_line(tmp_path, holder):
    said = re.escape(f"process {holder.pid} on {socket.gethostname()} (since ")
    with pytest.raises(InputError, match=f"^out .*run: {said}.*; wait for"):
        with only_process(tmp_path / "run", "out"):
            raise AssertionError
    with pytest.raises(InputError, match=said):
        check_free(tmp_path / "run", "out")
    assert os.listdir(tmp_path / "run") == [".lock"]


def test_a_killed_one_holds_nothing(tmp_path, holder):
    holder.kill()
    holder.join()
    check_free(tmp_path / "run", "out")
    check_free(tmp_path / "none", "out")
    with only_process(tmp_path / "run", "out"):
        assert str(os.getpid()) in (tmp_path / "run/.lock").read_text()
    # It was there before.
    assert os.listdir(tmp_path / "run") == []


def test_waits_and_says_so_once(tmp_path, holder, capsys):
    threading.Timer(0.5, os.kill, [holder.pid, signal.SIGKILL]).start()
    with only_process(tmp_path / "run", "out", wait=True):
        pass
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("waiting: ") and f"process {holder.pid}" in line


def test_nothing_stays_of_what_was_refused(tmp_path):
    with pytest.raises(InputError):
        with only_process(tmp_path / "a" / "b", "out"):
            raise InputError("no")
    assert os.listdir(tmp_path) == []
    with only_process(tmp_path / "a" / "b", "out"):
        (tmp_path / "a" / "b" / "file").touch()
    assert os.listdir(tmp_path / "a" / "b") == ["file"]


def test_many_at_once_take_turns(tmp_path):
    """Though each takes the folder away when it is done."""

    def count(times):
        for _ in range(times):
            with only_process(tmp_path / "run", "out", wait=True):
                now = int((tmp_path / "sum").read_text())
                (tmp_path / "sum").write_text(str(now + 1))

    (tmp_path / "sum").write_text("0")
    all_ = [fork.Process(target=count, args=[5]) for _ in range(4)]
    for process in all_:
        process.start()
    for process in all_:
        process.join(60)
        assert process.exitcode == 0
    assert (tmp_path / "sum").read_text() == "20"


def test_a_file_system_without_locks(tmp_path, monkeypatch, caplog):
    def flock(file, how):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", flock)
    with only_process(tmp_path / "run", "out"):
        pass
    (warning,) = caplog.messages
    assert "has no locks (Operation not supported)" in warning
    assert os.listdir(tmp_path) == []


def test_sweeps_what_killed_writes_left(tmp_path):
    for name in (".a.json.abcd_123/a.json", ".model.01234567/model/x"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    for name in (".a.json.abcd_124/other", ".git/a", ".b.json.short/b.json"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    # Killed between two renames: the new one is finished.
    for name in (".c.01234567/c/new", ".c.01234567/old/old"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    with only_process(tmp_path, "out"):
        pass
    kept = [".a.json.abcd_124", ".b.json.short", ".git", "c"]
    assert sorted(os.listdir(tmp_path)) == kept
    assert os.listdir(tmp_path / "c") == ["new"]


@pytest.mark.parametrize(
    "argv",
    [
        "prepare ravdess data OUT",
        "probe backbone manifests --out OUT",
        "evaluate model test.json --out OUT",
        "transcribe OUT whisper",
        "crossval train.py train.py --folds 1 --output_folder OUT",
    ],
)
def test_commands_take_turns(tmp_path, monkeypatch, capsys, argv):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").touch()
    with only_process(tmp_path / "out", "out"):
        with pytest.raises(SystemExit) as stop:
            main([w.replace("OUT", f"{tmp_path}/out") for w in argv.split()])
        assert os.listdir(tmp_path / "out") == [".lock"]
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    said = f" {tmp_path}/out: process {os.getpid()} on "
    assert line.startswith("error: ") and said in line


def test_waits_without_a_word(tmp_path, capfd):
    """Where that is the rule, and no news."""
    folder = tmp_path / "run"
    with only_process(folder, "out"):
        waits = threading.Thread(target=_hold, args=[folder])
        waits.start()
        time.sleep(0.3)
        assert waits.is_alive()
    waits.join(10)
    assert capfd.readouterr().err == ""


def _hold(folder):
    with only_process(folder, "out", wait=True, say=False):
        pass
