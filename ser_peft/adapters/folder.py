"""Adapters on disk, in Hugging Face PEFT's layout."""

import json
import math
import typing
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from ser_peft.adapters.bottleneck import BottleneckConfig
from ser_peft.adapters.methods import WHOLE, is_of_peft
from ser_peft.adapters.prompts import PromptConfig
from ser_peft.errors import InputError
from ser_peft.io import refuse_pointer
from ser_peft.storage.closed import files_of, verify
from ser_peft.storage.model_files import (
    AdapterFile,
    BottleneckFile,
    PromptFile,
    check_values,
)
from ser_peft.storage.released import find as find_released
from ser_peft.storage.released import is_name
from ser_peft.storage.schema import fit, read_json

__all__ = [
    "BASE",
    "copy_tensors",
    "find",
    "load",
    "read",
    "read_tensors",
    "refuse_nonfinite",
    "several",
    "write",
]

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
BASE = "base"
"""Subfolder name of an adapter that is folded into the encoder first."""
OURS = {
    "BOTTLENECK": (BottleneckConfig, BottleneckFile),
    "PROMPT": (PromptConfig, PromptFile),
}
LARGEST = 1024
"""Largest size in a configuration, unless a tensor's dimension is larger."""
FREE = ("alpha", "seed", "key", "step", "tinit", "tfinal", "deltaT", "warmup",
        "interval")  # fmt: skip
"""Parts of the names of PEFT's settings that are not sizes."""


def find(run, name="adapter"):
    """Find the folder of a run's adapter.

    Arguments
    ---------
    run : str or Path
        Finished run, its ``model/`` folder, exported adapter, or name of a
        released model.
    name : str
        Subfolder name within ``model/``: "adapter", or "text_adapter" for
        that of a text encoder.

    Returns
    -------
    Path or None
        Output folder of `PeftLobe.export`; None for a model that has no
        adapter of this name, as one without a text encoder.

    Raises
    ------
    InputError
        If there is none at all, or the model's files do not match its
        manifest.
    """
    root = Path(find_released(run) if is_name(run) else run)
    for folder in (root / "model", root):
        if several(folder / "adapter"):
            verify(folder)
        if several(folder / name):
            return folder / name
        if several(folder / "adapter"):
            return None
    if several(root):
        files_of(root)
        return root
    raise InputError(
        f"{root}: holds no adapter; give a finished run or its model/ folder"
    )


def several(folder):
    """List the folders of an adapter, one for each method."""
    folder = Path(folder)
    if (folder / CONFIG).exists():
        return [folder]
    parts = sorted(path.parent for path in folder.glob(f"[!.]*/{CONFIG}"))
    return [part for part in parts if part.name != BASE]


def write(lobe, method, layers, own, folder):
    """Write one method's configuration and tensors.

    Arguments
    ---------
    lobe : SpeechLobe
        Lobe with the method in it.
    method : peft.PeftConfig, BottleneckConfig, PromptConfig or str
        One of `PeftLobe.methods`.
    layers : list of int or None
        Argument of `PeftLobe`.
    own : dict of str to torch.Tensor
        The method's tensors; PEFT finds those of its own methods itself.
    folder : Path
        New folder. It gets ``adapter_config.json``, and
        ``adapter_model.safetensors`` unless the method is "frozen".
    """
    folder.mkdir(parents=True)
    if is_of_peft(method):
        from ser_peft.adapters.parallel import save

        save(lobe, folder)
        return
    config = {"peft_type": str(method).upper(), "layers": layers}
    if not isinstance(method, str):
        config = {"peft_type": method.peft_type, **asdict(method)}
        config["layers"] = method.layers or layers
    backbone = type(lobe.backbone)
    config |= {
        "base_model_name_or_path": lobe.source,
        "auto_mapping": {
            "base_model_class": backbone.__name__,
            "parent_library": backbone.__module__,
        },
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    if method != "frozen":
        save_file(copies(own), folder / TENSORS, metadata={"format": "pt"})


def copies(tensors):
    """Copy tensors to the CPU, by name, as safetensors wants them."""
    return {
        name: tensor.detach().cpu().clone().contiguous()
        for name, tensor in tensors.items()
    }


def read(folder):
    """Read one method's configuration.

    Arguments
    ---------
    folder : Path
        Folder with ``adapter_config.json``.

    Returns
    -------
    method : peft.PeftConfig, BottleneckConfig, PromptConfig or str
        Argument of `PeftLobe`.
    layers : list of int or None
        Argument of `PeftLobe`.
    backbone : str or None
        Class name of the encoder that it was trained in.

    Raises
    ------
    InputError
        If there is no such file or it cannot be understood.
    """
    path = folder / CONFIG
    how = "is no adapter configuration", "export the adapter again"
    missing = "give the folder of an exported adapter"
    config = read_json(path, dict[str, typing.Any], *how, missing)
    kind = str(config.get("peft_type"))
    try:
        check_values(config, max(LARGEST, _largest(folder / TENSORS)), FREE)
        if kind.lower() not in WHOLE and kind not in OURS:
            from ser_peft.adapters.of_peft import configuration

            mapping = config.get("auto_mapping") or {}
            return configuration(config), None, mapping.get("base_model_class")
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: {how[0]} ({error}); {how[1]}") from error
    build, schema = OURS.get(kind, (None, AdapterFile))
    config = fit(path, config, schema, *how)
    backbone = config.auto_mapping and config.auto_mapping.base_model_class
    if build is None:
        return kind.lower(), config.layers, backbone
    values = {name: getattr(config, name) for name in build.__annotations__}
    return build(**values), None, backbone


def _largest(path):
    """Find the largest dimension of a file's tensors, 0 where it is none."""
    try:
        with safe_open(path, "pt") as file:
            shapes = [file.get_slice(name).get_shape() for name in file.keys()]
    except (OSError, SafetensorError):
        return 0  # loading it gives the error
    return max((max(s, default=0) for s in shapes if math.prod(s)), default=0)


def read_tensors(path):
    """Read all tensors of a safetensors file, by name."""
    refuse_pointer(path)
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{path}: cannot be read ({error}); restore or export it again"
        ) from error


def refuse_nonfinite(tensors, path):
    """Refuse weights that are not finite, whose scores would mean nothing.

    Arguments
    ---------
    tensors : dict of str to torch.Tensor
        Weights.
    path : str or Path
        File that they are from, for the message.

    Raises
    ------
    InputError
        If one holds NaN or infinity.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise InputError(
                f"{path}: {name} holds NaN or infinity, so that no score would "
                "mean anything; copy it again, or train again with a lower "
                "learning rate"
            )


def load(lobe, method, own, folder, name="default"):
    """Load one method's tensors into a lobe that has the method attached.

    Arguments
    ---------
    lobe : SpeechLobe
        Lobe with freshly built adapters.
    method : peft.PeftConfig, BottleneckConfig, PromptConfig or str
        From `read`.
    own : dict of str to torch.Tensor
        The method's tensors, overwritten in place; PEFT finds those of its
        own methods itself.
    folder : Path
        Output of `write`.
    name : str
        PEFT's name of its own method in the lobe.

    Raises
    ------
    InputError
        If a tensor is missing, unknown or of another shape.
    """
    if method == "frozen":
        return
    path = folder / TENSORS
    tensors = read_tensors(path)
    refuse_nonfinite(tensors, path)
    if not is_of_peft(method):
        copy_tensors(tensors, own, path)
        return
    from ser_peft.adapters.of_peft import set_tensors, tensors_of

    same_keys(tensors, tensors_of(lobe, name), path)
    try:
        set_tensors(lobe, tensors, name)
    except RuntimeError as error:
        shapes = " ".join(str(error).split())
        raise InputError(f"{path}: does not fit: {shapes}") from error


def copy_tensors(tensors, targets, path):
    """Overwrite tensors by those of the same names.

    Arguments
    ---------
    tensors : dict of str to torch.Tensor
        Content of the file `path`.
    targets : dict of str to torch.Tensor
        Parameters and buffers, overwritten in place.
    path : str or Path
        File name for the message.

    Raises
    ------
    InputError
        If a name is missing, unknown, or has another shape.
    """
    same_keys(tensors, targets, path)
    with torch.no_grad():
        for name, target in targets.items():
            if target.shape != tensors[name].shape:
                raise InputError(
                    f"{path}: {name} is {list(tensors[name].shape)} there and "
                    f"{list(target.shape)} here: it was made for another "
                    "backbone or with other settings of the method"
                )
            target.copy_(tensors[name])


def same_keys(found, expected, path):
    """Raise `InputError` unless the keys are the same, both ways."""
    missing = sorted(set(expected) - set(found))
    unknown = sorted(set(found) - set(expected))
    if missing or unknown:
        raise InputError(
            f"{path}: {len(missing)} tensors are missing {missing[:2]} and "
            f"{len(unknown)} unknown {unknown[:2]}: it was made for another "
            "backbone (family, number of layers) or another method"
        )
