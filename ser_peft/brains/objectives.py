"""What is trained: cross-entropy over classes, concordance of dimensions."""

from collections import Counter

from ser_peft.errors import InputError

__all__ = ["clip_weights", "concordance_loss"]


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
