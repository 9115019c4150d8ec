"""Side tasks: what else the head's vectors should tell."""

import torch
from torch.nn.functional import cross_entropy

from ser_peft.errors import InputError
from ser_peft.storage.checkpoints import SafeModule

__all__ = ["SideTasks"]


class SideTasks(SafeModule):
    """Linear layers that tell other labels of clips from the head's vectors.

    They train the encoder and the head with it, and are no part of the saved
    model. Gender and secondary emotions are the usual ones: SAILER, arXiv
    2505.22133; arXiv 2506.10930.

    Arguments
    ---------
    width : int
        Width of the vectors.
    weights : dict
        Key of the manifest's entries -> weight of its loss. Its values are
        texts, as of ``gender``, or numbers by label, as of ``secondary``.
    train : dict
        Training manifest, id -> entry.

    Raises
    ------
    InputError
        If a key has fewer than two values in train, or numbers.

    Example
    -------
    >>> train = {"a": {"gender": "female"}, "b": {"gender": "male"}, "c": {}}
    >>> tasks = SideTasks(8, {"gender": 0.1}, train)
    >>> tasks.targets(["b", "c"])
    tensor([[0., 1.],
            [0., 0.]])
    """

    def __init__(self, width, weights, train):
        super().__init__()
        self.weights, self.sizes, parts = weights, [], []
        for key in weights:
            shares = [_shares(key, entry.get(key)) for entry in train.values()]
            names = sorted({name for share in shares for name in share})
            if len(names) < 2:
                raise InputError(
                    f"side_tasks: {key}: the training clips have "
                    f"{len(names)} values of it, two are needed; leave it out"
                )
            self.sizes.append(len(names))
            parts.append(
                torch.tensor(
                    [
                        [share.get(name, 0.0) for name in names]
                        for share in shares
                    ]
                )
            )
        self.truth = dict(zip(train, torch.cat(parts, 1), strict=True))
        self.linear = torch.nn.Linear(width, sum(self.sizes))

    def targets(self, ids):
        """Distributions of clips, task by task, [B, K]; 0 where unknown."""
        return torch.stack([self.truth[id_] for id_ in ids])

    def forward(self, vectors):
        """Logits of all tasks, [B, K], from vectors [B, width]."""
        return self.linear(vectors)

    def losses(self, logits, targets):
        """Weighted sum of the tasks' cross-entropies, [B].

        Arguments
        ---------
        logits, targets : torch.Tensor
            [B, K]; what a clip does not tell is no loss.
        """
        return sum(
            weight * cross_entropy(guess, truth, reduction="none")
            for weight, guess, truth in zip(
                self.weights.values(),
                logits.float().split(self.sizes, 1),
                targets.split(self.sizes, 1),
                strict=True,
            )
        )


def _shares(key, value):
    """Name -> share of one value; empty where it is unknown."""
    if isinstance(value, float):
        raise InputError(
            f"side_tasks: {key}: is a number, {value:g}; numbers are predicted "
            f"as dimensions: [{key}]"
        )
    if not isinstance(value, dict):
        return {} if value is None else {str(value): 1.0}
    total = sum(value.values())
    return {name: count / total for name, count in value.items() if count}
