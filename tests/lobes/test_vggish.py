"""VGGish: its front end and its shapes."""

import math
import tempfile

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from ser_peft.adapters import PeftLobe, load_adapter
from ser_peft.errors import InputError
from ser_peft.lobes import load_lobe
from ser_peft.lobes.vggish import VGGishConfig, VGGishModel

TINY = {"conv_dim": [[4], [4], [8, 8], [8, 8]], "hidden_dim": [16, 16]}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A function: keys of the configuration -> folder of a tiny VGGish."""

    def make(**keys):
        folder = tmp_path_factory.mktemp("vggish")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = VGGishModel(VGGishConfig(**TINY | keys))
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    torch.nn.init.normal_(parameter, std=0.1)
        model.save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="module")
def folder(tiny):
    return tiny(hidden_size=8)


@pytest.fixture
def lobe(folder):
    return load_lobe(folder).eval()


def encode(lobe, *args):
    with torch.no_grad():
        return lobe(*args)


def seconds_of_patches(patches):
    return (96 * patches - 1) * 0.01 + 0.025


def plain_patches(wav):
    """The published front end, sample by sample, [P, 96, 64]."""
    wav = wav.double().numpy()
    window = [0.5 - 0.5 * math.cos(2 * math.pi * n / 400) for n in range(400)]

    def mel(hertz):
        return 1127 * math.log(1 + hertz / 700)

    step = (mel(7500) - mel(125)) / 65
    edges = [mel(125) + i * step for i in range(66)]
    weights = np.zeros((257, 64))
    for k in range(1, 257):
        for band in range(64):
            low, centre, high = edges[band : band + 3]
            at = mel(k * 16000 / 512)
            if low < at <= centre:
                weights[k, band] = (at - low) / (centre - low)
            elif centre < at < high:
                weights[k, band] = (high - at) / (high - centre)
    angles = np.outer(np.arange(257), np.arange(400)) * 2 * np.pi / 512
    spectra = []
    for start in range(0, len(wav) - 399, 160):
        piece = wav[start : start + 400] * window
        magnitude = np.hypot(np.cos(angles) @ piece, np.sin(angles) @ piece)
        spectra.append(np.log(magnitude @ weights + 0.01))
    whole = len(spectra) // 96 * 96
    return np.reshape(spectra[:whole], (-1, 96, 64))


def test_published_size():
    with torch.device("meta"):
        model = VGGishModel(VGGishConfig())
    assert sum(p.numel() for p in model.parameters()) == 72_141_184
    modules = [type(module).__name__ for module in model.modules()]
    assert [
        modules.count(kind) for kind in ("Conv2d", "MaxPool2d", "Linear")
    ] == [6, 4, 3]


@pytest.mark.parametrize("loudness", [1e-3, 0.9])
def test_front_end_equals_a_plain_one(lobe, clip, loudness):
    wav = clip(2.1, loudness)
    ours = lobe.log_mel(wav[None], 2)
    assert ours.shape == (1, 2, 96, 64)
    assert not ours.requires_grad
    np.testing.assert_allclose(ours[0], plain_patches(wav), atol=1e-4)


def test_network_equals_functional_calls(lobe, clip):
    patches = lobe.log_mel(clip(2.0)[None], 2)[0]
    tensors = load_file(f"{lobe.source}/model.safetensors")

    def layer(function, name, hidden, **kwargs):
        weights = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
        return function(hidden, *weights, **kwargs).relu()

    hidden = patches[:, None]
    for index in (0, 3, 6, 8, 11, 13):
        name = f"features.{index}"
        hidden = layer(torch.nn.functional.conv2d, name, hidden, padding=1)
        if index not in (6, 11):
            hidden = torch.nn.functional.max_pool2d(hidden, 2)
    assert hidden.shape == (2, 8, 6, 4)
    # Time, then frequency, then channels, as TensorFlow flattens.
    hidden = torch.stack([h.movedim(0, 2).flatten() for h in hidden])
    for index in (0, 2, 4):
        hidden = layer(
            torch.nn.functional.linear, f"embeddings.{index}", hidden
        )
    with torch.no_grad():
        ours = lobe.model(patches)
    torch.testing.assert_close(ours, hidden, atol=1e-5, rtol=1e-5)
    assert ours.any()


def test_patches_of_clips(lobe):
    second = seconds_of_patches
    lengths = [0.1, 0.974, 0.975, 1.0, second(2) - 1 / 16000, second(2), 30]
    samples = torch.tensor([round(16000 * s) for s in lengths])
    frames = lobe.frames(samples.clamp(min=lobe.min_samples))
    assert frames.tolist() == [1, 1, 1, 1, 1, 2, 31]
    # A patch spans 0.975 s with its last window.
    centres = lobe.frame_centres(2) / lobe.sample_rate
    assert centres.tolist() == pytest.approx([0.4875, 1.4475], abs=1e-3)
    assert lobe.frame_hop == 0.96 * 16000


def test_clip_does_not_notice_its_batch_mates(lobe, clip, batch):
    short, loud = clip(2.3, 0.05), clip(5, 0.9, seed=1)
    alone, n = encode(lobe, short[None])
    assert alone.shape == (1, 1, 2, 8) and n.tolist() == [2]
    beside, frames = encode(lobe, *batch(short, loud, padding=7.0))
    assert frames.tolist() == [2, 5] and beside.shape == (1, 2, 5, 8)
    torch.testing.assert_close(beside[:, 0, :2], alone[:, 0])
    assert not beside[:, 0, 2:].any()
    assert (beside[0, 1] - beside[0, 0, :1]).abs().max() > 1e-3


def test_clip_of_less_than_a_patch_is_padded(lobe, clip, batch):
    short = clip(0.3)
    whole = torch.nn.functional.pad(short, (0, 15600 - len(short)))
    states, frames = encode(lobe, short[None])
    assert frames.tolist() == [1]
    torch.testing.assert_close(states, encode(lobe, whole[None])[0])
    beside, _ = encode(lobe, *batch(short, clip(3, seed=1), padding=3.0))
    torch.testing.assert_close(beside[:, :1, :1], states)


def test_final_relu(tiny, clip):
    wav = clip(5)[None]
    with_relu, _ = encode(load_lobe(tiny(final_relu=True)), wav)
    without, _ = encode(load_lobe(tiny(final_relu=False)), wav)
    assert (without < 0).any()
    torch.testing.assert_close(with_relu, without.relu())


def test_pca_and_its_gradient(tiny, clip):
    wav = clip(20)[None]
    plain = load_lobe(tiny(hidden_size=3, final_relu=False))
    embedded = encode(plain, wav)[0][0, 0]
    means = embedded.mean(0)
    matrix = torch.tensor([[2.0, 0.3, 0.0], [0.0, 2.0, 0.5], [0.4, 0.0, 2.0]])
    matrix /= embedded.std(0)
    inside = torch.stack([matrix @ (e - means) for e in embedded])
    expected = inside.clamp(-2, 2)
    assert 0 < (expected != inside).sum() < expected.numel()

    folder = tiny(hidden_size=3, final_relu=False, pca=True)
    path = folder / "model.safetensors"
    pca = {"pca_eigen_vectors": matrix, "pca_means": means}
    save_file(load_file(path) | pca, path, {"format": "pt"})
    lobe = load_lobe(folder)
    states, _ = lobe(wav)
    torch.testing.assert_close(states[0, 0], expected, atol=1e-4, rtol=1e-4)
    states.sum().backward()
    assert lobe.model.features[0].weight.grad.any()
    assert "pca_means" not in dict(lobe.model.named_parameters())

    save_file(load_file(tiny(hidden_size=3) / "model.safetensors"), path,
              {"format": "pt"})  # fmt: skip
    with pytest.raises(InputError, match="lacks 2 .*pca_eigen_vectors"):
        load_lobe(folder)


def test_autocast(lobe, clip, batch):
    inputs = batch(clip(2.3), clip(1.0, seed=1))
    reference, _ = encode(lobe, *inputs)
    with torch.autocast("cpu", torch.bfloat16):
        states, _ = encode(lobe, *inputs)
    error = (states.float() - reference).norm()
    assert error < 0.05 * reference.norm()


def test_masks_are_refused(lobe, clip):
    with pytest.raises(InputError, match="mask"):
        lobe(clip(1)[None], time_mask=torch.ones(1, 1, dtype=torch.bool))


# With PEFT.


def test_full_trains_and_is_restored(folder, tmp_path, clip):
    encoder = PeftLobe(load_lobe(folder), "full")
    count = sum(p.numel() for p in encoder.lobe.model.parameters())
    assert encoder.num_adapter_parameters == count
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.mul_(1.5)
    wav = clip(2.3)[None]
    encoder.export(tmp_path / "adapter")
    again = load_adapter(load_lobe(folder), tmp_path / "adapter")
    expected = encode(encoder.eval(), wav)[0]
    torch.testing.assert_close(encode(again, wav)[0], expected)
    assert not torch.allclose(expected, encode(load_lobe(folder), wav)[0])


@pytest.mark.parametrize("seed", range(3))
def test_published_proportions_are_alive_from_scratch(seed):
    # Widths an eighth of the published ones, whatever the seed.
    torch.manual_seed(seed)
    config = VGGishConfig(
        conv_dim=[[8], [16], [32, 32], [64, 64]], hidden_dim=[512, 512]
    )
    lobe = load_lobe_of(config)
    wav = 0.1 * torch.randn(2, 16000)
    lobe(wav, torch.tensor([1.0, 0.6]))[0].square().sum().backward()
    for name, parameter in lobe.named_parameters():
        # Most of what is there learns, not only a few lucky units.
        assert (parameter.grad != 0).float().mean() > 0.2, name
    assert PeftLobe(lobe, "full").num_adapter_parameters


def load_lobe_of(config, **kwargs):
    """A lobe from scratch."""
    with tempfile.TemporaryDirectory() as folder:
        AutoModel.from_config(config).save_pretrained(folder)
        return load_lobe(folder, **kwargs)


def test_frozen(folder, clip):
    encoder = PeftLobe(load_lobe(folder), "frozen")
    states, _ = encoder(clip(1.0)[None])
    assert not states.requires_grad and encoder.num_adapter_parameters == 0


def test_dense_layers_only(folder):
    encoder = PeftLobe(load_lobe(folder), "transformer")
    trained = {
        name.split(".")[0]
        for name, parameter in encoder.lobe.model.named_parameters()
        if parameter.requires_grad
    }
    assert trained == {"embeddings"}


def test_lora_in_the_dense_layers(folder, tmp_path, clip):
    encoder = PeftLobe(
        load_lobe(folder), peft.LoraConfig(r=2), r"embeddings\.(0|2|4)"
    )
    dense = [(192, 16), (16, 16), (16, 8)]
    assert encoder.num_adapter_parameters == sum(2 * sum(d) for d in dense)
    with torch.no_grad():
        for parameter in encoder.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
    wav = clip(2.3)[None]
    encoder.export(tmp_path / "adapter")
    again = load_adapter(load_lobe(folder), tmp_path / "adapter")
    expected = encode(encoder.eval(), wav)[0]
    torch.testing.assert_close(encode(again, wav)[0], expected)
    assert not torch.allclose(expected, encode(load_lobe(folder), wav)[0])


def test_saved_and_loaded(lobe, tmp_path, clip):
    lobe.save_pretrained(tmp_path)
    wav = clip(2.3)[None]
    again = load_lobe(tmp_path).eval()
    assert torch.equal(encode(again, wav)[0], encode(lobe, wav)[0])


def test_no_name_is_taken_for_a_folder(tmp_path, monkeypatch):
    (tmp_path / "vggish").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="write ./vggish for the folder"):
        load_lobe("vggish")
