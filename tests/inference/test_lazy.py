"""Imports that are not made before they are needed."""

import os
import subprocess
import sys

import pytest
from peft import LoraConfig

from ser_peft.adapters import PeftLobe
from ser_peft.heads import LinearHead
from ser_peft.inference import EmotionModel
from ser_peft.inference.export import export
from ser_peft.lobes import load_lobe

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
    "module",
    [
        "ser_peft",
        "ser_peft.inference.recognizer",
        "ser_peft.inference.timeline",
    ],
)
def test_recognizers_need_little(module):
    """Files of ONNX are run where nothing of this is installed."""
    script = LIGHT.format(names=HEAVY, module=module)
    subprocess.run([sys.executable, "-c", script], check=True)


WITHOUT = """
import sys
from ser_peft import load_model
model = load_model(sys.argv[1])
assert model.encoder.method_name == "{method}"
assert {lacks} == ("peft" not in sys.modules)
"""


@pytest.mark.parametrize("merge", [True, False])
def test_only_an_adapter_of_peft_imports_peft(tiny_backbones, tmp_path, merge):
    encoder = PeftLobe(load_lobe(tiny_backbones["whisper"]), LoraConfig())
    head = LinearHead(encoder, 2)
    EmotionModel(encoder, head, ["calm", "sad"]).save(tmp_path / "model")
    export(tmp_path / "model", tmp_path / "out", merge=True)
    script = WITHOUT.format(method="frozen" if merge else "lora", lacks=merge)
    folder = tmp_path / ("out" if merge else "model")
    subprocess.run([sys.executable, "-c", script, folder], check=True)


def test_lazy_names_are_there():
    import ser_peft.data
    import ser_peft.inference

    for package in (ser_peft, ser_peft.data, ser_peft.inference):
        for name in package.__all__:
            assert callable(getattr(package, name))
        with pytest.raises(AttributeError, match="has no attribute nothing"):
            package.nothing  # noqa: B018


def test_onnxruntime_tells_nobody():
    """Its telemetry is off before anything here can import it."""
    script = "import os, ser_peft; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    environment = {k: v for k, v in os.environ.items() if "ORT_" not in k}
    done = subprocess.run(
        [sys.executable, "-c", script],
        check=True,
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.stdout == "1\n"
