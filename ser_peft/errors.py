"""The one exception a user is meant to read."""

import errno
import re
import sys
from contextlib import contextmanager

from safetensors import SafetensorError

__all__ = ["InputError", "one_line_errors"]


class InputError(ValueError):
    """What the user gave cannot be used.

    The message is one line that names the file, key or flag and says what
    to do about it. Entry points print it and exit with status 2.
    """


@contextmanager
def one_line_errors():
    """Turn `InputError` (and a full disk) into one line and exit code 2.

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
        message = " ".join(str(error).split())
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
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


_ACTIONABLE = {
    errno.ENOSPC: "free some space and run the same command again: it goes on "
    "where it was",
    errno.EDQUOT: "your quota is full; free some space and run the same "
    "command again",
    errno.EROFS: "the folder is read-only; choose another one",
    errno.EFBIG: "raise the limit on file sizes (ulimit -f) and run the same "
    "command again",
    errno.EACCES: "no permission; choose another folder or change its mode",
}
