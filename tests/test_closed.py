"""Nothing of a download is run."""

import ast
from pathlib import Path

import ser_peft

PACKAGE = Path(ser_peft.__file__).parent
PLAIN = ("Config", "Tokenizer", "FeatureExtractor")
"""Endings of the names of classes that have no weights."""


def test_no_from_pretrained_runs_code_or_unpickles():
    """Each says so itself: left out, transformers asks at the terminal."""
    found = 0
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            called = isinstance(node, ast.Call) and node.func
            name = getattr(called, "attr", None)
            owner = ast.unparse(getattr(called, "value", called or node))
            if name not in ("from_pretrained", "from_config"):
                continue
            found += 1
            said = {word.arg: ast.unparse(word.value) for word in node.keywords}
            where = f"{path}:{node.lineno}"
            assert said["trust_remote_code"] == "False", where
            if name == "from_pretrained" and not owner.endswith(PLAIN):
                assert said["use_safetensors"] == "True", where
    assert found >= 7
