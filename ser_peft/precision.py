"""The floating-point format that a device is fast in.

Training is in it. Evaluation and inference are in float32 (on GPUs from
Ampere on TF32, as SpeechBrain sets it), unless ``eval_precision`` says
otherwise: a clip's scores are to be the same beside any other and, within
rounding, on any machine, and those of a test the same that the model gives
afterwards.
"""

import time
from functools import cache
from pathlib import Path

import torch
from ruamel.yaml import YAML
from speechbrain.utils.distributed import main_process_only

__all__ = ["choose_precision", "run_precision"]

# A CPU that multiplies in bf16 needs at most half of float32's time, one that
# emulates it more than all of it: no noise takes one for the other.
FAST = 0.75


@cache
def choose_precision(device):
    """Precision that ``auto`` stands for on a device.

    Arguments
    ---------
    device : str
        As ``cpu`` or ``cuda:1``.

    Returns
    -------
    precision : str
        "bf16" where the device multiplies in it: CUDA from compute
        capability 8.0 on, CPUs with AMX, AVX512-BF16 or Arm's bf16. "fp16",
        with a scaler, on older GPUs; "fp32" everywhere else.
    reason : str
        In words, for the log.

    Example
    -------
    >>> choose_precision("mps")
    ('fp32', 'mps has no mixed precision here')
    """
    kind = torch.device(device).type
    if kind == "cuda":
        capability = torch.cuda.get_device_capability(device)
        told = "compute capability {}.{}".format(*capability)
        if capability >= (8, 0):
            return "bf16", f"{told} computes in bf16"
        return "fp16", f"{told} computes in fp16, not in bf16"
    if kind == "cpu":
        if _cpu_multiplies_bf16():
            return "bf16", "this CPU multiplies faster in bf16"
        return "fp32", "this CPU does not multiply faster in bf16"
    return "fp32", f"{kind} has no mixed precision here"


def _cpu_multiplies_bf16():
    """Whether a matrix product takes less time in bf16 than in float32."""
    try:
        # Honours ONEDNN_MAX_CPU_ISA. True of any AVX512, also where bf16 is
        # emulated; where it is false, nothing needs to be timed.
        if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return False
    except AttributeError:  # torch without oneDNN
        return False
    threads = torch.get_num_threads()
    if threads > 1:  # torch remembers that it was told, in new threads too
        torch.set_num_threads(1)
    seconds = [
        [_seconds(dtype) for dtype in (torch.bfloat16, torch.float32)]
        for _ in range(5)
    ]
    if threads > 1:
        torch.set_num_threads(threads)
    bf16, fp32 = map(min, zip(*seconds, strict=True))
    return bf16 < FAST * fp32


def _seconds(dtype):
    """This thread's time of four matrix products: nothing else counts."""
    x = torch.ones(128, 512, dtype=dtype)
    weight = torch.ones(512, 512, dtype=dtype)
    torch.nn.functional.linear(x, weight)  # makes the kernel
    start = time.thread_time()
    for _ in range(4):
        torch.nn.functional.linear(x, weight)
    return time.thread_time() - start


@main_process_only
def run_precision(asked, output_folder, device):
    """Precision of a run, the same in all of its processes.

    Arguments
    ---------
    asked : str
        The yaml's ``precision``.
    output_folder : str or Path
        Of the run. One that is there keeps the precision it began with,
        whatever the device is now.
    device : str
        Of the main process, which decides.

    Returns
    -------
    str
        "fp32", "bf16" or "fp16".
    """
    if asked != "auto":
        return asked
    begun = Path(output_folder) / "hyperparams.yaml"
    if begun.exists():
        return YAML().load(begun)["precision"]
    return choose_precision(device)[0]
