"""The life of an adapter, for every method; the encoders that matter to it."""

from types import SimpleNamespace

import peft
import pytest
import torch

from ser_peft.adapters import (
    BottleneckConfig,
    PeftLobe,
    PromptConfig,
    load_adapter,
)
from ser_peft.errors import InputError

BACKBONES = ("wav2vec2", "hubert", "wavlm", "wavlm_large", "whisper")
METHODS = {
    # LoRA and its kin
    "lora": peft.LoraConfig(r=4),
    "rslora": peft.LoraConfig(r=4, use_rslora=True),
    "dora": peft.LoraConfig(r=4, use_dora=True),
    "pissa": peft.LoraConfig(r=4, init_lora_weights="pissa"),
    "olora": peft.LoraConfig(r=4, init_lora_weights="olora"),
    "adalora": peft.AdaLoraConfig(init_r=4, target_r=2, total_step=4),
    "adamss": peft.AdamssConfig(r=8, num_subspaces=2),
    "delora": peft.DeloraConfig(r=4),
    "glora": peft.GloraConfig(r=4),
    "gralora": peft.GraloraConfig(r=4, gralora_k=2),
    "hira": peft.HiraConfig(r=4),
    "lily": peft.LilyConfig(r=4),
    "loha": peft.LoHaConfig(r=4),
    "lokr": peft.LoKrConfig(r=4),
    "miss": peft.MissConfig(r=4),
    "pvera": peft.PveraConfig(r=8),
    "randlora": peft.RandLoraConfig(r=4),
    "tinylora": peft.TinyLoraConfig(r=4),
    "unilora": peft.UniLoraConfig(r=4),
    "vblora": peft.VBLoRAConfig(r=2, topk=2, num_vectors=16, vector_length=16),
    "vera": peft.VeraConfig(r=8),
    # rotations, spectra, masks, vectors
    "beft": peft.BeftConfig(),
    "boft": peft.BOFTConfig(boft_block_size=4),
    "c3a": peft.C3AConfig(block_size=8),
    "deft": peft.DeftConfig(),
    "fourierft": peft.FourierFTConfig(n_frequency=20),
    "frod": peft.FrodConfig(),
    "hra": peft.HRAConfig(r=4),
    "ia3": peft.IA3Config(),
    "ln_tuning": peft.LNTuningConfig(),
    "oft": peft.OFTConfig(oft_block_size=8, r=0),
    "osf": peft.OSFConfig(),
    "peanut": peft.PeanutConfig(r=4),
    "psoft": peft.PsoftConfig(r=4),
    "road": peft.RoadConfig(group_size=8),
    "shira": peft.ShiraConfig(r=2),
    "supertuning": peft.SupertuningConfig(),
    "waveft": peft.WaveFTConfig(n_frequency=20),
    # ours
    "adapter": BottleneckConfig(bottleneck=8),
    "parallel_adapter": BottleneckConfig(bottleneck=8, parallel=True),
    "prompt": PromptConfig(length=3),
    "combined": [
        PromptConfig(length=1),
        peft.LoraConfig(r=4),
        BottleneckConfig(bottleneck=8),
    ],
    "frozen": "frozen",
    "full": "full",
}
# All others are modules of PEFT around the same linears in every encoder.
EVERYWHERE = (
    "lora", "adalora", "beft", "ia3", "ln_tuning", "adapter",
    "parallel_adapter", "prompt", "combined", "frozen", "full",
)  # fmt: skip
SHIFTED_AT_START = {
    "c3a", "combined", "fourierft", "prompt", "unilora", "vblora",
}  # fmt: skip
UNMERGEABLE = {"adapter", "combined", "lily", "parallel_adapter", "prompt"}


@pytest.fixture(
    scope="module",
    params=[
        (method, name)
        for name in BACKBONES
        for method in (METHODS if name == "wavlm" else EVERYWHERE)
    ],
    ids=lambda pair: "-".join(pair),
)
def life(request, fresh_lobe, states, clips):
    """One method in one backbone: built, and trained for a few steps."""
    method, name = request.param
    plain = states(fresh_lobe(name))
    torch.manual_seed(1)
    encoder = PeftLobe(fresh_lobe(name), METHODS[method])
    start = states(encoder)
    trainable = {n: p for n, p in encoder.named_parameters() if p.requires_grad}
    moved, losses = set(), []
    target = torch.randn(plain.shape[-1])
    if trainable:
        optimizer = torch.optim.Adam(trainable.values(), lr=5e-3)
        for step in range(4):
            output = encoder(*clips)[0][-1].mean(1)
            loss = (output - target).square().mean()
            loss = loss + encoder.regularization()
            loss.backward()
            losses.append(loss.item())
            moved |= {
                n
                for n, p in trainable.items()
                if p.grad is not None and p.grad.any()
            }
            optimizer.step()
            encoder.on_step(step)
            optimizer.zero_grad()
    return SimpleNamespace(
        method=method, name=name, plain=plain, start=start, encoder=encoder,
        trainable=set(trainable), moved=moved, losses=losses,
        trained=states(encoder),
    )  # fmt: skip


def test_starts_as_the_plain_encoder(life):
    shift = (life.start - life.plain).norm() / life.plain.norm()
    if life.method in SHIFTED_AT_START:
        assert shift > 5e-5
    else:
        assert shift < 2e-6


def test_everything_that_trains_does(life):
    assert life.encoder.method_name == life.method
    assert life.moved == life.trainable
    if life.method == "frozen":
        assert not life.trainable
    else:
        assert life.losses[-1] < life.losses[0]
        assert not torch.equal(life.trained, life.start)


def test_checkpoint_restores_every_bit(life, fresh_lobe, states, tmp_path):
    life.encoder.save(tmp_path / "encoder.ckpt")
    torch.manual_seed(2)
    restored = PeftLobe(fresh_lobe(life.name), METHODS[life.method])
    restored.load(tmp_path / "encoder.ckpt")
    assert torch.equal(states(restored), life.trained)


def test_export_loads_again(life, fresh_lobe, states, tmp_path):
    life.encoder.export(tmp_path / "adapter")
    torch.manual_seed(3)
    loaded = load_adapter(fresh_lobe(life.name), tmp_path / "adapter")
    assert not any(p.requires_grad for p in loaded.parameters())
    # AdaLoRA's export leaves out the ranks that are zero.
    within = 1e-5 if life.method == "adalora" else 0
    assert torch.allclose(states(loaded), life.trained, rtol=0, atol=within)


def test_merges_into_plain_weights(life, fresh_lobe, states):
    """The last test: it uses the encoder up."""
    # Without a bias in Whisper's keys there is none to train or to merge.
    biasless = life.method == "beft" and life.name == "whisper"
    if life.method in UNMERGEABLE or biasless:
        with pytest.raises(InputError, match="merge"):
            life.encoder.merge()
        return
    merged = life.encoder.merge()
    gap = (states(merged) - life.trained).abs().max()
    assert gap < (1e-3 if life.method == "randlora" else 1e-4)
    keys = fresh_lobe(life.name).model.state_dict().keys()
    assert merged.lobe.model.state_dict().keys() == keys
