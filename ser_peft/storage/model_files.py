"""Schemas of the JSON files of a model folder."""

import math
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict
from typing_extensions import TypedDict

from ser_peft.storage.schema import Name

__all__ = [
    "AdapterFile",
    "BottleneckFile",
    "EnsembleFile",
    "HeardFile",
    "ManifestFile",
    "ModelFile",
    "PartsFile",
    "PromptFile",
    "RegistryFile",
    "check_values",
]

MOST_LAYERS = 1000
STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


def _no_way_out(place):
    parts = place.replace("\\", "/").split("/")
    if ".." in parts or parts[0].startswith(("~", ".")) or "\0" in place:
        raise ValueError("leaves the model's folder")
    return place


Inside = Annotated[Name, AfterValidator(_no_way_out)]
"""A name, or a path that stays in the model's folder."""
Count = Annotated[int, Field(ge=1, le=MOST_LAYERS)]
Share = Annotated[float, Field(ge=0, lt=1)]
Layers = Annotated[
    list[Annotated[int, Field(ge=0, lt=MOST_LAYERS)]],
    Field(max_length=MOST_LAYERS),
]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class _File(BaseModel):
    model_config = STRICT


class _HeadSettings(TypedDict, total=False):
    __pydantic_config__ = STRICT

    conv: bool
    normalize: bool
    dropout: Share
    order: Literal["reference", "paper"]
    pool: Literal["first", "mean"]
    fuse: Literal["concat", "gated", "cross"]


class ModelFile(_File):
    """``model.json``."""

    format: int
    backbone: Inside | None
    depth: Count | None = None
    frame_stride: Count = 1
    text_backbone: Inside | None = None
    text_depth: Count | None = None
    classes: Annotated[list[Name], Field(max_length=1000)]
    head: Name
    head_settings: _HeadSettings
    temperature: Annotated[float, Field(ge=1e-3, le=1e3)] = 1.0
    unsure: Annotated[float, Field(ge=0, le=1)] | None = None
    # Name -> mean and standard deviation.
    dimensions: dict[
        Name,
        Annotated[
            tuple[
                Annotated[float, Field(ge=-1e6, le=1e6)],
                Annotated[float, Field(gt=0, le=1e6)],
            ],
            Strict(False),  # JSON has lists
        ],
    ] = {}
    # A shorter one is no recording, see `ser_peft.data.audio`.
    first_seconds: Annotated[float, Field(ge=0.1, le=86400)] | None = None


class EnsembleFile(_File):
    """``model.json`` of an ensemble: the folders of its members in its own."""

    format: int
    members: Annotated[
        list[Annotated[str, Field(pattern="^members/[1-9][0-9]{0,2}$")]],
        Field(min_length=1, max_length=999),
    ]


class _AutoMapping(_File):
    base_model_class: Name | None = None
    parent_library: Name | None = None


class AdapterFile(_File):
    """``adapter_config.json`` of a method that adds nothing."""

    peft_type: Name
    layers: Layers | None
    base_model_name_or_path: Name | None = None
    auto_mapping: _AutoMapping | None = None


class BottleneckFile(AdapterFile):
    """``adapter_config.json`` of bottleneck adapters."""

    bottleneck: Annotated[int, Field(ge=1, le=65536)]
    scale: Annotated[float, Field(ge=-1e6, le=1e6)]
    dropout: Share
    parallel: bool
    residual: bool = False  # absent from older files


class PromptFile(AdapterFile):
    """``adapter_config.json`` of deep prompts."""

    length: Annotated[int, Field(ge=1, le=65536)]
    start: Literal["silence", "random"]


class _Identity(_File):
    source: Name | None = None
    commit: Name | None = None
    sha256: dict[Name, Digest] | None = None


class _Listed(_File):
    sha256: Digest
    size: Annotated[int, Field(ge=0)]


class ManifestFile(_File):
    """``manifest.json`` of a model folder, see `ser_peft.storage.closed`."""

    format: Literal[1]
    encoders: dict[Name, _Identity]
    # Models of the Hugging Face hub that it comes from.
    origins: list[_Identity] = []
    files: dict[Name, _Listed]


class HeardFile(_File):
    """``heard.json``, see `ser_peft.data.provenance.Heard`.

    ``deals`` are the hashes of the protocols of all trainings.
    """

    speakers: dict[str, list[str]]
    deals: list[str]
    trust_start: list[str]


class PartsFile(TypedDict):
    """``model.safetensors.index.json`` of a checkpoint in several parts."""

    weight_map: dict[Name, Name]


class _Entry(_File):
    source: Name
    revision: Name | None = None
    sha256: Annotated[dict[Name, Name], Field(min_length=1)]


RegistryFile = dict[Name, _Entry]
"""See `ser_peft.storage.released.registry_file`."""


def check_values(content, largest, free=(), where=""):
    """Refuse numbers and texts that nothing sensible holds, at any depth.

    Arguments
    ---------
    content : object
        From JSON.
    largest : int
        Whole numbers may not be larger, nor less than -1.
    free : sequence of str
        Parts of the names of keys whose numbers are no sizes: those may be
        anything that fits into four bytes.
    where : str
        Key of `content`, for the message.

    Raises
    ------
    ValueError
        That names key and value.

    Example
    -------
    >>> check_values({"r": 10**7}, 4096)
    Traceback (most recent call last):
    ...
    ValueError: r: 10000000: more than 4096
    """
    if isinstance(content, dict):
        for key, value in content.items():
            check_values(key, largest, free, where or "key")
            inside = f"{where}.{key}" if where else key
            check_values(value, largest, free, inside)
    elif isinstance(content, list):
        if len(content) > 100_000:
            raise ValueError(f"{where}: {len(content)} entries")
        for value in content:
            check_values(value, largest, free, where)
    elif isinstance(content, str):
        if len(content) > 20_000:
            raise ValueError(f"{where}: {content[:60]!r}...: too long")
    elif isinstance(content, float):
        if not math.isfinite(content) or abs(content) > 1e9:
            raise ValueError(f"{where}: {content}: no number of use")
    elif isinstance(content, int) and not isinstance(content, bool):
        size = not any(part in where for part in free)
        most, least = (largest, -1) if size else (2**31, -(2**31))
        if not least <= content <= most:
            shown = str(content)[:40]
            limit = f"more than {most}" if content > most else "less than 0"
            raise ValueError(f"{where}: {shown}: {limit}")
