"""Recordings, manifests, datasets and batches: from a folder to tensors."""

from ser_peft.lazy import lazy

__getattr__, __all__ = lazy(
    __name__,
    {
        "audio": "read_audio",
        "batches": "batch_sampler dataset_of datasets eval_batches "
        "measured_on scale_of seeded values_of",
        "manifests": "read_manifests",
        "preparation": "prepare",
        "writing": "entries_of root_of",
    },
)
