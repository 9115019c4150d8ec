"""Heads that fuse what is said with how it is said.

They take the hidden states of a speech encoder and of a text encoder with
their valid lengths, and give scores as the heads of `ser_peft.heads.speech` do.
"""

import torch
from speechbrain.dataio.dataio import length_to_mask
from torch import nn

from ser_peft.errors import InputError
from ser_peft.heads.speech import Head, LayerMixHead, masked_mean

__all__ = ["FUSIONS", "FusionHead", "ThreeMHead"]


def _outside(states, lengths):
    """Where a batch of sequences is padding, bool, [B, T]."""
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
        Its width is taken, nothing else.
    pool : str
        "first" or "mean".
    dropout : float
        Of both attentions and in front of the dense layers.

    Raises
    ------
    InputError
        If `pool` is another.
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
        width, how = text_encoder.hidden_size, (self.heads, dropout)
        self.text_attention = nn.MultiheadAttention(
            width, *how, batch_first=True
        )
        self.text = nn.Sequential(
            nn.Linear(width, self.vector_size), nn.LayerNorm(self.vector_size)
        )
        self.audio = nn.Sequential(nn.LayerNorm(self.vector_size))
        if self.width != self.vector_size:
            self.audio.insert(0, nn.Linear(self.width, self.vector_size))
        self.attention = nn.MultiheadAttention(
            self.vector_size, *how, batch_first=True
        )
        self.fused = nn.Sequential(
            nn.Linear(self.vector_size, self.vector_size),
            nn.LayerNorm(self.vector_size),
        )
        self.out = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(self.vector_size, 64),
            nn.LeakyReLU(),
            nn.Linear(64, self.outputs),
        )

    def embed(self, hidden_states, frames, text_states, tokens):
        """See `Head.embed` and `forward`."""
        text, no_text = text_states[-1], _outside(text_states, tokens)
        text = _attend(self.text_attention, text, no_text)
        both = torch.cat(
            [self.text(text), self.audio(hidden_states[-1])], dim=1
        )
        outside = torch.cat([no_text, _outside(hidden_states, frames)], dim=1)
        fused = self.fused(_attend(self.attention, both, outside))
        if self.settings["pool"] == "first":
            return fused[:, 0]
        inside = (~outside).to(fused.dtype)[..., None]
        return (fused * inside).sum(1) / inside.sum(1)

    def score(self, vectors):
        """See `Head.score`."""
        return self.out(vectors)


def _attend(attention, states, outside):
    """Self-attention of sequences with padding, [B, T, C]."""
    return attention(
        states, states, states, key_padding_mask=outside, need_weights=False
    )[0]


class FusionHead(LayerMixHead):
    """`LayerMixHead` that also hears what is said.

    Arguments
    ---------
    encoder, classes, dimensions, conv, normalize, dropout
        See `LayerMixHead`.
    text_encoder : PeftLobe
        Its width is taken, nothing else.
    fuse : str
        What becomes of the two: "concat"; "gated", a sum whose weights each
        channel draws from both (Arevalo et al. 2017, "Gated multimodal
        units"); or "cross", where every audio frame attends to the tokens
        before the mean is taken (Tsai et al. 2019, "Multimodal transformer
        for unaligned multimodal language sequences").

    Raises
    ------
    InputError
        If `fuse` is another.
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
        """See `Head.embed` and `forward`."""
        audio = self.frame(self.mix(hidden_states))
        text = self.text(text_states[-1])
        if self.settings["fuse"] == "cross":
            heard, _ = self.attention(
                audio,
                text,
                text,
                key_padding_mask=_outside(text, tokens),
                need_weights=False,
            )
            return masked_mean(self.norm(audio + heard), frames)
        audio, text = masked_mean(audio, frames), masked_mean(text, tokens)
        both = torch.cat([audio, text], dim=1)
        if self.settings["fuse"] == "concat":
            return both
        gate = self.gate(both).sigmoid()
        return gate * audio.tanh() + (1 - gate) * text.tanh()


FUSIONS = {head.__name__: head for head in (ThreeMHead, FusionHead)}
