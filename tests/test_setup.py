"""Requirements and data of an installation."""

import re
import runpy
from pathlib import Path

import pytest
from packaging.requirements import Requirement

SETUP = Path(__file__).resolve().parents[1] / "setup.py"


def test_cpu_wheels_of_torch_will_do():
    """They have a local version, as 2.11.0+cpu."""
    found = re.findall(r'"(torch(?:audio)?==[\d.]+)"', SETUP.read_text())
    versions = {Requirement(text).name: Requirement(text) for text in found}
    assert {*versions} == {"torch", "torchaudio"}
    for requirement in versions.values():
        exact = str(requirement.specifier).removeprefix("==")
        for version in (exact, f"{exact}+cpu", f"{exact}+cu128"):
            assert requirement.specifier.contains(version)


@pytest.mark.parametrize(
    ("package", "folder"),
    [("ser_peft", "methods"), ("ser_peft.report", "templates")],
)
def test_data_are_shipped(monkeypatch, package, folder):
    """A wheel without them has no methods, and could not write a report."""
    given = {}
    monkeypatch.setattr("setuptools.setup", given.update)
    runpy.run_path(str(SETUP))
    root = SETUP.parent / package.replace(".", "/")
    patterns = given["package_data"][package]
    shipped = {file for pattern in patterns for file in root.glob(pattern)}
    assert shipped >= {*(root / folder).iterdir()}
