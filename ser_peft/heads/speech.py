"""Heads: from an encoder's hidden states to emotion scores.

A head takes all hidden states ``[L + 1, B, T, C]`` and the number of valid
frames of each utterance ``[B]``, and gives scores ``[B, classes +
dimensions]``. Padding never counts.
"""

import torch
from torch import nn

from ser_peft.errors import InputError
from ser_peft.heads.base import Head, masked_mean, weighted_sum
from ser_peft.lobes.base import valid_mask

__all__ = [
    "HEADS",
    "LayerMixHead",
    "LinearHead",
    "MeanHead",
    "ProbeMixHead",
    "StatisticsHead",
]


class LayerMixHead(Head):
    """PEFT-SER's downstream model, with normalised layers.

    Softmax-weighted mean of the hidden states, three pointwise
    convolutions, mean over the valid frames, two dense layers:
    256 C + 198,660 + (layers) parameters for 4 classes. Paper: Feng and
    Narayanan 2023, "PEFT-SER", arXiv 2306.05350.

    Arguments
    ---------
    encoder, classes, dimensions
        See `Head`.
    conv : bool
        Include hidden state 0, the input of the first layer (the "-conv"
        variant).
    normalize : bool
        Layer-norm every hidden state before mixing. Layers differ in scale
        by an order of magnitude, and a mix of raw ones learns slowly.
    dropout : float
        Dropout probability after the first two convolutions.

    Example
    -------
    >>> from types import SimpleNamespace
    >>> encoder = SimpleNamespace(num_layers=2, hidden_size=32)
    >>> head = LayerMixHead(encoder, classes=4)
    >>> head(torch.rand(3, 2, 9, 32), torch.tensor([9, 5])).shape
    torch.Size([2, 4])
    """

    score_layers = ("out.2.",)

    def __init__(
        self,
        encoder,
        classes,
        dimensions=(),
        conv=True,
        normalize=True,
        dropout=0.1,
    ):
        settings = {"conv": conv, "normalize": normalize, "dropout": dropout}
        super().__init__(encoder, classes, dimensions, **settings)
        self.first = 0 if conv else 1
        self.normalize = normalize
        self.layer_logits = nn.Parameter(torch.zeros(self.states - self.first))
        # Pointwise convolutions are dense layers over the channels.
        self.frame = nn.Sequential(
            nn.Linear(self.width, 256),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(256, 256),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(256, 256),
        )
        self.out = nn.Sequential(
            nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, self.outputs)
        )

    @property
    def layer_weights(self):
        """Weight of every hidden state, [L + 1], summing to one."""
        weights = self.layer_logits.detach().softmax(0)
        return nn.functional.pad(weights, (self.first, 0))

    def mix(self, hidden_states):
        """Average hidden states by weight, [L + 1, B, T, C] to [B, T, C]."""
        states = hidden_states[self.first :]
        if self.normalize:
            states = nn.functional.layer_norm(states, states.shape[-1:])
        weights = self.layer_logits.softmax(0).to(states.dtype)
        return (weights @ states.flatten(1)).view(states.shape[1:])

    def embed(self, hidden_states, frames):
        """Pool hidden states, see `Head.embed`."""
        mixed = self.frame[:-1](self.mix(hidden_states))
        # The mean of a linear layer's outputs is its output for the mean.
        return self.frame[-1](masked_mean(mixed, frames))


class LinearHead(Head):
    """The linear probe as a head: standardised means, one linear layer.

    Every hidden state is averaged over the valid frames and standardised
    with the mean and deviation that the probe found on the training set.
    With `start_from` it begins as good as the probe, so that fine-tuning
    does not first have to undo a random head. Paper: Kumar et al. 2022,
    "Fine-tuning can distort pretrained features and underperform
    out-of-distribution" (linear probing, then fine-tuning).

    Arguments
    ---------
    encoder, classes, dimensions
        See `Head`.
    dropout : float
        Dropout probability of the standardised means.

    Example
    -------
    >>> from types import SimpleNamespace
    >>> head = LinearHead(SimpleNamespace(num_layers=2, hidden_size=32), 4)
    >>> head(torch.rand(3, 2, 9, 32), torch.tensor([9, 5])).shape
    torch.Size([2, 4])
    """

    score_layers = ("linear.",)

    def __init__(self, encoder, classes, dimensions=(), dropout=0.0):
        super().__init__(encoder, classes, dimensions, dropout=dropout)
        shape = (self.states, self.width)
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("deviation", torch.ones(shape))
        self.dropout = nn.Dropout(dropout)
        self.vector_size = self.states * self.width
        self.linear = nn.Linear(self.vector_size, self.outputs)

    def start_from(self, probe):
        """Copy a fitted linear probe.

        Arguments
        ---------
        probe : ser_peft.training.probe.Probe
            Fitted with the same encoder, classes and dimensions.
        """
        for tensor, value in (
            (self.mean, probe.mean),
            (self.deviation, probe.deviation),
            (self.linear.weight, probe.weight),
            (self.linear.bias, probe.bias),
        ):
            tensor.data.copy_(value.reshape(tensor.shape))

    @property
    def layer_weights(self):
        """Share of every hidden state in the linear layer's norm, [L + 1]."""
        weight = self.linear.weight.detach().unflatten(1, self.mean.shape)
        norms = weight.square().sum((0, 2)).sqrt()
        return norms / norms.sum()

    def embed(self, hidden_states, frames):
        """Average and standardise, to [B, (L + 1) C]; see `Head.embed`."""
        means = masked_mean(hidden_states, frames).transpose(0, 1)
        return self.standardize(means)

    def standardize(self, means):
        """Standardise mean hidden states, [B, L + 1, C] to [B, (L + 1) C]."""
        return ((means - self.mean) / self.deviation).flatten(1)

    def score(self, vectors):
        """Apply the linear layer, see `Head.score`."""
        return self.linear(self.dropout(vectors))


class MeanHead(Head):
    """V-FT's head: the last hidden state, rectified and averaged.

    Paper: Chen and Rudnicky 2023, "Exploring wav2vec 2.0 fine tuning for
    improved speech emotion recognition", arXiv 2110.06309.

    Arguments
    ---------
    encoder, classes, dimensions
        See `Head`.
    order : str
        "reference": every frame is rectified before the mean is taken, as in
        the authors' code; "paper": the mean is taken first.

    Raises
    ------
    InputError
        If the order is another.

    Example
    -------
    >>> from types import SimpleNamespace
    >>> head = MeanHead(SimpleNamespace(num_layers=2, hidden_size=32), 4)
    >>> head(torch.rand(3, 2, 9, 32), torch.tensor([9, 5])).shape
    torch.Size([2, 4])
    """

    score_layers = ("linear.",)

    def __init__(self, encoder, classes, dimensions=(), order="reference"):
        if order not in ("reference", "paper"):
            raise InputError(f"order: {order} is not one of reference, paper")
        super().__init__(encoder, classes, dimensions, order=order)
        self.vector_size = self.width
        self.linear = nn.Linear(self.width, self.outputs)

    def embed(self, hidden_states, frames):
        """Average the last hidden state, to [B, C]; see `Head.embed`."""
        last = hidden_states[-1]
        if self.settings["order"] == "reference":
            last = last.relu()
        return masked_mean(last, frames).relu()

    def score(self, vectors):
        """Apply the linear layer, see `Head.score`."""
        return self.linear(vectors)


class StatisticsHead(Head):
    """Mean and deviation of the last hidden state, normed, one layer.

    Made for small encoders trained from scratch. Means, and logarithms of the
    deviations, are each layer-normed over the channels of an utterance: there
    are no statistics of a batch, so that a step is the same however many
    processes share it. Paper: Snyder et al. 2018, "X-vectors", for the
    pooling.

    Arguments
    ---------
    encoder, classes, dimensions
        See `Head`.
    dropout : float
        Dropout probability of the normed statistics.

    Example
    -------
    >>> from types import SimpleNamespace
    >>> head = StatisticsHead(SimpleNamespace(num_layers=2, hidden_size=32), 4)
    >>> head(torch.rand(3, 2, 9, 32), torch.tensor([9, 5])).shape
    torch.Size([2, 4])
    """

    score_layers = ("linear.",)

    def __init__(self, encoder, classes, dimensions=(), dropout=0.0):
        super().__init__(encoder, classes, dimensions, dropout=dropout)
        self.vector_size = 2 * self.width
        self.mean_norm = nn.LayerNorm(self.width)
        self.deviation_norm = nn.LayerNorm(self.width)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(self.vector_size, self.outputs)

    def embed(self, hidden_states, frames):
        """Give mean and standard deviation, [B, 2 C]; see `Head.embed`."""
        last = hidden_states[-1]
        inside = valid_mask(frames, last).float()
        weights = inside / frames[:, None]
        mean = weighted_sum(last, weights)
        variance = weighted_sum((last - mean[:, None]).square(), weights)
        # Clamped: the root of zero has no gradient.
        return torch.cat([mean, variance.clamp(min=1e-6).sqrt()], dim=1)

    def score(self, vectors):
        """Normalise and apply the linear layer, see `Head.score`."""
        mean, deviation = vectors.chunk(2, dim=1)
        normed = self.mean_norm(mean), self.deviation_norm(deviation.log())
        return self.linear(self.dropout(torch.cat(normed, dim=1)))


class ProbeMixHead(LayerMixHead):
    """The linear probe plus a correction by `LayerMixHead`.

    The scores of both heads are added; the last layer of the second starts
    at zero, so that training begins at the probe (see `LinearHead`) and still
    has a nonlinear path.

    Arguments
    ---------
    encoder, classes, dimensions, conv, normalize, dropout
        See `LayerMixHead`; `dropout` also applies to the probe's inputs.

    Example
    -------
    >>> from types import SimpleNamespace
    >>> head = ProbeMixHead(SimpleNamespace(num_layers=2, hidden_size=32), 4)
    >>> head(torch.rand(3, 2, 9, 32), torch.tensor([9, 5])).shape
    torch.Size([2, 4])
    """

    score_layers = ("out.2.", "probe.linear.")

    def __init__(self, encoder, classes, dimensions=(), **kwargs):
        super().__init__(encoder, classes, dimensions, **kwargs)
        dropout = self.settings["dropout"]
        self.probe = LinearHead(encoder, classes, dimensions, dropout)
        self.vector_size = 256 + self.probe.vector_size
        nn.init.zeros_(self.out[-1].weight)
        nn.init.zeros_(self.out[-1].bias)

    def start_from(self, probe):
        """Copy a fitted linear probe, see `LinearHead.start_from`."""
        self.probe.start_from(probe)

    def embed(self, hidden_states, frames):
        """Join both heads' vectors, [B, 256 + (L + 1) C]; see `Head.embed`."""
        mixed = super().embed(hidden_states, frames)
        means = self.probe.embed(hidden_states, frames)
        return torch.cat([mixed, means], dim=1)

    def score(self, vectors):
        """Add both heads' scores, see `Head.score`."""
        mixed, means = vectors.tensor_split([256], dim=1)
        return super().score(mixed) + self.probe.score(means)


HEADS = {
    head.__name__: head
    for head in (
        LayerMixHead,
        LinearHead,
        MeanHead,
        ProbeMixHead,
        StatisticsHead,
    )
}
"""Class name -> head of speech alone."""
