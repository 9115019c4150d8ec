"""Balanced sampling in a training."""

from collections import Counter

import pytest
import torch

from ser_peft.data import prepare
from ser_peft.errors import InputError


@pytest.fixture(scope="module")
def unequal(ravdess_tree, tmp_path_factory):
    """Manifests in which calm counts as neutral, the largest class."""
    folder = tmp_path_factory.mktemp("seven")
    prepare("ravdess", ravdess_tree, folder, classes=7)
    return {"manifests_folder": folder, "classes": 7}


def test_classes_are_equally_frequent(new_brain, unequal, tmp_path):
    weighed = new_brain(tmp_path / "a", **unequal)
    brain = new_brain(tmp_path / "b", **unequal, balanced_sampling="True")
    labels = Counter(
        label
        for batch in brain.train_loader()
        for label in batch.label.tolist()
    )
    clips = len(brain.sets["train"])
    assert labels == dict.fromkeys(range(7), clips // 7)
    # Not balanced twice; valid is measured alike.
    for split, dataset in brain.sets.items():
        for id_ in dataset.data:
            weight = 1 if split == "train" else weighed.weight_of[id_]
            assert brain.weight_of[id_] == weight
    assert len({*weighed.weight_of.values()}) == 2


def test_nothing_to_balance(new_brain, tmp_path):
    with pytest.raises(InputError, match="balanced_sampling: balance names no"):
        new_brain(tmp_path / "a", balanced_sampling="True", balance="[]")


def test_a_killed_run_goes_on(new_brain, fit, unequal, tmp_path):
    how = unequal | {
        "balanced_sampling": "True", "augment": "True", "number_of_epochs": 2
    }  # fmt: skip
    whole = fit(new_brain(tmp_path / "whole", **how))
    killed = new_brain(tmp_path / "killed", **how)
    fit_batch, seen = killed.fit_batch, []

    def one_too_many(batch):
        seen.append(batch)
        if len(seen) > killed.steps + 1:
            raise KeyboardInterrupt
        return fit_batch(batch)

    killed.fit_batch = one_too_many
    with pytest.raises(KeyboardInterrupt):
        fit(killed)
    again = fit(new_brain(tmp_path / "killed", **how))
    assert [past["epoch"] for past in again.history] == [1, 2]
    for key in ("train_loss", "valid_loss"):
        assert again.history[-1][key] == whole.history[-1][key]
    tensors = whole.modules.state_dict()
    for name, tensor in again.modules.state_dict().items():
        assert torch.equal(tensor, tensors[name]), name
