"""Spans of frames and channels that are hidden from an encoder."""

import pytest
import torch

from ser_peft.errors import InputError
from ser_peft.lobes import SpanMask, load_lobe

FAMILIES = ["wav2vec2", "hubert", "wavlm", "wavlm_large", "whisper"]


def test_only_valid_frames():
    torch.manual_seed(0)
    frames = torch.tensor([100, 30, 7, 1])
    for _ in range(50):
        mask = SpanMask(0.5, 10, 2).time(frames)
        assert mask.shape == (4, 100)
        for row, size in zip(mask, frames, strict=True):
            assert not row[size:].any()
            assert not row.all()
        assert mask[:3].any(1).all()


def test_share_and_spans():
    torch.manual_seed(0)
    frames = torch.full((200,), 400)
    mask = SpanMask(0.2, 10).time(frames)
    # 8 spans of 10, some of which overlap.
    assert 0.15 < mask.float().mean() < 0.2
    rows = mask[0].int().diff().nonzero().flatten()
    assert rows.diff()[mask[0, rows[0] + 1] == 0 :: 2].min() >= 10
    # Fractions of a span are drawn, not dropped.
    few = SpanMask(0.01, 10).time(frames)
    assert 0.3 < few.any(1).float().mean() < 0.5
    assert not SpanMask().time(frames).any()
    least = SpanMask(0.0, 10, 2).time(frames)
    assert (least.sum(1) > 10).any() and (least.sum(1) >= 10).all()


def test_short_clips_keep_context():
    torch.manual_seed(0)
    for size in range(2, 15):
        mask = SpanMask(0.1, 15, 1).time(torch.tensor([size]))
        assert 1 <= mask.sum() <= size // 2


def test_channels():
    mask = SpanMask(channel_share=0.5, channel_span=4).channels(3, 32)
    assert mask.shape == (3, 32)
    assert (mask[0] != mask[1]).any()


def test_no_share():
    with pytest.raises(InputError, match="time_share: 1.5"):
        SpanMask(1.5)


@pytest.mark.parametrize("name", FAMILIES)
def test_hides_what_is_masked(name, tiny_backbones):
    """What sounds in masked frames cannot reach anything."""
    lobe = load_lobe(tiny_backbones[name]).eval()
    torch.manual_seed(0)
    wav = 0.1 * torch.randn(2, 16000)
    other = wav.clone()
    # Well inside the masked stretch, frames 20 to 39 of 20 ms. Reversed, it
    # has the same mean and variance, which waves are normalised by.
    other[:, 24 * 320 : 34 * 320] = wav[:, 24 * 320 : 34 * 320].flip(1)
    mask = torch.zeros(2, int(lobe.valid_frames(wav).max()), dtype=torch.bool)
    mask[:, 20:40] = True
    with torch.no_grad():
        open_ = [lobe(w)[0] for w in (wav, other)]
        hidden = [lobe(w, time_mask=mask)[0] for w in (wav, other)]
    assert not torch.allclose(*open_, atol=1e-3)
    if name in ("wav2vec2", "wavlm"):
        # Group norm of the whole clip, which is before the mask.
        difference = (hidden[0] - hidden[1]).abs().max()
        assert difference < 0.2 * (open_[0] - open_[1]).abs().max()
    elif name == "hubert" or name == "wavlm_large":
        difference = (hidden[0] - hidden[1]).abs().max()
        assert difference < 1e-3
    else:
        assert torch.allclose(*hidden, atol=1e-5)
    assert not torch.allclose(open_[0], hidden[0], atol=1e-3)


@pytest.mark.parametrize("name", FAMILIES)
def test_channels_are_hidden(name, tiny_backbones):
    lobe = load_lobe(tiny_backbones[name]).eval()
    wav = 0.1 * torch.randn(2, 8000)
    mask = torch.zeros(2, lobe.mask_channels, dtype=torch.bool)
    with torch.no_grad():
        plain = lobe(wav)[0]
        assert lobe(wav, channel_mask=mask)[0].equal(plain)
        mask[0, 3:6] = True
        hidden = lobe(wav, channel_mask=mask)[0]
    assert not torch.allclose(hidden[:, 0], plain[:, 0], atol=1e-3)
    assert torch.allclose(hidden[:, 1], plain[:, 1], atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_masked_clip_beside_a_longer_one(name, tiny_backbones):
    lobe = load_lobe(tiny_backbones[name]).eval()
    torch.manual_seed(0)
    short, long = 0.1 * torch.randn(8000), 0.1 * torch.randn(16000)
    batch = torch.nn.utils.rnn.pad_sequence([short, long], batch_first=True)
    lens = torch.tensor([0.5, 1.0])
    frames = lobe.valid_frames(batch, lens)
    mask = SpanMask(0.4, 5, 1).time(frames)
    with torch.no_grad():
        alone, count = lobe(short[None], time_mask=mask[:1, : frames[0]])
        beside, _ = lobe(batch, lens, time_mask=mask)
    assert torch.allclose(alone[:, 0], beside[:, 0, : count[0]], atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_first_layers(name, tiny_backbones):
    """A truncated lobe gives the first hidden states of the whole one."""
    whole = load_lobe(tiny_backbones[name]).eval()
    part = load_lobe(tiny_backbones[name], depth=1).eval()
    wav = 0.1 * torch.randn(1, 8000)
    with torch.no_grad():
        assert torch.allclose(part(wav)[0], whole(wav)[0][:2], atol=1e-6)
    assert part.num_layers == 1
    with pytest.raises(InputError, match="depth: 3: .* has 1 to 2 layers"):
        load_lobe(tiny_backbones[name], depth=3)


def test_frame_centres(tiny_backbones):
    """An impulse is where the frames nearest to it move most."""
    for name, first in (("wav2vec2", 199.5), ("whisper", 0.0)):
        centres = load_lobe(tiny_backbones[name]).frame_centres(3)
        assert centres.tolist() == [first, first + 320, first + 640]
