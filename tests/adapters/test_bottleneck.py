"""Bottleneck adapters: what they compute, and where they sit."""

import copy
import json

import pytest
import torch

from ser_peft.adapters import BottleneckConfig, PeftLobe, load_adapter
from ser_peft.errors import InputError


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("name", ["wav2vec2", "hubert", "wavlm", "whisper"])
def test_is_added_to_the_feed_forward_block(
    fresh_lobe, clips, disturb, name, parallel
):
    """What enters and leaves the block obeys the papers' equations."""
    config = BottleneckConfig(bottleneck=4, scale=0.5, parallel=parallel)
    encoder = disturb(PeftLobe(fresh_lobe(name), config))
    lobe = encoder.lobe
    layer = lobe.layers[1]
    seen = {}

    def before(module, args):
        seen["input"] = args[0]

    def plain(module, args, output):
        seen["block"] = output

    def after(module, args, output):
        seen["output"] = output

    layer.get_submodule(lobe.ffn_input).register_forward_pre_hook(before)
    block = layer.get_submodule(lobe.ffn_output)
    block.register_forward_hook(plain, prepend=True)
    block.register_forward_hook(after)
    with torch.no_grad():
        encoder(*clips)
        adapter = layer.bottleneck_adapter
        source = seen["input"] if parallel else seen["block"]
        inner = torch.relu(source @ adapter.down.weight.T + adapter.down.bias)
        added = 0.5 * (inner @ adapter.up.weight.T + adapter.up.bias)
    assert added.abs().max() > 0.01
    assert torch.allclose(seen["output"], seen["block"] + added, atol=1e-6)


@pytest.mark.parametrize("name", ["wavlm_large", "whisper"])
def test_sequential_and_parallel_differ(fresh_lobe, states, disturb, name):
    found = [
        states(
            disturb(
                PeftLobe(
                    fresh_lobe(name),
                    BottleneckConfig(bottleneck=4, parallel=parallel),
                )
            )
        )
        for parallel in (False, True)
    ]
    assert not torch.allclose(*found, atol=1e-2)


@torch.no_grad()
@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("name", ["wav2vec2", "wavlm", "whisper", "hubert"])
def test_residual_is_that_of_peft_ser(
    fresh_lobe, clips, disturb, name, parallel
):
    """A layer by hand, in the words of "PEFT-SER" and of the papers.

    Post-norm (wav2vec2, wavlm): x = z + attention(z), y = norm(x), then
    norm(y + ffn(y) + A(x)), or, with h = y + ffn(y), norm(h + A(h)).
    Pre-norm (whisper, hubert): x + f + A(x) or x + f + A(f) with
    f = ffn(norm(x)). A(z) = z + 0.1 * up(relu(down(z))).
    """
    config = BottleneckConfig(4, scale=0.1, parallel=parallel, residual=True)
    encoder = disturb(PeftLobe(fresh_lobe(name), config))
    layer = encoder.lobe.layers[0]
    down, up = layer.bottleneck_adapter.down, layer.bottleneck_adapter.up
    seen = {}
    attention = layer.self_attn if name == "whisper" else layer.attention
    attention.register_forward_hook(
        lambda module, args, output: seen.update(attended=output[0])
    )
    states, _ = encoder(clips[0])

    def adapter(z):
        inner = torch.relu(z @ down.weight.T + down.bias)
        return z + 0.1 * (inner @ up.weight.T + up.bias)

    def ffn(z):
        if name == "whisper":
            first, second = layer.fc1, layer.fc2
        else:
            first = layer.feed_forward.intermediate_dense
            second = layer.feed_forward.output_dense
        inner = torch.nn.functional.gelu(z @ first.weight.T + first.bias)
        return inner @ second.weight.T + second.bias

    def norm(z, module):
        z = (z - z.mean(-1, keepdim=True)) / torch.sqrt(
            z.var(-1, keepdim=True, unbiased=False) + 1e-5
        )
        return z * module.weight + module.bias

    x = states[0] + seen["attended"]
    if name in ("wav2vec2", "wavlm"):
        y = norm(x, layer.layer_norm)
        h = y + ffn(y)
        h = h + adapter(x if parallel else h)
        expected = norm(h, layer.final_layer_norm)
    else:
        f = ffn(norm(x, layer.final_layer_norm))
        expected = x + f + adapter(x if parallel else f)
    assert torch.allclose(states[1], expected, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "parallel", "shift"),
    [
        # The closing norm takes the factor of two away.
        ("wav2vec2", False, 0.0),
        ("wav2vec2", True, 0.05),
        ("whisper", False, 0.05),
        ("whisper", True, 0.05),
    ],
)
def test_residual_is_no_identity_at_start(
    fresh_lobe, states, name, parallel, shift
):
    plain = states(fresh_lobe(name))
    config = BottleneckConfig(4, scale=0.1, parallel=parallel, residual=True)
    found = states(PeftLobe(fresh_lobe(name), config).eval())
    moved = (found - plain).norm() / plain.norm()
    assert moved > shift if shift else moved < 1e-5


def test_residual_comes_back(fresh_lobe, states, disturb, tmp_path):
    config = BottleneckConfig(4, scale=0.1, residual=True)
    encoder = disturb(PeftLobe(fresh_lobe("wav2vec2"), config))
    encoder.export(tmp_path / "adapter")
    loaded = load_adapter(fresh_lobe("wav2vec2"), tmp_path / "adapter")
    assert torch.equal(states(loaded), states(encoder))
    assert loaded.methods == [config]


def test_adapters_from_before_residual_load(fresh_lobe, tmp_path):
    PeftLobe(fresh_lobe("hubert"), BottleneckConfig(4)).export(tmp_path / "a")
    path = tmp_path / "a" / "adapter_config.json"
    config = json.loads(path.read_text())
    del config["residual"]
    path.write_text(json.dumps(config))
    loaded = load_adapter(fresh_lobe("hubert"), tmp_path / "a")
    assert loaded.methods == [BottleneckConfig(4)]


def test_parameter_count(fresh_lobe):
    """L * (2 * D * H + D + H), at D = 128 L * (257 * H + 128)."""
    encoder = PeftLobe(fresh_lobe("hubert"), BottleneckConfig())
    assert encoder.num_adapter_parameters == 2 * (257 * 32 + 128)


def test_only_in_the_layers_asked_for(fresh_lobe, states, disturb):
    plain = states(fresh_lobe("hubert"))
    config = BottleneckConfig(bottleneck=4, layers=[1])
    encoder = disturb(PeftLobe(fresh_lobe("hubert"), config))
    adapted = states(encoder)
    assert torch.equal(adapted[:2], plain[:2])
    assert not torch.allclose(adapted[2], plain[2], atol=1e-3)


def test_dropout_only_in_training(fresh_lobe, clips, disturb):
    """With the encoder's own dropout off, the adapter's is what is left."""
    lobe = fresh_lobe("hubert")
    config = BottleneckConfig(bottleneck=16, dropout=0.5)
    encoder = disturb(PeftLobe(lobe, config))
    assert torch.equal(encoder(*clips)[0], encoder(*clips)[0])
    for layer in lobe.layers:
        layer.bottleneck_adapter.train()
    assert not torch.equal(encoder(*clips)[0], encoder(*clips)[0])


@pytest.mark.parametrize("parallel", [False, True])
def test_a_copy_is_independent(fresh_lobe, states, disturb, parallel):
    """The copy's hooks run the copy's adapters."""
    config = BottleneckConfig(bottleneck=4, parallel=parallel)
    encoder = disturb(PeftLobe(fresh_lobe("whisper"), config))
    before = states(encoder)
    # An activation in flight, as an aborted checkpointed backward leaves it.
    adapter = encoder.lobe.layers[0].bottleneck_adapter
    adapter.keep_input(None, (adapter.up.weight * 2,))
    twin = copy.deepcopy(encoder)
    assert torch.equal(states(twin), before)
    disturb(twin, seed=1)
    assert not torch.allclose(states(twin), before, atol=1e-2)
    assert torch.equal(states(encoder), before)


@pytest.mark.parametrize("wrong", [{"bottleneck": 0}, {"dropout": 1.0}])
def test_refuses_what_could_not_train(wrong):
    with pytest.raises(InputError, match="bottleneck must be at least 1"):
        BottleneckConfig(**wrong)
