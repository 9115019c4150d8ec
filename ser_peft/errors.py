"""The one exception a user is meant to read."""

import errno
import re
import sys
from contextlib import contextmanager
from traceback import walk_tb

from safetensors import SafetensorError

__all__ = ["InputError", "one_line_errors", "out_of_memory"]


BAD_ARGUMENTS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What a class or function raises that does not like its arguments."""


class InputError(ValueError):
    """What the user gave cannot be used.

    The message is one line that names the file, key or flag and says what
    to do about it. Entry points print it and exit with status 2.
    """


@contextmanager
def one_line_errors():
    """Turn `InputError`, a full disk or memory into one line and exit code 2.

    Example
    -------
    >>> try:
    ...     with one_line_errors():
    ...         raise InputError("a.wav: empty file; remove it")
    ... except SystemExit as stop:
    ...     print(stop.code)
    2
    """
    try:
        yield
    except InputError as error:
        # A worker of a DataLoader adds its traceback.
        message = str(error).rpartition("ser_peft.errors.InputError: ")[2]
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        message = (
            f"{_longest_clip(error)}memory ran out; lower batch_seconds, take "
            "a smaller backbone, or a machine with more memory"
        )
    except OSError as error:
        # Only what the user can act on: any other OSError is a bug of ours
        # and keeps its traceback.
        if error.errno not in _ACTIONABLE:
            raise
        where = f"{error.filename}: " if error.filename else ""
        message = f"{where}{error.strerror}; {_ACTIONABLE[error.errno]}"
    except SafetensorError as error:
        # It writes files by itself and tells the reason in words only.
        code = re.search(r"os error (\d+)", str(error))
        if not code or int(code[1]) not in _ACTIONABLE:
            raise
        message = f"{error}; {_ACTIONABLE[int(code[1])]}"
    else:
        return
    print("error:", *message.split(), file=sys.stderr)
    raise SystemExit(2)


def out_of_memory(error):
    """Whether an exception says that there is not enough memory.

    Arguments
    ---------
    error : Exception
        Of Python, numpy, or torch on any device.

    Returns
    -------
    bool

    Example
    -------
    >>> out_of_memory(RuntimeError("CUDA out of memory. Tried to ..."))
    True
    """
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)
        and re.search(_NO_MEMORY, str(error)) is not None
    )


def _longest_clip(error):
    """The longest clip of the batch that was in work, from the frames."""
    for frame, _ in reversed([*walk_tb(error.__traceback__)]):
        batch = frame.f_locals.get("batch")
        if hasattr(batch, "id") and hasattr(batch, "sig"):
            wavs, shares = batch.sig
            share, clip = max(zip(shares.tolist(), batch.id, strict=True))
            others = f" and {len(wavs) - 1} shorter ones" * (len(wavs) > 1)
            return f"{clip} ({share * wavs.shape[1] / 16000:.1f} s){others}: "
    return ""


_NO_MEMORY = (
    r"out of (shared )?memory|(can't|cannot) allocate memory"
    r"|not enough memory|_ALLOC_FAILED|killed by signal: Killed"
)


_ACTIONABLE = {
    errno.ENOSPC: "free some space and run the same command again: it goes on "
    "where it was",
    errno.EDQUOT: "your quota is full; free some space and run the same "
    "command again",
    errno.EROFS: "the folder is read-only; choose another one",
    errno.EFBIG: "raise the limit on file sizes (ulimit -f) and run the same "
    "command again",
    errno.ENOMEM: "take a machine with more memory, or less at once",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOTDIR: "choose another folder: a file is in the way",
    errno.EEXIST: "choose another name, or move what is there",
    errno.EISDIR: "give a file, not a folder",
    errno.EACCES: "no permission; choose another folder or change its mode",
}
