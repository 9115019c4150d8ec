"""From hidden states to scores."""

from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from speechbrain.utils.checkpoints import Checkpointer

from ser_peft.errors import InputError
from ser_peft.heads import HEADS, LinearHead, masked_mean
from ser_peft.training.probe import Probe

LAYERS, WIDTH, FRAMES = 3, 32, torch.tensor([20, 11, 1])


def encoder(layers=LAYERS, width=WIDTH):
    """What a head needs to know of an encoder."""
    return SimpleNamespace(num_layers=layers, hidden_size=width)


@pytest.fixture
def states():
    """Hidden states [L + 1, B, T, C]; layers and channels differ in scale."""
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(LAYERS + 1, 3, 20, WIDTH, generator=generator)
    offsets = torch.randn(LAYERS + 1, 1, 1, WIDTH, generator=generator)
    scales = torch.tensor([0.1, 1.0, 3.0, 10.0]).reshape(-1, 1, 1, 1)
    return scales * (states + 5 * offsets)


def build(name, classes=4, **settings):
    """A head with nothing left at zero, in eval mode."""
    torch.manual_seed(0)
    head = HEADS[name](encoder(), classes, **settings).eval()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return head


def a_probe(states, classes=4):
    means = masked_mean(states, FRAMES).transpose(0, 1)
    size = (LAYERS + 1) * WIDTH
    return Probe(
        mean=means.mean(0),
        deviation=means.std(0, correction=0),
        weight=torch.randn(classes, size) / size**0.5,
        bias=torch.randn(classes),
        strength=1.0,
        valid_ua=0.5,
    )


@pytest.mark.parametrize(("layers", "width"), [(4, 384), (12, 768), (24, 1024)])
@pytest.mark.parametrize("conv", [True, False])
def test_size_of_peft_sers_head(layers, width, conv):
    head = HEADS["LayerMixHead"](encoder(layers, width), 4, conv=conv)
    expected = 256 * width + 198660 + layers + conv
    assert sum(p.numel() for p in head.parameters()) == expected


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize(
    "classes", [3, ["a", "b", "c"], {"x": "a", "y": "b", "z": "c", "w": "a"}]
)
def test_classes(states, name, classes):
    for dimensions in (0, ["arousal", "valence"]):
        head = HEADS[name](encoder(), classes, dimensions)
        outputs = 5 if dimensions else 3
        assert head.outputs == outputs
        assert head(states, FRAMES).shape == (3, outputs)


@pytest.mark.parametrize("name", HEADS)
def test_padding_does_not_count(states, name):
    head = build(name)
    clean = head(states, FRAMES)
    garbage = states.clone()
    for clip, valid in enumerate(FRAMES):
        garbage[:, clip, valid:] = 1e3 * torch.randn(20 - valid, WIDTH)
    torch.testing.assert_close(head(garbage, FRAMES), clean)
    longer = torch.cat([states, torch.full_like(states, -50.0)], dim=2)
    torch.testing.assert_close(head(longer, FRAMES), clean)
    alone = head(states[:, 1:2, :11], FRAMES[1:2])
    torch.testing.assert_close(alone, clean[1:2])
    # And what is no padding does.
    states[:, 1, 10] += 5 * torch.randn(WIDTH)
    assert not torch.allclose(head(states, FRAMES)[1], clean[1], atol=1e-4)


def test_masked_mean(states):
    for clip, valid in enumerate(FRAMES):
        torch.testing.assert_close(
            masked_mean(states, FRAMES)[:, clip],
            states[:, clip, :valid].mean(1),
        )


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_probe_keeps_its_scores_in_mixed_precision(states, kind):
    """Channels are far from zero compared with how they differ by clip."""
    head = LinearHead(encoder(), 4)
    # A sum over frames would overflow float16.
    states = 100 * (states + 20)
    head.start_from(a_probe(states))
    full = head(states, FRAMES)
    with torch.autocast("cpu", dtype=kind):
        mixed = head(states, FRAMES)
    torch.testing.assert_close(mixed.float(), full, atol=0.02, rtol=0)


def test_statistics_in_mixed_precision(states):
    head = build("StatisticsHead")
    # All frames alike but for a little.
    states = 0.1 * states + 1
    full = head.embed(states, FRAMES)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = head.embed(states, FRAMES)
    torch.testing.assert_close(mixed.float(), full, atol=0.01, rtol=0)


def test_statistics_of_constant_frames_have_a_gradient(states):
    """The deviation is zero, and the root of zero has no gradient."""
    head = build("StatisticsHead")
    constant = states[:, :, :1].expand_as(states).clone().requires_grad_()
    head(constant, FRAMES).sum().backward()
    gradients = [constant.grad, *(p.grad for p in head.parameters())]
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_statistics_by_hand(states):
    head = build("StatisticsHead").train()
    for i, n in enumerate(FRAMES):
        last = states[-1, i, :n]
        deviation = last.std(0, correction=0).clamp(min=1e-3)
        parts = []
        for statistic, norm in (
            (last.mean(0), head.mean_norm),
            (deviation.log(), head.deviation_norm),
        ):
            centred = statistic - statistic.mean()
            centred /= (centred.square().mean() + 1e-5).sqrt()
            parts.append(centred * norm.weight + norm.bias)
        torch.testing.assert_close(
            head(states, FRAMES)[i], head.linear(torch.cat(parts)),
            atol=1e-4, rtol=1e-4,
        )  # fmt: skip


def test_normalize_takes_the_scale_of_a_layer_away(states):
    louder = states.clone()
    louder[2] *= 50
    head = build("LayerMixHead")
    torch.testing.assert_close(
        head(louder, FRAMES), head(states, FRAMES), atol=1e-4, rtol=1e-4
    )
    raw = build("LayerMixHead", normalize=False)
    assert not torch.allclose(
        raw(louder, FRAMES), raw(states, FRAMES), atol=0.1
    )


def test_without_conv_the_input_of_the_first_layer_does_not_count(states):
    other = states.clone()
    other[0] += torch.randn_like(other[0])
    head = build("LayerMixHead", conv=False)
    assert torch.equal(head(other, FRAMES), head(states, FRAMES))
    assert head.layer_weights[0] == 0
    head = build("LayerMixHead")
    assert not torch.equal(head(other, FRAMES), head(states, FRAMES))


@pytest.mark.parametrize("name", HEADS)
def test_layer_weights_are_shares(name):
    weights = build(name).layer_weights
    assert weights.shape == (LAYERS + 1,)
    last_only = name in ("MeanHead", "StatisticsHead")
    assert ((weights > 0) | last_only).all()
    assert float(weights.sum()) == pytest.approx(1)


@pytest.mark.parametrize("name", ["LinearHead", "ProbeMixHead"])
def test_start_from_gives_the_probes_logits(states, name):
    probe = a_probe(states)
    head = HEADS[name](encoder(), 4).eval()
    head.start_from(probe)
    means = torch.stack(
        [states[:, i, :n].mean(1) for i, n in enumerate(FRAMES)]
    )
    features = ((means - probe.mean) / probe.deviation).flatten(1)
    torch.testing.assert_close(
        head(states, FRAMES), features @ probe.weight.T + probe.bias
    )
    means = masked_mean(states, FRAMES).transpose(0, 1)
    linear = getattr(head, "probe", head)
    scores = linear.score(linear.standardize(means))
    assert torch.equal(scores, head(states, FRAMES))


def test_probe_mix_head_learns_beside_the_probe(states):
    head = HEADS["ProbeMixHead"](encoder(), 4, dropout=0.0)
    head.start_from(a_probe(states))
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    for _ in range(2):  # the first step frees the zeroed layer alone
        optimizer.zero_grad()
        head(states, FRAMES).square().sum().backward()
        optimizer.step()
    for name, parameter in head.named_parameters():
        assert parameter.grad.any(), name


@pytest.mark.parametrize("name", HEADS)
def test_saved_heads_are_rebuilt_from_their_settings(states, name, tmp_path):
    settings = {"dropout": 0.3}
    if name == "MeanHead":
        settings = {"order": "paper"}
    elif name not in ("LinearHead", "StatisticsHead"):
        settings |= {"conv": False, "normalize": False}
    head = build(name, **settings)
    path = tmp_path / "head.safetensors"
    head.save(path)
    with safe_open(path, "pt") as file:
        assert set(file.keys()) == set(head.state_dict())
    again = HEADS[name](encoder(), 4, **head.settings).eval()
    again.load(path)
    assert torch.equal(again(states, FRAMES), head(states, FRAMES))


@pytest.mark.parametrize("name", HEADS)
def test_speechbrain_saves_heads_as_safetensors(states, name, tmp_path):
    head, again = build(name), HEADS[name](encoder(), 4).eval()
    Checkpointer(tmp_path, {"head": head}).save_checkpoint()
    (path,) = tmp_path.rglob("head.ckpt")
    with safe_open(path, "pt") as file:
        assert list(file.keys())
    Checkpointer(tmp_path, {"head": again}).recover_if_possible()
    assert torch.equal(again(states, FRAMES), head(states, FRAMES))


@pytest.mark.parametrize(
    "other",
    [
        HEADS["LayerMixHead"](encoder(), 5),
        HEADS["LayerMixHead"](encoder(width=16), 4),
        HEADS["LayerMixHead"](encoder(layers=5), 4),
        HEADS["LinearHead"](encoder(), 4),
        HEADS["ProbeMixHead"](encoder(), 4),
    ],
)
def test_another_head_does_not_fit(tmp_path, other):
    build("LayerMixHead").save(tmp_path / "head.safetensors")
    with pytest.raises(InputError, match="head.safetensors: does not fit"):
        other.load(tmp_path / "head.safetensors")


def test_no_head_to_load(tmp_path):
    path = tmp_path / "head.safetensors"
    with pytest.raises(InputError, match="head.safetensors: cannot be read"):
        build("LinearHead").load(path)
    path.write_bytes(b"no safetensors")
    with pytest.raises(InputError, match="head.safetensors: cannot be read"):
        build("LinearHead").load(path)


def test_mean_head_in_both_orders(states):
    """ReLU and mean do not commute; padding never counts."""
    found = {}
    for order in ("reference", "paper"):
        head = build("MeanHead", order=order)
        means = []
        for i, n in enumerate(FRAMES):
            last = states[-1, i, :n]
            means.append(
                last.relu().mean(0) if order == "reference" else last.mean(0)
            )
        expected = head.linear(torch.stack(means).relu())
        found[order] = head(states, FRAMES)
        torch.testing.assert_close(found[order], expected)
    assert not torch.allclose(*found.values(), atol=1e-3)
    with pytest.raises(InputError, match="order: other is not one of"):
        build("MeanHead", order="other")
