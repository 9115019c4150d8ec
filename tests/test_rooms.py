"""The rooms of the package: who imports whom, and how large a file is."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "ser_peft"
# From the foundations up: a room imports from its own line and from those
# above it.
ORDER = (
    ("errors", "io", "device", "lazy"),
    ("storage", "settings", "corpora"),
    ("lobes",),
    ("data",),
    ("adapters", "heads"),
    ("pretraining",),
    ("inference",),
    ("evaluation",),
    ("report",),
    ("service",),
    ("training",),
    ("crossval",),
    ("tune",),
    ("cli",),
)
LEVEL = {room: level for level, rooms in enumerate(ORDER) for room in rooms}
FILES = sorted(PACKAGE.rglob("*.py"))


def room(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


@pytest.mark.parametrize(
    "path", FILES, ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_imports_point_down(path):
    """Imports inside functions count as well."""
    if path == PACKAGE / "__init__.py":
        pytest.skip("is above all rooms, which it hands on when asked")
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom):
            names = [node.module]
            if node.module == "ser_peft":
                names = [f"ser_peft.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            package, *parts = name.split(".")
            if package == "ser_peft":
                here = room(path)
                assert parts[0] == here or LEVEL[parts[0]] <= LEVEL[here], name


def test_every_room_has_its_level():
    assert {room(path) for path in FILES} - {"__init__"} == {*LEVEL}


def test_no_file_outgrows_its_room():
    lines = {p: len(p.read_text("utf-8").splitlines()) for p in FILES}
    assert {str(p): n for p, n in lines.items() if n > 400} == {}
