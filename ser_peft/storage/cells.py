"""Cells of a csv that spreadsheet programs show and do not compute."""

import re

__all__ = ["as_cell", "of_cell"]

_FORMULA = re.compile(r"'*[=+\-@\t\r]")
"""Beginning of text that a spreadsheet program would compute, quoted or not."""


def as_cell(text):
    """Quote text that a spreadsheet program would take for a formula.

    A quote in front of it is what these programs write themselves.

    Arguments
    ---------
    text : str
        A name, as of a speaker; no number.

    Returns
    -------
    str
        `text`, if it begins with ``=``, ``+``, ``-``, ``@``, a tab or a
        carriage return with ``'`` in front.

    Example
    -------
    >>> as_cell("=1+1"), as_cell("sad")
    ("'=1+1", 'sad')
    """
    return f"'{text}" if _FORMULA.match(text) else text


def of_cell(cell):
    """Original text of a cell that `as_cell` quoted.

    Example
    -------
    >>> of_cell("'=1+1"), of_cell("sad"), of_cell("'tis")
    ('=1+1', 'sad', "'tis")
    """
    quoted = cell.startswith("'") and _FORMULA.match(cell)
    return cell[1:] if quoted else cell
