"""Recipes' scripts and yamls, for tests."""

import runpy
import sys
from pathlib import Path
from unittest.mock import patch

RECIPES = Path(__file__).resolve().parents[1] / "recipes"


def run_script(argv):
    """Run ``python train.py`` in this process."""
    script = str(RECIPES / "train.py")
    with patch.object(sys, "argv", [script, *map(str, argv)]):
        runpy.run_path(script, run_name="__main__")


def yaml_text(hparams):
    """Text of a recipe's yaml that builds in any folder.

    Arguments
    ---------
    hparams : str
        The yaml, within `RECIPES`.
    """
    text = (RECIPES / hparams).read_text()
    return text.replace("!include:../..", f"!include:{RECIPES}")
