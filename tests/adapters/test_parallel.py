"""Two LoRAs beside each other, behind learned gates."""

import json
import re

import pytest
import torch
from peft import LoraConfig

from ser_peft.adapters import BottleneckConfig, PeftLobe, load_adapter
from ser_peft.adapters.parallel import gates_of
from ser_peft.errors import InputError
from ser_peft.lobes import load_lobe

HOW = ["frozen", "trained"]


def new(source, method=None, **settings):
    """A PeftLobe of a tiny backbone, by default with a new LoRA."""
    method = method or LoraConfig(r=3, lora_alpha=6)
    return PeftLobe(load_lobe(source), method, **settings)


@pytest.fixture(scope="module")
def start(tiny_backbones, tmp_path_factory):
    """Function: family -> folder of a trained LoRA for its backbone."""
    made = {}

    def find(family):
        if family not in made:
            made[family] = tmp_path_factory.mktemp("start") / family
            config = LoraConfig(r=2, lora_alpha=8, init_lora_weights=False)
            new(tiny_backbones[family], config).export(made[family])
        return made[family]

    return find


def states(encoder):
    """Hidden states of noise."""
    wav = 0.1 * torch.randn(2, 8000, generator=torch.manual_seed(1))
    with torch.no_grad():
        return encoder.eval()(wav)[0]


def shaken(encoder):
    """The encoder after all that trains has moved."""
    with torch.no_grad():
        for p in encoder.parameters():
            if p.requires_grad:
                p.add_(0.1 * torch.randn_like(p))
    return encoder


def trains(encoder):
    """Names of trained tensors, without their module's."""
    names = encoder.lobe.model.named_parameters()
    kinds = (re.search(r"lora_.*", n)[0] for n, p in names if p.requires_grad)
    return {re.sub(r"parametrizations\.weight\.", "", kind) for kind in kinds}


@pytest.mark.parametrize("family", ["whisper", "wavlm"])
@pytest.mark.parametrize("how", HOW)
def test_starts_as_the_start_and_is_written_as_one(
    tiny_backbones, start, how, family, tmp_path
):
    source = tiny_backbones[family]
    encoder = new(source, init_from=start(family), init_parallel=how)
    first = states(load_adapter(load_lobe(source), start(family)))
    assert torch.allclose(states(encoder), first, atol=1e-5)
    assert encoder.gates == {"start": 1, "default": 1}
    moved = {"lora_A.default.weight", "lora_B.default.original"}
    moved |= {"lora_B.default.0.gate", "lora_B.start.0.gate"}
    if how == "trained":
        moved |= {"lora_A.start.weight", "lora_B.start.original"}
    assert trains(encoder) == moved

    last = states(shaken(encoder))
    assert not torch.allclose(last, first, atol=1e-2)
    encoder.export(tmp_path / "two")
    assert trains(encoder) == moved
    assert torch.equal(states(encoder), last)
    content = json.loads((tmp_path / "two/adapter_config.json").read_text())
    assert content["r"] == 2 + 3
    files = {path.name for path in (tmp_path / "two").iterdir()}
    assert files == {"adapter_config.json", "adapter_model.safetensors"}
    found = load_adapter(load_lobe(source), tmp_path / "two")
    assert found.num_saved_bytes == encoder.num_saved_bytes
    assert torch.allclose(states(found), last, atol=1e-4)
    assert torch.allclose(states(encoder.merge()), last, atol=1e-4)


@pytest.mark.parametrize("how", HOW)
def test_a_checkpoint_has_all_of_it(tiny_backbones, start, how, tmp_path):
    source = tiny_backbones["whisper"]
    settings = {"init_from": start("whisper"), "init_parallel": how}
    encoder = shaken(new(source, **settings))
    encoder.save(tmp_path / "a.ckpt")
    again = new(source, **settings)
    again.load(tmp_path / "a.ckpt")
    assert torch.equal(states(again), states(encoder))
    assert again.gates == encoder.gates


def test_gates_learn(tiny_backbones, start):
    """Each its own, from a loss on the states; what is frozen stays."""
    encoder = new(
        tiny_backbones["whisper"],
        init_from=start("whisper"),
        init_parallel="frozen",
    )
    kept = {
        name: p.detach().clone()
        for name, p in encoder.lobe.model.named_parameters()
        if not p.requires_grad
    }
    goal = torch.randn_like(states(encoder))
    trained = [p for p in encoder.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=0.01)
    wav = 0.1 * torch.randn(2, 8000, generator=torch.manual_seed(1))
    losses = []
    for _ in range(4):
        loss = (encoder.train()(wav)[0] - goal).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)
    for gates in gates_of(encoder.lobe).values():
        found = torch.stack(gates).tolist()
        assert 1 not in found and len({*found}) == len(found)
    for name, p in encoder.lobe.model.named_parameters():
        assert name not in kept or torch.equal(p, kept[name])


def test_a_start_that_has_not_trained(tiny_backbones, tmp_path):
    """Where valid kept the linear probe, its LoRA is still zero."""
    source = tiny_backbones["whisper"]
    new(source).export(tmp_path)
    encoder = new(source, init_from=tmp_path, init_parallel="frozen")
    assert encoder.gates == {"default": 1}
    encoder = new(source, init_from=tmp_path, init_parallel="trained")
    assert encoder.gates == {"default": 1, "start": 1}


def test_merged_below_equals_frozen_beside(tiny_backbones, start):
    """Sequential and parallel are one and the same while the gates are 1."""
    source = tiny_backbones["whisper"]
    config = LoraConfig(r=3, init_lora_weights=False)
    merged, beside = (
        new(source, config, init_from=start("whisper"), **settings)
        for settings in ({"init_merged": True}, {"init_parallel": "frozen"})
    )
    tensors = merged.lobe.model.state_dict()
    with torch.no_grad():
        for name, p in beside.lobe.model.named_parameters():
            if ".default." in name and not name.endswith("gate"):
                name = name.replace(
                    "parametrizations.weight.original", "weight"
                )
                p.copy_(tensors[name])
    assert torch.allclose(states(merged), states(beside), atol=1e-4)


def test_what_the_start_was_built_on_stays_below(
    tiny_backbones, start, tmp_path
):
    source, out = tiny_backbones["whisper"], tmp_path / "second"
    config = LoraConfig(r=2, init_lora_weights=False)
    second = new(source, config, init_from=start("whisper"), init_merged=True)
    second.export(out)
    third = shaken(new(source, init_from=out, init_parallel="trained"))
    third.export(tmp_path / "third")
    assert (tmp_path / "third" / "base").is_dir()
    again = load_adapter(load_lobe(source), tmp_path / "third")
    assert torch.allclose(states(again), states(third), atol=1e-4)


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        (None, {"init_parallel": "both"}, "both is not one of None, frozen"),
        (None, {"init_merged": True}, "without init_merged; .* True"),
        (LoraConfig(use_dora=True), {}, "the method dora"),
        (BottleneckConfig(), {}, "the method adapter"),
        ("full", {}, "the method full"),
        (LoraConfig(lora_bias=True), {}, "a LoRA with biases cannot"),
    ],
)
def test_refused(tiny_backbones, start, method, settings, message):
    settings = {"init_parallel": "frozen", **settings}
    with pytest.raises(InputError, match=f"init_parallel: .*{message}"):
        new(
            tiny_backbones["whisper"],
            method,
            init_from=start("whisper"),
            **settings,
        )


def test_of_another_backbone(tiny_backbones, start):
    with pytest.raises(InputError, match="[Tt]arget"):
        new(
            tiny_backbones["wavlm"],
            init_from=start("whisper"),
            init_parallel="frozen",
        )


def test_nothing_to_keep_beside(tiny_backbones):
    """One yaml for both stages."""
    encoder = new(tiny_backbones["whisper"], init_parallel="frozen")
    assert encoder.gates == {}
    assert trains(encoder) == {"lora_A.default.weight", "lora_B.default.weight"}
