"""The site of docs/: built with warnings as errors; its commands are valid."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from scripts import RECIPES

from ser_peft.settings.arguments import parse_arguments
from ser_peft.settings.building import brain_of
from ser_peft.settings.yamls import read_settings
from ser_peft.training.checks import check_settings
from ser_peft.training.run import NEEDED, READ

REPO = Path(__file__).resolve().parents[1]
ROOMS = {path.parent.name for path in REPO.glob("ser_peft/*/__init__.py")}
INTERNAL = {"cli"}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Folder of the built site."""
    for package in ("mkdocs", "material", "mkdocstrings_handlers.python"):
        pytest.importorskip(package, reason="pip install -e '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    build = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", folder],
        cwd=REPO,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert build.returncode == 0, build.stderr
    return folder


def test_every_room_has_a_page(site):
    assert {p.stem for p in (site / "api").glob("*.html")} == ROOMS - INTERNAL


def test_arguments_are_a_table(site):
    page = (site / "api" / "heads.html").read_text("utf-8")
    assert "---------" not in page
    cells = re.findall(r"<td>\s*<code>(\w+)</code>", page)
    assert {"hidden_states", "frames", "lengths"}.intersection(cells)


def test_names_stand_once_where_to_import_them(site):
    page = (site / "api" / "training.html").read_text("utf-8")
    assert 'id="ser_peft.training.EmotionBrain"' in page
    assert 'id="ser_peft.training.emotion.EmotionBrain"' not in page
    assert 'id="ser_peft.training.schedules.cosine"' in page


def test_nothing_is_loaded_from_elsewhere(site):
    for page in site.rglob("*.html"):
        text = page.read_text("utf-8")
        assert not re.findall(r'<(?:script|img|iframe)[^>]*src="?http', text)
        assert not re.findall(r'<link[^>]*href="?http', text)


def commands():
    """Calls of train.py in the pages, but for those with files of one's own."""
    for page in sorted((REPO / "docs").glob("*.md")):
        text = page.read_text("utf-8").replace("\\\n", " ")
        for line in re.findall(r"^    python train\.py (.+)", text, re.M):
            if "my_" not in line and "--help" not in line:
                yield pytest.param(line, id=f"{page.stem}: {line[:60]}")


@pytest.mark.parametrize("line", [*commands()])
def test_commands_are_understood(line):
    name, *flags = shlex.split(line, comments=True)
    found = [path for path in RECIPES.glob(f"*/{name}") if path.is_file()]
    assert found
    for path in found:
        _, options, given = parse_arguments([str(path), *flags])
        reads = {*NEEDED, *READ, *brain_of(path, given).defaults}
        text = read_settings(str(path), given, reads, options)
        check_settings(YAML().load(text))
