"""Power spectra of waveforms, by Fourier transform or by matrix product."""

import torch
from torch.nn.functional import conv1d, pad

__all__ = ["PowerSpectrum"]


class PowerSpectrum(torch.nn.Module):
    """Power spectra of Hann windows.

    A graph that is exported gets a convolution with the sines and cosines
    instead of a Fourier transform, of which onnxruntime has a slow one only.

    Arguments
    ---------
    window : int
        Samples of a window.
    hop : int
        Samples from one window to the next.
    n_fft : int
        Samples that a window is padded to.
    center : bool
        Mirror half a window at both ends, so that windows are centred at
        multiples of the hop.

    Example
    -------
    >>> PowerSpectrum(400, 160, 512)(torch.rand(2, 16000)).shape
    torch.Size([2, 257, 98])
    """

    def __init__(self, window, hop, n_fft, center=False):
        super().__init__()
        self.hop, self.n_fft, self.center = hop, n_fft, center
        hann = torch.hann_window(window)
        self.register_buffer("hann_window", hann, persistent=False)

    def forward(self, wav):
        """Compute spectra, [B, T] to [B, n_fft / 2 + 1, frames]."""
        window, wav = self.hann_window.float(), wav[:, None]
        if self.center:
            half = len(window) // 2
            wav = pad(wav, (half, half), mode="reflect")
        if torch.compiler.is_exporting():
            waves = conv1d(wav, self.waves(), stride=self.hop)
            real, imaginary = (waves * waves).chunk(2, 1)
            return real + imaginary
        frames = wav[:, 0].unfold(1, len(window), self.hop) * window
        parts = torch.view_as_real(torch.fft.rfft(frames, self.n_fft))
        # Twice as fast as abs().square().
        power = parts[..., 0].square().add_(parts[..., 1].square())
        return power.transpose(1, 2)

    def waves(self):
        """Windowed cosines and sines, [n_fft + 2, 1, window]."""
        window = self.hann_window.float()
        bins = torch.arange(self.n_fft // 2 + 1, device=window.device)
        samples = torch.arange(len(window), device=window.device)
        # Whole turns are left out before the angle is rounded.
        turns = torch.outer(bins, samples) % self.n_fft
        angles = (turns - self.n_fft // 2) * (2 * torch.pi / self.n_fft)
        waves = torch.cat([angles.cos(), angles.sin()]) * window
        return waves[:, None]
