"""Going on from a trained model, with the same classes or others."""

import json

import pytest
from safetensors.torch import load_file

from ser_peft.inference import load_model

YAMLS = ["whisper_lora", "whisper_adapter", "whisper_combined", "whisper_full"]


def trained(folder, method):
    """Adapter and head tensors of a run's model."""
    files = sorted((folder / "model").rglob("*.safetensors"))
    assert files, method
    return {str(file.relative_to(folder)): load_file(file) for file in files}


@pytest.mark.parametrize("name", YAMLS)
def test_starts_where_the_other_ended(name, train, arguments, tmp_path):
    """With learning rates of zero, what comes out is what went in."""
    hparams = f"RAVDESS/hparams/{name}.yaml"
    argv = arguments(tmp_path / "a", hparams, number_of_epochs=1)
    assert train(argv).code == 0
    more = {
        "number_of_epochs": 1,
        "init_from": tmp_path / "a",
        "start_from_probe": False,
        "adapter_lr": 0.0,
        "head_lr": 0.0,
        "weight_decay": 0.0,
    }
    end = train(arguments(tmp_path / "b", hparams, **more))
    assert end.code == 0, end.log
    before, after = trained(tmp_path / "a", name), trained(tmp_path / "b", name)
    assert before.keys() == after.keys()
    for file, tensors in before.items():
        for key, tensor in tensors.items():
            assert tensor.equal(after[file][key]), (file, key)

    end = train(
        arguments(
            tmp_path / "c", hparams, **more, classes=8, manifests_folder=None
        )
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


def test_another_method(train, arguments, tmp_path):
    argv = arguments(tmp_path / "a", number_of_epochs=1)
    assert train(argv).code == 0
    hparams = "RAVDESS/hparams/whisper_adapter.yaml"
    end = train(arguments(tmp_path / "b", hparams, init_from=tmp_path / "a"))
    assert end.code == 2
    assert "is an adapter of lora, here is adapter" in end.log
    assert not (tmp_path / "b" / "results.json").exists()
    assert json.loads((tmp_path / "a" / "results.json").read_text())
