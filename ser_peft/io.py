"""Files: written whole or not at all, hashed, found, refused."""

import functools
import hashlib
import json
import os
import re
import shutil
import tempfile
import unicodedata
from contextlib import contextmanager
from pathlib import Path

from ser_peft.errors import InputError, is_safetensor_error

__all__ = [
    "SAMPLE_RATE",
    "atomic_path",
    "check_writable",
    "find_file",
    "is_pointer",
    "naming",
    "refuse_pointer",
    "sha256",
    "sha256_of",
    "sweep",
    "write_json",
]

SAMPLE_RATE = 16000
"""Samples a second (Hz) of all audio inside the package."""


@contextmanager
def atomic_path(path):
    """Give a temporary path that becomes `path` if the block succeeds.

    Works for files and for whole folders (create the folder in the block).
    A process killed at any moment, or a power failure, leaves the old `path`
    or the new one, and at worst a hidden leftover beside it, which `sweep`
    takes away, never a half-written file.

    Arguments
    ---------
    path : str or Path
        Place of the finished file or folder. Parents are created.

    Yields
    ------
    Path
        Place to write to, on the same file system, with the same suffix.

    Raises
    ------
    InputError
        If `path` is a device or a pipe, as ``/dev/null``, which would be
        replaced too.
    OSError, SafetensorError
        Whatever the block raises, with `path` as its ``filename``.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> with atomic_path(folder / "a.txt") as tmp:
    ...     _ = tmp.write_text("whole")
    >>> (folder / "a.txt").read_text()
    'whole'
    """
    path = Path(path)
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise InputError(f"{path}: is no file; give the name of one")
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    tmp = scratch / path.name
    try:
        with naming(path, tmp):
            yield tmp
            for part in (*tmp.rglob("*"), tmp, tmp.parent):
                _sync(part)
            if tmp.is_dir() and path.exists():
                # A folder cannot replace anything in one step: move that
                # aside first; the gap is two renames long.
                os.replace(path, scratch / "old")
            os.replace(tmp, path)
            _sync(path.parent)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _sync(path):
    """Flush a file, or the names in a folder, to the disk itself."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError:
        if not os.path.isdir(path):  # some network file systems refuse those
            raise
    finally:
        os.close(number)


@contextmanager
def naming(path, tmp=None):
    """Give errors of writing the file's name where they have none.

    Arguments
    ---------
    path : str or Path
        File that is written in the block.
    tmp : Path, optional
        Its temporary name.

    Example
    -------
    >>> try:
    ...     with naming("a.json"):
    ...         raise OSError(28, "No space left on device")
    ... except OSError as error:
    ...     print(error)
    [Errno 28] No space left on device: 'a.json'
    """
    try:
        yield
    except Exception as error:
        if not (isinstance(error, OSError) or is_safetensor_error(error)):
            raise
        name = getattr(error, "filename", None)
        if name is None:
            error.filename = str(path)
        elif tmp is not None:
            error.filename = str(name).replace(str(tmp), str(path))
        raise


def sweep(folder):
    """Remove leftovers of `atomic_path` in killed processes from a folder.

    Only for a process that alone writes there; see
    `ser_peft.storage.lock.only_process`.

    Arguments
    ---------
    folder : str or Path
        Folder, whose subfolders are not swept.
    """
    for scratch in Path(folder).glob(".*.*"):
        match = re.fullmatch(r"\.(.+)\.[a-z0-9_]{8}", scratch.name)
        if not match or scratch.is_symlink() or not scratch.is_dir():
            continue
        inside = {path.name for path in scratch.iterdir()}
        if not inside <= {match[1], "old"}:
            continue  # no scratch folder of ours
        path = scratch.with_name(match[1])
        if inside == {match[1], "old"} and not path.exists():
            # Killed between the two renames: the new one is whole.
            os.replace(scratch / match[1], path)
        shutil.rmtree(scratch)


def check_writable(folder, key):
    """Refuse a folder that cannot be written to, before the work is done.

    Arguments
    ---------
    folder : str or Path
        Folder, which need not exist, nor its parents. Nothing is created.
    key : str
        Key or flag that it was given for, for the message.

    Raises
    ------
    InputError
        If a file is in its place, or permission is missing.
    """
    there = Path(folder).absolute()
    while not os.path.lexists(there):
        there = there.parent
    good = there.is_dir() and os.access(there, os.W_OK)
    if good and there != Path(folder).absolute():
        try:  # /proc has the permissions, and takes nothing
            with tempfile.TemporaryDirectory(dir=there):
                pass
        except OSError:
            good = False
    if not good:
        raise InputError(
            f"{key} {folder}: {there} is no folder that can be written to; "
            "choose another one"
        )


def write_json(path, content):
    """Write `content` as indented JSON, atomically.

    Arguments
    ---------
    path : str or Path
        Target file.
    content : dict or list
        Content that `json` can write; floats stay floats.
    """
    with atomic_path(path) as tmp:
        tmp.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def sha256(file):
    """Hash an open binary file from where it is, without holding all of it.

    Arguments
    ---------
    file : file object
        Left at its end.

    Returns
    -------
    str
        Hexadecimal digest.

    Example
    -------
    >>> from io import BytesIO
    >>> sha256(BytesIO(b"abc"))[:8]
    'ba7816bf'
    """
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def sha256_of(path):
    """Hash a file, once as long as it stays as it is.

    Arguments
    ---------
    path : str or Path
        File. It is hashed again if its size or time of change differs from
        when it was hashed before.

    Returns
    -------
    str
        Hexadecimal digest.
    """
    about = os.stat(path)
    return _sha256_of(
        os.path.abspath(path), about.st_ino, about.st_size, about.st_mtime_ns
    )


@functools.cache
def _sha256_of(path, *about):
    with open(path, "rb") as file:
        return sha256(file)


def find_file(path):
    """Path of a file whose name may be spelt in another Unicode form.

    macOS decomposes an ä into two characters, other systems and tables
    mostly do not: copied from one to the other, names look alike and differ.

    Arguments
    ---------
    path : str or Path
        Path as somebody wrote it.

    Returns
    -------
    Path
        Path as the file system has it; `path` itself if there is none.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> (folder / "a\u0308.wav").touch()
    >>> find_file(folder / "\u00e4.wav").exists()
    True
    """
    path = Path(path)
    found = Path()
    for part in path.parts:
        forms = [part]
        if not part.isascii():
            forms += (unicodedata.normalize(f, part) for f in ("NFC", "NFD"))
        for form in forms:
            if os.path.exists(found / form):
                found /= form
                break
        else:
            return path
    return found


def is_pointer(head):
    """Whether a file's first bytes are those of a Git LFS pointer.

    Example
    -------
    >>> is_pointer(b"version https://git-lfs.github.com/spec/v1\\n")
    True
    """
    return head.startswith(b"version https://git-lfs")


def refuse_pointer(path):
    """Refuse a file that `git clone` left as a pointer.

    Arguments
    ---------
    path : str or Path
        File; a path that cannot be read passes.

    Raises
    ------
    InputError
        If it is one.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(64)
    except OSError:
        return  # whoever reads it reports
    if is_pointer(head):
        raise InputError(
            f"{path}: a Git LFS pointer, not the file itself; run `git lfs "
            f"pull` in {Path(path).parent}"
        )
