"""Fewer frames for the layers: what they are, and that nothing else moves."""

import pytest
import torch

from ser_peft.adapters import PeftLobe
from ser_peft.errors import InputError
from ser_peft.heads import LinearHead
from ser_peft.inference import EmotionModel, load_model
from ser_peft.lobes import SpanMask, load_lobe

FAMILIES = ["wav2vec2", "hubert", "wavlm", "whisper"]


@pytest.fixture(params=FAMILIES)
def folder(request, tiny_backbones):
    return tiny_backbones[request.param]


@pytest.mark.parametrize("stride", [2, 3])
def test_layers_get_the_means_of_neighbours(folder, stride):
    plain = load_lobe(folder).eval()
    lobe = load_lobe(folder, frame_stride=stride).eval()
    wav = 0.1 * torch.randn(1, 8000)
    with torch.no_grad():
        before, (frames,) = plain(wav)
        after, (fewer,) = lobe(wav)
    assert fewer == after.shape[2] == -(-frames // stride)
    means = [part.mean(0) for part in before[0, 0].split(stride)]
    torch.testing.assert_close(after[0, 0], torch.stack(means))
    assert not torch.allclose(after[-1, 0, 0], after[0, 0, 0])


@pytest.mark.parametrize("stride", [2, 3])
def test_a_clip_alone_and_in_a_batch(folder, stride):
    """Lengths that leave every rest, whatever the padding holds."""
    lobe = load_lobe(folder, frame_stride=stride).eval()
    clips = [0.1 * torch.randn(n) for n in (8000, 8330, 8650, 12000)]
    batch = torch.nn.utils.rnn.pad_sequence(clips, True, 0.5)
    lens = torch.tensor([len(clip) / 12000 for clip in clips])
    with torch.no_grad():
        together, frames = lobe(batch, lens)
        assert torch.equal(frames, lobe.valid_frames(batch, lens))
        for i, clip in enumerate(clips):
            alone, (count,) = lobe(clip[None])
            assert count == frames[i] == alone.shape[2]
            torch.testing.assert_close(
                together[:, i, :count], alone[:, 0], atol=1e-5, rtol=1e-4
            )


def test_masks_are_of_the_fewer_frames(folder):
    lobe = load_lobe(folder, frame_stride=2).eval()
    wav = 0.1 * torch.randn(2, 8100)
    lens = torch.tensor([1.0, 0.6])
    mask = SpanMask(0.4, 2, 1).time(lobe.valid_frames(wav, lens))
    with torch.no_grad():
        plain, frames = lobe(wav, lens)
        hidden, again = lobe(wav, lens, time_mask=mask)
    assert mask.any() and torch.equal(frames, again)
    changed = (plain[0] != hidden[0]).any(-1)
    assert changed[mask].all()


def test_centres_are_of_the_means(folder):
    one, two = (load_lobe(folder, frame_stride=n) for n in (1, 2))
    expected = one.frame_centres(6).unflatten(0, (3, 2)).mean(1)
    assert torch.equal(two.frame_centres(3), expected)


def test_a_saved_model_keeps_it(folder, tmp_path):
    torch.manual_seed(0)
    encoder = PeftLobe(load_lobe(folder, frame_stride=2), "full")
    model = EmotionModel(encoder, LinearHead(encoder, 2), ["a", "b"]).eval()
    model.save(tmp_path / "model")
    wav, lengths = 0.1 * torch.randn(1, 8000), torch.tensor([8000])
    with torch.no_grad():
        expected = model(wav, lengths)
        found = load_model(tmp_path / "model")(wav, lengths)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("stride", [0, -1, 1.5, "2"])
def test_no_such_stride(folder, stride):
    with pytest.raises(InputError, match=f"frame_stride: {stride}: give 1, 2"):
        load_lobe(folder, frame_stride=stride)
