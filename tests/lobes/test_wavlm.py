"""WavLM's attention, which adapters must be able to reach."""

import peft
import pytest
import torch
from transformers import WavLMModel

from ser_peft.lobes import load_lobe
from ser_peft.lobes.wav2vec2 import normalize

LAYOUTS = ["wavlm_base", "wavlm_large"]
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "out_proj"]


@pytest.fixture(params=LAYOUTS)
def lobe(request, folders):
    lobe = load_lobe(folders[request.param]).eval()
    torch.manual_seed(0)
    config = peft.LoraConfig(
        r=4, target_modules=PROJECTIONS, init_lora_weights=False
    )
    lobe.model = peft.get_peft_model(lobe.model, config)
    return lobe


def test_lora_on_every_projection_changes_states_and_learns(lobe, clip, batch):
    inputs = batch(clip(1), clip(0.5, seed=1))
    with lobe.model.disable_adapter(), torch.no_grad():
        plain = lobe(*inputs)[0]
    states, frames = lobe(*inputs)
    assert (states - plain)[1:].abs().mean() > 0.01
    states[:, 1, : frames[1]].square().mean().backward()
    adapters = [p for p in lobe.parameters() if p.requires_grad]
    assert len(adapters) == 2 * len(PROJECTIONS) * lobe.num_layers
    assert all(p.grad is not None and p.grad.any() for p in adapters)


def test_merged_adapters_give_the_same_in_the_stock_encoder(lobe, clip):
    wav = clip(1.0)[None]
    with torch.no_grad():
        states, _ = lobe(wav)
        merged = lobe.model.merge_and_unload()
        stock = WavLMModel(merged.config).eval()
        stock.load_state_dict(merged.state_dict())
        if lobe.normalize_wav:
            wav = normalize(wav, torch.tensor([wav.shape[1]]))
        last = stock(wav).last_hidden_state
    torch.testing.assert_close(states[-1], last, atol=1e-5, rtol=1e-5)


def test_attention_dropout_is_on_in_training_only(folders, clip):
    lobe = load_lobe(folders["wavlm_base"])
    for module in lobe.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    for layer in lobe.layers:
        assert layer.attention.dropout == 0.1
        layer.attention.dropout = 0.5
    wav = clip(1.0)[None]
    with torch.no_grad():
        evaluated = lobe.eval()(wav)[0]
        assert torch.equal(lobe(wav)[0], evaluated)
        trained = lobe.train()(wav)[0]
    assert torch.equal(trained[0], evaluated[0])
    assert (trained - evaluated)[1:].abs().mean() > 0.01


def test_nothing_as_large_as_the_square_of_the_frames_is_kept(lobe, clip):
    saved = []
    lobe.train()
    with torch.autograd.graph.saved_tensors_hooks(
        lambda x: saved.append(x.shape) or x, lambda x: x
    ):
        states, _ = lobe(clip(2.0)[None])
    frames = states.shape[2]
    square = [shape for shape in saved if list(shape).count(frames) > 1]
    # The bias by distance, one for all layers.
    heads = lobe.config.num_attention_heads
    assert set(square) <= {(heads, frames, frames)}
    states.sum().backward()
