"""Random spans of frames and channels that training hides."""

import torch

from ser_peft.errors import InputError

__all__ = ["SpanMask"]


class SpanMask:
    """Spans to be masked, drawn inside each clip's own frames.

    As in wav2vec 2.0 (Baevski et al. 2020), a clip gets ``share * frames /
    span`` spans, rounded up or down at random, that may overlap. A span is
    never longer than half of the clip, so that short clips keep some context.

    Arguments
    ---------
    time_share : float
        Share of a clip's frames, 0 to 1, before overlaps.
    time_span : int
        Length of a span in frames of 20 ms.
    least_time_spans : int
        Least number of spans in each clip: two of 15 hide half of a second.
    channel_share, channel_span, least_channel_spans
        The same for the encoder's channels (Whisper: mel bins).

    Raises
    ------
    InputError
        If a share is not between 0 and 1.

    Example
    -------
    >>> mask = SpanMask(0.5, 2).time(torch.tensor([8, 4]))
    >>> mask.shape, bool(mask[1, 4:].any())
    (torch.Size([2, 8]), False)
    """

    def __init__(
        self,
        time_share=0.0,
        time_span=10,
        least_time_spans=0,
        channel_share=0.0,
        channel_span=64,
        least_channel_spans=0,
    ):
        for name, share in (
            ("time_share", time_share),
            ("channel_share", channel_share),
        ):
            if not 0 <= share <= 1:
                raise InputError(f"{name}: {share} must be between 0 and 1")
        self._time = (time_share, time_span, least_time_spans)
        self._channel = (channel_share, channel_span, least_channel_spans)

    def time(self, frames):
        """Draw the frames to be masked.

        Arguments
        ---------
        frames : torch.Tensor
            Valid frames of each clip, [B].

        Returns
        -------
        torch.Tensor
            Bool, [B, frames of the longest clip].
        """
        return _draw(frames.tolist(), *self._time).to(frames.device)

    def channels(self, clips, width, device="cpu"):
        """Draw the channels to be masked.

        Arguments
        ---------
        clips, width : int
            Number of clips and of channels.
        device : str or torch.device
            Device of the mask.

        Returns
        -------
        torch.Tensor
            Bool, [clips, width].
        """
        return _draw([width] * clips, *self._channel).to(device)


def _draw(sizes, share, longest, least):
    mask = torch.zeros(len(sizes), max(sizes), dtype=torch.bool)
    for row, size in zip(mask, sizes, strict=True):
        span = min(longest, size // 2)
        if span:
            count = max(least, int(share * size / span + float(torch.rand(()))))
            starts = torch.randperm(size - span + 1)[:count]
            row[(starts[:, None] + torch.arange(span)).flatten()] = True
    return mask
