"""The tables of recipes in SpeechBrain's format, and what it checks by them."""

import csv
import re
from pathlib import Path

import pytest
from scripts import RECIPES

from ser_peft.settings.flags import RunOptions

ROOT = RECIPES.parent
ROWS = [
    row
    for path in sorted(Path(__file__).parent.glob("*.csv"))
    for row in csv.DictReader(path.read_text("utf-8").splitlines())
]


def test_every_yaml_has_a_row():
    listed = [row["Hparam_file"] for row in ROWS]
    yamls = RECIPES.glob("*/hparams/*.yaml")
    assert sorted(listed) == sorted(str(p.relative_to(ROOT)) for p in yamls)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["Hparam_file"])
def test_a_row_names_files_that_fit(row):
    """And every key of a yaml is used, by itself or by the script."""
    for name in ("Script_file", "Hparam_file", "Data_prep_file", "Readme_file"):
        assert (ROOT / row[name]).is_file(), name
    script = (ROOT / row["Script_file"]).read_text("utf-8")
    text = (ROOT / row["Hparam_file"]).read_text("utf-8")
    assert Path(row["Hparam_file"]).name in (
        ROOT / row["Readme_file"]
    ).read_text("utf-8")
    keys = re.findall(r"^([a-z]\w*):(?! *!apply)", text, re.MULTILINE)
    used = set(re.findall(r"<(\w+)[\[>]", text))
    used |= set(re.findall(r'hparams(?:\[|\.get\()"(\w+)"', script))
    assert {*keys} <= used | RunOptions().as_dict().keys()
