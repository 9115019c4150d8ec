"""Locks: a folder has one writer at a time."""

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

__all__ = ["check_free", "only_process"]

logger = logging.getLogger(__name__)

NAME = ".lock"
POLL_SECONDS = 0.2

_held = set()
"""Open lock files of this process."""
_unlockable = []
"""Keys of folders without locks that were warned of: one warning will do."""


def _forget():
    # A child, as of a DataLoader, may outlive a killed parent by seconds.
    while _held:
        _held.pop().close()


os.register_at_fork(after_in_child=_forget)


def check_free(folder, key):
    """Refuse a folder that another process holds, without touching it.

    Arguments
    ---------
    folder : str or Path
        Need not exist.
    key : str
        Key or flag that it was given for, for the message.

    Raises
    ------
    InputError
        See `only_process`.
    """
    path = Path(folder) / NAME
    if path.exists():
        with suppress(FileNotFoundError), open(path, encoding="utf-8") as file:
            if _is_held(file, key, fcntl.LOCK_SH):
                raise _refusal(file, key)


@contextmanager
def only_process(folder, key, wait=False, say=True):
    """Hold a folder for this process, after sweeping it.

    The lock is a ``flock`` on a file in it, so that a killed process holds
    nothing. A new folder that the block leaves empty is removed.

    Arguments
    ---------
    folder : str or Path
        Made where it is missing.
    key : str
        Key or flag that it was given for, for the message.
    wait : bool
        Wait for another process that holds it.
    say : bool
        Say so, once.

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
    file = _take(path, key, wait, say)
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


def _take(path, key, wait, say):
    """Open and lock the lock file."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = open(path, "a+", encoding="utf-8")
        except FileNotFoundError:
            continue  # the folder was taken away again
        if _is_held(file, key, fcntl.LOCK_EX):
            if not wait:
                raise _refusal(file, key)
            if say:
                print(f"waiting: {_refusal(file, key)}", file=sys.stderr)
                say = False
            time.sleep(POLL_SECONDS)
        else:
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    file.truncate(0)
                    now = time.strftime("%Y-%m-%d %H:%M:%S")
                    host = socket.gethostname()
                    file.write(f"process {os.getpid()} on {host} (since {now})")
                    file.flush()
                    return file
        file.close()  # its holder may have taken it away


def _is_held(file, key, how):
    """Whether another process has the lock; otherwise it is now ours."""
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        if _unlockable:
            return False
        _unlockable.append(key)
        logger.warning(
            "%s: %s: its file system has no locks (%s): let no other process "
            "write there", key, Path(file.name).parent, error.strerror,
        )  # fmt: skip
    return False


def _refusal(file, key):
    """InputError that names the holder of a lock, from the lock's file."""
    holder = "another process"
    for _ in range(10):
        file.seek(0)
        if text := file.read():
            holder = text
            break
        time.sleep(0.05)  # it has the lock, and is about to write
    return InputError(
        f"{key} {Path(file.name).parent}: {holder} writes there; wait for it, "
        "stop it, or choose another folder"
    )
