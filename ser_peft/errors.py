"""The one exception a user is meant to read."""

import errno
import logging
import re
import sys
from contextlib import contextmanager
from io import IOBase
from traceback import walk_tb

from safetensors import SafetensorError

__all__ = [
    "BAD_ARGUMENTS",
    "InputError",
    "one_line_errors",
    "out_of_memory",
    "printable",
]

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


def printable(text):
    r"""Escape what a terminal would obey, or show in another order.

    Names of files, speakers and classes come from others.

    Arguments
    ---------
    text : str
        A name, or a line.

    Returns
    -------
    str
        With escapes, as Python writes them, for control characters, line
        ends too, for marks of direction, and for bytes that are no text.

    Example
    -------
    >>> print(printable("a\x1b[31m\nb.wav"))
    a\x1b[31m\nb.wav
    """
    return _UNPRINTABLE.sub(
        lambda found: found[0].encode("unicode_escape").decode("ascii"), text
    )


_UNPRINTABLE = re.compile(
    "[\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
    "\ud800-\udfff]"
)


class _Record(logging.LogRecord):
    """A record whose message is one line, if it is of ser_peft."""

    def getMessage(self):
        message = super().getMessage()
        ours = self.name.partition(".")[0] == "ser_peft"
        return printable(message) if ours else message


@contextmanager
def one_line_errors():
    """Turn `InputError`, a full disk or memory into one line and exit code 2.

    What is logged meanwhile is `printable`.
    Ctrl-C becomes one line and exit code 130, as of a shell's own commands.

    Example
    -------
    >>> try:
    ...     with one_line_errors():
    ...         raise InputError("a.wav: empty file; remove it")
    ... except SystemExit as stop:
    ...     print(stop.code)
    2
    """
    factory = logging.getLogRecordFactory()
    logging.setLogRecordFactory(_Record)
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
        where = error.filename or _open_file(error)
        where = f"{where}: " if where else ""
        message = f"{where}{error.strerror}; {_ACTIONABLE[error.errno]}"
    except SafetensorError as error:
        # It writes files by itself and tells the reason in words only.
        code = re.search(r"os error (\d+)", str(error))
        if not code or int(code[1]) not in _ACTIONABLE:
            raise
        where = getattr(error, "filename", None)  # see ser_peft.io.naming
        where = f"{where}: " if where else ""
        message = f"{where}{error}; {_ACTIONABLE[int(code[1])]}"
    except KeyboardInterrupt as stop:
        print(": ".join(["stopped", *map(str, stop.args)]), file=sys.stderr)
        raise SystemExit(130) from None
    else:
        return
    finally:
        logging.setLogRecordFactory(factory)
    line = printable(" ".join(message.split()))
    print("error:", line, file=sys.stderr)
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


def _open_file(error):
    """Name of the file that was being written, from the frames."""
    for frame, _ in reversed([*walk_tb(error.__traceback__)]):
        for value in frame.f_locals.values():
            if isinstance(value, IOBase) and hasattr(value, "name"):
                return value.name
    return None


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
