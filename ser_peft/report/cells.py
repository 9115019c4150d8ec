"""Cells that several tables have."""

__all__ = ["interval_cell", "paired_cells"]


def paired_cells(compared):
    """Cells of a paired difference: points, their interval, p.

    Arguments
    ---------
    compared : dict
        `difference`, `ci95`, `p` and `reason`, of
        `ser_peft.evaluation.paired.paired_difference`.

    Returns
    -------
    list of str

    Example
    -------
    >>> found = {"difference": 0.021, "ci95": [-0.01, 0.05], "p": 0.0004}
    >>> paired_cells(found)
    ['+2.1', '-1.0 to +5.0', '<0.001']
    >>> few = "3 speakers, 4 are needed"
    >>> paired_cells(found | {"ci95": None, "p": None, "reason": few})
    ['+2.1', 'none: 3 speakers, 4 are needed', '–']
    """
    p = compared["p"]
    if p is None:
        shown = "–"
    else:
        shown = f"{p:.3f}" if p >= 0.001 else "<0.001"
    # Adding 0 turns -0.0 into 0.0.
    points = f"{round(100 * compared['difference'], 1) + 0:+.1f}"
    return [points, interval_cell(compared, "{:+.1f}"), shown]


def interval_cell(found, form):
    """Cell of an interval in %, or the reason why there is none.

    Arguments
    ---------
    found : dict
        `ci95`, two fractions or None, and `reason` if it is None.
    form : str
        Format of an end of the interval.

    Returns
    -------
    str
    """
    if found["ci95"] is None:
        return f"none: {found['reason']}"
    return " to ".join(form.format(100 * end) for end in found["ci95"])
