"""Training objectives besides the cross-entropy over classes."""

from collections import Counter

from torch.nn.functional import kl_div

from ser_peft.errors import InputError
from ser_peft.heads import masked_mean

__all__ = [
    "clip_weights",
    "concordance_loss",
    "distillation_losses",
    "feature_losses",
]


def clip_weights(manifests, columns):
    """Weigh clips so that all kinds of them count alike.

    Arguments
    ---------
    manifests : dict
        Split -> {id: entry}.
    columns : list of str
        Keys of the entries; a kind is a combination of their values.

    Returns
    -------
    dict
        Id -> weight: inverse frequency, one on average over the training
        clips. A kind that does not occur there, as in another corpus's test
        set, weighs one.

    Raises
    ------
    InputError
        If no training clip has a column.

    Example
    -------
    >>> kinds = {"a": "sad", "b": "sad", "c": "happy"}
    >>> train = {id_: {"emotion": kind} for id_, kind in kinds.items()}
    >>> clip_weights({"train": train}, ["emotion"])
    {'a': 0.75, 'b': 0.75, 'c': 1.5}
    """
    if not isinstance(columns, list):
        raise InputError(f"balance: {columns} is no list; write [emotion]")
    train = manifests["train"]
    had = {key for entry in train.values() for key in entry}
    for column in columns:
        if column not in had:
            raise InputError(
                f"balance: the train manifest has no '{column}'; it has "
                f"{', '.join(sorted(had))}"
            )
    kinds = {
        id_: tuple(map(entry.get, columns))
        for entries in manifests.values()
        for id_, entry in entries.items()
    }
    counts = Counter(kinds[id_] for id_ in train)
    mean = counts.total() / len(counts)
    return {
        id_: mean / counts[kind] if kind in counts else 1.0
        for id_, kind in kinds.items()
    }


def concordance_loss(predicted, truth):
    """1 - mean CCC of a batch.

    The concordance correlation coefficient of each dimension over the clips
    of the batch (Lin, 1989; as a loss: Trigeorgis et al., ICASSP 2016), so a
    batch wants more than a few clips. With one clip it is 1 and has no
    gradient. With many processes each takes its own batch.

    Arguments
    ---------
    predicted, truth : torch.Tensor
        Float32, [B, D].

    Returns
    -------
    torch.Tensor
        In [0, 2], scalar. It does not change if both are scaled and shifted
        alike.

    Example
    -------
    >>> import torch
    >>> truth = torch.tensor([[2.0], [4.0]])
    >>> concordance_loss(truth - 1, truth)
    tensor(0.3333)
    """
    x, y = predicted - predicted.mean(0), truth - truth.mean(0)
    spread = (x * x + y * y).mean(0) + (predicted - truth).mean(0).square()
    # All the same and right is a spread of zero.
    ccc = 2 * (x * y).mean(0) / spread.clamp(min=1e-12)
    return 1 - ccc.mean()


def distillation_losses(logits, taught, temperature):
    """Divergence of softened scores from a teacher's, clip by clip.

    Arguments
    ---------
    logits, taught : torch.Tensor
        The student's and the teacher's, [B, classes].
    temperature : float
        Divides both. The loss is multiplied by its square, which keeps the
        gradients' size.

    Returns
    -------
    torch.Tensor
        Kullback-Leibler divergence of the student from the teacher, [B].
        Paper: Hinton et al. 2015, "Distilling the knowledge in a neural
        network".

    Example
    -------
    >>> import torch
    >>> same = torch.tensor([[1.0, 2.0]])
    >>> distillation_losses(same, same, 2.0)
    tensor([0.])
    """
    student = (logits.float() / temperature).log_softmax(1)
    teacher = (taught.float() / temperature).log_softmax(1)
    losses = kl_div(student, teacher, reduction="none", log_target=True)
    return temperature**2 * losses.sum(1)


def feature_losses(features, taught, lengths):
    """Mean squared difference from a teacher's features, clip by clip.

    Arguments
    ---------
    features, taught : torch.Tensor
        The student's and the teacher's, [B, T, D].
    lengths : torch.Tensor
        Valid ones, [B].

    Returns
    -------
    torch.Tensor
        Over all valid ones and all channels, [B].
    """
    squares = (features.float() - taught.float()).square()
    return masked_mean(squares, lengths).mean(1)
