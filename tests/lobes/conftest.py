"""One tiny backbone for every kind of encoder, and clips to feed them."""

import pytest
import torch
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel

from ser_peft.lobes import load_lobe

SAMPLE_RATE = 16000

GROUP = {"feat_extract_norm": "group", "do_stable_layer_norm": False}
LAYER = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}

# name -> the tiny backbone it varies, and how.
BACKBONES = {
    "wav2vec2_base": ("wav2vec2", GROUP | {"conv_bias": False}),
    "wav2vec2_conv_bias": ("wav2vec2", GROUP | {"conv_bias": True}),
    "wav2vec2_large": ("wav2vec2", LAYER | {"conv_bias": True}),
    # data2vec-like: layer norm in the CNN, post-norm layers.
    "wav2vec2_mixed": ("wav2vec2", LAYER | {"do_stable_layer_norm": False}),
    "hubert_base": ("hubert", GROUP | {"conv_bias": False}),
    "hubert_large": ("hubert", LAYER),
    # As in mHuBERT-147.
    "hubert_batch_norm": ("hubert", GROUP | {"conv_pos_batch_norm": True}),
    "wavlm_base": ("wavlm", GROUP | {"conv_bias": False}),
    "wavlm_large": ("wavlm_large", LAYER | {"conv_bias": False}),
    "whisper": ("whisper", {}),
}


@pytest.fixture(scope="session")
def folders(tiny_backbones, tmp_path_factory):
    """Folders of `BACKBONES`, dropout on, no weight left at 0 or 1."""
    root = tmp_path_factory.mktemp("lobes")
    for seed, (name, (tiny, changes)) in enumerate(BACKBONES.items()):
        config = AutoConfig.from_pretrained(tiny_backbones[tiny])
        config.update(changes)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            model = AutoModel.from_config(config)
            tensors = dict(model.named_parameters())
            tensors |= dict(model.named_buffers())
            for key, tensor in tensors.items():
                if tensor.is_floating_point() and tensor.squeeze().dim() < 2:
                    tensor.add_(0.2 * torch.rand_like(tensor))
                if "rel_attn_embed" in key:
                    tensor.mul_(5)
        model.save_pretrained(root / name)
        extractor = AutoFeatureExtractor.from_pretrained(tiny_backbones[tiny])
        extractor.save_pretrained(root / name)
    return {name: root / name for name in BACKBONES}


@pytest.fixture(params=list(BACKBONES))
def name(request):
    """Each of `BACKBONES` in turn."""
    return request.param


@pytest.fixture
def folder(folders, name):
    """Folder of the backbone."""
    return folders[name]


@pytest.fixture
def lobe(folder):
    """The backbone's lobe, in eval mode."""
    return load_lobe(folder).eval()


@pytest.fixture
def clip():
    """A function: seconds, loudness and seed -> something like speech, [T]."""

    def make(seconds, loudness=0.1, seed=0):
        generator = torch.Generator().manual_seed(seed)
        samples = round(seconds * SAMPLE_RATE)
        time = torch.arange(samples) / SAMPLE_RATE
        noise = torch.randn(samples, generator=generator)
        pitch = 150 + 40 * torch.sin(3 * time)
        voice = torch.sin(2 * torch.pi * pitch * time)
        syllables = 0.6 + 0.4 * torch.sin(2 * torch.pi * 4 * time)
        # An offset, because the normalisation must take it away.
        return loudness * (syllables * (voice + 0.3 * noise) + 0.2)

    return make


@pytest.fixture
def batch():
    """A function: clips [T_i] -> SpeechBrain's padded wavs and lengths."""

    def make(*clips, padding=0.0):
        longest = max(map(len, clips))
        wavs = torch.full((len(clips), longest), padding)
        for wav, samples in zip(wavs, clips, strict=True):
            wav[: len(samples)] = samples
        return wavs, torch.tensor([len(x) / longest for x in clips])

    return make
