"""Where to compute: found, and checked before anything is written."""

import torch
from speechbrain.utils.distributed import infer_device

from ser_peft.errors import InputError

__all__ = ["check_precision", "find_device"]


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
