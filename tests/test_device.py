"""Where to compute, in which precision, and what loads the audio meanwhile."""

import os
import platform
import subprocess
import sys

import pytest
import torch

from ser_peft import device as module
from ser_peft.device import choose_precision, loader_workers, run_precision


@pytest.fixture(autouse=True)
def nothing_remembered():
    choose_precision.cache_clear()
    yield
    choose_precision.cache_clear()


@pytest.mark.parametrize(
    ("device", "capability", "expected"),
    [
        ("cuda", (8, 0), "bf16"),
        ("cuda:1", (9, 0), "bf16"),
        ("cuda", (10, 3), "bf16"),
        ("cuda:0", (7, 5), "fp16"),
        ("cuda", (6, 1), "fp16"),
        ("mps", None, "fp32"),
        ("mps:0", None, "fp32"),
    ],
)
def test_of_a_gpu(monkeypatch, device, capability, expected):
    asked = []
    monkeypatch.setattr(
        torch.cuda,
        "get_device_capability",
        lambda name: asked.append(name) or capability,
    )
    chosen, reason = choose_precision(device)
    assert chosen == expected and reason
    assert asked == ([device] if capability else [])


@pytest.mark.parametrize(
    ("supported", "bf16", "expected"),
    [
        (True, 0.25, "bf16"),
        (True, 0.5, "bf16"),  # AVX512-BF16 of the first kind
        (True, 1.3, "fp32"),  # AVX512 without bf16: emulated, yet "supported"
        (False, 0.1, "fp32"),
    ],
)
def test_of_a_cpu(monkeypatch, supported, bf16, expected):
    monkeypatch.setattr(
        torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported
    )
    took = {torch.bfloat16: bf16, torch.float32: 1.0}
    monkeypatch.setattr(module, "_seconds", took.get)
    threads = torch.get_num_threads()
    assert choose_precision("cpu")[0] == expected
    assert torch.get_num_threads() == threads


@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="not x86"
)
def test_of_a_cpu_that_is_told_to_have_avx2_only():
    code = (
        "from ser_peft.device import choose_precision;"
        "print(choose_precision('cpu')[0])"
    )
    limits = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
    found = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | limits,
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout == "fp32\n"


def test_a_run_keeps_the_precision_it_began_with(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "choose_precision", lambda _: ("bf16", ""))
    assert run_precision("fp16", tmp_path, "cpu") == "fp16"
    assert run_precision("auto", tmp_path / "new", "cpu") == "bf16"
    begun = "lobe: !apply:any.lobe\nprecision: fp32  # comment\n"
    (tmp_path / "hyperparams.yaml").write_text(begun)
    assert run_precision("auto", tmp_path, "cpu") == "fp32"
    assert run_precision("bf16", tmp_path, "cpu") == "bf16"


@pytest.mark.parametrize(
    "asked, device, cores, processes, workers",
    [
        (3, "cuda:0", 16, 1, 3),
        (0, "cuda", 16, 1, 0),
        ("auto", "cpu", 16, 1, 1),
        ("auto", "cuda", 16, 1, 8),
        ("auto", "cuda:1", 16, 4, 3),
        ("auto", "mps", 2, 4, 1),
    ],
)
def test_loader_workers(monkeypatch, asked, device, cores, processes, workers):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    assert loader_workers(asked, device) == workers
