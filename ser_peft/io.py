"""Files that are either whole or absent."""

import hashlib
import json
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

__all__ = ["atomic_path", "sha256", "write_json"]


@contextmanager
def atomic_path(path):
    """Give a temporary path that becomes `path` if the block succeeds.

    Works for files and for whole folders (create the folder in the block).
    A process killed at any moment leaves the old `path` or the new one, and
    at worst a hidden leftover beside it, never a half-written file.

    Arguments
    ---------
    path : str or Path
        Where the finished file or folder belongs. Parents are created.

    Yields
    ------
    Path
        Where to write, on the same file system, with the same suffix.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> with atomic_path(folder / "a.txt") as tmp:
    ...     _ = tmp.write_text("whole")
    >>> (folder / "a.txt").read_text()
    'whole'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    tmp = scratch / path.name
    try:
        yield tmp
        if tmp.is_dir() and path.is_dir():
            # A non-empty folder cannot be replaced in one step: move the old
            # one aside first, so that the gap is two renames long.
            os.replace(path, scratch / "old")
        os.replace(tmp, path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def write_json(path, content):
    """Write `content` as indented JSON, atomically.

    Arguments
    ---------
    path : str or Path
        Target file.
    content : dict or list
        What `json` can write; floats stay floats.
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
