"""What an installation asks for."""

import re
import runpy
from pathlib import Path

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


def test_templates_are_shipped(monkeypatch):
    """A wheel without them could not write a report."""
    given = {}
    monkeypatch.setattr("setuptools.setup", given.update)
    runpy.run_path(str(SETUP))
    report = SETUP.with_name("ser_peft") / "report"
    patterns = given["package_data"]["ser_peft.report"]
    shipped = {file for pattern in patterns for file in report.glob(pattern)}
    assert shipped >= {*(report / "templates").iterdir()}
