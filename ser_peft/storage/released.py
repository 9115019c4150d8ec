"""Released models: from a name to a folder whose files are all verified."""

import os
from pathlib import Path

from huggingface_hub import snapshot_download

from ser_peft.errors import InputError
from ser_peft.io import refuse_pointer
from ser_peft.storage.closed import hashes
from ser_peft.storage.model_files import RegistryFile
from ser_peft.storage.schema import read_json

__all__ = [
    "RELEASED",
    "find",
    "hashes",
    "is_name",
    "is_registered",
    "registry_file",
]

RELEASED = {
    f"{name}-lora-16-conv": backbone
    for name, backbone in {
        "whisper-tiny": "openai/whisper-tiny",
        "whisper-base": "openai/whisper-base",
        "whisper-small": "openai/whisper-small",
        "wavlm-plus": "microsoft/wavlm-base-plus",
        "wavlm-large": "microsoft/wavlm-large",
        "mms": "facebook/mms-300m",
    }.items()
}
"""Names of the models that PEFT-SER (Feng and Narayanan 2023) released, and
their backbones."""


def is_name(source):
    """Whether this can only be the name of a model, not a folder.

    Example
    -------
    >>> is_name("whisper-base-lora-16-conv"), is_name("results/model")
    (True, False)
    """
    path = Path(source)
    return path.name == str(source) and not path.exists()


def registry_file():
    """Path of the registry of models: $SER_PEFT_REGISTRY, or in the home.

    The registry is a JSON object from the name of a model to its entry, which
    `ser-peft export` prints: ``source`` (a folder, relative to the registry,
    or a Hugging Face id, whose commit can be given as ``revision``) and
    ``sha256`` (the hash of every file, see `ser_peft.storage.closed.hashes`).

    Returns
    -------
    Path
        The file, which need not exist.
    """
    default = Path.home() / ".config" / "ser_peft" / "models.json"
    return Path(os.environ.get("SER_PEFT_REGISTRY") or default)


def is_registered(source):
    """Whether the registry has the hashes of a model of this name."""
    return is_name(source) and str(source) in _registry()


def find(name, save_path=""):
    """Find the folder of a model.

    A folder of this name in $SER_PEFT_MODELS goes before the registry's. If
    the registry knows the name, all files are compared with its hashes; a
    folder of your own in $SER_PEFT_MODELS needs no entry.

    Arguments
    ---------
    name : str
        One of `RELEASED`, or a name in one of the two places.
    save_path : str
        Folder that keeps downloads.

    Returns
    -------
    Path
        For `ser_peft.load_model`.

    Raises
    ------
    InputError
        If there is no such model, or its files are missing or not those that
        were registered.
    """
    name, known = str(name), _registry()
    shelf = os.environ.get("SER_PEFT_MODELS")
    if shelf and Path(shelf, name).is_dir():
        folder = Path(shelf, name)
    elif name in known:
        folder = _fetch(name, known[name], save_path)
    elif name in RELEASED:
        raise InputError(
            f"{name}: its weights are not public as safetensors and nowhere "
            "here; train it with recipes/MultiCorpus and --backbone="
            f"{RELEASED[name]}, run `ser-peft export RUN_FOLDER {name}`, then "
            "move that folder into $SER_PEFT_MODELS or paste the entry that "
            f"the command prints into {registry_file()}"
        )
    else:
        names = ", ".join(sorted({*RELEASED, *known}))
        raise InputError(
            f"{name}: no such folder and no known model; give a finished run, "
            f"its model/ folder, or one of {names}"
        )
    if name in known:
        _check(name, folder, known[name].sha256)
    return folder


def _registry():
    path = registry_file()
    if not path.exists() and "SER_PEFT_REGISTRY" not in os.environ:
        return {}
    return read_json(
        path,
        RegistryFile,
        "is no registry of models",
        "every name needs its source and sha256, as `ser-peft export` prints "
        "them",
        missing="correct $SER_PEFT_REGISTRY",
    )


def _fetch(name, entry, save_path):
    source = entry.source
    folder = registry_file().parent / Path(source).expanduser()
    if folder.is_dir():
        return folder
    pinned = {"revision": entry.revision} if entry.revision else {}
    try:
        return Path(
            snapshot_download(
                source,
                cache_dir=str(save_path) or None,
                allow_patterns=["*.json", "*.safetensors"],
                **pinned,
            )
        )
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"{name}: {source} is no folder and cannot be downloaded "
            f"({reason}); correct its source in {registry_file()}"
        ) from error


def _check(name, folder, expected):
    found = hashes(folder)
    for path in sorted({*found, *expected}):
        refuse_pointer(folder / path)
        if found.get(path) != expected.get(path):
            raise InputError(
                f"{name}: {folder}/{path} has SHA-256 {found.get(path)}, "
                f"{registry_file()} says {expected.get(path)}; do not use it: "
                "get it again, or register what you trust"
            )
