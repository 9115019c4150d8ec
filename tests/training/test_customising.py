"""The examples of docs/customising.md run as they stand there."""

import re
import sys

import pytest
import speechbrain as sb
import torch
from scripts import RECIPES, yaml_text
from speechbrain.augment.time_domain import DropFreq

from ser_peft.heads import HEADS
from ser_peft.inference import load_model
from ser_peft.training.schedules import SCHEDULES

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


@pytest.fixture
def named_files(tmp_path, monkeypatch):
    """Folder with the guide's files, which scripts in it may import."""
    found = re.findall(
        r'```\w+ title="(?:\w+/)*(\S+)"\n(.*?)```',
        GUIDE.read_text("utf-8"),
        re.DOTALL,
    )
    for name, code in found:
        (tmp_path / name).write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.fixture
def step(brain_from, arguments, named_files):
    """Function: overrides -> a Brain that has computed one training loss."""

    def take(**overrides):
        brain = brain_from(arguments(named_files / "run", **overrides))
        batch = next(iter(brain.train_loader()))
        brain.on_stage_start(sb.Stage.TRAIN, 1)
        scores = brain.compute_forward(batch, sb.Stage.TRAIN)
        brain.compute_objectives(scores, batch, sb.Stage.TRAIN).backward()
        return brain

    return take


def test_an_augmentation_of_ones_own(step, named_files):
    path = named_files / "my_augmentation.yaml"
    brain = step(wav_augment=f"!include:{path}")
    polarity, dropped = brain.hparams.wav_augment.augmentations.values()
    assert type(polarity).__name__ == "Polarity"
    assert isinstance(dropped, DropFreq)
    wavs = torch.rand(64, 8)
    turned = polarity(wavs)
    assert turned.abs().equal(wavs)
    assert {*turned.sign().flatten().tolist()} == {-1.0, 1.0}


def test_a_head_of_ones_own(step, named_files, monkeypatch):
    monkeypatch.setitem(HEADS, "MaxHead", None)  # forgotten afterwards
    monkeypatch.delitem(sys.modules, "my_head", raising=False)
    text = yaml_text("RAVDESS/hparams/whisper_lora.yaml")
    mine = (named_files / "my_head.yaml").read_text("utf-8")
    start, head = mine.split("\n", 1)
    text = text.replace("start_from_probe: True", start)
    text, changed = re.subn(r"^head: (.+\n)+", head, text, flags=re.MULTILINE)
    assert changed == 1
    path = named_files / "own.yaml"
    path.write_text(text, encoding="utf-8")
    brain = step(hparams=path)
    brain.model.save(named_files / "model")
    model = load_model(named_files / "model")
    assert type(model.head).__name__ == "MaxHead"
    states = torch.rand(3, 2, 9, 32)
    padded = torch.cat([states, states + 9], dim=2)
    frames = torch.tensor([9, 5])
    assert model.head(padded, frames).equal(model.head(states, frames))


def test_a_schedule_of_ones_own(step, monkeypatch):
    monkeypatch.setitem(SCHEDULES, "halving", None)  # undone afterwards
    brain = step(
        brain="!name:my_schedule.EmotionBrain",
        schedule="halving",
        warmup_epochs=0,
        number_of_epochs=4,
    )
    brain.init_optimizers()
    for epoch, factor in enumerate((1.0, 0.5, 0.25, 0.125), start=1):
        brain.epoch, brain.step = epoch, 1
        brain.on_fit_batch_start(None, True)
        for name, optimizer in brain.optimizers_dict.items():
            rate = optimizer.param_groups[0]["lr"]
            assert rate == pytest.approx(brain.full_lr[name] * factor)


def test_a_method_of_ones_own(step, named_files):
    brain = step(method=named_files / "my_method.yaml")
    assert brain.encoder.method_name == "rslora"
    (adapter,) = brain.encoder.methods
    assert adapter.r == 32
    trained = [
        name for name, p in brain.encoder.named_parameters() if p.requires_grad
    ]
    assert trained and all("self_attn" in name for name in trained)
