"""Recordings, manifests, datasets and batches: from a folder to tensors."""

from ser_peft.data.audio import read_audio
from ser_peft.data.batches import (
    batch_sampler,
    dataset_of,
    datasets,
    eval_batches,
    measured_on,
    scale_of,
    seeded,
    values_of,
)
from ser_peft.data.manifests import read_manifests
from ser_peft.data.preparation import prepare
from ser_peft.data.writing import entries_of, root_of

__all__ = [
    "batch_sampler",
    "dataset_of",
    "datasets",
    "entries_of",
    "eval_batches",
    "measured_on",
    "prepare",
    "read_audio",
    "read_manifests",
    "root_of",
    "scale_of",
    "seeded",
    "values_of",
]
