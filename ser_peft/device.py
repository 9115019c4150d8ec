"""Where to compute and in which precision, checked before anything is written.

Training uses the floating-point format that a device is fast in. Evaluation
and inference use float32 (on GPUs from Ampere on TF32, as SpeechBrain sets
it), unless ``eval_precision`` says otherwise: a clip must get the same scores
in any batch and, within rounding, on any machine, and a test must give the
scores that the saved model gives afterwards.
"""

import os
import time
from functools import cache
from pathlib import Path

import torch
from ruamel.yaml import YAML
from speechbrain.utils.distributed import infer_device, main_process_only

from ser_peft.errors import InputError

__all__ = [
    "check_precision",
    "choose_precision",
    "find_device",
    "loader_workers",
    "run_precision",
]

# A CPU that multiplies in bf16 needs at most half of float32's time, one that
# emulates it more than all of it: noise cannot confuse the two.
FAST = 0.75


def find_device(name=None):
    """Check a device's name, or find a device.

    Arguments
    ---------
    name : str, optional
        As ``cpu`` or ``cuda:1``; by default SpeechBrain chooses.

    Returns
    -------
    str
        A device that can compute.

    Raises
    ------
    InputError
        If there is no such device here.

    Example
    -------
    >>> find_device("cpu")
    'cpu'
    """
    name = name or infer_device()
    try:
        torch.zeros(1, device=name).item()
    except (AssertionError, ImportError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"--device {name}: {reason}; give a device of this machine, as cpu"
        ) from error
    return name


def check_precision(key, precision, device):
    """Refuse float16 on CPUs, which compute in float32 and bfloat16 only.

    Arguments
    ---------
    key : str
        Key of the yaml, for the message.
    precision : str
        One of SpeechBrain's.
    device : str
        From `find_device`.

    Raises
    ------
    InputError
        For fp16 on a CPU.
    """
    if precision == "fp16" and torch.device(device).type == "cpu":
        raise InputError(
            f"{key}: fp16 needs a GPU, and this is to run on {device}; give "
            f"--{key}=fp32 or bf16"
        )


def loader_workers(asked, device):
    """Number of processes that load audio beside the training.

    Arguments
    ---------
    asked : int or str
        ``auto``: one beside a CPU, which computes the model as well; beside
        a GPU as many as there are cores for this process, at most 8.
    device : str
        From `find_device`.

    Returns
    -------
    int
        At least 0.

    Example
    -------
    >>> loader_workers(3, "cuda"), loader_workers("auto", "cpu")
    (3, 1)
    """
    if asked != "auto":
        return asked
    if torch.device(device).type == "cpu":
        return 1
    beside = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return max(1, min(8, (os.cpu_count() or 1) // beside - 1))


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
        # Honours ONEDNN_MAX_CPU_ISA. True for any AVX512, also where bf16 is
        # emulated; where it is false, nothing needs to be timed.
        if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return False
    except AttributeError:  # torch without oneDNN
        return False
    threads = torch.get_num_threads()
    if threads > 1:  # torch remembers that it was told, in new threads too
        torch.set_num_threads(1)
    bf16, fp32 = (
        min(_seconds(dtype) for _ in range(5))
        for dtype in (torch.bfloat16, torch.float32)
    )
    if threads > 1:
        torch.set_num_threads(threads)
    return bf16 < FAST * fp32


def _seconds(dtype):
    """Time of four matrix products in this thread alone."""
    x = torch.ones(128, 512, dtype=dtype)
    weight = torch.ones(512, 512, dtype=dtype)
    torch.nn.functional.linear(x, weight)  # makes the kernel
    start = time.thread_time()
    for _ in range(4):
        torch.nn.functional.linear(x, weight)
    return time.thread_time() - start


@main_process_only
def run_precision(asked, output_folder, device):
    """Precision of a training, the same in all of its processes.

    Arguments
    ---------
    asked : str
        The yaml's ``precision``.
    output_folder : str or Path
        Output folder of the training. One that is continued keeps the
        precision it began with, whatever the device is now.
    device : str
        Device of the main process, which decides.

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
