"""Frozen layers: their states are computed once, and change no result."""

import numpy as np
import peft
import pytest
import speechbrain as sb
import torch

import ser_peft.data.batches
from ser_peft.adapters import BottleneckConfig, PeftLobe
from ser_peft.errors import InputError
from ser_peft.lobes import SpanMask, load_lobe
from ser_peft.training.states import FrozenStates

NAMES = ("wav2vec2", "hubert", "wavlm", "wavlm_large", "whisper")


# ------------------------------------------------------------ states, kept


def test_what_is_kept_comes_back_padded_with_zeros():
    kept = FrozenStates(1)
    states = torch.randn(3, 2, 6, 4, generator=torch.Generator().manual_seed(0))
    kept.put("encoder", ["a", "b"], states, torch.tensor([6, 4]))
    again, frames = kept.batch("encoder", ["b", "a"])
    assert frames.tolist() == [4, 6] and again.dtype == torch.float32
    assert torch.equal(again[:, 1], states[:, 0].half().float())
    assert torch.equal(again[:, 0, :4], states[:, 1, :4].half().float())
    assert not again[:, 0, 4:].any()


def test_some_of_a_batch_may_be_fresh():
    kept = FrozenStates(1)
    kept.put("encoder", ["a"], torch.ones(1, 1, 3, 2), torch.tensor([3]))
    fresh = torch.full((1, 1, 5, 2), 2.0), torch.tensor([5])
    states, frames = kept.batch("encoder", ["b", "a"], fresh)
    assert frames.tolist() == [5, 3]
    assert states[0, :, 0, 0].tolist() == [2, 1]


def test_the_budget_is_not_exceeded():
    kept = FrozenStates(2e-9 * 3 * 4)  # one clip of 3 frames, 4 channels
    kept.put("encoder", "ab", torch.ones(1, 2, 3, 4), torch.tensor([3, 3]))
    assert ("encoder", "a") in kept and ("encoder", "b") not in kept
    assert kept.full


def test_what_float16_cannot_hold_stays_as_it_is():
    kept = FrozenStates(1)
    kept.put("encoder", "a", torch.full((1, 1, 1, 1), 1e6), torch.tensor([1]))
    assert kept.batch("encoder", "a")[0].item() == 1e6


def test_trimming_gives_room():
    kept = FrozenStates(1)
    kept.put("encoder", "a", torch.ones(5, 1, 2, 2), torch.tensor([2]))
    left = kept.left
    kept.trim("encoder", 1)
    assert len(kept.batch("encoder", "a")[0]) == 2
    assert kept.left == left + 3 * 2 * 2 * 2
    kept.trim("encoder", None)
    assert ("encoder", "a") not in kept and kept.left == 1e9


# ---------------------------------------------------------------- encoders


@pytest.mark.parametrize("name", NAMES)
def test_above_goes_on_from_below(tiny_backbones, name):
    """In train mode too: nothing random is left in frozen layers."""
    encoder = PeftLobe(load_lobe(tiny_backbones[name]), peft.LoraConfig(r=2))
    generator = torch.Generator().manual_seed(0)
    clips = (
        0.1 * torch.randn(2, 8000, generator=generator),
        torch.tensor([1.0, 0.6]),
    )
    encoder.train()
    before = torch.get_rng_state()
    states, frames = encoder(*clips)
    assert torch.equal(torch.get_rng_state(), before)
    for layers in range(3):
        below = encoder.below(*clips, layers)
        assert len(below[0]) == layers + 1
        again, same = encoder(None, below=below)
        assert torch.equal(same, frames)
        inside = torch.arange(states.shape[2]) < frames[:, None]
        assert torch.allclose(
            again[:, inside], states[:, inside], rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize(
    ("method", "layers", "frozen"),
    [
        ("frozen", None, 2),
        ("full", None, None),
        ("full", [1], 1),
        ("transformer", None, None),
        (peft.LoraConfig(r=2), None, 0),
        (peft.LoraConfig(r=2), [1], 1),
        (
            peft.LoraConfig(
                r=2, target_modules=["feature_projection.projection"]
            ),
            None,
            None,
        ),
        (BottleneckConfig(2), [1], 1),
        (
            peft.LNTuningConfig(target_modules=["encoder.layer_norm"]),
            None,
            None,
        ),
    ],
)
def test_frozen_layers(tiny_backbones, method, layers, frozen):
    torch.manual_seed(0)
    lobe = load_lobe(tiny_backbones["wav2vec2"])
    encoder = PeftLobe(lobe, method, layers=layers)
    assert encoder.frozen_layers == frozen


@pytest.mark.parametrize("method", ["full", peft.LoraConfig(r=2)])
def test_frozen_dropout(tiny_backbones, method):
    """On where it is asked for, and where the encoder itself trains."""
    lobe = load_lobe(tiny_backbones["wav2vec2"])
    encoder = PeftLobe(lobe, method, frozen_dropout=method != "full").train()
    layer = encoder.lobe.layers[0]
    assert layer.dropout.training and layer.attention.training
    assert encoder.frozen_layers is None or not encoder.quiet


def test_a_method_keeps_its_own_dropout(tiny_backbones):
    lobe = load_lobe(tiny_backbones["whisper"])
    config = peft.LoraConfig(r=2, lora_dropout=0.5)
    encoder = PeftLobe(lobe, config).train()
    layer = encoder.lobe.layers[0]
    assert layer.fc1.lora_dropout["default"].training
    assert not layer.training


def test_a_mask_is_random(tiny_backbones):
    lobe = load_lobe(tiny_backbones["whisper"])
    encoder = PeftLobe(lobe, "frozen", mask=SpanMask(0.5))
    assert not encoder.quiet


# ---------------------------------------------------------------- training

WHOLE = {"augment": False, "crop": 1}
VERSIONS = {"augmented_versions": 2, "number_of_epochs": 3}


def outcome(brain):
    """Valid losses by epoch and probabilities of the last one."""
    losses = [epoch["valid_loss"] for epoch in brain.history]
    return losses, brain.measured["probabilities"]


@pytest.mark.parametrize("method", ["frozen", "lora"])
@pytest.mark.parametrize("how", [WHOLE, VERSIONS])
def test_keeping_states_changes_no_result(
    new_brain, fit, tmp_path, monkeypatch, method, how
):
    """Nor reads or encodes what is kept again."""
    read, encoded = [], []
    real = ser_peft.data.batches.read_audio
    monkeypatch.setattr(
        ser_peft.data.batches,
        "read_audio",
        lambda path: read.append(path) or real(path),
    )
    real_below = PeftLobe.below

    def below(self, wavs, *args, **kwargs):
        encoded.append(len(wavs))
        return real_below(self, wavs, *args, **kwargs)

    monkeypatch.setattr(PeftLobe, "below", below)
    found = []
    for gigabytes in (0, 1, 5e-5):
        read.clear(), encoded.clear()
        brain = new_brain(
            tmp_path / str(gigabytes),
            method=method,
            cache_gb=gigabytes,
            start_from_probe=False,
            **how,
        )
        found.append(outcome(fit(brain)))
        clips = {split: len(data) for split, data in brain.sets.items()}
        versions = how.get("augmented_versions", 1)
        once = versions * clips["train"] + clips["valid"]
        epochs = len(brain.history)
        if gigabytes == 1:
            assert len(read) == sum(encoded) == once
        elif gigabytes == 0:
            assert len(read) == epochs * (clips["train"] + clips["valid"])
            assert not encoded
        else:
            assert brain.kept.full and brain.kept.clips
    for losses, probabilities in found[1:]:
        assert np.allclose(losses, found[0][0], atol=1e-3)
        assert np.allclose(probabilities, found[0][1], atol=1e-3)


def test_a_version_is_the_same_whatever_is_drawn_around_it(new_brain, tmp_path):
    brain = new_brain(tmp_path, cache_gb=0, **VERSIONS)
    brain.on_stage_start(sb.Stage.TRAIN, 1)
    dataset = brain.sets["train"]
    first = dataset[0]["sig"]
    torch.rand(3)
    assert torch.equal(dataset[0]["sig"], first)
    ids = [dataset.data_ids[0]]
    ones = torch.ones(1)
    heard, _ = brain.this_version(first[None], ones, ids)
    torch.rand(3)
    again, _ = brain.this_version(first[None], ones, ids)
    assert torch.equal(again, heard)
    brain.on_stage_start(sb.Stage.TRAIN, 2)
    other = dataset[0]["sig"]
    assert other.shape != first.shape or not torch.equal(other, first)
    brain.on_stage_start(sb.Stage.TRAIN, 3)
    assert torch.equal(dataset[0]["sig"], first)


def test_versions_want_one_clip_of_each(new_brain, tmp_path):
    brain = new_brain(
        tmp_path, wav_augment="{concat_original: True}", **VERSIONS
    )
    with pytest.raises(InputError, match="augmented_versions: .* 2 clips"):
        brain.on_stage_start(sb.Stage.TRAIN, 1)


def test_resting_layers_are_kept_whole_and_trimmed(new_brain, fit, tmp_path):
    brain = new_brain(tmp_path, head_epochs=1, start_from_probe=False, **WHOLE)
    brain.on_stage_start(sb.Stage.TRAIN, 1)
    assert {len(clip) for clip in brain.kept.clips.values()} == {3}
    brain.on_stage_start(sb.Stage.TRAIN, 2)
    assert {len(clip) for clip in brain.kept.clips.values()} == {1}
