"""Mixtures of two utterances, and of what is to be learned from them."""

from dataclasses import dataclass

import torch

from ser_peft.lobes import lengths_in_samples

__all__ = ["Mixture", "mix"]

QUIETER = 15.0
"""The other utterance is quieter by up to so many dB."""


@dataclass
class Mixture:
    """Mixtures of a batch's utterances.

    Arguments
    ---------
    wavs : torch.Tensor
        Mixed waveforms, as long as the utterances were, [B, T].
    partners : torch.Tensor
        Index of the utterance that was added to each; its own where it stays
        as it is, [B].
    shares : torch.Tensor
        Each utterance's share of its mixture; 1 where it stays, [B].
    """

    wavs: torch.Tensor
    partners: torch.Tensor
    shares: torch.Tensor

    def __call__(self, values):
        """Mean of both utterances' values, weighted by their shares.

        Arguments
        ---------
        values : torch.Tensor
            Of the batch's utterances, [B] or [B, D]: distributions over
            classes, dimensions, weights.

        Returns
        -------
        torch.Tensor
            Of the mixtures, the same shape.
        """
        shares = self.shares.to(values)
        if values.dim() > 1:
            shares = shares[:, None]
        others = values[self.partners.to(values.device)]
        return shares * values + (1 - shares) * others


def mix(wavs, lens, probability):
    """Mix some utterances of a batch with others.

    The other one begins with the utterance, is cut to its length, and is 0 to
    15 dB quieter (root mean square of where it is heard). Each is heard by
    the share of its amplitude, the root mean square over the whole clip:
    with a level s dB above an equally long one's, ``1 / (1 + 10 ** (-s /
    20))``. Papers: Zhang et al. 2018, "mixup: beyond empirical risk
    minimization", arXiv 1710.09412; shares by amplitude: Tokozume et al.
    2018, "Learning from between-class examples for deep sound recognition",
    arXiv 1711.10282.

    Arguments
    ---------
    wavs : torch.Tensor
        Zero-padded waveforms, [B, T].
    lens : torch.Tensor
        Relative to T, [B].
    probability : float
        Of being mixed, for each utterance.

    Returns
    -------
    Mixture
        Drawn from torch's generator of the CPU.

    Example
    -------
    >>> _ = torch.manual_seed(0)
    >>> mixture = mix(torch.randn(2, 16000), torch.ones(2), 1.0)
    >>> bool(((mixture.shares >= 0.5) & (mixture.shares < 0.9)).all())
    True
    """
    count = len(wavs)
    partners = torch.arange(count)
    chosen = torch.rand(count) < probability
    partners = torch.where(chosen, torch.randperm(count), partners)
    level = 10 ** (-QUIETER * torch.rand(count) / 20)
    chosen, level = chosen.to(wavs.device), level.to(wavs.device)
    others = wavs[partners.to(wavs.device)]
    samples = lengths_in_samples(wavs, lens)
    shorter = torch.minimum(samples, samples[partners]).to(wavs.device)
    samples = samples.to(wavs.device)
    time = torch.arange(wavs.shape[1], device=wavs.device)
    others = others.masked_fill(time >= samples[:, None], 0.0)
    # Silence is louder than nothing by a little: no division by zero.
    own = (wavs.square().sum(1) / samples).sqrt().clamp(min=1e-6)
    heard = (others.square().sum(1) / shorter).sqrt().clamp(min=1e-6)
    gain = torch.where(chosen, level * own / heard, 0.0)
    others = gain[:, None] * others
    added = (others.square().sum(1) / samples).sqrt()
    return Mixture(wavs + others, partners, own / (own + added))
