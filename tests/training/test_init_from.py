"""Going on from a trained model, with the same classes or others."""

import json

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file

from ser_peft.adapters import PeftLobe, load_adapter
from ser_peft.inference import load_model
from ser_peft.lobes import load_lobe

CONFIG = "adapter_config.json"

METHODS = ["lora", "combined", "full"]


@pytest.fixture(scope="module")
def start(train, arguments, tmp_path_factory):
    """Function: name of a method -> a run of it to go on from, trained once."""
    made = {}

    def find(name):
        if name not in made:
            made[name] = tmp_path_factory.mktemp("start") / name
            argv = arguments(made[name], method=name, number_of_epochs=1)
            end = train(argv)
            assert end.code == 0, end.log
        return made[name]

    return find


def trained(folder, method):
    """Adapter and head tensors of a run's model."""
    files = sorted((folder / "model").rglob("*.safetensors"))
    assert files, method
    return {str(file.relative_to(folder)): load_file(file) for file in files}


@pytest.mark.parametrize("name", METHODS)
def test_starts_where_the_other_ended(name, start, train, arguments, tmp_path):
    """With learning rates of zero, what comes out is what went in."""
    more = {
        "method": name,
        "number_of_epochs": 1,
        "init_from": start(name),
        "start_from_probe": False,
        "adapter_lr": 0.0,
        "head_lr": 0.0,
        "weight_decay": 0.0,
    }
    end = train(arguments(tmp_path / "b", **more))
    assert end.code == 0, end.log
    before, after = trained(start(name), name), trained(tmp_path / "b", name)
    assert before.keys() == after.keys()
    for file, tensors in before.items():
        for key, tensor in tensors.items():
            assert tensor.equal(after[file][key]), (file, key)

    end = train(
        arguments(tmp_path / "c", **more, classes=8, manifests_folder=None)
    )
    assert end.code == 0, end.log
    other = trained(tmp_path / "c", name)
    for file, tensors in before.items():
        for key, tensor in tensors.items():
            score = "out.2." in key or key.startswith("probe.linear.")
            assert score != tensor.equal(other[file][key]) or key.endswith(
                "out.2.bias"
            )
    assert len(load_model(tmp_path / "c").classes) == 8


def test_another_method(start, train, arguments, tmp_path):
    """LoRA is folded in under an adapter; an adapter cannot be."""
    argv = arguments(
        tmp_path / "b",
        method="adapter",
        init_from=start("lora"),
        number_of_epochs=1,
    )
    end = train(argv)
    assert end.code == 0, end.log
    adapter = tmp_path / "b" / "model" / "adapter"
    for folder, kind in (("base", "LORA"), (".", "BOTTLENECK")):
        config = json.loads((adapter / folder / CONFIG).read_text())
        assert config["peft_type"] == kind
    end = train(arguments(tmp_path / "c", init_from=tmp_path / "b"))
    assert end.code == 2
    assert "merge: adapter is a module of its own" in end.log
    assert not (tmp_path / "c" / "results.json").exists()


def test_nothing_to_start_from(train, arguments, tmp_path):
    end = train(arguments(tmp_path / "a", init_from=tmp_path / "nothing"))
    assert end.code == 2
    assert "nothing: holds no adapter; give a finished run" in end.log


def test_a_base_stays_below(tiny_backbones, tmp_path):
    """What was folded in is folded in again, and counted in no gradient."""
    wav = 0.1 * torch.randn(1, 8000)
    source = tiny_backbones["whisper"]

    def encoder(**settings):
        return PeftLobe(
            load_lobe(source), LoraConfig(r=2, init_lora_weights=False),
            **settings,
        )  # fmt: skip

    encoder().export(tmp_path / "first")
    encoder(init_from=tmp_path / "first", init_merged=True).export(
        tmp_path / "second"
    )
    third = encoder(init_from=tmp_path / "second").eval()  # carried on
    again = load_adapter(load_lobe(source), tmp_path / "second")
    with torch.no_grad():
        assert torch.allclose(third(wav)[0], again(wav)[0], atol=1e-5)
    third.export(tmp_path / "third")
    assert (tmp_path / "third" / "base").is_dir()
    whole = PeftLobe(
        load_lobe(source), "transformer", init_from=tmp_path / "third"
    ).eval()
    with torch.no_grad():
        assert torch.allclose(third(wav)[0], whole(wav)[0], atol=1e-5)
    plain = PeftLobe(load_lobe(source), "transformer")
    assert whole.num_adapter_parameters == plain.num_adapter_parameters
    front = {
        name: p
        for name, p in whole.lobe.model.named_parameters()
        if not p.requires_grad
    }
    assert {name.split(".")[0] for name in front} == {
        "conv1", "conv2", "embed_positions",
    }  # fmt: skip
