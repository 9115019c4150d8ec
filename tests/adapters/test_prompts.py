"""Deep prompts: what they change, and what they must not."""

import copy

import pytest
import torch

from ser_peft.adapters import PeftLobe, PromptConfig
from ser_peft.errors import InputError

NAMES = ("wav2vec2", "hubert", "wavlm", "wavlm_large", "whisper")


@pytest.mark.parametrize("name", NAMES)
def test_frames_and_shapes_stay(fresh_lobe, clips, name):
    lobe = fresh_lobe(name)
    plain, frames = lobe(*clips)
    prompted, still = PeftLobe(lobe, PromptConfig(length=7))(*clips)
    assert prompted.shape == plain.shape
    assert torch.equal(frames, still)
    assert torch.equal(prompted[0], plain[0])
    assert not torch.allclose(prompted[1], plain[1], atol=1e-2)


@pytest.mark.parametrize("name", NAMES)
def test_equals_a_layer_fed_with_the_prompt(fresh_lobe, clips, name):
    """Against the layer run by hand on the longer sequence."""
    lobe = fresh_lobe(name)
    bare = copy.deepcopy(lobe)
    encoder = PeftLobe(lobe, PromptConfig(length=3)).eval()
    wav, _ = clips
    with torch.no_grad():
        states, _ = encoder(wav)
        prompt = lobe.layers[0].deep_prompt.prompt.expand(2, -1, -1)
        extra = {"attention_mask": None}
        if "wavlm" in name:
            time = states.shape[2]
            bias = lobe.layers[0].attention.compute_bias(time, time)
            longer = bias.new_zeros(len(bias), time + 3, time + 3)
            longer[:, 3:, 3:] = bias
            extra["position_bias"] = longer
        output = bare.layers[0](torch.cat([prompt, states[0]], 1), **extra)
    if isinstance(output, tuple):
        output = output[0]
    assert torch.allclose(output[:, 3:], states[1], atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_batch_mates_do_not_matter(fresh_lobe, clips, disturb, name):
    """The mask is extended on the right side of the sequence."""
    encoder = disturb(PeftLobe(fresh_lobe(name), PromptConfig(length=5)))
    wav, wav_lens = clips
    with torch.no_grad():
        both, frames = encoder(wav, wav_lens)
        alone, _ = encoder(wav[1:, : int(wav_lens[1] * wav.shape[1])])
    valid = int(frames[1])
    assert torch.allclose(both[:, 1, :valid], alone[:, 0, :valid], atol=1e-4)


def test_parameter_count_and_layers(fresh_lobe):
    encoder = PeftLobe(fresh_lobe("wavlm"), PromptConfig(length=5))
    assert encoder.num_adapter_parameters == 5 * 32 * 2
    config = PromptConfig(length=5, layers=[1])
    encoder = PeftLobe(fresh_lobe("wavlm"), config)
    assert encoder.num_adapter_parameters == 5 * 32
    assert not hasattr(encoder.lobe.layers[0], "deep_prompt")


def test_a_copy_is_independent(fresh_lobe, states, disturb):
    encoder = disturb(PeftLobe(fresh_lobe("wavlm"), PromptConfig(length=2)))
    before = states(encoder)
    twin = disturb(copy.deepcopy(encoder), seed=1)
    assert not torch.allclose(states(twin), before, atol=1e-3)
    assert torch.equal(states(encoder), before)


@pytest.mark.parametrize("name", NAMES)
def test_starts_as_silence(fresh_lobe, name):
    """What the layer gets of the silence after a noise, at any length."""
    lobe = fresh_lobe(name).train()
    random = torch.get_rng_state()
    wav = torch.zeros(1, 24000)
    noise = torch.Generator().manual_seed(0)
    wav[0, :16000] = 0.1 * torch.randn(16000, generator=noise)
    with torch.no_grad():
        states, _ = copy.deepcopy(lobe).eval()(wav)
    encoder = PeftLobe(lobe, PromptConfig(length=10, layers=[1]))
    assert lobe.training and len(encoder.lobe.layers[1]._forward_hooks) == 1
    prompt = encoder.lobe.layers[1].deep_prompt.prompt
    assert torch.allclose(prompt, states[1, :, 60:70], atol=1e-5)
    other = PeftLobe(fresh_lobe(name), PromptConfig(length=70, start="random"))
    assert torch.equal(torch.get_rng_state(), random) is False
    for layer in other.lobe.layers:
        assert layer.deep_prompt.prompt.abs().max() < 0.3
    PeftLobe(fresh_lobe(name), PromptConfig(length=70))


@pytest.mark.parametrize("name", NAMES)
def test_prompts_of_averaged_frames(fresh_lobe, name):
    lobe = fresh_lobe(name)
    lobe.frame_stride = 2
    encoder = PeftLobe(lobe, PromptConfig(length=5))
    for layer in encoder.lobe.layers:
        assert layer.deep_prompt.prompt.shape[1] == 5


def test_refuses_no_prompt():
    with pytest.raises(InputError, match="length"):
        PromptConfig(length=0)
    with pytest.raises(InputError, match="start"):
        PromptConfig(start="noise")
