"""States of optimizers and gradient scalers as files, without pickles."""

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from speechbrain.utils.distributed import main_process_only

__all__ = ["load_optimizer", "load_scaler", "save_optimizer", "save_scaler"]


@main_process_only
def save_optimizer(optimizer, path):
    """Write an optimizer's state as safetensors.

    Arguments
    ---------
    optimizer : torch.optim.Optimizer
        Optimizer whose state holds tensors and plain numbers.
    path : str or Path
        Target file.
    """
    state = optimizer.state_dict()
    tensors, numbers = {}, {}
    for index, values in state["state"].items():
        for key, value in values.items():
            if torch.is_tensor(value):
                tensors[f"{index}.{key}"] = value.contiguous()
            else:
                numbers[f"{index}.{key}"] = value
    about = {"param_groups": state["param_groups"], "numbers": numbers}
    save_file(tensors, path, metadata={"optimizer": json.dumps(about)})


def load_optimizer(optimizer, path, end_of_epoch=True):
    """Load an optimizer's state from `save_optimizer`'s file.

    Arguments
    ---------
    optimizer : torch.optim.Optimizer
        Optimizer of the same parameters.
    path : str or Path
        Source file.
    end_of_epoch : bool
        Unused; SpeechBrain gives it.
    """
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["optimizer"])
        values = {key: file.get_tensor(key) for key in file.keys()}
    state = {}
    for name, value in {**about["numbers"], **values}.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict(
        {"state": state, "param_groups": about["param_groups"]}
    )


@main_process_only
def save_scaler(scaler, path):
    """Write a gradient scaler's state as JSON.

    Arguments
    ---------
    scaler : torch.amp.GradScaler
        Scaler whose state is a few numbers.
    path : str or Path
        Target file.
    """
    Path(path).write_text(json.dumps(scaler.state_dict()), encoding="utf-8")


def load_scaler(scaler, path, end_of_epoch=True):
    """Load a gradient scaler's state from `save_scaler`'s file.

    Arguments
    ---------
    scaler : torch.amp.GradScaler
        Scaler that goes on at that scale.
    path : str or Path
        Source file.
    end_of_epoch : bool
        Unused; SpeechBrain gives it.
    """
    scaler.load_state_dict(json.loads(Path(path).read_text(encoding="utf-8")))
