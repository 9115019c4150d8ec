"""Pooling over time, and the base class of all heads."""

import torch
from torch import nn

from ser_peft.errors import InputError
from ser_peft.lobes.base import valid_mask
from ser_peft.lobes.lean import make_lean
from ser_peft.storage.checkpoints import SafeModule, load_tensors

__all__ = ["Head", "masked_mean", "weighted_sum"]


def weighted_sum(frames, weights):
    """Weighted sum over time, in float32 even under autocast.

    A channel's mean may be many times larger than the differences between
    utterances, and a sum over hundreds of frames larger than float16 holds.

    Arguments
    ---------
    frames : torch.Tensor
        Frames of B utterances, [..., B, T, C].
    weights : torch.Tensor
        Weight of each frame, [B, T].

    Returns
    -------
    torch.Tensor
        Sums, float32, [..., B, C].

    Example
    -------
    >>> weighted_sum(torch.tensor([[[1.0], [3.0]]]), torch.tensor([[0.5, 0.5]]))
    tensor([[2.]])
    """
    with torch.autocast(frames.device.type, enabled=False):
        return (weights.float()[:, None] @ frames.float()).squeeze(-2)


def masked_mean(frames, lengths):
    """Mean over the valid frames.

    Arguments
    ---------
    frames : torch.Tensor
        Frames of B utterances, [..., B, T, C].
    lengths : torch.Tensor
        Number of valid frames of each utterance, [B].

    Returns
    -------
    torch.Tensor
        Means, float32, [..., B, C].

    Example
    -------
    >>> masked_mean(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([2]))
    tensor([[2.]])
    """
    inside = valid_mask(lengths, frames, dim=-2)
    return weighted_sum(frames, inside) / lengths[:, None]


class Head(SafeModule):
    """Base class of heads: hidden states to scores.

    A subclass gives `embed`, and either ``self.out`` or a `score` of its own.

    Arguments
    ---------
    encoder : PeftLobe
        Encoder whose width and number of layers are read; nothing is kept.
    classes : int, list or dict
        Number of classes, their names, or the map from the corpus's labels.
    dimensions : int or list
        Number of emotion dimensions, or their names (arousal, valence,
        dominance).
    **settings
        The subclass's own arguments, written to ``model.json`` so that the
        same head can be built again.

    Raises
    ------
    InputError
        If there is neither a class nor a dimension to score.
    """

    score_layers = ()
    """Prefixes of the names of the tensors that give the scores."""
    vector_size = 256
    """Width D of the vectors that `embed` gives."""

    def __init__(self, encoder, classes, dimensions=(), **settings):
        super().__init__()
        self.settings = settings
        if isinstance(classes, dict):
            classes = set(classes.values())
        self.outputs = sum(
            kind if isinstance(kind, int) else len(kind)
            for kind in (classes, dimensions)
        )
        if self.outputs < 1:
            raise InputError(
                f"head: classes {classes}, dimensions {dimensions}: leaves it "
                "nothing to score; give it classes: !ref <classes>"
            )
        self.states = encoder.num_layers + 1
        self.width = encoder.hidden_size

    def train(self, mode=True):
        """Set train or eval mode, with leaner dropout and linear layers."""
        make_lean(self)
        return super().train(mode)

    @property
    def layer_weights(self):
        """Weight of every hidden state, [L + 1]: here all on the last one."""
        return nn.functional.one_hot(torch.tensor(self.states - 1)).float()

    def forward(self, *states, with_vectors=False):
        """Score utterances.

        Arguments
        ---------
        *states : torch.Tensor
            Hidden states, [L + 1, B, T, C], and valid frames, [B]; for a
            fusion head then the text encoder's hidden states,
            [L' + 1, B, S, C'], and valid tokens, [B].
        with_vectors : bool
            Also return the vectors that were scored.

        Returns
        -------
        scores : torch.Tensor
            Logits of the classes, then standardised dimensions,
            [B, classes + dimensions].
        vectors : torch.Tensor
            If asked for: the output of `embed`, [B, D].
        """
        vectors = self.embed(*states)
        scores = self.score(vectors)
        return (scores, vectors) if with_vectors else scores

    def embed(self, hidden_states, frames):
        """Pool hidden states [L + 1, B, T, C] and frames [B] to [B, D]."""
        raise NotImplementedError

    def score(self, vectors):
        """Turn vectors [B, D] into scores [B, classes + dimensions]."""
        return self.out(vectors)

    def keep_scores(self, kept):
        """Drop the scores that only training needs.

        Arguments
        ---------
        kept : list of int
            Indices of the scores to keep.
        """
        for name, tensor in self.state_dict(keep_vars=True).items():
            if name.startswith(self.score_layers):
                tensor.data = tensor.data[kept].clone()
        self.outputs = len(kept)

    def start_from_head(self, path, same_scores):
        """Load a trained head, as far as it fits.

        Arguments
        ---------
        path : str or Path
            ``head.safetensors`` of a head of this class.
        same_scores : bool
            Whether its classes and dimensions are the same; the layers that
            give the scores stay new otherwise.

        Raises
        ------
        InputError
            If it is no such head.
        """
        own = self.state_dict()
        new = () if same_scores else self.score_layers
        kept = {k: v for k, v in own.items() if k.startswith(new)}
        load_tensors(self, path, kept)
