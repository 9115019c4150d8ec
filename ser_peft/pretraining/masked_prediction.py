"""P-TAPT's objective: tell the clusters of masked frames."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from ser_peft.storage.checkpoints import SafeModule

__all__ = ["MaskedPrediction"]


class MaskedPrediction(SafeModule):
    """One classifier a clustering, on the last hidden state of masked frames.

    Paper: Chen and Rudnicky 2023, "Exploring wav2vec 2.0 fine-tuning for
    improved speech emotion recognition", arXiv 2110.06309 (P-TAPT).

    Arguments
    ---------
    encoder : PeftLobe
        Its width is taken, nothing else.
    clusters : list of int
        Clusters of each clustering.

    Example
    -------
    >>> from types import SimpleNamespace
    >>> objective = MaskedPrediction(SimpleNamespace(hidden_size=8), [4, 16])
    >>> mask = torch.tensor([[True, False, True]])
    >>> labels = torch.zeros(1, 2, 3, dtype=torch.long)
    >>> objective(torch.rand(1, 3, 8), mask, labels)["masked"]
    2
    """

    def __init__(self, encoder, clusters):
        super().__init__()
        self.sizes = [*clusters]
        self.heads = nn.ModuleList(
            nn.Sequential(
                nn.Linear(encoder.hidden_size, 256),
                nn.Tanh(),
                nn.Linear(256, size),
            )
            for size in self.sizes
        )

    def forward(self, hidden, time_mask, labels):
        """Score what the encoder made of a batch with masked frames.

        Arguments
        ---------
        hidden : torch.Tensor
            Last hidden state, [B, T', C].
        time_mask : torch.Tensor
            Which frames were masked, [B, T'] (bool); valid ones only.
        labels : torch.Tensor
            Their clusters in each clustering, [B, clusterings, T'].

        Returns
        -------
        dict
            ``loss`` (cross-entropies in nats a masked frame, summed over the
            clusterings), ``masked`` (frames), ``correct`` and ``counts``: of
            each clustering, how many frames were told right, and how many of
            each cluster were asked.
        """
        masked = hidden[time_mask].relu()
        targets = labels.transpose(1, 2)[time_mask].unbind(1)
        losses, correct = [], []
        for head, target in zip(self.heads, targets, strict=True):
            logits = head(masked).float()
            losses.append(cross_entropy(logits, target, reduction="sum"))
            correct.append((logits.argmax(1) == target).sum())
        return {
            "loss": sum(losses) / max(len(masked), 1),
            "masked": len(masked),
            "correct": torch.stack(correct),
            "counts": [
                torch.bincount(target, minlength=size)
                for target, size in zip(targets, self.sizes, strict=True)
            ],
        }
