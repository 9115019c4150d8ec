"""The heads that make frames carry emotion."""

import math
from types import SimpleNamespace

import pytest
import torch
from speechbrain.utils.checkpoints import Checkpointer
from torch.nn.functional import cross_entropy

from ser_peft.pretraining.states import StateHead, frame_loss

WIDTH, FRAMES = 16, torch.tensor([12, 7, 1])
ENCODER = SimpleNamespace(num_layers=2, hidden_size=WIDTH)


@pytest.fixture
def states():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, 3, 12, WIDTH, generator=generator)


@pytest.fixture
def head():
    torch.manual_seed(0)
    return StateHead(ENCODER, ["angry", "happy", "neutral", "sad"])


def test_by_hand(head, states):
    frames = torch.full((3,), 12)
    scores, each = head(states, frames, each_frame=True)
    last = states[-1]
    context = head.lstm(last)[0].mean(1).relu()
    first, _, second = head.utterance
    assert (first.in_features, first.out_features) == (512, 128)
    expected = second(torch.tanh(first(context)))
    assert torch.allclose(scores, expected, atol=1e-6)
    first, _, second = head.frame
    assert (first.in_features, first.out_features) == (WIDTH, 128)
    assert torch.allclose(each, second(torch.tanh(first(last))), atol=1e-6)
    assert torch.equal(head(states, frames), scores)
    assert head.layer_weights.tolist() == [0, 0, 1]


def test_padding_does_not_count(head, states):
    scores, each = head(states, FRAMES, each_frame=True)
    noise = states.clone()
    for i, count in enumerate(FRAMES):
        noise[:, i, count:] = 1e3
        alone = head(states[:, i : i + 1, :count], FRAMES[i : i + 1], True)
        assert torch.allclose(alone[0][0], scores[i], atol=1e-6)
        assert torch.allclose(alone[1][0], each[i, :count], atol=1e-6)
    assert torch.allclose(head(noise, FRAMES), scores, atol=1e-6)
    # Longer padding than the longest clip, as DDP's other ranks may have.
    wide = torch.nn.functional.pad(states, (0, 0, 0, 5))
    assert torch.allclose(head(wide, FRAMES), scores, atol=1e-6)


def test_backward_direction_starts_at_the_end(head, states):
    """The last valid frame reaches the first one's context."""
    states.requires_grad_(True)
    head(states, FRAMES)[1].sum().backward()
    moved = states.grad[-1, 1].abs().sum(1) > 0
    assert moved.tolist() == [True] * 7 + [False] * 5
    assert not states.grad[:-1].any()


def test_everything_trains(head, states):
    scores, each = head(states, FRAMES, each_frame=True)
    labels = torch.tensor([0, 3, 2])
    loss = cross_entropy(scores, labels, reduction="none")
    (loss + frame_loss(each, FRAMES, labels)).sum().backward()
    assert all(p.grad.any() for p in head.parameters())


def test_mixed_precision(head, states):
    scores, each = head(states, FRAMES, each_frame=True)
    with torch.autocast("cpu", torch.bfloat16):
        half, half_each = head(states.bfloat16(), FRAMES, each_frame=True)
    assert torch.allclose(half.float(), scores, atol=0.02)
    assert torch.allclose(half_each.float(), each, atol=0.02)


def test_checkpoint(head, states, tmp_path):
    Checkpointer(tmp_path, {"head": head}).save_checkpoint()
    torch.manual_seed(1)
    fresh = StateHead(ENCODER, 4)
    assert not torch.equal(fresh(states, FRAMES), head(states, FRAMES))
    Checkpointer(tmp_path, {"head": fresh}).recover_if_possible()
    for ours, theirs in zip(
        fresh(states, FRAMES, True), head(states, FRAMES, True), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_frame_loss_by_hand():
    # Two classes: the loss is log(1 + exp(other - own)).
    gaps = torch.tensor([[0.0, 2.0, -1.0], [3.0, 50.0, 50.0]])
    logits = torch.stack([gaps, torch.zeros(2, 3)], 2)
    labels, frames = torch.tensor([1, 0]), torch.tensor([3, 1])
    losses = frame_loss(logits, frames, labels)
    first = sum(math.log1p(math.exp(gap)) for gap in (0, 2, -1)) / 3
    assert losses.tolist() == pytest.approx([first, math.log1p(math.exp(-3))])


def test_frame_loss_does_not_see_padding():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 12, 4, generator=generator, requires_grad=True)
    labels = torch.tensor([0, 3, 2])
    losses = frame_loss(logits, FRAMES, labels)
    for i, count in enumerate(FRAMES):
        own = logits[i, :count]
        expected = cross_entropy(own, labels[i].expand(count))
        assert torch.allclose(losses[i], expected)
    losses.sum().backward()
    touched = logits.grad.abs().sum(2) > 0
    assert touched.sum(1).tolist() == FRAMES.tolist()
