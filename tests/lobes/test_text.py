"""Text encoders: masks, depth, adapters, files."""

import shutil

import peft
import pytest
import torch

from ser_peft.adapters import (
    BottleneckConfig,
    PeftLobe,
    PromptConfig,
    load_adapter,
)
from ser_peft.errors import InputError
from ser_peft.lobes import load_lobe, load_text

LAYERS = {"bert": 12, "distilbert": 6, "roberta": 2, "electra": 2}
TEXTS = ["I told you so, and no means no.", "No", ""]

each_family = pytest.mark.parametrize("family", LAYERS)


@torch.no_grad()
def states(encoder, texts=TEXTS):
    """Hidden states of texts, and their tokens."""
    return encoder.eval()(texts)


def lora(lobe, layers=None):
    config = peft.LoraConfig(r=2, init_lora_weights=False)
    return PeftLobe(lobe, config, "attention+ffn", layers)


@each_family
def test_padding_never_counts(tiny_texts, family):
    lobe = load_text(tiny_texts[family])
    together, tokens = states(lobe)
    assert together.shape == (LAYERS[family] + 1, 3, int(tokens.max()), 32)
    assert tokens[0] > tokens[1] >= 3
    for i, text in enumerate(TEXTS):
        alone, count = states(lobe, [text])
        assert count == tokens[i]
        torch.testing.assert_close(
            together[:, i : i + 1, :count], alone, atol=1e-5, rtol=1e-4
        )


@each_family
def test_depth_keeps_the_lowest_states(tiny_texts, family):
    whole = load_text(tiny_texts[family])
    lobe = load_text(tiny_texts[family], depth=1)
    assert (lobe.num_layers, lobe.depth) == (1, 1)
    assert torch.equal(states(lobe)[0], states(whole)[0][:2])
    every = load_text(tiny_texts[family], depth=LAYERS[family])
    assert every.depth is None
    for depth in (0, LAYERS[family] + 1):
        with pytest.raises(InputError, match=f"depth: {depth}: .* has 1 to "):
            load_text(tiny_texts[family], depth=depth)


def test_no_text_is_the_word_null(tiny_texts):
    lobe = load_text(tiny_texts["bert"])
    found, tokens = states(lobe, ["", "NULL", "no"])
    assert tokens[0] == tokens[1]
    assert torch.equal(found[:, 0], found[:, 1])
    assert not torch.allclose(found[:, 0, 1], found[:, 2, 1])


@each_family
def test_long_texts_are_cut(tiny_texts, family):
    lobe = load_text(tiny_texts[family])
    words = ["fox"] * 100
    found, tokens = states(lobe, [" ".join(words), "no"])
    assert tokens[0] == found.shape[2] == lobe.max_tokens == 62
    # Two places are those of the special tokens.
    cut, _ = states(lobe, [" ".join(words[:60])])
    torch.testing.assert_close(found[:, :1], cut, atol=1e-5, rtol=1e-4)


@each_family
def test_lora_reaches_attention_and_ffn(tiny_texts, family):
    encoder = lora(load_text(tiny_texts[family], depth=2)).train()
    trained = {n: p for n, p in encoder.named_parameters() if p.requires_grad}
    # Query, key, value, output; and the two of the feed-forward block.
    assert len(trained) == 2 * 6 * 2
    found, _ = encoder(TEXTS)
    (found[-1] * torch.randn(found[-1].shape)).sum().backward()
    for name, parameter in trained.items():
        assert parameter.grad.any(), name


@each_family
def test_export_and_merge(tiny_texts, family, tmp_path):
    encoder = lora(load_text(tiny_texts[family], depth=2), layers=[1])
    expected, _ = states(encoder)
    plain, _ = states(load_text(tiny_texts[family], depth=2))
    assert not torch.allclose(plain, expected, atol=1e-3)
    encoder.export(tmp_path / "adapter")
    again = load_adapter(
        load_text(tiny_texts[family], depth=2), tmp_path / "adapter"
    )
    torch.testing.assert_close(states(again)[0], expected)
    merged = again.merge()
    assert not any("lora" in name for name, _ in merged.named_modules())
    torch.testing.assert_close(
        states(merged)[0], expected, atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("method", ["full", "transformer"])
def test_whole_encoders_train(tiny_texts, method):
    encoder = PeftLobe(load_text(tiny_texts["bert"], depth=1), method)
    named = encoder.lobe.model.named_parameters()
    dead = {name for name, p in named if not p.requires_grad}
    # Nothing that is asked for depends on it.
    assert dead == {"pooler.dense.weight", "pooler.dense.bias"}


def test_our_own_methods_are_refused(tiny_texts):
    for method in (BottleneckConfig(), PromptConfig()):
        lobe = load_text(tiny_texts["bert"], depth=1)
        with pytest.raises(InputError, match="no layers for it; use a method"):
            PeftLobe(lobe, method)


def test_frozen_stays_in_eval(tiny_texts):
    encoder = PeftLobe(load_text(tiny_texts["bert"], depth=2), "frozen")
    encoder.train()
    assert not any(module.training for module in encoder.modules())
    found, _ = encoder(TEXTS)
    assert torch.equal(found, encoder(TEXTS)[0])
    assert not found.requires_grad


def test_what_is_no_text_encoder(tiny_backbones, tiny_texts, tmp_path):
    with pytest.raises(InputError, match="'whisper' is not a text encoder"):
        load_text(tiny_backbones["whisper"])
    with pytest.raises(InputError, match="'bert' is not a speech encoder"):
        load_lobe(tiny_texts["bert"])
    with pytest.raises(InputError, match="nowhere: cannot be read"):
        load_text(tmp_path / "nowhere")


@each_family
def test_a_tokenizer_is_needed(tiny_texts, family, tmp_path):
    for name in ("config.json", "model.safetensors"):
        shutil.copy(tiny_texts[family] / name, tmp_path)
    with pytest.raises(InputError, match="no tokenizer"):
        load_text(tmp_path)


@each_family
def test_saved_text_encoders_load_again(tiny_texts, family, tmp_path):
    for depth in (1, LAYERS[family]):
        lobe = load_text(tiny_texts[family], depth=depth)
        lobe.save_pretrained(tmp_path / str(depth))
        again = load_text(tmp_path / str(depth), depth=depth)
        assert again.depth == lobe.depth
        assert torch.equal(states(again)[0], states(lobe)[0])
    with pytest.raises(InputError, match="lacks .* of the encoder's tensors"):
        load_text(tmp_path / "1")


@torch.no_grad()
@pytest.mark.parametrize("backbone", ["whisper", "wavlm", "wavlm_large"])
def test_saved_truncated_speech_encoders_load_again(
    tiny_backbones, backbone, tmp_path
):
    lobe = load_lobe(tiny_backbones[backbone], depth=1).eval()
    wavs = 0.1 * torch.randn(2, 8000)
    expected = lobe(wavs, torch.tensor([1.0, 0.6]))[0]
    lobe.save_pretrained(tmp_path / "one")
    again = load_lobe(tmp_path / "one", depth=1).eval()
    assert again.depth == 1
    assert torch.equal(again(wavs, torch.tensor([1.0, 0.6]))[0], expected)
    with pytest.raises(InputError, match="lacks .* of the encoder's tensors"):
        load_lobe(tmp_path / "one")


def test_a_real_encoder_tells_meanings_apart(minilm):
    """Means of its tokens, as it was trained for: paraphrases are close."""
    lobe = load_text(minilm)
    found, tokens = states(
        lobe,
        [
            "I am so happy to see you!",
            "What a joy that you are here.",
            "The train to Hamburg leaves at nine.",
        ],
    )
    means = torch.stack(
        [found[-1, i, :n].mean(0) for i, n in enumerate(tokens)]
    )
    near, far = torch.cosine_similarity(means[:1], means[1:])
    assert near > far + 0.2
