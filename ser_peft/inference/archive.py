"""The emotions of an archive: a table that grows, and goes on when killed."""

import csv
import fcntl
import io
import json
import os
import shutil
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from ser_peft.data.audio import Silent
from ser_peft.errors import InputError, printable
from ser_peft.inference.batches import BATCH_SECONDS, Group
from ser_peft.inference.recognizer import progress_bar
from ser_peft.io import atomic_path, write_json
from ser_peft.storage.cells import as_cell

__all__ = ["Archive", "merge", "read_about", "shard_path"]

SILENT = "silent"
"""Problem of a recording that is whole, in which nothing is heard."""


class Archive:
    """A table of recordings and their emotions, one row each.

    Rows are written group by group, see `ser_peft.inference.batches`. Beside
    the table lies its description, ``<table>.json``: which model made it, how,
    and how many rows it will have.

    Arguments
    ---------
    path : str or Path
        ``.csv``, or ``.jsonl``.
    model : Recognizer
        Model; one that is loaded has its ``fingerprint``.
    batch_seconds : float, optional
        See `Recognizer.predict`.
    unsure : float, optional
        See `Recognizer.answer`.

    Raises
    ------
    InputError
        If the table has another suffix, or is there already and was not made
        in the same way.
    """

    def __init__(self, path, model, batch_seconds=None, unsure=None):
        self.path, self.model = Path(path), model
        if self.path.suffix not in (".csv", ".jsonl"):
            raise InputError(
                f"--out {path}: no table that is known; give a name that ends "
                "in .csv or .jsonl"
            )
        self.batch_seconds = batch_seconds or BATCH_SECONDS
        self.unsure = model.unsure if unsure is None else unsure
        # The same whenever the table is gone on with.
        self.about = {
            "model": model.fingerprint,
            "precision": model.precision,
            "classes": model.classes,
            "dimensions": [*model.dimensions],
            "batch_seconds": self.batch_seconds,
            "unsure": self.unsure,
        }
        self.columns = ["path", "seconds"]
        if model.classes:
            self.columns += ["label", *model.classes]
        if self.unsure is not None:
            self.columns.append("unsure")
        self.columns += [*model.dimensions, "problem"]

    def write(self, listing, shard=(0, 1), progress=False):
        """Write all rows that are not there yet.

        Arguments
        ---------
        listing : iterable of (str, str or None)
            Path and text of each recording; gone through several times.
        shard : tuple of int
            Number of this process, from 0, and number of processes: each
            takes its part of the recordings.
        progress : bool
            Show a progress bar.

        Returns
        -------
        dict
            ``files``, ``problems`` and ``silent``, counted.

        Raises
        ------
        InputError
            If another process writes the table, or it has other recordings.
        """
        number, count = shard

        def mine():
            return islice(listing, number, None, count)

        total = sum(1 for _ in mine())
        with self._opened() as file:
            known = read_about(self.path)
            about = self.about | {"files": total, "finished": False}
            if known is None and file.seek(0, os.SEEK_END):
                raise InputError(
                    f"--out {self.path}: is there already, and not from this "
                    "command; remove it or give another name"
                )
            for key, value in about.items():
                if known and key != "finished" and known.get(key) != value:
                    raise InputError(
                        f"--out {self.path}: was begun with {key} "
                        f"{known.get(key)}, now it is {value}; give another "
                        "name, or remove it to begin anew"
                    )
            finished = known is not None and known["finished"]
            if not finished:
                write_json(_beside(self.path), about)
            done = self._resume(file, mine(), total, finished)
            self._go_on(file, islice(mine(), done, None), total, done, progress)
            found = _counts(self.path)
            write_json(_beside(self.path), about | found | {"finished": True})
        return {"files": total, **found}

    @contextmanager
    def _opened(self):
        """Open the table, for this process alone."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InputError(
                    f"--out {self.path}: another process writes it; wait for "
                    "it, stop it, or give another name"
                ) from error
            except OSError:
                pass  # a file system without locks
            yield file

    def _resume(self, file, listing, total, finished):
        """Cut off what follows the last whole group; returns the rows left."""
        group, whole, end = Group(), 0, 0
        rows = _rows(self.path)
        for row, (path, _) in zip(rows, listing, strict=False):
            if row["path"] != self._text(path):
                raise InputError(
                    f"--out {self.path}: row {rows.count} is {row['path']}, "
                    f"where {path} is now; the recordings have changed: give "
                    "another name"
                )
            if group.add(float(row["seconds"])):
                whole, end = rows.count, rows.end
        if finished or rows.count == total:
            whole, end = rows.count, rows.end
        if end < file.seek(0, os.SEEK_END):
            file.truncate(end)
        if not end and self.path.suffix == ".csv":
            self._append(file, [self.columns])
        return whole

    def _go_on(self, file, listing, total, done, progress):
        items = ((path, path, text) for path, text in listing)
        with progress_bar(total, progress, done) as bar:
            for group in self.model.judged(items, self.batch_seconds):
                self._append(file, [*map(self._row, group)])
                bar.update(len(group))

    def _text(self, path):
        """Text of one line, whatever is in it."""
        text = printable(path)
        return as_cell(text) if self.path.suffix == ".csv" else text

    def _row(self, one):
        answer = {}
        if one.problem is None:
            answer = self.model.answer(one.scores, unsure=self.unsure)
        problem = ""
        if isinstance(one.problem, Silent):
            problem = SILENT
        elif one.problem:
            problem = printable(str(one.problem)).removeprefix(
                f"{printable(one.name)}: "
            )
        scores = answer.get("scores", {})
        if self.path.suffix == ".jsonl":
            row = {
                "path": self._text(one.name),
                "seconds": round(one.seconds, 3),
                **{k: v for k, v in answer.items() if k != "uncalibrated"},
            }
            if scores:
                row["scores"] = {k: round(v, 6) for k, v in scores.items()}
            return row | ({"problem": problem} if problem else {})
        row = [self._text(one.name), f"{one.seconds:.3f}"]
        if self.model.classes:
            row.append(as_cell(answer.get("label", "")))
            row += [
                f"{scores[name]:.6f}" if scores else ""
                for name in self.model.classes
            ]
        if self.unsure is not None:
            row.append(str(answer.get("unsure", "")).lower())
        values = answer.get("dimensions", {})
        row += [
            f"{values[name]:.6g}" if values else ""
            for name in self.model.dimensions
        ]
        return [*row, as_cell(problem)]

    def _append(self, file, rows):
        """Append rows by one write, and to the disk itself."""
        text = io.StringIO(newline="")
        if self.path.suffix == ".csv":
            csv.writer(text, lineterminator="\n").writerows(rows)
        else:
            text.writelines(
                f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows
            )
        file.write(text.getvalue().encode(errors="backslashreplace"))
        file.flush()
        os.fsync(file.fileno())


def _beside(path):
    """Path of a table's description."""
    return Path(f"{path}.json")


def read_about(path):
    """Read a table's description; None if there is none."""
    try:
        return json.loads(_beside(path).read_text("utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise InputError(
            f"{_beside(path)}: is damaged; remove it, and the table"
        ) from error


class _rows:
    """Whole rows of a table, counted; a row cut off at the end is none."""

    def __init__(self, path):
        self.path, self.count, self.end = path, 0, 0

    def __iter__(self):
        with open(self.path, "rb") as file:
            header = None
            while line := file.readline():
                if not line.endswith(b"\n"):
                    return
                if self.path.suffix == ".jsonl":
                    row = json.loads(line)
                else:
                    (cells,) = csv.reader(io.StringIO(line.decode(), ""))
                    if header is None:
                        header, self.end = cells, file.tell()
                        continue
                    row = dict(zip(header, cells, strict=True))
                self.count, self.end = self.count + 1, file.tell()
                yield row


def _counts(path):
    """Count the rows without answer."""
    found = {"problems": 0, "silent": 0}
    for row in _rows(path):
        if problem := row.get("problem"):
            found["silent" if problem == SILENT else "problems"] += 1
    return found


def shard_path(out, shard):
    """Path of one process's part of a table.

    Example
    -------
    >>> str(shard_path("a.csv", (1, 32)))
    'a.csv.shards/1-of-32.csv'
    """
    out, (number, count) = Path(out), shard
    return Path(f"{out}.shards") / f"{number}-of-{count}{out.suffix}"


def merge(out, count):
    """Merge the parts of a table, once all are finished.

    Any process may try: the last one finds them finished.

    Arguments
    ---------
    out : str or Path
        Table.
    count : int
        Number of parts.

    Returns
    -------
    dict or None
        See `Archive.write`; None if some are not finished, or another
        process has merged them.
    """
    out = Path(out)
    paths = [shard_path(out, (number, count)) for number in range(count)]
    folder = paths[0].parent
    try:
        lock = open(folder / "lock", "a")
    except FileNotFoundError:
        return None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        abouts = [read_about(path) for path in paths]
        if not all(about and about["finished"] for about in abouts):
            return None
        with atomic_path(out) as tmp, open(tmp, "wb") as file:
            parts = [open(path, "rb") for path in paths]
            if out.suffix == ".csv":
                file.write(parts[0].readline())
                for part in parts[1:]:
                    part.readline()
            while True:
                lines = [part.readline() for part in parts]
                file.writelines(lines)
                if not all(lines):
                    break
            for part in parts:
                part.close()
        found = {
            key: sum(about[key] for about in abouts)
            for key in ("files", "problems", "silent")
        }
        write_json(_beside(out), abouts[0] | found)
        shutil.rmtree(folder)
    return found
