"""TAPT and P-TAPT through their scripts: what is left, what goes on from it."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file
from short import short_states

from ser_peft.adapters import PeftLobe
from ser_peft.inference import load_model
from ser_peft.lobes import load_lobe
from ser_peft.pretraining.pseudo_labels import PseudoLabels

PTAPT = "IEMOCAP/hparams/ptapt.yaml"
TAPT = "IEMOCAP/hparams/tapt.yaml"
SMALL = {
    "corpus": "ravdess",
    "protocol": "peft-ser",
    "robustness": None,
    "manifests_folder": None,
}


def ptapt(output, arguments, train, hparams=PTAPT, **overrides):
    """A tiny P-TAPT; how it ended."""
    given = {"clusters": "[4, 6]", "layer": 1, **SMALL}
    given["states"] = short_states(hparams, output.parent)
    given |= overrides
    train_, how = train, {k: given.pop(k) for k in ("kill_at",) if k in given}
    argv = arguments(output, hparams, **given)
    return train_(argv, script="train_ptapt.py", **how)


def pretraining(folder):
    """``pretraining.json``."""
    return json.loads((folder / "pretraining.json").read_text())


def outcome(folder):
    """What a P-TAPT must repeat exactly."""
    results = pretraining(folder)
    for key in ("train_seconds", "peak_memory_mb", "command"):
        results.pop(key)
    results["kept"].pop("seconds")
    files = ["labels.safetensors", "model/adapter/adapter_model.safetensors"]
    tensors = [
        {k: v.tolist() for k, v in load_file(folder / name).items()}
        for name in files
    ]
    return results, tensors


@pytest.fixture(scope="module")
def unbroken(arguments, train, tmp_path_factory):
    """A P-TAPT that nothing disturbed."""
    folder = tmp_path_factory.mktemp("ptapt") / "run"
    end = ptapt(folder, arguments, train)
    assert end.code == 0, end.log
    return folder


def test_labels_are_those_of_train_and_valid(unbroken):
    """Nothing of the test speakers is looked at."""
    labels = PseudoLabels.load(unbroken / "labels.safetensors")
    ids = {
        split: set(
            json.loads((unbroken / f"manifests/{split}.json").read_text())
        )
        for split in ("train", "valid", "test")
    }
    assert set(labels.ids) == ids["train"] | ids["valid"]
    assert not set(labels.ids) & ids["test"]
    assert labels.sizes == [4, 6]
    assert not list(unbroken.glob("frames*"))


def test_says_how_it_went(unbroken):
    results = pretraining(unbroken)
    assert results["stage"] == "ptapt"
    assert results["method"] == "transformer"
    assert results["epochs"] == 2
    kept = results["kept"]
    for size in (4, 6):
        assert 0 <= kept[f"valid_accuracy_{size}"] <= 1
        assert 1 / size <= kept[f"valid_largest_{size}"] <= 1
    assert [row["clusters"] for row in results["clusters"]] == [4, 6]
    page = (unbroken / "report.html").read_text()
    assert "<svg" in page


def test_done_again_it_says_so(unbroken, arguments, train):
    before = (unbroken / "pretraining.json").stat().st_mtime_ns
    end = ptapt(unbroken, arguments, train)
    assert end.code == 0 and "is finished" in end.log
    assert before == (unbroken / "pretraining.json").stat().st_mtime_ns


# In each phase, and between them; each start is killed at the next one.
PLACES = [
    ("hyperparams.yaml", 1),
    ("hyperparams.yaml", 3),  # of phase 1
    ("partial-CKPT", 6),
    ("encoder.safetensors", 1),
    ("pretraining.json", 1),
    ("frames.f16", 1),
    ("frames.f16", 2),
    ("labels.safetensors", 1),
    ("partial-CKPT", 6),
    ("partial-CKPT", 8),
    ("adapter_config.json", 1),
    ("report.html", 1),
    ("pretraining.json", 1),
]


def test_killed_in_any_phase(unbroken, arguments, train, tmp_path):
    for place in PLACES:
        end = ptapt(tmp_path / "run", arguments, train, kill_at=place)
        assert end.code == -9, (place, end.log)
        assert not (tmp_path / "run" / "pretraining.json").exists()
    end = ptapt(tmp_path / "run", arguments, train)
    assert end.code == 0, end.log
    assert outcome(tmp_path / "run") == outcome(unbroken)
    assert not list((tmp_path / "run").rglob("frames*"))


def test_two_processes(arguments, train, tmp_path):
    argv = arguments(
        tmp_path / "run", PTAPT, clusters="[4]", layer=1,
        states=short_states(PTAPT, tmp_path), distributed_backend="gloo",
        number_of_epochs=1, **SMALL,
    )  # fmt: skip
    end = train(argv, processes=2, script="train_ptapt.py")
    assert end.code == 0, end.log
    assert pretraining(tmp_path / "run")["processes"] == 2


def test_fine_tuning_starts_from_it(unbroken, arguments, train, tmp_path):
    """V-FT carries the same tensors on; LoRA lies on top of them."""
    still = {
        "number_of_epochs": 1, "adapter_lr": 0.0, "head_lr": 0.0,
        "init_from": unbroken, "manifests_folder": None,
    }  # fmt: skip
    wav = 0.1 * torch.randn(1, 8000)
    source = pretraining(unbroken)["backbone"]
    pretrained = PeftLobe(
        load_lobe(source), "transformer", init_from=unbroken
    ).eval()
    with torch.no_grad():
        expected = pretrained(wav)[0]
        plain = load_lobe(source).eval()(wav)[0]
    assert not torch.allclose(expected, plain, atol=1e-4)
    vft = {"hparams": "IEMOCAP/hparams/vft.yaml", "corpus": "ravdess"}
    vft["protocol"] = "peft-ser"
    for name, more in (("vft", vft), ("lora", {"frame_stride": 1})):
        end = train(arguments(tmp_path / name, **still, **more))
        assert end.code == 0, end.log
        model = load_model(tmp_path / name)
        with torch.no_grad():
            assert torch.allclose(model.encoder(wav)[0], expected, atol=1e-5)
        adapter = tmp_path / name / "model" / "adapter"
        assert (adapter / "base").is_dir() == (name == "lora")


def test_adapter_carried_on_or_merged(arguments, train, tmp_path):
    """PEFT-P-TAPT's adapter goes on, or a fresh one comes on top of it."""
    end = ptapt(
        tmp_path / "pre", arguments, train, method="lora", number_of_epochs=1
    )
    assert end.code == 0, end.log
    for name, more in {
        "carried": {},
        "merged": {"init_merged": "True"},
        "whole": {},
    }.items():
        yaml = "RAVDESS/hparams/whisper_lora.yaml"
        if name == "whole":
            yaml = "IEMOCAP/hparams/vft.yaml"
            more = {"corpus": "ravdess", "protocol": "peft-ser"}
        end = train(
            arguments(
                tmp_path / name, yaml,
                number_of_epochs=1, init_from=tmp_path / "pre", **more,
                manifests_folder=None,
            )
        )  # fmt: skip
        assert end.code == 0, end.log
        adapter = tmp_path / name / "model" / "adapter"
        assert (adapter / "base").is_dir() == (name != "carried")
        wav = 0.1 * torch.randn(1, 8000)
        model = load_model(tmp_path / name)
        assert model(wav).shape == (1, 4)


@pytest.mark.parametrize("labels", ["random", "unsupervised"])
def test_controls(labels, arguments, train, tmp_path):
    more = {"labels": "random"} if labels == "random" else {"states": ""}
    end = ptapt(tmp_path / "run", arguments, train, number_of_epochs=1, **more)
    assert end.code == 0, end.log
    assert (tmp_path / "run" / "states").exists() == (labels == "random")


def test_tapt(tiny_pretrained, arguments, train, tmp_path):
    argv = arguments(tmp_path / "run", TAPT, backbone=tiny_pretrained, **SMALL)
    end = train(argv, script="train_tapt.py")
    assert end.code == 0, end.log
    results = pretraining(tmp_path / "run")
    assert results["stage"] == "tapt"
    assert 0 <= results["kept"]["valid_accuracy"] <= 1
    assert 1 <= results["kept"]["valid_perplexity"] <= 16
    objective = load_file(tmp_path / "run/model/objective.safetensors")
    assert any(name.startswith("quantizer") for name in objective)


def test_tapt_of_another_encoder(arguments, train, tmp_path):
    argv = arguments(tmp_path / "run", TAPT, **SMALL)
    end = train(argv, script="train_tapt.py")
    assert end.code == 2
    assert "whisper was pretrained without the quantiser" in end.log


def test_frozen_encoder_cannot_be_pretrained(arguments, train, tmp_path):
    end = ptapt(tmp_path / "run", arguments, train, encoder="{method: frozen}")
    assert end.code == 2
    assert "pretraining trains an encoder" in end.log


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("clusters", "64", "clusters: 64 is no list"),
        ("clusters", "[1]", "is no list of numbers from 2 to 65536"),
        ("layer", 0, "layer: 0 is no whole number from 1"),
        ("layer", 7, "layer: 7: .* has layers 1 to 2"),
        ("labels", "gold", "labels: gold is not one of clusters, random"),
        ("keep", "average", "keep: average is for trainings"),
    ],
)
def test_unfit_settings(key, value, says, arguments, train, tmp_path):
    end = ptapt(tmp_path / "run", arguments, train, **{key: value})
    assert end.code == 2
    assert re.search(says, end.log), end.log
    assert not (tmp_path / "run" / "hyperparams.yaml").exists()


def test_no_such_states_yaml(arguments, train, tmp_path):
    end = ptapt(tmp_path / "run", arguments, train, states="nope.yaml")
    assert end.code == 2
    assert "states: " in end.log and "nope.yaml: is no yaml with" in end.log
