#!/usr/bin/env python3
"""Turn VGGish's published weights into a folder for ``--backbone``.

> python convert_vggish.py vggish-10086976.pth vggish_folder
> python train.py hparams/3mser_teacher.yaml --backbone=./vggish_folder ...
"""

import argparse
import pickle
import re
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ser_peft.errors import InputError, one_line_errors
from ser_peft.io import atomic_path, refuse_pointer, sha256
from ser_peft.lobes.vggish import VGGishConfig, VGGishModel

VGGISH_URL = (
    "https://github.com/harritaylor/torchvggish/releases/download/v0.1/"
    "vggish-10086976.pth"
)
"""Google's weights in torchvggish's file, 288 MB."""
SHA256 = "10086976"  # how it begins


def main(argv=None):
    """Convert the weights.

    Arguments
    ---------
    argv : list of str, optional
        Command line without the program; ``sys.argv[1:]`` where absent.
    """
    parser = argparse.ArgumentParser(
        description="Turn VGGish's published weights into a folder for "
        "--backbone."
    )
    parser.add_argument("source", help="vggish-10086976.pth, or its URL")
    parser.add_argument("out", help="new folder")
    parser.add_argument(
        "--pca", help="AudioSet's vggish_pca_params.npz, to apply it too"
    )
    parser.add_argument(
        "--final-relu", choices=["on", "off"],
        help="behind the last layer; default: on, with --pca off",
    )  # fmt: skip
    args = parser.parse_args(argv)
    relu = None if args.final_relu is None else args.final_relu == "on"
    folder = convert_vggish(args.source, args.out, args.pca, relu).resolve()
    print(f"{folder}: done; give --backbone={folder} to a training")


def convert_vggish(source, folder, pca=None, final_relu=None):
    """Make the folder that `load_lobe` takes of the published weights.

    Arguments
    ---------
    source : str or Path
        torchvggish's ``vggish-10086976.pth``, or where to download it
        (`VGGISH_URL`); or a safetensors file with tensors of these names.
        Anything but safetensors is unpickled, restricted to tensors, and
        only where its SHA-256 is that of the published file.
    folder : str or Path
        New; gets ``config.json`` and ``model.safetensors``.
    pca : str or Path, optional
        AudioSet's ``vggish_pca_params.npz``: turns its post-processing on.
    final_relu : bool, optional
        See `VGGishConfig`; where absent it is off in front of the
        post-processing, which Google made without, and on otherwise.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    InputError
        If a file cannot be had or read, is not the published one, or lacks
        a tensor; or the folder is there already.
    """
    if Path(folder).exists():
        raise InputError(f"{folder}: is there already; give a new folder")
    if re.match(r"https?://", str(source)):
        with TemporaryDirectory() as scratch:
            path = Path(scratch, Path(str(source)).name)
            try:
                torch.hub.download_url_to_file(str(source), path)
            except (OSError, ValueError) as error:
                raise InputError(
                    f"{source}: cannot be downloaded ({error}); download it "
                    "elsewhere and give the file"
                ) from error
            tensors = _read(path, source)
    else:
        tensors = _read(Path(source), source)
    config = VGGishConfig(
        final_relu=pca is None if final_relu is None else final_relu,
        pca=pca is not None,
        architectures=["VGGishModel"],
    )
    if pca is not None:
        tensors |= _read_pca(pca)
    with torch.device("meta"):
        expected = VGGishModel(config).state_dict()
    for name in sorted(expected.keys() | tensors.keys()):
        here, wanted = tensors.get(name), expected.get(name)
        if here is None or wanted is None or here.shape != wanted.shape:
            raise InputError(
                f"{source}: is no VGGish ({name} is "
                f"{_shape(here)} there and {_shape(wanted)} in it); give "
                f"{VGGISH_URL}"
            )
    with atomic_path(folder) as tmp:
        config.save_pretrained(tmp)
        save_file(
            {name: tensor.contiguous() for name, tensor in tensors.items()},
            tmp / "model.safetensors",
            metadata={"format": "pt"},
        )
    return Path(folder)


def _shape(tensor):
    return "missing" if tensor is None else list(tensor.shape)


def _read(path, source):
    """Tensors of the file, which came from `source`."""
    refuse_pointer(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with open(path, "rb") as file:
            digest = sha256(file)
        if not digest.startswith(SHA256):
            raise InputError(
                f"{source}: its SHA-256 is {digest}, which does "
                f"not begin with {SHA256}: not torchvggish's file, or "
                f"damaged; give {VGGISH_URL}, or a safetensors file"
            )
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, SafetensorError,
            pickle.UnpicklingError) as error:  # fmt: skip
        raise InputError(
            f"{source}: cannot be read ({error}); give torchvggish's "
            "vggish-10086976.pth"
        ) from error


def _read_pca(path):
    """AudioSet's matrices, by their names in `VGGishModel`."""
    refuse_pointer(path)
    try:
        with np.load(path) as arrays:
            matrix, means = arrays["pca_eigen_vectors"], arrays["pca_means"]
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path}: cannot be read ({error}); give AudioSet's "
            "vggish_pca_params.npz"
        ) from error
    return {
        "pca_eigen_vectors": torch.tensor(matrix).float(),
        "pca_means": torch.tensor(means).float().flatten(),
    }


if __name__ == "__main__":
    with one_line_errors():
        main()
