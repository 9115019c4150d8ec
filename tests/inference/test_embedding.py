"""Vectors of recordings, as the head and as the layers have them."""

import csv

import numpy as np
import peft
import pytest
import soundfile
import torch
from safetensors.numpy import load_file

from ser_peft.adapters import PeftLobe
from ser_peft.cli import main
from ser_peft.data import read_audio
from ser_peft.heads import ProbeMixHead
from ser_peft.inference import EmotionModel


@pytest.fixture(scope="module")
def model(tiny_backbones):
    """A tiny Whisper with LoRA."""
    from ser_peft.lobes import load_lobe

    torch.manual_seed(0)
    method = peft.LoraConfig(init_lora_weights=False)
    encoder = PeftLobe(load_lobe(tiny_backbones["whisper"]), method)
    classes = ["sad", "happy"]
    head = ProbeMixHead(encoder, classes)
    return EmotionModel(encoder, head, classes).eval()


@pytest.mark.parametrize("suffix", [".npy", ".safetensors"])
@pytest.mark.parametrize("layer", [None, 0, -1])
def test_vectors_are_the_models_own(model, tmp_path, suffix, layer, capsys):
    folder = tmp_path / "clips"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for i in range(3):
        wav = generator.normal(0, 0.1, 8000 + 3000 * i)
        soundfile.write(folder / f"{i}.wav", wav, 16000)
    (folder / "bad.wav").touch()
    model.save(tmp_path / "model")
    out = tmp_path / f"vectors{suffix}"
    argv = ["embed", tmp_path / "model", folder, "--out", out]
    argv += ["--precision", "fp32"]
    argv += [] if layer is None else [f"--layer={layer}"]
    with pytest.raises(SystemExit) as stop:
        main([*map(str, argv)])
    assert stop.value.code == 2
    assert "1 of 4 recordings cannot be used" in capsys.readouterr().err
    found = np.load(out) if suffix == ".npy" else load_file(out)["vectors"]
    with open(f"{out}.csv", newline="", encoding="utf-8") as file:
        index = [*csv.DictReader(file)]
    assert [bool(row["problem"]) for row in index] == [False] * 3 + [True]
    assert np.isnan(found[3]).all()
    assert {path.name for path in tmp_path.iterdir()} == {
        "clips", "model", out.name, f"{out.name}.csv",
    }  # fmt: skip
    for row, vector in zip(index[:3], found, strict=False):
        wav = read_audio(row["path"])[None]
        assert float(row["seconds"]) == pytest.approx(
            wav.shape[1] / 16000, abs=1e-3
        )
        with torch.no_grad():
            states, frames = model.encoder(wav)
            if layer is None:
                expected = model.head.embed(states, frames)[0]
                assert vector.shape == (model.head.vector_size,)
            else:
                expected = states[layer][0].mean(0)
        np.testing.assert_allclose(vector, expected, atol=1e-4)


def test_embed_refuses(model, tmp_path, capsys):
    model.save(tmp_path / "model")
    (tmp_path / "bad.wav").touch()
    for out, more, message in (
        ("a.txt", [], "ends in .npy or .safetensors"),
        ("a.npy", ["--layer=9"], "--layer 9: the encoder has hidden states 0"),
        ("a.npy", [], "none of 1 can be used"),
    ):
        argv = ["embed", tmp_path / "model", tmp_path / "bad.wav", "--out"]
        with pytest.raises(SystemExit):
            main([*map(str, argv), str(tmp_path / out), *more])
        assert message in capsys.readouterr().err
        assert {p.name for p in tmp_path.iterdir()} == {"model", "bad.wav"}
