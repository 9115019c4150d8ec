"""Losses of the classes, against their formulas."""

import pytest
import torch
from torch.nn.functional import cross_entropy, one_hot

from ser_peft.errors import InputError
from ser_peft.training.class_loss import (
    ClassLoss,
    class_losses,
    leave_out,
    vote_targets,
)
from ser_peft.training.side_tasks import SideTasks

CLASSES = ["neutral", "angry", "sad"]
TRAIN = {
    "a": {"emotion": "sad", "votes": {"sad": 3, "angry": 1}},
    "b": {"emotion": "neutral", "votes": {"neutral": 5}},
    "c": {"emotion": "angry"},
    "d": {"emotion": "neutral", "votes": {"neutral": 1, "angry": 1}},
}
VOTES = torch.tensor([[0.0, 1, 3], [5, 0, 0], [0, 1, 0], [1, 1, 0]])
LABELS = torch.tensor([2, 0, 1, 0])


@pytest.fixture
def logits():
    return torch.randn(4, 3, requires_grad=True)


def test_defaults_are_the_plain_cross_entropy(logits):
    """To the bit, with smoothed labels too."""
    for smoothing in (0.0, 0.1):
        loss = ClassLoss(CLASSES, TRAIN, label_smoothing=smoothing)
        targets = loss.targets([*TRAIN], LABELS)
        assert targets is LABELS
        plain = cross_entropy(
            logits, LABELS, reduction="none", label_smoothing=smoothing
        )
        assert torch.equal(loss(logits, targets), plain)


def test_votes_are_distributions(logits):
    loss = ClassLoss(CLASSES, TRAIN, "votes")
    targets = loss.targets(["d", "a"], None)
    assert targets.tolist() == [[0.5, 0.5, 0.0], [0.0, 0.25, 0.75]]
    logs = logits[:2].log_softmax(1)
    expected = -(targets * logs).sum(1)
    assert torch.allclose(loss(logits[:2], targets), expected)
    # Kullback-Leibler differs by the targets' entropy, which has no gradient.
    (ours,) = torch.autograd.grad(loss(logits[:2], targets).sum(), logits)
    divergence = torch.nn.functional.kl_div(
        logits[:2].log_softmax(1), targets, reduction="sum"
    )
    (theirs,) = torch.autograd.grad(divergence, logits)
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_votes_for_other_classes_alone_are_none():
    odd = {"e": {"emotion": "sad", "votes": {"fear": 2}}}
    loss = ClassLoss(CLASSES, TRAIN | odd, "votes")
    assert loss.targets(["e"], None).tolist() == [[0, 0, 1]]
    assert loss.prior.isfinite().all()


def test_prior_of_the_targets():
    shares = torch.tensor(
        [[0, 0.25, 0.75], [1, 0, 0], [0, 1, 0], [0.5, 0.5, 0]]
    )
    by_votes = ClassLoss(CLASSES, TRAIN, "votes")
    assert torch.allclose(by_votes.prior, shares.mean(0))
    assert ClassLoss(CLASSES, TRAIN).prior.tolist() == [0.5, 0.25, 0.25]


def test_smoothing_counts_as_annotators():
    prior = torch.tensor([0.5, 0.3, 0.2])
    found = vote_targets(VOTES, prior, 2.0)
    assert torch.allclose(found, (VOTES + 2 * prior) / torch.tensor(
        [[6.0], [7], [3], [4]]
    ))  # fmt: skip
    # Who has fewer annotators moves more.
    assert found[2].sub(torch.tensor([0.0, 1, 0])).abs().sum() > found[1].sub(
        torch.tensor([1.0, 0, 0])
    ).abs().sum()  # fmt: skip
    loss = ClassLoss(CLASSES, TRAIN, "votes", prior_smoothing=2.0)
    found = loss.targets([*TRAIN], None)
    assert torch.allclose(found, vote_targets(VOTES, loss.prior, 2.0))


def test_votes_are_left_out_at_random():
    torch.manual_seed(5)
    draws = torch.stack([leave_out(VOTES, 0.2) for _ in range(2000)])
    assert (draws <= VOTES).all() and (draws.sum(2) >= 1).all()
    assert float(draws[:, 1, 0].mean()) == pytest.approx(4, abs=0.1)
    torch.manual_seed(5)
    assert torch.equal(leave_out(VOTES, 0.2), draws[0])
    loss = ClassLoss(CLASSES, TRAIN, "votes", vote_dropout=0.5)
    seen = {str(loss.targets(["a"], None).tolist()) for _ in range(50)}
    assert len(seen) > 1


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_loss(logits, gamma):
    chances = logits.softmax(1)
    right = chances.gather(1, LABELS[:, None])[:, 0]
    found = class_losses(logits, LABELS, gamma=gamma)
    assert torch.allclose(found, -((1 - right) ** gamma) * right.log())
    soft = vote_targets(VOTES, torch.ones(3), 0.0)
    found = class_losses(logits, soft, gamma=gamma)
    expected = -(soft * (1 - chances) ** gamma * chances.log()).sum(1)
    assert torch.allclose(found, expected, atol=1e-6)
    smooth = class_losses(logits, LABELS, 0.3, gamma)
    soft = 0.7 * one_hot(LABELS, 3) + 0.1
    assert torch.allclose(smooth, class_losses(logits, soft, gamma=gamma))


def test_focal_loss_of_the_sure_has_a_gradient():
    logits = torch.tensor([[200.0, 0.0, 0.0]], requires_grad=True)
    class_losses(logits, torch.tensor([0]), gamma=0.5).backward()
    assert logits.grad.isfinite().all()


def test_logit_adjustment(logits):
    prior = torch.tensor([0.5, 0.25, 0.25])
    found = ClassLoss(CLASSES, TRAIN, logit_adjustment=1.5)(logits, LABELS)
    chances = logits.exp() * prior**1.5
    chances = chances / chances.sum(1, keepdim=True)
    right = chances.gather(1, LABELS[:, None])[:, 0]
    assert torch.allclose(found, -right.log(), atol=1e-6)
    # The best logits of clips that are all alike are even.
    flat = torch.zeros(4, 3, requires_grad=True)
    loss = ClassLoss(CLASSES, TRAIN, logit_adjustment=1.0)
    loss(flat, LABELS).sum().backward()
    assert torch.allclose(flat.grad.sum(0), torch.zeros(3), atol=1e-6)


def test_votes_that_are_not_there():
    with pytest.raises(InputError, match="no training clip has votes"):
        ClassLoss(CLASSES, {"c": TRAIN["c"]}, "votes")


SIDE = {
    "a": {"gender": "female", "secondary": {"Calm": 1, "Sad": 3}},
    "b": {"gender": "male"},
    "c": {"secondary": {"Sad": 2}},
}


def test_side_tasks():
    tasks = SideTasks(5, {"gender": 0.1, "secondary": 2.0}, SIDE)
    targets = tasks.targets(["c", "a"])
    assert targets.tolist() == [[0, 0, 0, 1], [1, 0, 0.25, 0.75]]
    logits = tasks(torch.randn(2, 5))
    gender, second = (part.log_softmax(1) for part in logits.split([2, 2], 1))
    expected = [
        -2.0 * second[0, 1],
        -0.1 * gender[1, 0] - 2.0 * (0.25 * second[1, 0] + 0.75 * second[1, 1]),
    ]
    assert torch.allclose(tasks.losses(logits, targets), torch.stack(expected))


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("age", "age: is a number, 31.5; .*dimensions"),
        ("accent", "accent: .*have 0 values"),
        ("corpus", "corpus: .*have 1 values"),
    ],
)
def test_side_tasks_that_are_none(key, message):
    train = {k: {**e, "age": 31.5, "corpus": "x"} for k, e in SIDE.items()}
    with pytest.raises(InputError, match=message):
        SideTasks(5, {key: 0.1}, train)
