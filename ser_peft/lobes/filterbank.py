"""Base class of the encoders of 10 ms mel filterbanks."""

import torch
from transformers import Wav2Vec2FeatureExtractor

from ser_peft.lobes.base import SpeechLobe
from ser_peft.lobes.spectrum import PowerSpectrum

__all__ = ["HOP", "N_FFT", "WINDOW", "FilterbankLobe"]

WINDOW, HOP, N_FFT = 400, 160, 512


class FilterbankLobe(SpeechLobe):
    """A lobe of spectra of 25 ms every 10 ms, seen through mel filters.

    Subclasses give `filters`. See `SpeechLobe` for the arguments.
    """

    def __init__(self, source, save_path="", **kwargs):
        super().__init__(source, save_path, **kwargs)
        with torch.device("cpu"):  # their values are looked at
            filters = self.filters()
        self.register_buffer("mel_filters", filters, persistent=False)
        self.spectrum = PowerSpectrum(WINDOW, HOP, N_FFT)

    def filters(self):
        """Weights of the spectrum's bins in each mel band, [257, bands]."""
        raise NotImplementedError

    @property
    def extractor(self):
        """Feature extractor that leaves waveforms as they are."""
        return Wav2Vec2FeatureExtractor(do_normalize=False)

    def mel_bands(self, wav, power):
        """Apply the filters to spectra, [B, T] to [B, F, bands].

        Arguments
        ---------
        wav : torch.Tensor
            Waveforms, [B, T].
        power : int
            Exponent of the magnitudes: 1, or 2 for power spectra.
        """
        spectra = self.spectrum(wav.float()).transpose(1, 2) ** (power / 2)
        return spectra @ self.mel_filters.float()
