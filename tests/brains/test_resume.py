"""A killed run, started again, ends as if nothing had happened."""

import json
import random

import pytest
from safetensors.torch import load_file

# Everything random is in play: crops, augmentation, dropout, the order.
SETTINGS = {
    "keep": "average",
    "keep_best": 2,
    "adapter_lr": 0.005,
    "max_seconds": 0.4,
    "number_of_epochs": 3,
}
# What two runs can never agree on.
MEASURED = ("train_seconds", "peak_memory_mb")


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
        {
            (str(path), name): tensor.tolist()
            for path, found in tensors.items()
            for name, tensor in found.items()
        },
    )


def same(folder, unbroken):
    """Compare a run with the unbroken one, and look for debris."""
    assert outcome(folder) == outcome(unbroken.folder)
    assert not list((folder / "save").glob("partial-*"))
    history = [
        json.loads((path / "history.ckpt").read_text())
        for path in (folder / "save").glob("CKPT*")
    ]
    assert max(map(len, history)) == 3
    for name in ("report.html", "confusion.png"):
        assert (folder / name).stat().st_size


@pytest.fixture(scope="module")
def run(train, arguments):
    """Function: folder, workers, how to end -> how it ended."""

    def start(folder, workers=0, **how):
        argv = arguments(
            folder, manifests_folder=None, num_workers=workers, **SETTINGS
        )
        return train(argv, **how)

    return start


@pytest.fixture(scope="module")
def unbroken(run, tmp_path_factory):
    """A run that nothing disturbed; run twice, or it could not be judged."""
    folders = [tmp_path_factory.mktemp("unbroken") / name for name in "ab"]
    for folder in folders:
        end = run(folder)
        assert end.code == 0, end.log
    end.folder = folders[0]
    same(folders[1], end)
    return end


# In the order of a run; each start is killed at the next one.
PLACES = [
    ("valid.json", 1),
    ("protocol.json", 2),
    ("hyperparams.yaml", 1),
    ("CKPT.yaml", 1),
    ("history.ckpt", 1),
    ("partial-CKPT", 6),
    ("CKPT.yaml", 2),
    ("epoch_counter.ckpt", 1),
    ("model.json", 1),
    ("adapter_config.json", 1),
    ("predictions.csv", 1),
    ("confusion.png", 1),
    ("report.html", 1),
    ("results.json", 1),
    ("results.json", 2),
]


def test_killed_at_every_place(run, unbroken, tmp_path):
    kills = []
    for place in PLACES:
        end = run(tmp_path / "run", kill_at=place)
        assert end.code == -9, (place, end.log)
        assert not (tmp_path / "run" / "results.json").exists()
        kills.append(place)
    end = run(tmp_path / "run")
    assert end.code == 0, end.log
    same(tmp_path / "run", unbroken)


@pytest.mark.parametrize("workers", [0, 1])
def test_killed_at_any_moment(run, unbroken, tmp_path, workers):
    if workers:  # they draw other random numbers
        whole = run(tmp_path / "whole", workers)
        assert whole.code == 0, whole.log
        whole.folder = tmp_path / "whole"
    else:
        whole = unbroken
    draw = random.Random(workers)
    kills = 0
    # Shares of a time measured once: on a busy machine it is a rough one.
    for most in (0.2, 0.3, 0.4, None):
        after = most and draw.uniform(0.1, most) * whole.seconds
        end = run(tmp_path / "run", workers, kill_after=after)
        if end.code == 0:
            break
        assert end.code < 0, end.log
        kills += 1
    assert kills and end.code == 0
    same(tmp_path / "run", whole)
