"""Whisper on clips of their own length."""

import pytest
import torch
from transformers import AutoConfig, WhisperFeatureExtractor, WhisperModel

from ser_peft.errors import InputError
from ser_peft.lobes import load_lobe


def stock_mel(clips, bins=80):
    """Log-mel spectrograms padded to 30 s, [B, bins, 3000]."""
    extractor = WhisperFeatureExtractor(bins)
    return extractor(
        [wav.numpy() for wav in clips], sampling_rate=16000, return_tensors="pt"
    )["input_features"]


def stock_states(folder, clips):
    encoder = WhisperModel.from_pretrained(folder, dtype=torch.float32)
    encoder = encoder.get_encoder().eval()
    with torch.no_grad():
        out = encoder(stock_mel(clips), output_hidden_states=True)
    return torch.stack(out.hidden_states)


@pytest.fixture
def lobe(folders):
    return load_lobe(folders["whisper"]).eval()


@pytest.mark.parametrize("loudness", [1e-4, 0.9])
@pytest.mark.parametrize("seconds", [0.025, 1, 1.2345, 29.9, 29.995, 30])
def test_mel_equals_transformers(lobe, clip, seconds, loudness):
    wav = clip(seconds, loudness)
    mel = lobe.log_mel(wav[None], torch.tensor([len(wav)]))
    frames = int(lobe.frames(torch.tensor(len(wav))))
    assert mel.shape[2] == min(2 * frames + 2, 3000)
    stock = stock_mel([wav])[..., : mel.shape[2]]
    torch.testing.assert_close(mel, stock, atol=1e-4, rtol=0)


@pytest.mark.parametrize("neighbour", [2, 29.99, 30])
def test_mel_beside_a_louder_clip(lobe, clip, batch, neighbour):
    quiet, loud = clip(1, 1e-3), clip(neighbour, 0.9, seed=1)
    wavs, _ = batch(quiet, loud)
    mels = lobe.log_mel(wavs, torch.tensor([len(quiet), len(loud)]))
    stock = stock_mel([quiet, loud])[..., : mels.shape[2]]
    torch.testing.assert_close(mels, stock, atol=1e-4, rtol=0)


@pytest.mark.parametrize("samples", [319, 320, 481])
def test_mel_of_a_click_at_the_very_end(lobe, samples):
    # Its maximum lies in a frame that begins within the clip and ends
    # beyond.
    wav = 1e-4 * torch.randn(samples, generator=torch.manual_seed(0))
    wav[-30:] = 1.0
    mel = lobe.log_mel(
        torch.nn.functional.pad(wav, (0, 640 - samples))[None],
        torch.tensor([samples]),
    )
    stock = stock_mel([wav])[..., : mel.shape[2]]
    torch.testing.assert_close(mel, stock, atol=1e-4, rtol=0)


def test_128_mel_bins(tiny_backbones, tmp_path, clip):
    config = WhisperModel.from_pretrained(tiny_backbones["whisper"]).config
    config.num_mel_bins = 128  # as in large-v3
    WhisperModel(config).save_pretrained(tmp_path)
    wav = clip(1)
    mel = load_lobe(tmp_path).log_mel(wav[None], torch.tensor([len(wav)]))
    stock = stock_mel([wav], 128)[..., : mel.shape[2]]
    torch.testing.assert_close(mel, stock, atol=1e-4, rtol=0)


def test_mel_is_not_rounded_under_autocast(lobe, clip, monkeypatch):
    wav = clip(1)[None]
    mel = lobe.log_mel(wav, torch.tensor([16000]))
    made = []

    def log_mel(*args):
        made.append(type(lobe).log_mel(lobe, *args))
        return made[-1]

    monkeypatch.setattr(lobe, "log_mel", log_mel)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        lobe(wav)
    assert torch.equal(made[0], mel)


def test_frames_that_a_clip_has_begun_count(lobe):
    samples = torch.tensor([1, 320, 321, 400, 16000, 16001, 480000])
    assert lobe.frames(samples).tolist() == [1, 1, 2, 2, 50, 51, 1500]


def test_stem_equals_that_of_the_clip_padded_to_30_s(lobe, clip):
    for seconds in (0.5, 1.2345):
        wav = clip(seconds)
        with torch.no_grad():
            states, frames = lobe(wav[None])
        stem = stock_states(lobe.source, [wav])[0, :, : frames[0]]
        torch.testing.assert_close(states[0], stem, atol=1e-4, rtol=0)


def test_too_long_a_clip(lobe, clip):
    with pytest.raises(InputError, match="30.1 s.*30 s.*max_seconds"):
        lobe(torch.zeros(1, 480001 + 1600))
    # What counts is the clip, not its padding.
    wavs = torch.nn.functional.pad(clip(1)[None], (0, 31 * 16000))
    with torch.no_grad():
        assert lobe(wavs, torch.tensor([1 / 32]))[1].tolist() == [50]


def test_context_shorter_than_30_s(tiny_backbones, tmp_path, clip):
    config = AutoConfig.from_pretrained(tiny_backbones["whisper"])
    config.max_source_positions = 50
    WhisperModel(config).save_pretrained(tmp_path)
    lobe = load_lobe(tmp_path).eval()
    with torch.no_grad():
        assert lobe(clip(1)[None])[0].shape[2] == 50
    with pytest.raises(InputError, match="1.1 s.*1 s"):
        lobe(clip(1.1)[None])


def test_only_the_encoder_is_kept(lobe):
    names = [name for name, _ in lobe.named_parameters()]
    assert not any("decoder" in name for name in names)
    # Sinusoids, which the checkpoint holds as if they were trained.
    assert not lobe.model.embed_positions.weight.requires_grad


def test_real_weights_at_30_s(shared_whisper, clip):
    wav = clip(30)
    with torch.no_grad():
        states, frames = load_lobe(shared_whisper).eval()(wav[None])
    assert frames.tolist() == [1500]
    stock = stock_states(shared_whisper, [wav])
    torch.testing.assert_close(states, stock, atol=1e-4, rtol=1e-4)


def test_real_weights_beside_a_louder_clip(shared_whisper, clip, batch):
    lobe = load_lobe(shared_whisper).eval()
    quiet, loud = clip(1.7, 0.01), clip(5, 0.9, seed=1)
    with torch.no_grad():
        alone, frames = lobe(quiet[None])
        beside, _ = lobe(*batch(quiet, loud))
    torch.testing.assert_close(
        beside[:, 0, : frames[0]], alone[:, 0], atol=1e-4, rtol=1e-4
    )
