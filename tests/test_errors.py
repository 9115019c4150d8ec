"""What the user reads when something is wrong."""

import errno
import logging
import os
import resource
import subprocess
import sys

import pytest
import torch
from huggingface_hub.utils import tqdm as tqdm_of_hub
from safetensors import SafetensorError
from safetensors.torch import save_file
from speechbrain.utils.train_logger import FileTrainLogger
from tqdm import tqdm

from ser_peft.errors import InputError, extra, one_line_errors
from ser_peft.io import atomic_path, write_json


def read(capsys, error):
    """Exit code and stderr of an entry point that raises `error`."""
    with pytest.raises(SystemExit) as stop, one_line_errors():
        raise error
    out, err = capsys.readouterr()
    assert out == ""
    return stop.value.code, err


def test_input_errors_are_one_line(capsys):
    error = InputError("a.wav: cannot be read\n  (Error\tin header)\n; repair")
    assert read(capsys, error) == (
        2,
        "error: a.wav: cannot be read (Error in header) ; repair\n",
    )


def test_names_do_not_rule_the_terminal(capsys):
    name = "a\x1b[2J\x07\x9b\u202e\udcff.wav"
    escaped = r"a\x1b[2J\x07\x9b\u202e\udcff.wav"
    assert read(capsys, InputError(name)) == (2, f"error: {escaped}\n")


def test_neither_in_what_is_logged(caplog):
    with one_line_errors():
        logging.getLogger("ser_peft.x").warning("%s: odd\n", "\x1b[2J")
        logging.getLogger("other").warning("two\nlines")
    logging.getLogger("ser_peft.x").warning("\n")
    assert caplog.messages == [r"\x1b[2J: odd\n", "two\nlines", "\n"]


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "read-only"),
        (errno.EFBIG, "ulimit"),
        (errno.EACCES, "permission"),
        (errno.ENOTDIR, "another folder"),
        (errno.ENAMETOOLONG, "shorter"),
    ],
)
def test_what_the_user_can_act_on(capsys, number, advice):
    reason = os.strerror(number)
    code, line = read(capsys, OSError(number, reason, "runs/a.json"))
    assert code == 2 and line.count("\n") == 1
    assert line.startswith(f"error: runs/a.json: {reason}; ") and advice in line
    # As safetensors, which writes by itself, tells of it.
    text = f"Error while serializing: I/O error: {reason} (os error {number})"
    code, line = read(capsys, SafetensorError(text))
    assert code == 2 and line.count("\n") == 1
    assert reason in line and advice in line


@pytest.mark.parametrize(
    "error",
    [
        KeyError("a bug"),
        ValueError("a bug"),
        OSError(errno.ENOENT, "No such file or directory", "a/b"),
        SafetensorError("Error while deserializing header: HeaderTooLarge"),
        SafetensorError("I/O error: Bad address (os error 14)"),
    ],
)
def test_bugs_keep_their_traceback(error):
    with pytest.raises(type(error)) as raised, one_line_errors():
        raise error
    assert raised.value is error


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (KeyboardInterrupt(), "stopped\n"),
        (KeyboardInterrupt("run keeps all"), "stopped: run keeps all\n"),
    ],
)
def test_ctrl_c_is_one_line(capsys, error, line):
    assert read(capsys, error) == (130, line)


def test_nothing_wrong(capsys):
    with one_line_errors():
        pass
    assert capsys.readouterr() == ("", "")


def test_no_bars_where_no_terminal_is(capsys):
    with one_line_errors():
        assert [*tqdm(range(3), disable=False)] == [0, 1, 2]
        assert [*tqdm_of_hub(range(3))] == [0, 1, 2]
    assert capsys.readouterr().err == ""
    assert [*tqdm(range(3))] == [0, 1, 2]
    assert "3/3" in capsys.readouterr().err


def test_torchvision_is_not_missed(caplog):
    logger = logging.getLogger("speechbrain.utils.train_logger")
    with one_line_errors():
        logger.warning("torchvision is not available - cannot save figures")
        logger.warning("something else")
    assert caplog.messages == ["something else"]


def test_a_missing_extra_is_one_line(capsys):
    with pytest.raises(SystemExit) as stop, one_line_errors(), extra("slurm"):
        import submitit_that_is_not_there  # noqa: F401
    assert stop.value.code == 2
    assert capsys.readouterr().err == (
        "error: this needs submitit_that_is_not_there: pip install "
        "'ser_peft[slurm]'\n"
    )


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = "mount -t tmpfs -o size=256k tmpfs".split()
    try:
        subprocess.run([*command, folder], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no tmpfs can be mounted: {error}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def json_file(path):
    path.write_text("1" * 2**20)


def whole_file(path):
    write_json(path, "1" * 2**20)


def tensor_file(path):
    with atomic_path(path) as tmp:
        save_file({"a": torch.zeros(2**18)}, tmp)


def log_file(path):
    FileTrainLogger(path).log_stats({"a": "1" * 2**20}, verbose=False)


@pytest.mark.parametrize(
    "write", [json_file, whole_file, tensor_file, log_file]
)
def test_a_full_disk_is_one_line(small_disk, write, capsys):
    with pytest.raises(SystemExit) as stop, one_line_errors():
        write(small_disk / "big")
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "No space left on device" in error and "free some space" in error
    assert error.startswith(f"error: {small_disk}/big: ")


@pytest.mark.parametrize("write", [json_file, tensor_file])
def test_a_limit_on_file_sizes_is_one_line(tmp_path, write, capsys):
    """Also where no disk can be mounted."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.raises(SystemExit) as stop:
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2**17, hard))
            with one_line_errors():
                write(tmp_path / "big")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "File too large" in error


def test_errors_are_light():
    """The command line imports them before it knows the command."""
    code = "import sys, ser_peft.errors; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


class Batch:
    """As SpeechBrain's, of two clips, the second of 2 s."""

    id = ["a", "b"]
    sig = torch.zeros(2, 32000), torch.tensor([0.5, 1.0])


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."),
        torch.OutOfMemoryError("HIP out of memory."),
    ],
)
def test_memory_that_runs_out_is_one_line(capsys, error):
    def step(batch):
        raise error

    def steps():
        for batch in [Batch()]:
            step(batch)

    with pytest.raises(SystemExit) as stop, one_line_errors():
        steps()
    assert stop.value.code == 2
    line = capsys.readouterr().err
    assert line.startswith("error: b (2.0 s) and 1 shorter ones: memory ran ou")
    code, line = read(capsys, error.with_traceback(None))
    assert code == 2 and line.startswith("error: memory ran out; lower batch_")


def worker(index):
    raise InputError("a.wav: silent; remove it")


def test_what_a_worker_says_is_one_line(capsys):
    class Clips(torch.utils.data.Dataset):
        __len__ = [0].__len__
        __getitem__ = staticmethod(worker)

    loader = torch.utils.data.DataLoader(Clips(), num_workers=1)
    with pytest.raises(SystemExit), one_line_errors():
        list(loader)
    assert capsys.readouterr().err == "error: a.wav: silent; remove it\n"
