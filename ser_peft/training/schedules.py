"""Learning-rate factors as functions of progress and past valid losses.

Pure functions: nothing to save, and a resumed run gets the same rates.
"""

import math

__all__ = ["SCHEDULES", "constant", "cosine", "linear", "plateau"]


def constant(progress, losses):
    """Always one."""
    return 1.0


def cosine(progress, losses):
    """From one to zero along half a cosine.

    Arguments
    ---------
    progress : float
        Share of the training that is done, in [0, 1].
    losses : list of float
        Unused.

    Example
    -------
    >>> cosine(0.5, [])
    0.5...
    """
    return 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))


def linear(progress, losses, flat=0.05):
    """One for a while, then in a straight line to zero.

    Arguments
    ---------
    progress : float
        Share of the training that is done, in [0, 1].
    losses : list of float
        Unused.
    flat : float
        Share that is flat; the published TAPT's.

    Example
    -------
    >>> linear(0.05, []), linear(1.0, [])
    (1.0, 0.0)
    """
    return min(1.0, (1.0 - progress) / (1.0 - flat))


def plateau(progress, losses, factor=0.5, patience=5, lowest=0.1):
    """Halved whenever the valid loss has not fallen for `patience` epochs.

    Arguments
    ---------
    progress : float
        Unused.
    losses : list of float
        Valid loss of every finished epoch.
    factor, patience, lowest : float, int, float
        PEFT-SER's: 0.5, 5 epochs, a tenth of the starting rate.

    Example
    -------
    >>> plateau(0, [1.0, 1.1, 1.1, 1.1, 1.1, 1.1, 1.1])
    0.5
    """
    scale, best, waited = 1.0, math.inf, 0
    for loss in losses:
        if loss < best:
            best, waited = loss, 0
        else:
            waited += 1
            if waited > patience:
                scale, waited = scale * factor, 0
    return max(scale, lowest)


SCHEDULES = {
    "constant": constant,
    "cosine": cosine,
    "linear": linear,
    "plateau": plateau,
}
