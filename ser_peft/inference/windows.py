"""Clips of any length, cut into windows that an encoder takes."""

from itertools import islice

import torch
from torch.nn.utils.rnn import pad_sequence

from ser_peft.data.audio import SAMPLE_RATE

__all__ = ["by_window"]

TOGETHER = 30 * SAMPLE_RATE
"""Samples of the windows that are encoded at once: base-sized wav2vec 2.0 and
its kin take 0.7 GB for these, most of it in the first convolution."""


def by_window(encoder, wavs, lengths, score, text=()):
    """Apply an encoder and a head to clips of any length.

    A clip longer than `encoder.max_samples` is cut into equal windows, whose
    results are averaged. Only so many windows are encoded at once that the
    memory does not grow with the clip.

    Arguments
    ---------
    encoder : PeftLobe or SpeechLobe
        Waveforms to hidden states.
    wavs : torch.Tensor
        16 kHz mono, [B, T].
    lengths : torch.Tensor
        Valid samples of each clip, [B].
    score : callable
        Takes hidden states [L + 1, B, T', C], valid frames [B], and `text`;
        returns [B, ...].
    text : tuple of torch.Tensor
        Hidden states and tokens of the clips' texts, if they have any.

    Returns
    -------
    torch.Tensor
        [B, ...].
    """
    limit = encoder.max_samples
    if int(lengths.max()) <= limit:
        return score(*encoder(wavs, lengths / wavs.shape[1]), *text)
    means = []
    for i, (wav, length) in enumerate(zip(wavs, lengths.tolist(), strict=True)):
        windows = wav[:length].tensor_split(-(-length // limit))
        one = (text[0][:, i : i + 1], text[1][i : i + 1]) if text else ()
        means.append(_window_mean(encoder, windows, score, one))
    return torch.stack(means)


def _window_mean(encoder, windows, score, text=()):
    """Average the results of one clip's windows, see `by_window`.

    Arguments
    ---------
    encoder, score
        See `by_window`.
    windows : iterable of torch.Tensor
        The clip's windows, [T]; no more are held at once than are encoded
        together.
    text : tuple of torch.Tensor
        Hidden states [L + 1, 1, T', C] and tokens [1] of the clip's text.

    Returns
    -------
    torch.Tensor
        [...].
    """
    parts, windows = [], iter(windows)
    while some := [*islice(windows, 1)]:
        some += islice(windows, max(1, TOGETHER // len(some[0])) - 1)
        sizes = torch.tensor([len(window) for window in some])
        batch = pad_sequence(some, batch_first=True)
        beside = ()
        if text:
            states, tokens = text
            beside = (
                states.expand(-1, len(some), -1, -1),
                tokens.expand(len(some)),
            )
        parts.append(by_window(encoder, batch, sizes, score, beside))
    return torch.cat(parts).mean(0)
