"""Augmentations for emotion that SpeechBrain lacks."""

import torch

__all__ = ["RandomGain", "TimeMask"]


class RandomGain(torch.nn.Module):
    """Make each clip louder or softer by a random number of decibels.

    SpeechBrain's `RandAmp` first scales every clip to a peak of one, which
    takes the loudness away, a main cue of emotion, and trains on other
    levels than are tested. This keeps each clip's own level.

    Arguments
    ---------
    low, high : float
        Limits of the gain, dB.

    Example
    -------
    >>> wavs = torch.ones(2, 8)
    >>> louder = RandomGain(0, 6)(wavs)
    >>> bool((louder >= 1).all() and (louder <= 2).all())
    True
    """

    def __init__(self, low=-6.0, high=6.0):
        super().__init__()
        self.low = low
        self.high = high

    def forward(self, waveforms):
        """Apply one gain a clip.

        Arguments
        ---------
        waveforms : torch.Tensor
            [B, T].

        Returns
        -------
        torch.Tensor
            [B, T].
        """
        decibels = torch.empty(len(waveforms), 1, device=waveforms.device)
        decibels.uniform_(self.low, self.high)
        return waveforms * 10 ** (decibels / 20)


class TimeMask(torch.nn.Module):
    """Silence one random stretch of each clip, a share of its length.

    SpeechBrain's `DropChunk` counts in samples, whatever the clip's length.

    Arguments
    ---------
    low, high : float
        Limits of the share.

    Example
    -------
    >>> masked = TimeMask(0.25, 0.25)(torch.ones(2, 8), torch.ones(2))
    >>> masked.sum(1).tolist()
    [6.0, 6.0]
    """

    def __init__(self, low=0.1, high=0.15):
        super().__init__()
        self.low = low
        self.high = high

    def forward(self, waveforms, lengths):
        """Apply one mask a clip.

        Arguments
        ---------
        waveforms : torch.Tensor
            [B, T].
        lengths : torch.Tensor
            Relative to T, [B].

        Returns
        -------
        torch.Tensor
            [B, T].
        """
        size, where = torch.rand(2, len(waveforms), 1, device=waveforms.device)
        whole = lengths[:, None] * waveforms.shape[1]
        size = whole * (self.low + (self.high - self.low) * size)
        start = (whole - size) * where
        time = torch.arange(waveforms.shape[1], device=waveforms.device)
        inside = (time >= start.round()) & (time < (start + size).round())
        return waveforms.masked_fill(inside, 0.0)
