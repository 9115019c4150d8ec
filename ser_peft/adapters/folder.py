"""Adapters on disk, in Hugging Face PEFT's layout."""

import json
from dataclasses import asdict
from pathlib import Path

import peft
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ser_peft.adapters.bottleneck import BottleneckConfig
from ser_peft.adapters.methods import WHOLE
from ser_peft.adapters.prompts import PromptConfig
from ser_peft.errors import InputError
from ser_peft.io import refuse_pointer
from ser_peft.released import find as find_released
from ser_peft.released import is_name

__all__ = [
    "BASE",
    "copy_tensors",
    "find",
    "load",
    "read",
    "read_tensors",
    "several",
    "write",
]

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
BASE = "base"
"""Subfolder of an adapter that is folded into the encoder before it."""
OURS = {config.peft_type: config for config in (BottleneckConfig, PromptConfig)}


def find(run, name="adapter"):
    """Folder of the adapter of a run.

    Arguments
    ---------
    run : str or Path
        A finished run, its ``model/`` folder, an exported adapter, or the
        name of a released model.
    name : str
        Of the adapter within ``model/``; that of a text encoder is called
        "text_adapter".

    Returns
    -------
    Path or None
        What `PeftLobe.export` wrote; None of a model that has no adapter of
        this name, as one without a text encoder.

    Raises
    ------
    InputError
        If there is none at all.
    """
    root = Path(find_released(run) if is_name(run) else run)
    for folder in (root / "model", root):
        if several(folder / name):
            return folder / name
        if several(folder / "adapter"):
            return None
    if several(root):
        return root
    raise InputError(
        f"{root}: holds no adapter; give a finished run or its model/ folder"
    )


def several(folder):
    """The folders, one a method, that an adapter consists of."""
    folder = Path(folder)
    if (folder / CONFIG).exists():
        return [folder]
    parts = sorted(path.parent for path in folder.glob(f"*/{CONFIG}"))
    return [part for part in parts if part.name != BASE]


def write(lobe, method, layers, own, folder):
    """Write one method's configuration and tensors.

    Arguments
    ---------
    lobe : SpeechLobe
        With the method in it.
    method : peft.PeftConfig, BottleneckConfig, PromptConfig or str
        One of `PeftLobe.methods`.
    layers : list of int or None
        As `PeftLobe` got them.
    own : dict of str to torch.Tensor
        The method's tensors; those of PEFT's methods are found by PEFT.
    folder : Path
        Created. Gets ``adapter_config.json``, and
        ``adapter_model.safetensors`` unless the method is "frozen".
    """
    folder.mkdir(parents=True)
    if isinstance(method, peft.PeftConfig):
        lobe.model.peft_config["default"].base_model_name_or_path = lobe.source
        lobe.model.save_pretrained(folder, save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)
        return
    if isinstance(method, str):
        config = {"peft_type": method.upper(), "layers": layers}
    else:
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
        tensors = {
            name: tensor.detach().cpu().clone().contiguous()
            for name, tensor in own.items()
        }
        save_file(tensors, folder / TENSORS, metadata={"format": "pt"})


def read(folder):
    """Read one method's configuration.

    Arguments
    ---------
    folder : Path
        Holds ``adapter_config.json``.

    Returns
    -------
    method : peft.PeftConfig, BottleneckConfig, PromptConfig or str
        What `PeftLobe` takes.
    layers : list of int or None
        Likewise.
    backbone : str or None
        Class name of the encoder that it was trained in.

    Raises
    ------
    InputError
        If there is no such file or it cannot be understood.
    """
    path = folder / CONFIG
    refuse_pointer(path)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        kind = config.pop("peft_type")
        backbone = (config.get("auto_mapping") or {}).get("base_model_class")
        if kind.lower() in WHOLE:
            return kind.lower(), config["layers"], backbone
        if kind in OURS:
            config.setdefault("residual", False)  # older than this field
            fields = OURS[kind].__dataclass_fields__
            method = OURS[kind](**{name: config[name] for name in fields})
            return method, None, backbone
        method = peft.PeftConfig.from_pretrained(str(folder))
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); give the folder of "
            "an exported adapter"
        ) from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: is no adapter configuration ({error!r}); export the "
            "adapter again"
        ) from error
    method.inference_mode = False  # else PEFT builds it without parameters
    # PEFT would warn that the backbone has moved, which is no matter.
    method.base_model_name_or_path = None
    return method, None, backbone


def read_tensors(path):
    """Tensors of a safetensors file, or `InputError` naming it."""
    refuse_pointer(path)
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{path}: cannot be read ({error}); restore or export it again"
        ) from error


def load(lobe, method, own, folder):
    """Load one method's tensors into a lobe that has the method attached.

    Arguments
    ---------
    lobe : SpeechLobe
        With freshly built adapters.
    method : peft.PeftConfig, BottleneckConfig, PromptConfig or str
        From `read`.
    own : dict of str to torch.Tensor
        The method's tensors, overwritten in place; those of PEFT's methods
        are found by PEFT.
    folder : Path
        Where from.

    Raises
    ------
    InputError
        If a tensor is missing, unknown or of another shape.
    """
    if method == "frozen":
        return
    path = folder / TENSORS
    tensors = read_tensors(path)
    if not isinstance(method, peft.PeftConfig):
        copy_tensors(tensors, own, path)
        return
    expected = peft.get_peft_model_state_dict(
        lobe.model, save_embedding_layers=False
    )
    same_keys(tensors, expected, path)
    try:
        peft.set_peft_model_state_dict(lobe.model, tensors)
    except RuntimeError as error:
        shapes = " ".join(str(error).split())
        raise InputError(f"{path}: does not fit: {shapes}") from error


def copy_tensors(tensors, targets, path):
    """Copy tensors over those of the same names, all of them.

    Arguments
    ---------
    tensors : dict of str to torch.Tensor
        From the file `path`.
    targets : dict of str to torch.Tensor
        Parameters and buffers, overwritten in place.
    path : str or Path
        For the message.

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
