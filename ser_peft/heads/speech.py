"""From an encoder's hidden states to emotion scores.

A head takes all hidden states ``[L + 1, B, T, C]`` and the valid frames of
each clip, and gives scores ``[B, classes + dimensions]``: logits, then
arousal and the like, standardised. Padding never counts.
"""

import torch
from speechbrain.dataio.dataio import length_to_mask
from torch import nn

from ser_peft.errors import InputError
from ser_peft.lobes.lean import make_lean
from ser_peft.storage.checkpoints import SafeModule, load_tensors

__all__ = [
    "HEADS",
    "AttentivePoolingHead",
    "LayerMixHead",
    "LinearHead",
    "MeanHead",
    "ProbeMixHead",
    "StatisticsHead",
    "masked_mean",
]


def weighted_sum(frames, weights):
    """Weighted sum over time, in float32 even under autocast.

    A channel's mean may be many times larger than what tells clips apart,
    and a sum over hundreds of frames larger than float16 holds.

    Arguments
    ---------
    frames : torch.Tensor
        [..., B, T, C].
    weights : torch.Tensor
        [B, T].

    Returns
    -------
    torch.Tensor
        [..., B, C].
    """
    with torch.autocast(frames.device.type, enabled=False):
        return (weights.float()[:, None] @ frames.float()).squeeze(-2)


def masked_mean(frames, lengths):
    """Mean over the valid frames.

    Arguments
    ---------
    frames : torch.Tensor
        [..., B, T, C].
    lengths : torch.Tensor
        Valid frames, [B].

    Returns
    -------
    torch.Tensor
        [..., B, C].

    Example
    -------
    >>> masked_mean(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([2]))
    tensor([[2.]])
    """
    inside = length_to_mask(lengths, frames.shape[-2], torch.bool)
    return weighted_sum(frames, inside) / lengths[:, None]


def _statistics(frames, weights):
    """Weighted mean and standard deviation over time, [B, 2 C]."""
    mean = weighted_sum(frames, weights)
    variance = weighted_sum((frames - mean[:, None]).square(), weights)
    # Clamped: the root of zero has no gradient.
    return torch.cat([mean, variance.clamp(min=1e-6).sqrt()], dim=1)


class Head(SafeModule):
    """What all heads share: how many scores they give.

    Arguments
    ---------
    encoder : PeftLobe
        Its width and number of layers are taken, nothing else.
    classes : int, list or dict
        How many, which, or the map from the corpus's labels.
    dimensions : int or list
        How many, or which, of arousal, valence and dominance.
    **settings
        What else builds the same head again, for `model.json`.
    """

    score_layers = ()
    """Beginnings of the names of the tensors that give the scores."""
    vector_size = 256
    """Width of what `embed` gives."""

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
        """As always, with leaner dropout and linear layers."""
        make_lean(self)
        return super().train(mode)

    @property
    def layer_weights(self):
        """Share of every hidden state, [L + 1]: here all on the last one."""
        return nn.functional.one_hot(torch.tensor(self.states - 1)).float()

    def forward(self, *states, with_vectors=False):
        """Score clips.

        Arguments
        ---------
        *states : torch.Tensor
            Hidden states, [L + 1, B, T, C], and valid frames, [B]; of a
            fusion then those of the text.
        with_vectors : bool
            Give what `embed` gives too.

        Returns
        -------
        torch.Tensor or tuple
            Scores, [B, classes + dimensions]; and vectors, [B, D].
        """
        vectors = self.embed(*states)
        scores = self.score(vectors)
        return (scores, vectors) if with_vectors else scores

    def embed(self, hidden_states, frames):
        """One vector a clip, [B, D], which `score` takes; see `forward`."""
        raise NotImplementedError

    def score(self, vectors):
        """Vectors [B, D] to scores, [B, classes + dimensions]."""
        raise NotImplementedError

    def start_from_head(self, path, same_scores):
        """Take over a trained head, as far as it fits.

        Arguments
        ---------
        path : str or Path
            ``head.safetensors`` of a head of this kind.
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
        Mix in hidden state 0, what enters the first layer (the "-conv"
        variant).
    normalize : bool
        Layer-norm every hidden state before mixing. Layers differ in scale
        by an order of magnitude, and a mix of raw ones learns slowly.
    dropout : float
        After the first two convolutions.
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
        """[L + 1, B, T, C] to [B, T, C]."""
        hidden_states = hidden_states[self.first :]
        if self.normalize:
            hidden_states = nn.functional.layer_norm(
                hidden_states, hidden_states.shape[-1:]
            )
        weights = self.layer_logits.softmax(0).to(hidden_states.dtype)
        mixed = weights @ hidden_states.flatten(1)
        return mixed.view(hidden_states.shape[1:])

    def embed(self, hidden_states, frames):
        """See `Head.embed`."""
        *inner, last = self.frame
        mixed = nn.Sequential(*inner)(self.mix(hidden_states))
        # The mean of what a linear layer gives is what it gives of the mean.
        return last(masked_mean(mixed, frames))

    def score(self, vectors):
        """See `Head.score`."""
        return self.out(vectors)


class AttentivePoolingHead(LayerMixHead):
    """`LayerMixHead` that pools by attentive statistics instead of the mean.

    Frames are weighted, their mean and standard deviation enter the dense
    layers. Paper: Okabe et al. 2018, "Attentive statistics pooling for deep
    speaker embedding"; the baseline of the Odyssey 2024 emotion challenge
    uses it.
    """

    def __init__(self, encoder, classes, dimensions=(), **kwargs):
        super().__init__(encoder, classes, dimensions, **kwargs)
        self.attention = nn.Sequential(
            nn.Linear(256, 128), nn.Tanh(), nn.Linear(128, 1)
        )
        self.out[0] = nn.Linear(512, 256)
        self.vector_size = 512

    def embed(self, hidden_states, frames):
        """See `Head.embed`."""
        mixed = self.frame(self.mix(hidden_states))
        inside = length_to_mask(frames, mixed.shape[1], torch.bool)
        logits = self.attention(mixed).squeeze(-1)
        weights = logits.masked_fill(~inside, float("-inf")).softmax(1)
        return _statistics(mixed, weights)


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
        On the standardised means.
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
        """Take over a fitted linear probe.

        Arguments
        ---------
        probe : ser_peft.training.probe.Probe
            Of the same encoder, classes and dimensions.
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
        weight = self.linear.weight.detach().unflatten(
            1, (self.states, self.width)
        )
        norms = weight.square().sum((0, 2)).sqrt()
        return norms / norms.sum()

    def embed(self, hidden_states, frames):
        """See `Head.embed`: standardised means, [B, (L + 1) C]."""
        means = masked_mean(hidden_states, frames).transpose(0, 1)
        return self.standardize(means)

    def standardize(self, means):
        """Mean hidden states, [B, L + 1, C], to what `score` takes."""
        return ((means - self.mean) / self.deviation).flatten(1)

    def score(self, vectors):
        """See `Head.score`."""
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
        "reference": every frame is rectified, then the mean taken, as the
        authors' code does; "paper": the mean is taken first.

    Raises
    ------
    InputError
        If the order is another.
    """

    score_layers = ("linear.",)

    def __init__(self, encoder, classes, dimensions=(), order="reference"):
        if order not in ("reference", "paper"):
            raise InputError(f"order: {order} is not one of reference, paper")
        super().__init__(encoder, classes, dimensions, order=order)
        self.vector_size = self.width
        self.linear = nn.Linear(self.width, self.outputs)

    def embed(self, hidden_states, frames):
        """See `Head.embed`."""
        last = hidden_states[-1]
        if self.settings["order"] == "reference":
            last = last.relu()
        return masked_mean(last, frames).relu()

    def score(self, vectors):
        """See `Head.score`."""
        return self.linear(vectors)


class StatisticsHead(Head):
    """Mean and deviation of the last hidden state, normed, one layer.

    For small encoders trained from scratch. Means, and logarithms of the
    deviations, are each layer-normed over the channels of a clip: there are
    no statistics of a batch, so that a step is the same however many
    processes share it. Paper: Snyder et al. 2018, "X-vectors", for the
    pooling.

    Arguments
    ---------
    encoder, classes, dimensions
        See `Head`.
    dropout : float
        On the normed statistics.
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
        """See `Head.embed`."""
        last = hidden_states[-1]
        inside = length_to_mask(frames, last.shape[1], torch.float)
        return _statistics(last, inside / frames[:, None])

    def score(self, vectors):
        """See `Head.score`."""
        mean, deviation = vectors.chunk(2, dim=1)
        normed = torch.cat(
            [self.mean_norm(mean), self.deviation_norm(deviation.log())], 1
        )
        return self.linear(self.dropout(normed))


class ProbeMixHead(LayerMixHead):
    """The linear probe plus what `LayerMixHead` adds to it.

    The sum of both heads' scores; the last layer of the second starts at
    zero, so that training begins at the probe (see `LinearHead`) and still
    has a nonlinear path.

    Arguments
    ---------
    encoder, classes, dimensions, conv, normalize, dropout
        See `LayerMixHead`; `dropout` also goes to the probe's inputs.
    """

    score_layers = ("out.2.", "probe.linear.")

    def __init__(self, encoder, classes, dimensions=(), **kwargs):
        super().__init__(encoder, classes, dimensions, **kwargs)
        self.probe = LinearHead(
            encoder, classes, dimensions, dropout=self.settings["dropout"]
        )
        self.vector_size = 256 + self.probe.vector_size
        nn.init.zeros_(self.out[-1].weight)
        nn.init.zeros_(self.out[-1].bias)

    def start_from(self, probe):
        """See `LinearHead.start_from`."""
        self.probe.start_from(probe)

    def embed(self, hidden_states, frames):
        """See `Head.embed`: what both heads score, [B, 256 + (L + 1) C]."""
        return torch.cat(
            [
                super().embed(hidden_states, frames),
                self.probe.embed(hidden_states, frames),
            ],
            dim=1,
        )

    def score(self, vectors):
        """See `Head.score`."""
        mixed, means = vectors.tensor_split([256], dim=1)
        return super().score(mixed) + self.probe.score(means)


HEADS = {
    head.__name__: head
    for head in (
        LayerMixHead,
        AttentivePoolingHead,
        LinearHead,
        MeanHead,
        ProbeMixHead,
        StatisticsHead,
    )
}
