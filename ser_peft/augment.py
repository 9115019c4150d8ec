"""What SpeechBrain's augmentations lack for emotion."""

import torch

__all__ = ["RandomGain"]


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
