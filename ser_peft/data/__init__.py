"""Recordings, manifests, datasets and batches: from a folder to tensors."""

from ser_peft.data.audio import check_samples, read_audio
from ser_peft.data.batches import (
    Progress,
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
from ser_peft.data.writing import (
    entries_of,
    held,
    root_of,
    write_manifests,
)

__all__ = [
    "Progress",
    "batch_sampler",
    "check_samples",
    "dataset_of",
    "datasets",
    "entries_of",
    "eval_batches",
    "held",
    "measured_on",
    "prepare",
    "read_audio",
    "read_manifests",
    "root_of",
    "scale_of",
    "seeded",
    "values_of",
    "write_manifests",
]
