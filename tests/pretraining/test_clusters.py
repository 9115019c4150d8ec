"""Frames to be clustered, of clips of any length."""

from types import SimpleNamespace

import pytest
import torch

from ser_peft.adapters import PeftLobe
from ser_peft.lobes import load_lobe
from ser_peft.pretraining import clusters


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("source", ["whisper", "wavlm", "filterbank_cnn"])
def test_long_clips_have_as_many_frames_as_ever(
    tiny_backbones, monkeypatch, source, stride
):
    lobe = load_lobe(tiny_backbones.get(source, source), frame_stride=stride)
    method = "frozen" if source in tiny_backbones else "full"
    encoder = PeftLobe(lobe, method).eval()
    wavs = torch.randn(2, 27200)
    batch = SimpleNamespace(
        id=["long", "short"], sig=(wavs, torch.tensor([1.0, 0.25]))
    )
    whole = dict(clusters._frames(encoder, [batch], "cpu"))
    monkeypatch.setattr(lobe, "max_samples", 8200)
    parts = dict(clusters._frames(encoder, [batch], "cpu"))
    for id_, frames in whole.items():
        assert parts[id_].shape == frames.shape
    torch.testing.assert_close(
        parts["short"], whole["short"], atol=1e-4, rtol=0
    )


class Averages:
    """An encoder and its lobe: a frame is the mean of what it sees."""

    frame_hop, frame_stride, max_samples = 320, 1, 8200

    def __init__(self, min_samples, begun):
        self.lobe, self.min_samples, self.begun = self, min_samples, begun

    def __call__(self, wav):
        if self.begun:  # as Whisper's, which count when they have begun
            wav = torch.nn.functional.pad(wav, (0, -wav.shape[1] % 320))
        wav = torch.nn.functional.pad(
            wav, (0, max(0, self.min_samples - wav.shape[1]))
        )
        frames = wav.unfold(1, 320 if self.begun else self.min_samples, 320)
        return frames.mean(2)[None, ..., None], None

    def valid_frames(self, wav):
        return torch.tensor([self(wav)[0].shape[2]])


@pytest.mark.parametrize("samples", [8200, 8201, 8320, 16399, 27200, 27300])
@pytest.mark.parametrize("kind", [(400, False), (1200, False), (400, True)])
def test_windows_follow_one_another_evenly(samples, kind):
    encoder, wav = Averages(*kind), torch.arange(samples)[None].float()
    frames = clusters._long(encoder, wav)
    torch.testing.assert_close(frames, encoder(wav)[0][0, 0])
