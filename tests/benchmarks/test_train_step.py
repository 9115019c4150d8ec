"""The benchmark compares two lobes that compute the same."""

import argparse
import importlib.util
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "train_step.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("train_step", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def args():
    return argparse.Namespace(
        batch=2, steps=1, threads=torch.get_num_threads(), device="cpu",
        clock="wall", precision="fp32",
    )  # fmt: skip


@pytest.mark.parametrize(
    "model, seconds", [("wav2vec2", 1), ("wavlm", 1), ("whisper", 30)]
)
def test_both_sides_compute_the_same(
    benchmark, tiny_backbones, args, model, seconds
):
    ours, host = (
        benchmark.Case(side, model, tiny_backbones[model], seconds, args)
        for side in ("ser_peft", "speechbrain")
    )
    lora = [sum(p.numel() for p in case.trained) for case in (ours, host)]
    assert lora[0] == lora[1]
    wavs, lengths = ours.batch
    assert torch.equal(wavs, host.batch[0])
    lengths = [lengths] if model != "whisper" else []
    with torch.no_grad():
        states, _ = ours.model.eval().encoder(wavs)
        theirs = host.model.eval().lobe(wavs, *lengths)
    torch.testing.assert_close(states, theirs, atol=1e-3, rtol=1e-3)


def test_measurements(benchmark, tiny_backbones, args, capsys):
    folder = tiny_backbones["wavlm"]
    row = {"model": "wavlm", "seconds": 0.5}
    row |= benchmark.measure_time("wavlm", folder, 0.5, args)
    for side in benchmark.SIDES:
        case = "wavlm", folder, 0.5, args
        row[side] |= benchmark.measure_memory(side, *case)
        assert min(row[side].values()) > 0
    # WavLM's attention is deaf to LoRA in transformers.
    assert row["ser_peft"]["live"] == 1 > row["speechbrain"]["live"]
    assert row["ser_peft"]["saved_mib"] < row["speechbrain"]["saved_mib"]
    benchmark.print_row(row)
    assert "| wavlm | 0.5 |" in capsys.readouterr().out


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--batch=0"], "more than 0"),
        (["--whisper=/nowhere", "--models=whisper"], "--whisper=/nowhere"),
    ],
)
def test_bad_flags(benchmark, monkeypatch, capsys, flags, message):
    monkeypatch.setattr(sys, "argv", ["train_step.py", *flags])
    # No process of its own: what it raises is what is tested.
    monkeypatch.setattr(benchmark, "in_own_process", lambda f, *a: f(*a))
    with pytest.raises(SystemExit) as stop:
        benchmark.main()
    assert stop.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
