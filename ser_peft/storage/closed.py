"""Sealed model folders: all their files are listed, hashed and verified.

A ``model/`` folder holds ``manifest.json``: all its files with size and
SHA-256, and the encoders that it is for. It holds no links, pipes or devices.
"""

import os
from importlib import import_module
from pathlib import Path
from typing import Any

from ser_peft.errors import BAD_ARGUMENTS, InputError, extra
from ser_peft.io import refuse_pointer, sha256_of, write_json
from ser_peft.storage.model_files import ManifestFile
from ser_peft.storage.schema import read_json

__all__ = [
    "MANIFEST",
    "check_signature",
    "files_of",
    "hashes",
    "origins_of",
    "seal",
    "sign",
    "verify",
]

AGAIN = "copy the folder again"
MANIFEST = "manifest.json"
SIGNATURE = "model.sig"
BESIDE = ("LICENSE", "README.md", SIGNATURE)
"""Files that may be added to a folder, since no loader reads them; so may
names that begin with a dot."""
CODE = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth", ".py", ".pyc",
        ".so")  # fmt: skip
"""Endings of the names of files that are run or unpickled elsewhere."""
PARTS = ("adapter", "text_adapter", "encoder", "text_encoder")
"""Folders in a model folder."""
MOST, DEEPEST = 10_000, 20
"""Largest number of files in a folder, and of folders that a file is in."""


def files_of(folder):
    """Files of a model folder.

    Arguments
    ---------
    folder : str or Path
        Model folder; it may itself be a link.

    Returns
    -------
    dict of str to Path
        Path within the folder, with slashes -> where it is.

    Raises
    ------
    InputError
        If there is a link in it, other than Hugging Face's cache makes, a
        pipe or the like, or far too much.
    """
    root = Path(folder).resolve()
    blobs = None
    if root.parent.name == "snapshots":  # of Hugging Face's cache
        blobs = root.parent.parent / "blobs"
    found, folders = {}, [root] if root.is_dir() else []
    while folders:
        for entry in os.scandir(folders.pop()):
            if entry.name.startswith("."):
                continue
            path = Path(entry.path)
            name = path.relative_to(root).as_posix()
            if entry.is_symlink():
                real = path.resolve()
                if real.parent != blobs or not real.is_file():
                    raise InputError(
                        f"{folder}/{name}: is a link, which no model folder "
                        "has; put the file itself there"
                    )
            elif entry.is_dir():
                folders.append(path)
                continue
            elif not entry.is_file():
                raise InputError(f"{folder}/{name}: is no file; remove it")
            found[name] = path
            if len(found) > MOST or name.count("/") > DEEPEST:
                raise InputError(
                    f"{folder}: too many files, or too deep ones, for a model "
                    "folder; give one"
                )
    return dict(sorted(found.items()))


def _refuse_code(files):
    """Refuse files that others would run or unpickle; nothing here does."""
    for path in files.values():
        if path.suffix in CODE:
            raise InputError(
                f"{path}: is code, or may hold some, which no model folder "
                "needs; get the model where it has none"
            )
    for name, path in files.items():
        if name.endswith("config.json"):
            content = read_json(path, dict[str, Any], "is no table", AGAIN)
            for key, value in content.items():
                if key == "auto_map" or (key.endswith("_file") and value):
                    raise InputError(
                        f"{path}: {key}: {value!r:.80}: names code or a file "
                        "elsewhere, which is never used; get the model where "
                        "it needs none"
                    )


def hashes(folder):
    """SHA-256 of all files of a model folder.

    Arguments
    ---------
    folder : str or Path
        Model folder.

    Returns
    -------
    dict of str to str
        Path within the folder -> hexadecimal digest.
    """
    return {
        name: sha256_of(path)
        for name, path in files_of(folder).items()
        if name not in BESIDE
    }


def origins_of(folder):
    """Models of the Hugging Face hub that a model folder comes from.

    Arguments
    ---------
    folder : str or Path
        Model folder, or the adapter or encoder in it.

    Returns
    -------
    list of dict
        ``source`` and ``commit``: of itself, if the hub's cache holds it,
        and those that its manifest names.
    """
    root, found = Path(folder).resolve(), []
    if root.name in PARTS:
        root = root.parent
    if root.parent.name == "snapshots":
        kind, *name = root.parent.parent.name.split("--")
        if kind == "models" and name:
            found.append({"source": "/".join(name), "commit": root.name})
    path = root / MANIFEST
    model = (root / "adapter").is_dir() or (root / "members").is_dir()
    if model and path.is_file():
        manifest = read_json(path, ManifestFile, "is no manifest", AGAIN)
        found += [one.model_dump(exclude_none=True) for one in manifest.origins]
    return found


def seal(folder, encoders, origins=()):
    """Write the manifest of a model folder that is otherwise complete.

    Arguments
    ---------
    folder : str or Path
        Model folder.
    encoders : dict
        "backbone" and, where there is text, "text_backbone" -> ``source``,
        and either ``commit`` or ``sha256``: see `TransformerLobe.identity`.
    origins : list of dict
        From `origins_of` what it was made from.
    """
    files = files_of(folder)
    listed = {
        name: {"sha256": sha256_of(path), "size": path.stat().st_size}
        for name, path in files.items()
        if name not in (MANIFEST, *BESIDE)
    }
    about = {"format": 1, "encoders": encoders}
    if origins:
        about["origins"] = [
            one for i, one in enumerate(origins) if one not in origins[:i]
        ]
    write_json(Path(folder) / MANIFEST, {**about, "files": listed})


def verify(folder):
    """Verify a model folder by its manifest.

    Arguments
    ---------
    folder : str or Path
        Model folder.

    Returns
    -------
    dict or None
        The manifest's ``encoders``; None where there is no manifest, as in
        folders that an older ser_peft wrote.

    Raises
    ------
    InputError
        If a file is missing, not listed or changed, is a link, or holds or
        names code.
    """
    files = files_of(folder)
    encoders = None
    if MANIFEST in files:
        encoders = _compare(folder, files, files.pop(MANIFEST))
    _refuse_code(files)
    return encoders


def _compare(folder, files, path):
    """Compare files with the manifest at `path`; return its encoders."""
    manifest = read_json(path, ManifestFile, "is no manifest", AGAIN)
    for name in sorted({*files, *manifest.files}):
        listed, where = manifest.files.get(name), f"{folder}/{name}"
        if name not in files:
            raise InputError(
                f"{where}: is missing, {MANIFEST} lists it; {AGAIN}"
            )
        if listed is None:
            if name in BESIDE:
                continue
            raise InputError(
                f"{where}: is not listed in {MANIFEST}; remove it, or {AGAIN}"
            )
        refuse_pointer(files[name])
        size = files[name].stat().st_size
        found = size == listed.size and sha256_of(files[name])
        if found != listed.sha256:
            was = f"has SHA-256 {found}" if found else f"has {size} bytes"
            raise InputError(
                f"{where}: was changed or damaged: {was}, {MANIFEST} says "
                f"{listed.sha256 if found else listed.size}; {AGAIN}"
            )
    return {
        key: identity.model_dump(exclude_none=True)
        for key, identity in manifest.encoders.items()
    }


def sign(folder, private_key):
    """Sign a model folder, in the format of OpenSSF's model-signing.

    Arguments
    ---------
    folder : str or Path
        Sealed model folder. Gets ``model.sig``.
    private_key : str or Path
        PEM file of an elliptic curve's key, as ``openssl ecparam -genkey
        -name prime256v1 -noout -out KEY`` makes.

    Raises
    ------
    InputError
        If the key cannot be used, or the package model-signing is missing.
    """
    hashing, signing = _model_signing("hashing", "signing")
    folder = Path(folder)
    how = hashing.Config().set_ignored_paths(
        paths=BESIDE, ignore_git_paths=True
    )
    # Links of Hugging Face's cache, which `files_of` allows.
    how.set_allow_symlinks(True)
    try:
        signing.Config().use_elliptic_key_signer(
            private_key=private_key
        ).set_hashing_config(how).sign(folder, folder / SIGNATURE)
    except BAD_ARGUMENTS as error:
        raise InputError(
            f"--sign {private_key}: cannot sign ({error}); give a private key "
            "of an elliptic curve, a PEM file without password"
        ) from error


def check_signature(folder, public_key):
    """Verify that a model folder is as the owner of a key signed it.

    Arguments
    ---------
    folder : str or Path
        Model folder with ``model.sig``.
    public_key : str or Path
        PEM file, as ``openssl ec -in KEY -pubout`` makes.

    Raises
    ------
    InputError
        If it is not, or the package model-signing is missing.
    """
    (verifying,) = _model_signing("verifying")
    folder = Path(folder)
    try:
        verifying.Config().use_elliptic_key_verifier(
            public_key=public_key
        ).verify(folder, folder / SIGNATURE)
    except Exception as error:  # cryptography's have no common class
        raise InputError(
            f"{folder / SIGNATURE}: does not prove that the folder is as the "
            f"owner of {public_key} signed it ({error or repr(error)}); get "
            "the model and the key again from where you trust them"
        ) from error


def _model_signing(*names):
    """Modules of the package that signs."""
    with extra("sign"):
        return [import_module(f"model_signing.{name}") for name in names]
