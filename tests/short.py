"""Trainings that are shorter than a flag can make them."""

import re

from scripts import RECIPES, yaml_text


def short_states(hparams, folder):
    """Write a P-TAPT's yaml of phase 1 with two epochs.

    Arguments
    ---------
    hparams : str
        The P-TAPT's own, within `recipes`.
    folder : Path
        Where to.

    Returns
    -------
    Path
        What to give as ``--states``.
    """
    path = RECIPES / hparams
    text = path.read_text()
    states = path.with_name(re.search(r"^states: (\S+)", text, re.M)[1])
    text = re.sub(
        "number_of_epochs: .*",
        "number_of_epochs: 2",
        yaml_text(states.relative_to(RECIPES)),
    )
    short = folder / states.name
    short.write_text(text)
    return short
