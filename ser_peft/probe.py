"""The linear probe: the baseline that every trained method must beat."""

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import recall_score
from tqdm import tqdm

from ser_peft.heads import masked_mean

__all__ = ["Probe", "fit_probe", "pooled_states"]

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Inverse regularisation strengths tried on the valid set."""


@dataclass
class Probe:
    """Logistic regression on standardised, mean-pooled hidden states.

    Arguments
    ---------
    mean, deviation : torch.Tensor
        Of the training set's means, [L + 1, C].
    weight : torch.Tensor
        [classes, (L + 1) C].
    bias : torch.Tensor
        [classes].
    strength : float
        The inverse regularisation strength chosen.
    valid_ua : float
        What it was chosen by, a fraction.
    """

    mean: torch.Tensor
    deviation: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor
    strength: float
    valid_ua: float


@torch.no_grad()
def pooled_states(encoder, batches, device="cpu"):
    """Mean over time of every hidden state of every clip.

    Arguments
    ---------
    encoder : PeftLobe or SpeechLobe
        Put in eval mode.
    batches : iterable
        Of PaddedBatch with ``sig`` and ``label``.
    device : str
        Where the encoder is.

    Returns
    -------
    states : torch.Tensor
        [N, L + 1, C], on the CPU.
    batches : list
        The batches, without their audio, in the same order.
    """
    encoder.eval()
    states, labels = [], []
    for batch in tqdm(batches, desc="hidden states", unit="batch"):
        wav, lengths = batch.sig
        hidden, frames = encoder(wav.to(device), lengths.to(device))
        states.append(masked_mean(hidden, frames).transpose(0, 1).cpu().float())
        labels.extend(zip(batch.id, batch.speaker, batch.label, strict=True))
    return torch.cat(states), labels


def fit_probe(train, valid, classes):
    """Fit on train, choose the regularisation on valid.

    Arguments
    ---------
    train, valid : tuple
        States [N, L + 1, C] and integer labels [N].
    classes : int
        Number of classes.

    Returns
    -------
    Probe
        The best on valid; among equals the most regularised.
    """
    states, labels = train
    mean = states.mean(0)
    deviation = states.std(0).clamp(min=1e-6)

    def features(states):
        return ((states - mean) / deviation).flatten(1).numpy()

    best = None
    for strength in STRENGTHS:
        model = LogisticRegression(
            C=strength, class_weight="balanced", max_iter=2000
        ).fit(features(states), labels)
        ua = recall_score(
            valid[1],
            model.predict(features(valid[0])),
            labels=np.unique(valid[1]),
            average="macro",
        )
        if best is None or ua > best.valid_ua:
            weight, bias = model.coef_, model.intercept_
            if classes == 2:  # scikit-learn keeps one row for two classes
                weight = np.concatenate([-weight, weight]) / 2
                bias = np.concatenate([-bias, bias]) / 2
            best = Probe(
                mean,
                deviation,
                torch.from_numpy(weight).float(),
                torch.from_numpy(bias).float(),
                strength,
                float(ua),
            )
    return best
