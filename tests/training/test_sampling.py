"""Balanced sampling in a training."""

from collections import Counter

import pytest
import speechbrain as sb
import torch

from ser_peft.data import prepare
from ser_peft.errors import InputError
from ser_peft.training import StateBrain


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


# ------------------------------------------------------------------ mixtures


@pytest.mark.parametrize("side", [False, True])
def test_targets_are_those_of_both(
    new_brain, ravdess_tree, tmp_path, monkeypatch, side
):
    """The loss of a mixture is the mean of both labels', by share."""
    more = {}
    if side:  # and of labels that nobody is asked for
        more = {"manifests_folder": tmp_path / "side", "train_classes": 7}
        prepare(
            "ravdess", ravdess_tree, tmp_path / "side", classes=4,
            train_classes=7,
        )  # fmt: skip
    brain = new_brain(
        tmp_path / "run",
        mixing=1,
        augment="False",
        label_smoothing=0,
        crop=1,
        **more,
    )
    brain.weight_of = dict.fromkeys(brain.weight_of, 1.0)
    batch = next(iter(brain.train_loader()))
    brain.on_stage_start(sb.Stage.TRAIN, 1)
    heard = []
    monkeypatch.setattr(
        brain, "encode_train",
        lambda wavs, *more, old=brain.encode_train: (
            heard.append(wavs) or old(wavs, *more)
        ),
    )  # fmt: skip
    scores = brain.compute_forward(batch, sb.Stage.TRAIN)
    mixture = brain.mixture
    assert torch.equal(heard[0], mixture.wavs)
    assert not torch.equal(mixture.wavs, batch.sig.data)
    loss = brain.compute_objectives(scores, batch, sb.Stage.TRAIN)
    logs = scores.log_softmax(1)
    expected = []
    for i, (partner, share) in enumerate(
        zip(mixture.partners.tolist(), mixture.shares.tolist(), strict=True)
    ):
        one, other = batch.label[i], batch.label[partner]
        expected.append(-share * logs[i, one] - (1 - share) * logs[i, other])
    assert loss.item() == pytest.approx(torch.stack(expected).mean().item())
    # Valid stays as it is.
    valid = next(iter(brain.eval_loader("valid")))
    with torch.no_grad():
        brain.modules.eval()
        scores = brain.compute_forward(valid, sb.Stage.VALID)
        loss = brain.compute_objectives(scores, valid, sb.Stage.VALID)
    assert scores.shape[1] == 4
    right = torch.nn.functional.cross_entropy(scores, valid.label)
    assert loss.item() == pytest.approx(right.item())


def test_no_mixture_is_kept(new_brain, fit, tmp_path):
    """Not even where clips without one would be; augmentation follows."""
    how = {"augment": "True", "number_of_epochs": 1, "augmented_versions": 1}
    plain = fit(new_brain(tmp_path / "a", **how, method="frozen"))
    assert plain.unchanging("train")
    mixed = fit(new_brain(tmp_path / "b", **how, method="frozen", mixing=0.5))
    assert not mixed.unchanging("train") and mixed.unchanging("valid")
    assert mixed.history[0]["train_loss"] != plain.history[0]["train_loss"]


@pytest.mark.parametrize("share", [-0.1, 1.5, "often"])
def test_share_of_mixtures(new_brain, tmp_path, share):
    with pytest.raises(InputError, match=f"mixing: {share} is no number from"):
        new_brain(tmp_path, mixing=share)


def test_frames_are_not_mixed():
    with pytest.raises(InputError, match="mixing: a frame is taught"):
        StateBrain.check({"mixing": 0.5})
    StateBrain.check({"mixing": 0})
