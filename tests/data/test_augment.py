"""Augmentations of ours."""

import torch

from ser_peft.data.augment import RandomGain, TimeMask


def test_random_gain_keeps_relative_levels_within_its_limits():
    torch.manual_seed(0)
    wavs = torch.randn(200, 50)
    gain = RandomGain(-6, 6)(wavs) / wavs
    assert torch.allclose(gain, gain[:, :1].expand_as(gain), rtol=1e-4)
    decibels = 20 * gain[:, 0].log10()
    assert decibels.min() >= -6.01 and decibels.max() <= 6.01
    # Loud clips stay louder on average: the level is kept, not normalised.
    assert abs(decibels.mean()) < 1 and decibels.std() > 2


def test_time_mask_is_a_share_of_each_clip():
    torch.manual_seed(0)
    lengths = torch.tensor([1.0, 0.5, 0.25])
    waves = torch.ones(3, 4000)
    starts = set()
    for _ in range(20):
        masked = TimeMask(0.1, 0.15)(waves, lengths)
        for row, length in zip(masked, lengths * 4000, strict=True):
            silent = (row == 0).nonzero().flatten()
            assert 0.1 * length - 1 <= len(silent) <= 0.15 * length + 1
            assert len(silent) == silent[-1] - silent[0] + 1
            assert silent[-1] < length
            starts.add(int(silent[0]))
    assert len(starts) > 40
