"""Recipes' scripts and yamls, for tests."""

import re
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


def yaml_text(hparams, method=None):
    """Text of a recipe's yaml that builds in any folder: includes inlined.

    Arguments
    ---------
    hparams : str
        The yaml, within `RECIPES`.
    method : str, optional
        Method in place of the yaml's own.
    """

    def inline(match):
        key, name, overrides = match.groups()
        assert not overrides
        if key == "peft" and method:
            name = f"methods/{method}.yaml"
        lines = (RECIPES / name).read_text().splitlines()
        lines = [line for line in lines if not line.startswith("#")]
        tag = f" {lines.pop(0)}" if lines[0].startswith("!") else ""
        return "\n    ".join([f"{key}:{tag}", *lines])

    text = (RECIPES / hparams).read_text()
    return re.sub(
        r"^(\w+): !include:\.\./\.\./(\S+) \{(.*)\}.*$",
        inline,
        text,
        flags=re.MULTILINE,
    )
