"""What runs that were disturbed must have in common with one that was not."""

import json

from safetensors.torch import load_file

# What two runs can never agree on.
MEASURED = ("train_seconds", "peak_memory_mb", "test_reads")


def outcome(folder):
    """Scores, predictions and tensors of a finished run."""
    results = json.loads((folder / "results.json").read_text())
    tensors = {
        path.relative_to(folder): load_file(path)
        for path in (folder / "model").rglob("*.safetensors")
    }
    return (
        {k: v for k, v in results.items() if k not in MEASURED},
        (folder / "predictions.csv").read_bytes(),
        (folder / "train_log.txt").read_text(),
        {
            (str(path), name): tensor.tolist()
            for path, found in tensors.items()
            for name, tensor in found.items()
        },
    )


def same(folder, unbroken):
    """Compare a run with the unbroken one, and look for debris."""
    assert outcome(folder) == outcome(unbroken)
    assert names(folder) == names(unbroken)
    for name in ("report.html", "confusion.png"):
        assert (folder / name).stat().st_size


def names(folder):
    """Of all that a run leaves."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
