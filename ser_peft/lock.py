"""A folder has one writer at a time."""

import fcntl
import logging
import os
import socket
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

from ser_peft.errors import InputError
from ser_peft.io import sweep

__all__ = ["only_process"]

logger = logging.getLogger(__name__)

NAME = ".lock"
POLL_SECONDS = 0.2

_held = set()
"""Open lock files of this process."""


def _forget():
    # A child, as of a DataLoader, may outlive a killed parent by seconds.
    while _held:
        _held.pop().close()


os.register_at_fork(after_in_child=_forget)


@contextmanager
def only_process(folder, key, wait=False):
    """Hold a folder for this process; sweep it first.

    By ``flock`` on a file in it: a killed process holds nothing. Where the
    block leaves the folder empty and it was not there before, it goes away.

    Arguments
    ---------
    folder : str or Path
        Made where it is missing.
    key : str
        Key or flag that it was given for, for the message.
    wait : bool
        Wait for another process that holds it, and say so once.

    Raises
    ------
    InputError
        If another process holds it and `wait` is False.

    Example
    -------
    >>> folder = getfixture("tmp_path") / "run"
    >>> with only_process(folder, "output_folder"):
    ...     print(os.listdir(folder))
    ['.lock']
    >>> folder.exists()
    False
    """
    path = Path(folder) / NAME
    made = [part for part in path.parents if not part.exists()]
    file = _take(path, key, wait)
    _held.add(file)
    try:
        sweep(folder)
        yield
    finally:
        with suppress(OSError):
            path.unlink()
        _held.discard(file)
        file.close()
        with suppress(OSError):  # not empty
            for part in made:
                part.rmdir()


def _take(path, key, wait):
    """The lock file, open and locked."""
    said = False
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = open(path, "a+", encoding="utf-8")
        except FileNotFoundError:
            continue  # the folder was taken away again
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            message = f"{key} {path.parent}: {_holder(file)} writes there"
            file.close()
            if not wait:
                raise InputError(
                    f"{message}; wait for it, stop it, or choose another folder"
                ) from None
            if not said:
                print(f"{message}; waiting for it", file=sys.stderr)
                said = True
            time.sleep(POLL_SECONDS)
            continue
        except OSError as error:
            logger.warning(
                "%s %s: its file system locks no file (%s): let no other "
                "process write there",
                key, path.parent, error.strerror,
            )  # fmt: skip
            return file
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                file.truncate(0)
                now = time.strftime("%Y-%m-%d %H:%M:%S")
                host = socket.gethostname()
                file.write(f"process {os.getpid()} on {host} (since {now})")
                file.flush()
                return file
        file.close()  # its holder has taken it away


def _holder(file):
    """Who holds a lock, from what is in its file."""
    for _ in range(10):
        file.seek(0)
        if text := file.read():
            return text
        time.sleep(0.05)  # it has the lock, and is about to write
    return "another process"
