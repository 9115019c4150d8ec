"""P-TAPT's objective: predict the clusters of masked frames."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from ser_peft.storage.checkpoints import SafeModule

__all__ = ["MaskedPrediction"]


class MaskedPrediction(SafeModule):
    """Classifiers of masked frames, one for each clustering.

    Paper: Chen and Rudnicky 2023, "Exploring wav2vec 2.0 fine-tuning for
    improved speech emotion recognition", arXiv 2110.06309 (P-TAPT).

    Arguments
    ---------
    encoder : PeftLobe
        Encoder whose width is read; nothing is kept.
    clusters : list of int
        Number of clusters of each clustering.

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
        """Compute the loss of a batch with masked frames.

        Arguments
        ---------
        hidden : torch.Tensor
            Last hidden state, [B, T', C].
        time_mask : torch.Tensor
            Frames that were masked, bool, [B, T']; valid ones only.
        labels : torch.Tensor
            Clusters of the frames in each clustering, [B, clusterings, T'].

        Returns
        -------
        dict
            ``loss`` (cross-entropy in nats per masked frame, summed over the
            clusterings), ``masked`` (number of frames), ``correct`` (number
            of right predictions in each clustering) and ``counts`` (for each
            clustering the masked frames of each cluster, [K]).
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
