"""Loss of the emotion classes: what clips are learned as, and how."""

import torch
from torch.nn.functional import cross_entropy, one_hot

from ser_peft.errors import InputError

__all__ = ["ClassLoss", "class_losses", "leave_out", "vote_targets"]


class ClassLoss:
    """Loss of training clips, by their majority's class or by all votes.

    With the defaults it is the cross-entropy of the classes.

    Arguments
    ---------
    classes : list of str
        Class names.
    train : dict
        Training manifest, id -> entry with ``emotion`` and perhaps ``votes``.
    targets : str
        ``majority``: a clip's class. ``votes``: the distribution of its
        annotators' votes; a clip without any has one vote, for its class.
    label_smoothing : float
        Share of every target that is spread evenly over the classes.
    prior_smoothing : float
        So many annotators more of each clip vote as those of all training
        clips do on average, see `vote_targets`.
    vote_dropout : float
        Share of the votes that is left out at random, others every time, see
        `leave_out`.
    focal_gamma, logit_adjustment : float
        See `class_losses`; the priors are those of the targets.

    Raises
    ------
    InputError
        If there are no votes to learn from.

    Example
    -------
    >>> train = {
    ...     "a": {"emotion": "sad", "votes": {"sad": 3, "happy": 1}},
    ...     "b": {"emotion": "happy"},
    ... }
    >>> loss = ClassLoss(["happy", "sad"], train, "votes")
    >>> loss.targets(["a", "b"], None)
    tensor([[0.2500, 0.7500],
            [1.0000, 0.0000]])
    """

    def __init__(
        self,
        classes,
        train,
        targets="majority",
        label_smoothing=0.0,
        prior_smoothing=0.0,
        vote_dropout=0.0,
        focal_gamma=0.0,
        logit_adjustment=0.0,
    ):
        self.votes = None
        rows = torch.tensor(
            [
                [float(entry["emotion"] == name) for name in classes]
                for entry in train.values()
            ]
        )
        if targets == "votes":
            if not any(entry.get("votes") for entry in train.values()):
                raise InputError(
                    "targets: votes: no training clip has votes; see "
                    "docs/natural_speech.md, or set targets: majority"
                )
            for row, entry in zip(rows, train.values(), strict=True):
                votes = [entry.get("votes", {}).get(c, 0) for c in classes]
                if any(votes):  # for these classes
                    row[:] = torch.tensor(votes)
            self.votes = dict(zip(train, rows, strict=True))
        self.prior = (rows / rows.sum(1, keepdim=True)).mean(0)
        self.label_smoothing = label_smoothing
        self.prior_smoothing = prior_smoothing
        self.vote_dropout = vote_dropout
        self.focal_gamma = focal_gamma
        self.adjustment = logit_adjustment * self.prior.clamp(min=1e-6).log()
        self.adjusts = bool(logit_adjustment)

    def targets(self, ids, labels):
        """Targets of clips.

        Arguments
        ---------
        ids : list of str
            Clips of the training manifest.
        labels : torch.Tensor
            Indices of their classes, [B].

        Returns
        -------
        torch.Tensor
            `labels`, or distributions [B, C].
        """
        if self.votes is None:
            return labels
        votes = torch.stack([self.votes[id_] for id_ in ids])
        if self.vote_dropout:
            votes = leave_out(votes, self.vote_dropout)
        return vote_targets(votes, self.prior, self.prior_smoothing)

    def __call__(self, logits, targets):
        """Loss of every clip, see `class_losses`."""
        adjustment = self.adjustment.to(logits.device) if self.adjusts else None
        return class_losses(
            logits, targets, self.label_smoothing, self.focal_gamma, adjustment
        )


def class_losses(logits, targets, smoothing=0.0, gamma=0.0, adjustment=None):
    """Cross-entropy of every clip, focal and adjusted to the priors.

    Arguments
    ---------
    logits : torch.Tensor
        [B, C].
    targets : torch.Tensor
        Indices of classes, [B], or distributions, [B, C].
    smoothing : float
        Share of every target that is spread evenly over the classes.
    gamma : float
        Focal loss: each class's term is multiplied by ``(1 - p) ** gamma``, p
        being its predicted probability, so that what is right already counts
        less. Paper: Lin et al. 2017, "Focal loss for dense object detection",
        arXiv 1708.02002.
    adjustment : torch.Tensor, optional
        Added to the logits, [C]: tau times the logarithms of the classes'
        shares in training. What is learned are then logits without these
        shares, as the mean of recalls wants them. Paper: Menon et al. 2021,
        "Long-tail learning via logit adjustment", arXiv 2007.07314.

    Returns
    -------
    torch.Tensor
        [B].

    Example
    -------
    >>> logits, label = torch.tensor([[0.0, 0.0]]), torch.tensor([1])
    >>> class_losses(logits, label), class_losses(logits, label, gamma=2.0)
    (tensor([0.6931]), tensor([0.1733]))
    """
    if adjustment is not None:
        logits = logits + adjustment
    if not gamma:
        return cross_entropy(
            logits, targets, reduction="none", label_smoothing=smoothing
        )
    classes = logits.shape[1]
    if targets.dim() == 1:
        targets = one_hot(targets, classes)
    targets = (1 - smoothing) * targets + smoothing / classes
    logs = logits.log_softmax(1)
    # Clamped: the power has no gradient at 0.
    wrong = (-torch.expm1(logs)).clamp(min=1e-8)
    return -(targets * wrong**gamma * logs).sum(1)


def vote_targets(votes, prior, smoothing=0.0):
    """Distributions of votes, smoothed towards a prior.

    Arguments
    ---------
    votes : torch.Tensor
        Number of annotators by class, [B, C].
    prior : torch.Tensor
        Distribution, [C].
    smoothing : float
        Number of annotators that the prior counts as: the fewer annotators a
        clip has, the more it counts.

    Returns
    -------
    torch.Tensor
        ``(votes + smoothing * prior) / (sum of votes + smoothing)``, [B, C].

    Example
    -------
    >>> vote_targets(torch.tensor([[3.0, 0.0]]), torch.tensor([0.5, 0.5]), 1.0)
    tensor([[0.8750, 0.1250]])
    """
    votes = votes + smoothing * prior
    return votes / votes.sum(1, keepdim=True)


def leave_out(votes, share):
    """Leave out annotators at random.

    Arguments
    ---------
    votes : torch.Tensor
        Number of annotators by class, [B, C].
    share : float
        Each vote is left out with this probability.

    Returns
    -------
    torch.Tensor
        The votes that are left, [B, C]; all of them for a clip of which none
        would be. Drawn from torch's own generator.

    Example
    -------
    >>> votes = torch.tensor([[4.0, 1.0], [1.0, 0.0]])
    >>> bool((leave_out(votes, 0.5) <= votes).all()), leave_out(votes, 0.5)[1]
    (True, tensor([1., 0.]))
    """
    kept = torch.binomial(votes, torch.full_like(votes, 1 - share))
    return torch.where(kept.sum(1, keepdim=True) > 0, kept, votes)
