"""Imports that are not made before they are needed."""

import subprocess
import sys

import pytest

LIGHT = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names}:
            raise ImportError(f"{{name}} is not to be imported")
sys.meta_path.insert(0, Refuse())
import {module}
"""
HEAVY = [
    "torch", "transformers", "speechbrain", "peft", "pydantic", "safetensors",
    "tqdm", "sklearn", "scipy", "huggingface_hub",
]  # fmt: skip


@pytest.mark.parametrize(
    "module", ["ser_peft", "ser_peft.inference.recognizer"]
)
def test_recognizers_need_little(module):
    """Files of ONNX are run where nothing of this is installed."""
    script = LIGHT.format(names=HEAVY, module=module)
    subprocess.run([sys.executable, "-c", script], check=True)


def test_lazy_names_are_there():
    import ser_peft.data
    import ser_peft.inference

    for package in (ser_peft, ser_peft.data, ser_peft.inference):
        for name in package.__all__:
            assert callable(getattr(package, name))
        with pytest.raises(AttributeError, match="has no attribute nothing"):
            package.nothing  # noqa: B018
