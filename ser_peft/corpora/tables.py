"""Tables in whatever encoding and with whatever separator; lines of texts."""

import codecs
import csv
import itertools
import logging
import math
import re
import unicodedata
from io import StringIO
from pathlib import Path

from ser_peft.errors import InputError
from ser_peft.io import refuse_pointer

__all__ = ["matched_lines", "number", "read_table", "whole"]

logger = logging.getLogger(__name__)


def read_table(path, columns, optional=()):
    """Read a table whose first row names the columns.

    Arguments
    ---------
    path : str or Path
        Text in UTF-8, in UTF-16 as Excel writes, or in cp1252 as older
        Windows programs do; cells are separated by commas, semicolons, tabs
        or bars. Empty rows are skipped.
    columns : iterable of str
        Those it must have, in any capitals; "" is one without a name.
    optional : iterable of str
        Those it may have, likewise.

    Returns
    -------
    list of (str, dict)
        For each row where it is, as ``data.csv, row 2``, and its cells,
        without blanks around them: column, named as above -> text.

    Raises
    ------
    InputError
        If the file cannot be read or is no table, lacks a column, has one
        twice, or a row ends early or late.

    Example
    -------
    >>> path = getfixture("tmp_path") / "data.csv"
    >>> _ = path.write_text("Path; Label\\na,b.wav; sad\\n;\\n")
    >>> [cells for _, cells in read_table(path, ["path", "label"])]
    [{'path': 'a,b.wav', 'label': 'sad'}]
    """
    spellings = {_spelling(name): name for name in (*columns, *optional)}
    try:
        delimiter, rows = _rows(_text(Path(path)), spellings)
    except csv.Error as error:
        raise InputError(
            f"{path}: is no table ({error}); is a quote left open?"
        ) from error
    if not rows:
        raise InputError(f"{path}: is empty")
    names = [spellings.get(_spelling(name), name) for name in rows[0][1]]
    for name in names:
        if name and names.count(name) > 1:
            raise InputError(
                f"{path}: {names.count(name)} columns are called '{name}'; "
                "rename all but one"
            )
    for name in columns:
        if name not in names:
            raise InputError(
                f"{path}: no column '{name}'; it has {', '.join(names)[:200]}"
            )
    table = []
    for number, cells in rows[1:]:
        where = f"{path}, row {number}"
        if any(cells[len(names) :]):
            raise InputError(
                f"{where}: {len(cells)} cells for {len(names)} columns; write "
                f"one with a '{delimiter}' in it in double quotes"
            )
        for name in columns:
            if names.index(name) >= len(cells):
                raise InputError(f"{where}, column {name}: the row ends early")
        pairs = itertools.zip_longest(names, cells[: len(names)], fillvalue="")
        table.append(
            (where, {k: cell for k, cell in pairs if k or k in columns})
        )
    return table


def _spelling(name):
    """A column's name, however it is capitalised or encoded."""
    return unicodedata.normalize("NFC", name).casefold()


def _rows(text, spellings):
    """Delimiter and (number, cells) of the rows that are not empty."""
    hint = re.match(r'"?sep=(.)"?[\r\n]+', text, re.IGNORECASE)  # Excel's
    if hint:
        text = text[hint.end() :]

    def read(delimiter):
        lines = StringIO(text, newline="")
        table = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
        for number, row in enumerate(table, 1):
            row = [cell.strip() for cell in row]
            if any(row):
                yield number, row

    def known(delimiter):
        _, names = next(read(delimiter), (0, []))
        return sum(_spelling(name) in spellings for name in names), len(names)

    # Not by csv's sniffer, which takes any character of a small table.
    delimiter = hint[1] if hint else max(",;\t|", key=known)
    return delimiter, list(read(delimiter))


def _text(path):
    """Content of a text file, in whatever encoding."""
    refuse_pointer(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror})"
        ) from error
    if raw.startswith((b"PK\3\4", b"\xd0\xcf\x11\xe0")):
        raise InputError(
            f"{path}: is a workbook of a spreadsheet program, whatever its "
            "name says; save it as CSV UTF-8"
        )
    wide = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    for encoding in ("utf-16" if wide else "utf-8-sig", "cp1252"):
        try:
            text = raw.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" in text:
            break
        if encoding == "cp1252":
            logger.warning("%s: is not UTF-8, and read as cp1252", path)
        return text
    raise InputError(
        f"{path}: is no text in UTF-8, in UTF-16 with its mark, or in cp1252; "
        "save it as CSV UTF-8"
    )


def number(where, column, text):
    """Read a cell as a number.

    Arguments
    ---------
    where, column : str
        Row, from `read_table`, and column, for the message.
    text : str
        The cell; with a comma or a point, as most of Europe writes it too.

    Returns
    -------
    float

    Raises
    ------
    InputError
        If it is no number, or infinite; ``nan`` is one.

    Example
    -------
    >>> number("data.csv, row 2", "valence", "3,5")
    3.5
    """
    try:
        value = float(text.replace(",", ".", 1))
    except ValueError:
        value = math.inf
    if math.isinf(value):
        raise InputError(f"{where}, column {column}: '{text}' is no number")
    return value


def whole(where, column, text):
    """Read a cell as a count.

    Arguments
    ---------
    where, column : str
        Row, from `read_table`, and column, for the message.
    text : str
        The cell; an empty one is 0.

    Returns
    -------
    int

    Raises
    ------
    InputError
        If it is no whole number from 0.

    Example
    -------
    >>> whole("data.csv, row 2", "votes_sad", "3"), whole("", "", "")
    (3, 0)
    """
    value = number(where, column, text or "0")
    if not (0 <= value < 2**31 and value == int(value)):
        raise InputError(
            f"{where}, column {column}: '{text}' is no whole number from 0"
        )
    return int(value)


def matched_lines(paths, beginning, pattern):
    """Match the lines of text files that describe turns.

    Arguments
    ---------
    paths : iterable of Path
        Files, most of which is UTF-8: some annotators' comments are not.
    beginning : str or tuple of str
        Beginnings of the lines that describe turns.
    pattern : re.Pattern
        Matches each of these lines from its beginning.

    Yields
    ------
    path : Path
        File of the line.
    groups : tuple of str
        Groups of the match.

    Raises
    ------
    InputError
        If such a line does not match.
    """
    for path in paths:
        for line in path.read_text("utf-8", errors="replace").split("\n"):
            if not line.startswith(beginning):
                continue
            match = pattern.match(line)
            if not match:
                raise InputError(
                    f"{path}: cannot read the turn '{line}'; unpack the "
                    "corpus again"
                )
            yield path, match.groups()
