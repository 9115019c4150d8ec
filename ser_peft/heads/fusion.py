"""Heads that fuse speech with its transcript.

They take the hidden states of a speech encoder and of a text encoder with
their valid lengths, and give scores as the heads of `ser_peft.heads.speech` do.
"""

import torch
from speechbrain.dataio.dataio import length_to_mask
from torch import nn

from ser_peft.errors import InputError
from ser_peft.heads.base import Head, masked_mean
from ser_peft.heads.speech import LayerMixHead

__all__ = ["FUSIONS", "FusionHead", "ThreeMHead"]


def _attend(attention, states, padding, keys=None):
    """Attend from states [B, T, C] to themselves, or to keys [B, S, C]."""
    keys = states if keys is None else keys
    return attention(
        states, keys, keys, key_padding_mask=padding, need_weights=False
    )[0]


def _padding(states, lengths):
    """Mask that is true at the padding of a batch, bool, [B, T]."""
    return ~length_to_mask(lengths, states.shape[-2], torch.bool)


class ThreeMHead(Head):
    """3M-SER's fusion: self-attention over the tokens, then over all.

    The text's states attend to each other and become 128 wide; tokens and
    audio frames then attend to one another, in one sequence without
    positions; its first place, the text's [CLS], or its mean is scored.
    With BERT and VGGish 2,552,644 parameters for 4 classes. Papers: 3M-SER,
    INISCOM 2023; DistilSER, doi 10.1109/ICTC62082.2024.10826904.

    Arguments
    ---------
    encoder, classes, dimensions
        See `Head`. Where the encoder is not 128 wide, as VGGish is, a linear
        layer makes it so.
    text_encoder : PeftLobe
        Text encoder whose width is read; nothing is kept.
    pool : str
        "first" or "mean".
    dropout : float
        Dropout probability of both attentions and in front of the dense
        layers.

    Raises
    ------
    InputError
        If `pool` is another.

    Example
    -------
    >>> from types import SimpleNamespace
    >>> encoder = SimpleNamespace(num_layers=0, hidden_size=128)
    >>> text_encoder = SimpleNamespace(num_layers=1, hidden_size=32)
    >>> head = ThreeMHead(encoder, 4, text_encoder=text_encoder)
    >>> speech = torch.rand(1, 2, 9, 128), torch.tensor([9, 5])
    >>> text = torch.rand(2, 2, 6, 32), torch.tensor([6, 3])
    >>> head(*speech, *text).shape
    torch.Size([2, 4])
    """

    score_layers = ("out.3.",)
    vector_size, heads = 128, 8

    def __init__(
        self,
        encoder,
        classes,
        dimensions=(),
        text_encoder=None,
        pool="first",
        dropout=0.5,
    ):
        if pool not in ("first", "mean"):
            raise InputError(f"pool: {pool} is not one of first, mean")
        settings = {"pool": pool, "dropout": dropout}
        super().__init__(encoder, classes, dimensions, **settings)
        size, how = self.vector_size, (self.heads, dropout)
        self.text_attention = nn.MultiheadAttention(
            text_encoder.hidden_size, *how, batch_first=True
        )
        self.text = nn.Sequential(
            nn.Linear(text_encoder.hidden_size, size), nn.LayerNorm(size)
        )
        self.audio = nn.Sequential(nn.LayerNorm(size))
        if self.width != size:
            self.audio.insert(0, nn.Linear(self.width, size))
        self.attention = nn.MultiheadAttention(size, *how, batch_first=True)
        self.fused = nn.Sequential(nn.Linear(size, size), nn.LayerNorm(size))
        self.out = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(size, 64),
            nn.LeakyReLU(),
            nn.Linear(64, self.outputs),
        )

    def embed(self, hidden_states, frames, text_states, tokens):
        """Fuse speech and text to [B, 128]; see `Head.forward`."""
        padding = _padding(text_states, tokens)
        text = _attend(self.text_attention, text_states[-1], padding)
        both = torch.cat(
            [self.text(text), self.audio(hidden_states[-1])], dim=1
        )
        padding = torch.cat([padding, _padding(hidden_states, frames)], dim=1)
        fused = self.fused(_attend(self.attention, both, padding))
        if self.settings["pool"] == "first":
            return fused[:, 0]
        inside = (~padding).to(fused.dtype)[..., None]
        return (fused * inside).sum(1) / inside.sum(1)


class FusionHead(LayerMixHead):
    """`LayerMixHead` that also takes the transcript.

    Arguments
    ---------
    encoder, classes, dimensions, conv, normalize, dropout
        See `LayerMixHead`.
    text_encoder : PeftLobe
        Text encoder whose width is read; nothing is kept.
    fuse : str
        How the two are joined: "concat"; "gated", a weighted sum whose
        weights are computed for each channel from both (Arevalo et al. 2017,
        "Gated multimodal units"); or "cross", where every audio frame attends
        to the tokens before the mean is taken (Tsai et al. 2019, "Multimodal
        transformer for unaligned multimodal language sequences").

    Raises
    ------
    InputError
        If `fuse` is another.

    Example
    -------
    >>> from types import SimpleNamespace
    >>> encoder = SimpleNamespace(num_layers=2, hidden_size=32)
    >>> head = FusionHead(encoder, 4, text_encoder=encoder, fuse="cross")
    >>> speech = torch.rand(3, 2, 9, 32), torch.tensor([9, 5])
    >>> text = torch.rand(3, 2, 6, 32), torch.tensor([6, 3])
    >>> head(*speech, *text).shape
    torch.Size([2, 4])
    """

    def __init__(
        self,
        encoder,
        classes,
        dimensions=(),
        text_encoder=None,
        fuse="gated",
        **kwargs,
    ):
        if fuse not in ("concat", "gated", "cross"):
            raise InputError(f"fuse: {fuse} is not one of concat, gated, cross")
        super().__init__(encoder, classes, dimensions, **kwargs)
        self.settings["fuse"] = fuse
        self.text = nn.Sequential(
            nn.LayerNorm(text_encoder.hidden_size),
            nn.Linear(text_encoder.hidden_size, 256),
        )
        if fuse == "concat":
            self.out[0] = nn.Linear(512, 256)
            self.vector_size = 512
        elif fuse == "gated":
            self.gate = nn.Linear(512, 256)
        else:
            self.attention = nn.MultiheadAttention(256, 4, batch_first=True)
            self.norm = nn.LayerNorm(256)

    def embed(self, hidden_states, frames, text_states, tokens):
        """Fuse speech and text to [B, D]; see `Head.forward`."""
        audio = self.frame(self.mix(hidden_states))
        text = self.text(text_states[-1])
        if self.settings["fuse"] == "cross":
            padding = _padding(text, tokens)
            heard = _attend(self.attention, audio, padding, text)
            return masked_mean(self.norm(audio + heard), frames)
        audio, text = masked_mean(audio, frames), masked_mean(text, tokens)
        both = torch.cat([audio, text], dim=1)
        if self.settings["fuse"] == "concat":
            return both
        gate = self.gate(both).sigmoid()
        return gate * audio.tanh() + (1 - gate) * text.tanh()


FUSIONS = {head.__name__: head for head in (ThreeMHead, FusionHead)}
"""Class name -> head of speech and text."""
