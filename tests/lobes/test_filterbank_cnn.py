"""The small CNN on filterbanks."""

import math

import peft
import pytest
import torch
from torch.nn.functional import pad

from ser_peft.adapters import BottleneckConfig, PeftLobe, load_adapter
from ser_peft.errors import InputError
from ser_peft.lobes import SpanMask, load_lobe
from ser_peft.lobes.filterbank_cnn import (
    MEL_STD,
    FilterbankCnnConfig,
    FilterbankCnnModel,
)

LAYERS, WIDTH, BINS = 3, 16, 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("filterbank_cnn")
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = FilterbankCnnModel(
            FilterbankCnnConfig(
                num_mel_bins=BINS,
                hidden_size=WIDTH,
                intermediate_size=24,
                num_hidden_layers=LAYERS,
                kernel_size=5,
            )
        )
        for parameter in model.parameters():
            if parameter.ndim == 1:
                # Biases of zero would leave the padding at zero by itself.
                parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def lobe(folder):
    return load_lobe(folder).eval()


def encode(lobe, *args, **kwargs):
    with torch.no_grad():
        return lobe(*args, **kwargs)


def test_size():
    with torch.device("meta"):
        model = FilterbankCnnModel(FilterbankCnnConfig())
    assert 300_000 < sum(p.numel() for p in model.parameters()) < 600_000
    # Nothing that a checkpoint of parameters alone would lose.
    assert not list(model.buffers())


@pytest.mark.parametrize("seconds", [0.025, 0.3, 1.1234])
def test_clip_does_not_notice_its_batch_mates(lobe, clip, batch, seconds):
    short, loud = clip(seconds, 0.05), clip(3, 0.9, seed=1)
    alone, n = encode(lobe, short[None])
    assert alone.shape == (LAYERS + 1, 1, n, WIDTH)
    wavs, lengths = batch(short, loud, padding=7.0)
    beside, frames = encode(lobe, wavs, lengths)
    assert frames.tolist() == [n, 75]
    torch.testing.assert_close(
        beside[:, 0, :n], alone[:, 0], atol=1e-4, rtol=1e-4
    )
    assert (beside[-1, 1, :n] - alone[-1, 0]).abs().mean() > 0.05


def test_frames_and_their_centres(lobe, clip, monkeypatch):
    # 25 ms every 10 ms, of which four make a frame.
    samples = torch.tensor([400, 400 + 3 * 160, 400 + 4 * 160, 16000, 64000])
    assert lobe.frames(samples).tolist() == [1, 1, 2, 25, 100]
    # The stem reaches as far to the left as to the right of a centre.
    middle = int(lobe.frame_centres(25)[5] - 199.5) // 160
    mel = torch.zeros(2, 98, BINS)
    mel[1, middle] = 1.0
    monkeypatch.setattr(lobe, "log_mel", lambda *args: mel)
    stems = encode(lobe, clip(1.0).expand(2, -1))[0][0]
    reached = (stems[0] != stems[1]).any(1)
    assert reached.nonzero().flatten().tolist() == [4, 5, 6]


def test_log_mel_keeps_the_loudness(lobe, clip, batch):
    # Twice the amplitude is four times the power.
    wavs, _ = batch(clip(2, 0.2), clip(2, 0.4), clip(0.8, 0.2, seed=1))
    mels = lobe.log_mel(wavs, torch.tensor([32000, 32000, 12800]))
    assert mels.shape == (3, 198, BINS)
    louder = mels[1] - mels[0]
    expected = torch.full_like(louder, math.log(4) / MEL_STD)
    torch.testing.assert_close(louder, expected, atol=1e-3, rtol=0)
    assert mels[2, :78].all() and not mels[2, 78:].any()


def test_bands_lie_where_the_tone_is(lobe):
    time = torch.arange(16000) / 16000
    tones = torch.stack(
        [torch.sin(2 * torch.pi * hertz * time) for hertz in (500, 1000, 4000)]
    )
    loudest = lobe.log_mel(tones, torch.tensor([16000] * 3)).mean(1).argmax(1)
    # Centres in mel: 22 edges from 50 to 7600 Hz.
    edges = torch.linspace(78, 2787, BINS + 2)[1:-1]
    mel = 2595 * torch.log10(1 + torch.tensor([500.0, 1000, 4000]) / 700)
    assert loudest.tolist() == [int((edges - m).abs().argmin()) for m in mel]


def test_silence_is_finite(lobe):
    assert encode(lobe, torch.zeros(1, 8000))[0].isfinite().all()


def test_depth(folder, clip):
    wav = clip(1.0)[None]
    whole, _ = encode(load_lobe(folder).eval(), wav)
    lobe = load_lobe(folder, depth=2).eval()
    assert lobe.num_layers == 2
    # The closing norm goes with the last block.
    assert torch.equal(encode(lobe, wav)[0], whole[:3])


def test_masks_hide_mel_frames_and_bins(lobe, clip, monkeypatch):
    wav = clip(1.0)
    mel = lobe.log_mel(wav[None], torch.tensor([len(wav)]))
    time_mask = torch.zeros(1, 25, dtype=torch.bool)
    time_mask[:, [3, 24]] = True
    channel_mask = torch.zeros(1, lobe.mask_channels, dtype=torch.bool)
    channel_mask[:, 7] = True
    masked, _ = encode(
        lobe, wav[None], time_mask=time_mask, channel_mask=channel_mask
    )
    mel[:, 12:16] = 0.0
    mel[:, 96:] = 0.0
    mel[..., 7] = 0.0
    monkeypatch.setattr(lobe, "log_mel", lambda *args: mel)
    assert torch.equal(encode(lobe, wav[None])[0], masked)


def test_masks_in_training_only(folder, clip):
    mask = SpanMask(0.5, 5, channel_share=0.3, channel_span=4)
    encoder = PeftLobe(load_lobe(folder), "full", mask=mask)
    for module in encoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    wav = clip(1.0)[None]
    plain = encode(encoder.eval(), wav)[0]
    hidden = encode(encoder.train(), wav)[0]
    assert not torch.allclose(hidden, plain)
    assert torch.equal(encode(encoder.eval(), wav)[0], plain)


# With PEFT.


def test_full_reaches_every_parameter(folder, clip, batch):
    encoder = PeftLobe(load_lobe(folder), "full")
    parameters = dict(encoder.lobe.model.named_parameters())
    assert encoder.num_adapter_parameters == sum(
        p.numel() for p in parameters.values()
    )
    states, _ = encoder(*batch(clip(1.0), clip(0.6, seed=1)))
    (states[-1] * torch.randn_like(states[-1])).sum().backward()
    assert [n for n, p in parameters.items() if not p.grad.any()] == []


def test_full_is_saved_and_loaded(folder, tmp_path, clip):
    encoder = PeftLobe(load_lobe(folder), "full")
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    encoder.save(tmp_path / "checkpoint.safetensors")
    encoder.export(tmp_path / "adapter")
    restored = PeftLobe(load_lobe(folder), "full")
    restored.load(tmp_path / "checkpoint.safetensors")
    exported = load_adapter(load_lobe(folder), tmp_path / "adapter")
    wav = clip(1.0)[None]
    expected = encode(encoder.eval(), wav)[0]
    for again in (restored.eval(), exported):
        assert torch.equal(encode(again, wav)[0], expected)
    assert not torch.allclose(
        encode(load_lobe(folder).eval(), wav)[0], expected
    )
    encoder.lobe.save_pretrained(tmp_path / "hf")
    again = load_lobe(tmp_path / "hf").eval()
    assert torch.equal(encode(again, wav)[0], expected)


@pytest.mark.parametrize("parallel", [True, False])
def test_bottleneck_adapters(folder, parallel):
    method = BottleneckConfig(bottleneck=4, parallel=parallel)
    encoder = PeftLobe(load_lobe(folder), method)
    size = 2 * 4 * WIDTH + 4 + WIDTH
    if not parallel:
        assert encoder.num_adapter_parameters == LAYERS * size
    assert encoder.num_adapter_parameters


def test_lora_in_the_pointwise_layers(folder):
    encoder = PeftLobe(load_lobe(folder), peft.LoraConfig(r=2), targets="ffn")
    assert encoder.num_adapter_parameters == LAYERS * 2 * 2 * (WIDTH + 24)


def test_too_deep(folder):
    with pytest.raises(InputError, match="1 to 3"):
        load_lobe(folder, depth=4)


def test_padding_of_the_whole_batch(lobe, clip):
    wav = clip(1.0)[None]
    padded = pad(wav, (0, 4000), value=3.0)
    again, _ = encode(lobe, padded, torch.tensor([0.8]))
    assert torch.equal(again, encode(lobe, wav)[0])
