"""Trainings on votes, with side tasks and for unequal classes."""

import json
import shutil

import pytest
import speechbrain as sb
import torch
from torch.nn.functional import cross_entropy

from ser_peft.errors import InputError

FOUR = ["neutral", "angry", "sad", "happy"]
QUIET = {"augment": False, "crop": 1, "start_from_probe": False}


@pytest.fixture(scope="module")
def voted(manifests, tmp_path_factory):
    """The manifests, with five votes for every clip, of which one differs."""
    folder = tmp_path_factory.mktemp("voted") / "manifests"
    shutil.copytree(manifests, folder)
    for split in ("train", "valid", "test"):
        path = folder / f"{split}.json"
        entries = json.loads(path.read_text())
        for number, entry in enumerate(entries.values()):
            other = FOUR[number % 4]
            votes = {entry["emotion"]: 4}
            votes[other] = votes.get(other, 0) + 1
            entry["votes"] = votes
        path.write_text(json.dumps(entries))
    path = folder / "protocol.json"
    about = json.loads(path.read_text()) | {"targets": "votes"}
    path.write_text(json.dumps(about))
    return folder


def loss_of(brain, batch, epoch=1):
    """Loss of a training batch whose logits are all 0, and the targets."""
    brain.on_stage_start(sb.Stage.TRAIN, epoch)
    seen = []
    whole = brain.class_loss.targets

    def targets(*args):
        seen.append(whole(*args))
        return seen[-1]

    brain.class_loss.targets = targets
    logits = torch.zeros(len(batch.id), 4)
    logits[:, 0] = 1.0
    loss = brain.compute_objectives(logits, batch, sb.Stage.TRAIN)
    brain.class_loss.targets = whole
    return float(loss), seen[0], logits


def test_the_votes_are_what_is_learned(new_brain, voted, tmp_path):
    brain = new_brain(
        tmp_path / "run", **QUIET, manifests_folder=voted, targets="votes",
        label_smoothing=0, balance="[]",
    )  # fmt: skip
    batch = next(iter(brain.train_loader()))
    loss, targets, logits = loss_of(brain, batch)
    for id_, row in zip(batch.id, targets.tolist(), strict=True):
        votes = brain.sets["train"].data[id_]["votes"]
        assert row == pytest.approx([votes.get(c, 0) / 5 for c in FOUR])
    assert loss == pytest.approx(float(cross_entropy(logits, targets)))
    # Judged by its majority.
    brain.on_stage_start(sb.Stage.VALID)
    hard = brain.compute_objectives(logits, batch, sb.Stage.VALID)
    assert float(hard) == pytest.approx(
        float(cross_entropy(logits, batch.label))
    )


def test_other_votes_are_left_out_every_epoch(new_brain, voted, tmp_path):
    """And the same ones in the same epoch of the same seed."""
    found = []
    for name in ("a", "b"):
        brain = new_brain(
            tmp_path / name, **QUIET, manifests_folder=voted, targets="votes",
            vote_dropout=0.5,
        )  # fmt: skip
        batch = next(iter(brain.train_loader()))
        found.append([loss_of(brain, batch, epoch)[1] for epoch in (1, 2)])
    (first, second), again = found
    assert torch.equal(first, again[0]) and torch.equal(second, again[1])
    assert not torch.equal(first, second)


def test_side_tasks_train_beside(new_brain, voted, fit, tmp_path):
    brain = new_brain(
        tmp_path / "run", manifests_folder=voted, targets="votes",
        side_tasks="{gender: 0.5}", number_of_epochs=1,
    )  # fmt: skip
    before = brain.side.linear.weight.clone()
    fit(brain)
    assert not torch.equal(before, brain.side.linear.weight)
    group = brain.optimizers_dict["head_opt"].param_groups[0]["params"]
    assert any(p is brain.side.linear.weight for p in group)
    results = brain.evaluate_kept()
    assert results["votes"]["utterances"] == results["test_utterances"]
    assert results["votes"]["annotators"] == 5
    brain.report()
    saved = brain.checkpointer.find_checkpoint()
    assert "side" in saved.paramfiles
    model = tmp_path / "run" / "model"
    assert not [path for path in model.rglob("*") if "side" in path.name]
    page = (tmp_path / "run" / "report.html").read_text()
    assert "<h2>Votes</h2>" in page and "unanimous" in page


def test_balance_where_logits_are_adjusted(new_brain, tmp_path):
    brain = new_brain(tmp_path / "a", logit_adjustment=1.0)
    assert {*brain.weight_of.values()} == {1.0}
    assert brain.class_loss.adjustment.exp().sum() == pytest.approx(1)
    with pytest.raises(InputError, match="logit_adjustment: balance: "):
        new_brain(tmp_path / "b", logit_adjustment=1.0, balance="[emotion]")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"targets": "soft"}, "targets: soft is not one of majority, votes"),
        ({"vote_dropout": 1.5}, "vote_dropout: 1.5 is no number"),
        ({"focal_gamma": -1}, "focal_gamma: -1 is no number"),
        ({"side_tasks": "[gender]"}, "side_tasks: .* is no map"),
        ({"side_tasks": "{gender: 0}"}, "side_tasks: .* is no map"),
        ({"side_tasks": "{age: 1}"}, "side_tasks: age: .* 0 values"),
        ({"targets": "votes"}, "targets: votes: no training clip"),
    ],
)
def test_settings_that_are_refused(flags, message, new_brain, tmp_path):
    with pytest.raises(InputError, match=message):
        new_brain(tmp_path / "run", **flags)


def test_two_processes(arguments, voted, train, tmp_path):
    """The side layer's gradients are averaged like the head's."""
    end = train(
        arguments(
            tmp_path / "run", manifests_folder=voted, targets="votes",
            vote_dropout=0.2, side_tasks="{gender: 0.5}", number_of_epochs=1,
            device="cpu", distributed_backend="gloo",
        ),
        processes=2,
    )  # fmt: skip
    assert end.code == 0, end.log
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["processes"] == 2 and results["votes"]["annotators"] == 5
