"""Released models: from a name to a folder whose files are all verified."""

import functools
import os
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import HFValidationError, validate_repo_id

from ser_peft.errors import InputError
from ser_peft.io import refuse_pointer
from ser_peft.storage.closed import hashes
from ser_peft.storage.model_files import RegistryFile
from ser_peft.storage.schema import read_json

__all__ = [
    "HUB_ERRORS",
    "RELEASED",
    "find",
    "hashes",
    "hub_name",
    "is_hub_id",
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
HUB_ERRORS = (*HfHubHTTPError.__bases__, ValueError)
"""Errors of the hub: of its HTTP client, whose name differs with its version,
of files and networks, of names."""
KINDS = ["*.json", "*.safetensors", "*.md", "LICENSE", "*.yaml", "*.txt",
         "*.onnx"]  # fmt: skip
"""Files of a model folder on the hub that are downloaded: none is code."""
SIGNS = ["*model.json", "*adapter_config.json"]
"""Files of which every model and every adapter has one."""


def is_name(source):
    """Whether this can only be the name of a model, not a folder.

    Example
    -------
    >>> is_name("whisper-base-lora-16-conv"), is_name("results/fold1/model")
    (True, False)
    """
    path = Path(source)
    alone = path.name == str(source) and not path.exists()
    return alone or hub_name(source) is not None


def is_hub_id(name):
    """Whether a name can be that of a repository of the Hugging Face hub.

    Example
    -------
    >>> is_hub_id("openai/whisper-tiny"), is_hub_id("/data/whisper-tiny")
    (True, False)
    """
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return "/" in name


def hub_name(source):
    """Repository and revision that the name of a model means, if it does.

    A folder of this name goes first.

    Arguments
    ---------
    source : str or Path
        ``user/name``, or ``user/name@revision``: a commit, branch or tag.

    Returns
    -------
    tuple of str or None
        Repository and revision, "" where there is none. None for a folder,
        or what can be no name on the hub.

    Raises
    ------
    InputError
        If it has a revision, as the hub's have, and means a folder as well.

    Example
    -------
    >>> hub_name("user/name@v1"), hub_name("a/long/path")
    (('user/name', 'v1'), None)
    """
    repository, at, revision = str(source).partition("@")
    if not is_hub_id(repository) or Path(source).exists():
        return None
    if at and Path(repository).exists():
        raise InputError(
            f"{source}: means the one of the Hugging Face hub, and a file or "
            "folder here has its name; give the folder without revision, or "
            "go to another folder"
        )
    return repository, revision


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

    ``user/name`` is on the Hugging Face hub: see `hub_name`. Of other names,
    a folder of this name in $SER_PEFT_MODELS goes before the registry's. If
    the registry knows the name, all files are compared with its hashes; a
    folder of your own in $SER_PEFT_MODELS needs no entry.

    Arguments
    ---------
    name : str
        One of `RELEASED`, a name in one of the two places, or of the hub.
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
    if hub := hub_name(name):
        return _snapshot(*hub, str(save_path))
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
            f"its model/ folder, user/name of the Hugging Face hub, or one of "
            f"{names}"
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
                allow_patterns=KINDS,
                **pinned,
            )
        )
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"{name}: {source} is no folder and cannot be downloaded "
            f"({reason}); correct its source in {registry_file()}"
        ) from error


@functools.cache
def _snapshot(repository, revision, save_path):
    """Folder of a commit on the hub: one in a process, whatever is pushed."""
    at = f" at {revision}" * bool(revision)

    def download(revision, kinds):
        return Path(
            snapshot_download(
                repository,
                revision=revision,
                cache_dir=save_path or None,
                allow_patterns=kinds,
            )
        )

    try:
        # First what tells a model from an encoder, which may be gigabytes.
        folder = download(revision or None, SIGNS)
        if any(map(any, map(folder.rglob, SIGNS))):
            return download(folder.name, KINDS)
    except HUB_ERRORS as error:
        reason = " ".join(str(error).split()) or repr(error)
        raise InputError(
            f"{repository}: no such folder here, and{at} it cannot be "
            f"downloaded from the Hugging Face hub ({reason:.300}); give a "
            "finished run, its model/ folder or the name of a model; if it is "
            "private, log in (`hf auth login`, or HF_TOKEN)"
        ) from error
    raise InputError(
        f"{repository}: is on the Hugging Face hub{at}, and no model of "
        "ser_peft: it has neither model.json nor an adapter's configuration; "
        "give the name of one"
    )


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
