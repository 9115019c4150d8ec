"""Objectives of emotion recognition: classes, votes, dimensions, side tasks."""

import speechbrain as sb
import torch
from torch.nn.functional import cross_entropy, one_hot

from ser_peft.data.balanced import kinds_of
from ser_peft.data.mixing import mix
from ser_peft.errors import InputError
from ser_peft.training.class_loss import ClassLoss
from ser_peft.training.objectives import clip_weights, concordance_loss
from ser_peft.training.side_tasks import SideTasks
from ser_peft.training.tested import TestedBrain

__all__ = ["LabelledBrain"]


class LabelledBrain(TestedBrain):
    """Computes the loss of a batch from its labels.

    Arguments
    ---------
    *args, **kwargs
        See `TestedBrain`. ``balance``: columns of the manifests; the training
        clips of each combination of their values weigh the same in all. Where
        None, ``[emotion]``; or ``[]`` with ``logit_adjustment``, which
        corrects for the same. ``balanced_sampling``: these combinations are
        drawn equally often instead, and every training clip weighs the same.
        ``train_classes``: see `ser_peft.data.prepare`.
        ``mixing``: share of the training clips to which another one is added;
        the targets are those of both then, see `ser_peft.data.mixing.mix`.
        ``dimension_weight``: weight of the concordance
        loss beside that of the classes. ``side_tasks``: column -> weight, see
        `SideTasks`. ``targets``, ``label_smoothing``, ``prior_smoothing``,
        ``vote_dropout``, ``focal_gamma``, ``logit_adjustment``: see
        `ClassLoss`.
    """

    defaults = TestedBrain.defaults | {
        "targets": "majority",
        "train_classes": None,
        "label_smoothing": 0.0,
        "prior_smoothing": 0.0,
        "vote_dropout": 0.0,
        "focal_gamma": 0.0,
        "logit_adjustment": 0.0,
        "balance": None,
        "balanced_sampling": False,
        "mixing": 0.0,
        "dimension_weight": 1.0,
        "side_tasks": None,
    }

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        hparams, classes = self.hparams, self.about["classes"]
        train = self.sets["train"].data
        self.dimension_weight = hparams.dimension_weight
        balance = hparams.balance
        if balance is None:
            even = not classes or hparams.logit_adjustment
            balance = [] if even else ["emotion"]
        elif hparams.logit_adjustment and "emotion" in balance:
            raise InputError(
                "logit_adjustment: balance: [emotion] corrects for the same; "
                "leave one of them out"
            )
        self.weight_of = clip_weights(
            {split: one.data for split, one in self.sets.items()}, balance
        )
        if hparams.balanced_sampling:
            if hparams.logit_adjustment:
                raise InputError(
                    "logit_adjustment: balanced_sampling: True corrects for "
                    "the same; leave one of them out"
                )
            self.kinds = kinds_of(train, balance)
            # Not balanced twice; valid is measured as it would be.
            self.weight_of |= dict.fromkeys(train, 1.0)
        if hparams.mixing and "text_encoder" in self.encoders:
            raise InputError(
                "mixing: adds audio to audio, where a text_encoder reads what "
                "one of them says; set mixing: 0"
            )
        self.mixture = self.class_loss = self.side = None
        if classes:
            self.class_loss = ClassLoss(
                [*classes, *self.about["side_classes"]],
                train,
                hparams.targets,
                hparams.label_smoothing,
                hparams.prior_smoothing,
                hparams.vote_dropout,
                hparams.focal_gamma,
                hparams.logit_adjustment,
            )
        if hparams.side_tasks:
            self.side = SideTasks(
                self.head.vector_size, hparams.side_tasks, train
            ).to(self.device)
            self.modules["side"] = self.side
            self.checkpointer.add_recoverable("side", self.side)

    def head_modules(self):
        """See `SteppingBrain.head_modules`."""
        return [*super().head_modules(), *([self.side] if self.side else [])]

    @property
    def steady(self):
        """See `CachingBrain.steady`; mixtures are new every time."""
        return super().steady and not self.hparams.mixing

    def mixed(self, wavs, lens):
        """Waveforms of a training batch, some with another's added, [B, T]."""
        if not self.hparams.mixing:
            return wavs  # and nothing drawn
        self.mixture = mix(wavs, lens, self.hparams.mixing)
        return self.mixture.wavs

    def score(self, *states):
        """Scores of a training batch from its states, and vectors, [B, D]."""
        scores, vectors = self.modules.head(*states, with_vectors=True)
        if self.side:
            self.side_logits = self.modules.side(vectors)
        return scores, vectors

    def compute_objectives(self, predictions, batch, stage):
        """Weighted losses of classes and dimensions, over the global batch."""
        train = stage == sb.Stage.TRAIN
        classes, dimensions = self.about["classes"], self.about["dimensions"]
        targets, class_loss = batch.label, self.class_loss
        # Of the classes there may be more in training: side classes.
        sizes = [predictions.shape[1] - len(dimensions), len(dimensions)]
        truth = others = torch.zeros(len(batch.id), 0)
        if dimensions:
            truth = torch.tensor(batch.values)
        if not train:
            class_loss = _cross_entropy
        elif classes:
            targets = class_loss.targets(batch.id, targets)
        if train and self.side:
            others = self.side.targets(batch.id)
        weights = torch.tensor([self.weight_of[id_] for id_ in batch.id])
        given = [*map(self.on_device, (targets, truth, weights, others))]
        if train and self.mixture:
            if classes and targets.dim() == 1:
                given[0] = one_hot(given[0], sizes[0]).float()
            given = [*map(self.mixture, given)]
        if train and self.hparams.augment and not self.versions:
            given = map(self.hparams.wav_augment.replicate_labels, given)
        targets, truth, weights, others = given
        logits, values = predictions.float().split(sizes, 1)
        loss = torch.zeros_like(weights)
        if classes:
            loss = weights * class_loss(logits, targets)
        if not train:
            # The concordance is that of the whole set: see `outcome`.
            rest = (logits.softmax(-1), truth, values, loss[:, None])
            sizes = [part.shape[1] for part in rest]
            rest = torch.cat(rest, 1).cpu().split(sizes, 1)
            chances, truth, values, losses = (part.tolist() for part in rest)
            self.collected.extend(
                zip(
                    *(batch.id, batch.speaker, batch.label.tolist()),
                    *(chances, truth, values, [loss for (loss,) in losses]),
                    strict=True,
                )
            )
            return loss.mean()
        if dimensions:
            ccc_loss = concordance_loss(values, truth)
            loss = loss + self.dimension_weight * ccc_loss
        total = self.clip_losses(loss, logits)
        if self.side:
            total = total + self.side.losses(self.side_logits, others).sum()
        return self.train_objective(total, len(loss))

    def clip_losses(self, loss, logits):
        """Sum the loss over a training batch.

        Arguments
        ---------
        loss : torch.Tensor
            By the labels, [B].
        logits : torch.Tensor
            [B, classes].
        """
        return loss.sum()


def _cross_entropy(logits, labels):
    """Cross-entropy of every clip, [B]."""
    return cross_entropy(logits, labels, reduction="none")
