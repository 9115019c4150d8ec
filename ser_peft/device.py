"""Where to compute: found, and checked before anything is written."""

import os

import torch
from speechbrain.utils.distributed import infer_device

from ser_peft.errors import InputError

__all__ = ["check_precision", "find_device", "loader_workers"]


def find_device(name=None):
    """Check a device's name, or find a device.

    Arguments
    ---------
    name : str, optional
        As ``cpu`` or ``cuda:1``; where absent SpeechBrain chooses.

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
    if name is None:
        name = infer_device()
    try:
        torch.zeros(1, device=name).item()
    except (AssertionError, ImportError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"--device {name}: {reason}; give one that is here, as cpu"
        ) from error
    return name


def check_precision(key, precision, device):
    """Refuse float16 where only float32 and bfloat16 can be computed.

    Arguments
    ---------
    key : str
        Of the yaml, for the message.
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
        ``auto``: one beside a CPU, which has the model to compute; beside
        a GPU as many as this process has cores to itself, at most 8.
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
