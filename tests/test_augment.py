"""Augmentations of ours."""

import torch

from ser_peft.augment import RandomGain


def test_random_gain_keeps_relative_levels_within_its_limits():
    torch.manual_seed(0)
    wavs = torch.randn(200, 50)
    gain = RandomGain(-6, 6)(wavs) / wavs
    assert torch.allclose(gain, gain[:, :1].expand_as(gain), rtol=1e-4)
    decibels = 20 * gain[:, 0].log10()
    assert decibels.min() >= -6.01 and decibels.max() <= 6.01
    # Loud clips stay louder on average: the level is kept, not normalised.
    assert abs(decibels.mean()) < 1 and decibels.std() > 2
