"""Bottleneck adapters: what they compute, and where they sit."""

import copy

import pytest
import torch

from ser_peft.adapters import BottleneckConfig, PeftLobe
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
