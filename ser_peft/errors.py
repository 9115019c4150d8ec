"""`InputError`, the one exception that users are meant to read."""

import errno
import importlib.util
import logging
import re
import sys
from contextlib import contextmanager
from io import IOBase
from traceback import walk_tb

__all__ = [
    "BAD_ARGUMENTS",
    "InputError",
    "extra",
    "is_safetensor_error",
    "one_line_errors",
    "out_of_memory",
    "printable",
    "some",
    "summary",
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
"""Exceptions of classes and functions that are given wrong arguments."""


NAMED = 10
"""Number of recordings that a message names."""


class InputError(ValueError):
    """Error of the user: something given cannot be used.

    The message is one line that names the file, key or flag and says what
    to do about it. Entry points print it and exit with status 2.
    """


def printable(text):
    r"""Escape characters that a terminal would obey, or show in another order.

    Names of files, speakers and classes come from other people.

    Arguments
    ---------
    text : str
        A name, or a line.

    Returns
    -------
    str
        With Python's escapes in place of control characters (line ends too),
        marks of direction, and bytes that are no text.

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
    """A log record whose message is one line, if ser_peft logged it."""

    def getMessage(self):
        message = super().getMessage()
        ours = self.name.partition(".")[0] == "ser_peft"
        return printable(message) if ours else message


@contextmanager
def one_line_errors():
    """Turn `InputError`, a full disk or memory into one line and exit code 2.

    Every entry point runs within it. What ser_peft logs meanwhile is
    `printable`; progress bars are shown in a terminal only, and SpeechBrain's
    warning that torchvision is missing, which nothing here needs, is not.
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
    logging.getLogger("speechbrain.utils.train_logger").addFilter(_no_vision)
    factory = logging.getLogRecordFactory()
    logging.setLogRecordFactory(_Record)
    try:
        with _bars():
            yield
    except KeyboardInterrupt as stop:
        print(": ".join(["stopped", *map(str, stop.args)]), file=sys.stderr)
        raise SystemExit(130) from None
    except Exception as error:
        if not (message := _message(error)):
            raise
        line = printable(" ".join(message.split()))
        print("error:", line, file=sys.stderr)
        raise SystemExit(2) from None
    finally:
        logging.setLogRecordFactory(factory)


@contextmanager
def _bars():
    """Show progress bars in a terminal only."""
    # Where only ONNX files are run, there is no tqdm.
    if sys.stderr.isatty() or not importlib.util.find_spec("tqdm"):
        yield
        return
    from tqdm import tqdm

    start_bar = tqdm.__init__
    # A default does not do: SpeechBrain asks for its bars.
    tqdm.__init__ = lambda bar, *args, **options: start_bar(
        bar, *args, **{**options, "disable": True}
    )
    try:
        yield
    finally:
        tqdm.__init__ = start_bar


def _no_vision(record):
    return "torchvision" not in str(record.msg)


def _message(error):
    """Text of an error that a user can act on; None of a bug."""
    if isinstance(error, InputError):
        # A worker of a DataLoader adds its traceback.
        return str(error).rpartition("ser_peft.errors.InputError: ")[2]
    if out_of_memory(error):
        return (
            f"{_longest_clip(error)}memory ran out; lower batch_seconds, take "
            "a smaller backbone, or a machine with more memory"
        )
    number, reason, where = None, str(error), getattr(error, "filename", None)
    if isinstance(error, OSError):
        number, reason = error.errno, error.strerror
        where = where or _open_file(error)
    elif is_safetensor_error(error):
        # It writes files by itself and tells the number in words only; the
        # name is from `ser_peft.io.naming`.
        code = re.search(r"os error (\d+)", reason)
        number = int(code[1]) if code else None
    if number not in _ACTIONABLE:
        return None
    return f"{where}: " * bool(where) + f"{reason}; {_ACTIONABLE[number]}"


@contextmanager
def extra(name):
    """Name the extra of this package that an import needs.

    Arguments
    ---------
    name : str
        Key of ``extras_require`` in setup.py.

    Raises
    ------
    InputError
        If an import in the block fails.

    Example
    -------
    >>> with extra("slurm"):
    ...     import a_package_that_is_not_there
    Traceback (most recent call last):
    ser_peft.errors.InputError: this needs a_package_that_is_not_there: \
pip install 'ser_peft[slurm]'
    """
    try:
        yield
    except ImportError as error:
        raise InputError(
            f"this needs {error.name}: pip install 'ser_peft[{name}]'"
        ) from error


def is_safetensor_error(error):
    """Whether an exception is of safetensors, which need not be installed."""
    module = sys.modules.get("safetensors")
    return module is not None and isinstance(error, module.SafetensorError)


def out_of_memory(error):
    """Whether an exception means that memory ran out.

    Arguments
    ---------
    error : Exception
        Raised by Python, numpy, or torch on any device.

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
    """Name of the longest clip of the batch in work, from the frames."""
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


def summary(broken, total, listing=None):
    """One line about recordings that cannot be used.

    Arguments
    ---------
    broken : dict
        Name -> message that names the file and its fault.
    total : int
        Number of all recordings.
    listing : str or Path, optional
        File that lists all messages.

    Returns
    -------
    str
        The message of a single one; otherwise their number, the names of the
        first ones, and the first message.

    Example
    -------
    >>> messages = {"a": "a: empty; remove it", "b": "b: silent; remove it"}
    >>> summary(messages, 3)
    '2 of 3 recordings cannot be used: a, b; a: empty; remove it'
    """
    messages = [*broken.values()]
    if len(messages) == 1:
        return messages[0]
    return (
        f"{len(broken)} of {total} recordings cannot be used: "
        f"{some([*broken], listing)}; {messages[0]}"
    )


def some(names, listing):
    """Give the first of many names, and say where the others are."""
    text = ", ".join(names[:NAMED])
    if len(names) > NAMED:
        text += f" and {len(names) - NAMED} more"
    return f"{text} (all in {listing})" if listing else text
