"""The examples of docs/customising.md run as they stand there."""

import re

import pytest
import speechbrain as sb
import torch
from scripts import RECIPES, yaml_text

GUIDE = RECIPES.parent / "docs" / "customising.md"


@pytest.fixture
def my_brain(tmp_path, monkeypatch):
    """The guide's Brain as a module beside the script."""
    code = re.search(r"```python\n(.*?)```", GUIDE.read_text("utf-8"), re.S)[1]
    assert code.count("\n") <= 20
    (tmp_path / "my_brain.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("my_brain")
def test_a_loss_of_ones_own(brain_from, arguments, tmp_path):
    flag = {"brain": "!name:my_brain.FocalBrain"}
    focal = brain_from(arguments(tmp_path / "flag", **flag))
    assert type(focal).__name__ == "FocalBrain"
    loss = torch.tensor([0.1, 2.0])
    expected = ((1 - (-loss).exp()) ** 2 * loss).sum()
    assert focal.clip_losses(loss, None).allclose(expected)
    batch = next(iter(focal.train_loader()))
    focal.on_stage_start(sb.Stage.TRAIN, 1)
    scores = focal.compute_forward(batch, sb.Stage.TRAIN)
    focal.compute_objectives(scores, batch, sb.Stage.TRAIN).backward()

    # A setting of its own is a key of the yaml, and then a flag.
    text = yaml_text("RAVDESS/hparams/whisper_lora.yaml")
    text = re.sub(
        "!name:ser_peft.training.EmotionBrain",
        "!name:my_brain.FocalBrain",
        f"gamma: 1.0\n{text}",
    )
    path = tmp_path / "focal.yaml"
    path.write_text(text)
    flat = brain_from(arguments(tmp_path / "yaml", path, gamma=0))
    assert flat.clip_losses(loss, None).allclose(loss.sum())
