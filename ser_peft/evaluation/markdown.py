"""Tables for a terminal, which are markdown as well."""

from ser_peft.errors import printable

__all__ = ["markdown_table"]


def markdown_table(head, rows):
    """Lay rows out as a markdown table whose columns align.

    Arguments
    ---------
    head : list of str
        Names of the columns; the first two are aligned left.
    rows : list of list of str
        Their cells.

    Returns
    -------
    str
        Ending in a newline; what a terminal cannot show is escaped.

    Example
    -------
    >>> print(markdown_table(["a", "b", "c"], [["x", "y", "10"]]), end="")
    | a | b |  c |
    | - | - | -- |
    | x | y | 10 |
    """
    rows = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = []
    for row in (head, ["-" * width for width in widths], *rows):
        cells = [
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(printable(f"| {' | '.join(cells)} |") + "\n")
    return "".join(lines)
