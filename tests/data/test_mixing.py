"""Two utterances in one."""

import pytest
import torch

from ser_peft.data.mixing import mix


@pytest.fixture
def batch():
    """Eight clips of noise of several lengths and levels, padded."""
    lens = torch.tensor([1.0, 0.9, 0.8, 0.75, 0.5, 0.5, 0.4, 0.25])
    wavs = torch.randn(8, 8000) * torch.logspace(-2, 0, 8)[:, None]
    time = torch.arange(8000)
    return wavs * (time < (lens * 8000)[:, None]), lens


def level(wav):
    """Root mean square."""
    return wav.square().mean().sqrt()


def test_utterances_are_added_at_their_levels(batch):
    wavs, lens = batch
    found = mix(wavs, lens, 1.0)
    assert sorted(found.partners.tolist()) == list(range(8))
    for i, partner in enumerate(found.partners.tolist()):
        length = int(lens[i] * 8000)
        own, other = wavs[i, :length], wavs[partner, :length]
        added = found.wavs[i, :length] - own
        assert not found.wavs[i, length:].any()  # as long as it was
        heard = min(length, int(lens[partner] * 8000))
        quieter = -20 * (level(added[:heard]) / level(own)).log10()
        assert -0.01 < quieter < 15.01
        # It is the other, softer or louder.
        scale = (added @ other) / (other @ other)
        assert torch.allclose(added, scale * other, atol=1e-4)
        share = level(own) / (level(own) + level(added))
        assert found.shares[i] == pytest.approx(share.item(), abs=1e-4)


def test_some_stay_as_they_are(batch):
    wavs, lens = batch
    torch.manual_seed(5)
    found = [mix(wavs, lens, 0.25) for _ in range(50)]
    same = torch.stack([(one.wavs == wavs).all(1) for one in found])
    assert 0.65 < same.float().mean() < 0.85
    for one, stays in zip(found, same, strict=True):
        assert torch.equal(one.shares == 1, stays)
        assert (one.partners[stays] == torch.arange(8)[stays]).all()
    torch.manual_seed(5)
    assert torch.equal(mix(wavs, lens, 0.25).wavs, found[0].wavs)


def test_values_are_mixed_by_share(batch):
    found = mix(*batch, 1.0)
    classes = torch.eye(8)
    mixed = found(classes)
    assert torch.allclose(mixed.sum(1), torch.ones(8))
    rows = torch.arange(8)
    itself = found.partners == rows
    share = torch.where(itself, 1.0, found.shares)
    assert torch.allclose(mixed[rows, rows], share)
    assert torch.allclose(mixed[rows, found.partners][~itself],
                          1 - found.shares[~itself])  # fmt: skip
    weights = torch.rand(8)
    expected = found.shares * weights
    expected += (1 - found.shares) * weights[found.partners]
    assert torch.allclose(found(weights), expected)


@pytest.mark.parametrize("silent", [0, 1])
def test_silence(silent):
    wavs = torch.randn(2, 4000)
    wavs[silent] = 0
    found = mix(wavs, torch.ones(2), 1.0)
    assert found.wavs.isfinite().all()
    assert ((found.shares >= 0.49) & (found.shares <= 1)).all()
