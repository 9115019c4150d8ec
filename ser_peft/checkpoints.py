"""SpeechBrain checkpoints that survive a kill and hold no pickles."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from speechbrain.utils.checkpoints import (
    Checkpointer,
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)
from speechbrain.utils.distributed import (
    ddp_barrier,
    if_main_process,
    main_process_only,
)

from ser_peft.errors import InputError
from ser_peft.io import atomic_path, refuse_pointer

__all__ = [
    "SafeCheckpointer",
    "SafeModule",
    "load_mean",
    "load_optimizer",
    "load_scaler",
    "load_tensors",
    "save_optimizer",
    "save_scaler",
]

PARTIAL = "partial-"


class SafeCheckpointer(Checkpointer):
    """A Checkpointer whose folders are whole or not there.

    SpeechBrain writes the meta file of a checkpoint first, so that a process
    killed while saving leaves a folder that looks finished and cannot be
    loaded. Here a checkpoint gets its name when everything is in it. (One
    killed while being deleted is of no harm: better or later ones are there.)

    Arguments are those of `speechbrain.utils.checkpoints.Checkpointer`.
    """

    def __init__(self, checkpoints_dir, recoverables=None, **kwargs):
        if not isinstance(recoverables, Mapping | None):
            raise InputError(
                f"checkpointer: recoverables: {recoverables}: is no mapping of "
                "names to objects; copy it from one of the recipe's yamls"
            )
        super().__init__(checkpoints_dir, recoverables, **kwargs)
        if if_main_process():
            for leftover in self.checkpoints_dir.glob("*CKPT+*"):
                if not self._is_checkpoint_dir(leftover):
                    shutil.rmtree(leftover)

    def _new_checkpoint_dirpath(self):
        path = super()._new_checkpoint_dirpath()
        return path.with_name(PARTIAL + path.name)

    def _custom_checkpoint_dirpath(self, name):
        path = super()._custom_checkpoint_dirpath(name)
        return path.with_name(PARTIAL + path.name)

    def save_checkpoint(self, *args, **kwargs):
        """Save under a provisional name, then rename."""
        checkpoint = super().save_checkpoint(*args, **kwargs)
        if if_main_process():
            path = checkpoint.path
            whole = path.with_name(path.name.removeprefix(PARTIAL))
            with atomic_path(whole) as tmp:  # a name may be given again
                os.replace(path, tmp)
            checkpoint = checkpoint._replace(
                path=whole,
                paramfiles={
                    key: whole / file.name
                    for key, file in checkpoint.paramfiles.items()
                },
            )
        ddp_barrier()
        return checkpoint


@main_process_only
def save_optimizer(optimizer, path):
    """Write an optimiser's state as safetensors.

    Arguments
    ---------
    optimizer : torch.optim.Optimizer
        Its state holds tensors and plain numbers.
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
    """Read what `save_optimizer` wrote.

    Arguments
    ---------
    optimizer : torch.optim.Optimizer
        Of the same parameters.
    path : str or Path
        Source file.
    end_of_epoch : bool
        For SpeechBrain; unused.
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
        Its state is a few numbers.
    path : str or Path
        Target file.
    """
    Path(path).write_text(json.dumps(scaler.state_dict()), encoding="utf-8")


def load_scaler(scaler, path, end_of_epoch=True):
    """Read what `save_scaler` wrote.

    Arguments
    ---------
    scaler : torch.amp.GradScaler
        Goes on at that scale.
    path : str or Path
        Source file.
    end_of_epoch : bool
        For SpeechBrain; unused.
    """
    scaler.load_state_dict(json.loads(Path(path).read_text(encoding="utf-8")))


def load_mean(module, paths):
    """Load the mean of several checkpoints of a module.

    Arguments
    ---------
    module : torch.nn.Module
        With a ``load`` method. What trains and what is measured in training
        (buffers of floats) become the mean; everything else is as in the
        last checkpoint.
    paths : list of Path
        Its checkpoints, the newest one last.
    """
    averaged = [p for p in module.parameters() if p.requires_grad]
    averaged += [b for b in module.buffers() if b.is_floating_point()]
    # On the CPU: not all devices have float64.
    means = [torch.zeros(t.shape, dtype=torch.float64) for t in averaged]
    with torch.no_grad():
        for path in paths:
            module.load(path)
            for mean, tensor in zip(means, averaged, strict=True):
                mean += tensor.cpu()
        for mean, tensor in zip(means, averaged, strict=True):
            tensor.copy_(mean / len(paths))


def load_tensors(module, path, kept=()):
    """Load a module's state from safetensors, every key matched.

    Arguments
    ---------
    module : torch.nn.Module
        Gets the tensors.
    path : str or Path
        A safetensors file.
    kept : dict of str to torch.Tensor
        Stand in for those of the file.

    Raises
    ------
    InputError
        If the file is not one, or holds other tensors than the module.
    """
    refuse_pointer(path)
    try:
        module.load_state_dict({**load_file(path), **dict(kept)})
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{path}: cannot be read ({error}); restore it or train again"
        ) from error
    except RuntimeError as error:
        raise InputError(
            f"{path}: does not fit {type(module).__name__} ({error}); was it "
            "trained with other classes, another backbone or another head?"
        ) from error


@register_checkpoint_hooks
class SafeModule(torch.nn.Module):
    """A module whose checkpoint is one safetensors file."""

    @mark_as_saver
    def save(self, path):
        """Write the state as safetensors."""
        save_file(
            {k: v.contiguous() for k, v in self.state_dict().items()}, path
        )

    @mark_as_loader
    def load(self, path, end_of_epoch=True):
        """Read what `save` wrote."""
        load_tensors(self, path)
