"""The linear probe: the baseline that every trained method must beat."""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss, recall_score
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_sample_weight
from speechbrain.dataio.dataset import FilteredSortedDynamicItemDataset
from tqdm import tqdm

from ser_peft.evaluation.metrics import concordance
from ser_peft.heads import masked_mean
from ser_peft.inference import by_window
from ser_peft.lobes import lengths_in_samples

__all__ = [
    "Probe",
    "fit_probe",
    "mean_states",
    "pool_with",
    "pooled_states",
    "some_clips",
]

CLIPS = 10_000
"""Most clips of a split that a training starts from. The states of a large
encoder with 24 layers take 1 GB for these."""

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Inverse regularisation strengths tried on the valid set, for classes."""
ALPHAS = (1e5, 1e4, 1e3, 1e2, 1e1)
"""Regularisation strengths tried on the valid set, for dimensions."""


@dataclass
class Probe:
    """Linear models on standardised, mean-pooled hidden states.

    Arguments
    ---------
    mean, deviation : torch.Tensor
        Mean and deviation of the training set's pooled states, [L + 1, C].
    weight : torch.Tensor
        Weights of a logistic regression, then of a ridge regression of the
        standardised dimensions, [classes + dimensions, (L + 1) C].
    bias : torch.Tensor
        [classes + dimensions].
    strength : float
        The inverse regularisation strength chosen for the classes.
    valid_ua : float
        Its UA on valid, a fraction.
    alpha : float
        The regularisation strength chosen for the dimensions.
    valid_ccc : float
        Its CCC on valid, the mean over the dimensions.
    """

    mean: torch.Tensor
    deviation: torch.Tensor
    weight: torch.Tensor = None
    bias: torch.Tensor = None
    strength: float = None
    valid_ua: float = None
    alpha: float = None
    valid_ccc: float = None

    @property
    def choice(self):
        """Strengths that were chosen, and the scores that chose, as text."""
        chosen = (
            ("C", self.strength, "loss"),
            ("alpha", self.alpha, "CCC"),
        )
        return ", ".join(
            f"{name}={value:g} by valid {score}"
            for name, value, score in chosen
            if value is not None
        )


@torch.no_grad()
def pooled_states(batches, pool):
    """Mean over time of every hidden state of every clip.

    Arguments
    ---------
    batches : iterable of PaddedBatch
        Clips with ``id``, ``speaker`` and ``label``.
    pool : callable
        Takes a batch, returns its clips' means, [B, L + 1, C].

    Returns
    -------
    states : torch.Tensor
        [N, L + 1, C], on the CPU.
    clips : list of tuple
        Id, speaker and label of each, in the same order.
    """
    states, clips = [], []
    for batch in tqdm(batches, desc="hidden states", unit="batch"):
        states.append(pool(batch).cpu())
        labels = batch.label.tolist()
        clips.extend(zip(batch.id, batch.speaker, labels, strict=True))
    # With many processes, one may have got no batch at all.
    return torch.cat(states) if states else torch.empty(0), clips


def mean_states(hidden, frames):
    """Average hidden states [L + 1, B, T', C] over time: [B, L + 1, C]."""
    return masked_mean(hidden, frames).transpose(0, 1)


def pool_with(encoder, device="cpu"):
    """Make a function for `pooled_states`.

    Arguments
    ---------
    encoder : PeftLobe or SpeechLobe
        Encoder, which is put in eval mode. Clips longer than it takes are cut
        into windows as in `EmotionModel`.
    device : str
        Device that it is on.

    Returns
    -------
    callable
    """
    encoder.eval()

    def pool(batch):
        wav, lens = (tensor.to(device) for tensor in batch.sig)
        samples = lengths_in_samples(wav, lens)
        return by_window(encoder, wav, samples, mean_states)

    return pool


def some_clips(dataset, seed):
    """Draw `CLIPS` clips of a dataset that has more.

    Arguments
    ---------
    dataset : DynamicItemDataset
        Entries may have an ``emotion``.
    seed : int
        Seed of the draw, which takes from every class its share and at least
        one clip.

    Returns
    -------
    DynamicItemDataset
        A view of the dataset, or the dataset itself.
    """
    if len(dataset) <= CLIPS:
        return dataset
    by_class = defaultdict(list)
    for id_ in dataset.data_ids:
        by_class[dataset.data[id_].get("emotion")].append(id_)
    rng, chosen = np.random.default_rng(seed), []
    for ids in by_class.values():
        count = max(1, CLIPS * len(ids) // len(dataset))
        chosen += rng.choice(ids, count, replace=False).tolist()
    return FilteredSortedDynamicItemDataset(dataset, chosen)


def fit_probe(train, valid, classes, values=None, device="cpu", side=0):
    """Fit on train, choose the regularisation on valid.

    Arguments
    ---------
    train, valid : tuple
        States [N, L + 1, C] and integer labels [N].
    classes : int
        Number of classes; 0 for none.
    values : tuple, optional
        Dimensions of train and of valid, [N, D], on any scale.
    device : str
        Device that fits the classes, if it is a CUDA GPU.
    side : int
        So many of the classes, the last ones, are fitted but never chosen.

    Returns
    -------
    Probe
        The best one on valid: by log loss, dimensions by CCC.
    """
    scaler = StandardScaler().fit(train[0].flatten(1).numpy())
    features = [
        scaler.transform(states.flatten(1).numpy())
        for states, _ in (train, valid)
    ]
    mean, deviation = (
        torch.from_numpy(array).float().reshape(train[0].shape[1:])
        for array in (scaler.mean_, scaler.scale_)
    )
    probe, layers = Probe(mean, deviation), []
    if classes:
        layer, probe.strength, probe.valid_ua = _fit_classes(
            *features, train[1], valid[1], device, classes - side
        )
        layers.append(layer)
    if values is not None and values[0].size:
        layer, probe.alpha, probe.valid_ccc = _fit_values(*features, *values)
        layers.append(layer)
    probe.weight, probe.bias = (
        torch.from_numpy(np.concatenate(parts)).float()
        for parts in zip(*layers, strict=True)
    )
    return probe


def _fit_classes(train, valid, labels, held_out, device, answers):
    """Weight and bias, strength and UA of the best logistic regression.

    The best by log loss, every class counting alike: UA moves by a whole
    clip, and in a small valid set one clip would choose between a probe
    hardly fitted and one hardly regularised.
    """
    logistic = _logistic
    if torch.device(device).type == "cuda":
        features = torch.from_numpy(train).to(device, torch.float64)
        logistic, train = _logistic_by_torch, features
    present = np.unique(held_out)
    weights = compute_sample_weight("balanced", held_out)
    least = np.inf
    for strength in STRENGTHS:
        weight, bias = logistic(train, labels, strength)
        scores = (valid @ weight.T + bias)[:, :answers]
        loss = log_loss(
            held_out,
            softmax(scores, 1),
            sample_weight=weights,
            labels=range(answers),
        )
        if loss < least:
            best, chosen, least = (weight, bias, scores), strength, loss
    *layer, scores = best
    ua = recall_score(
        held_out, scores.argmax(1), labels=present, average="macro"
    )
    return layer, chosen, float(ua)


def _logistic(features, labels, strength):
    """Weight [classes, D] and bias [classes] of a logistic regression."""
    model = LogisticRegression(
        C=strength, class_weight="balanced", max_iter=2000
    ).fit(features, labels)
    weight, bias = model.coef_, model.intercept_
    if len(weight) == 1:  # scikit-learn keeps one row for two classes
        weight = np.concatenate([-weight, weight]) / 2
        bias = np.concatenate([-bias, bias]) / 2
    return weight, bias


def _logistic_by_torch(features, labels, strength):
    """`_logistic` on the features' device, in float64 (TF32 is too coarse)."""
    balanced = compute_sample_weight("balanced", labels)
    balanced = torch.from_numpy(balanced / len(labels)).to(features)
    labels = torch.tensor(labels, device=features.device)
    classes = int(labels.max()) + 1
    if classes == 2:
        # One row, twice, costs half of the one that scikit-learn penalises.
        strength = strength / 2
    penalty = 1 / (2 * strength * len(labels))

    def loss_and_gradient(flat):
        layer = torch.from_numpy(flat).to(features).view(classes, -1)
        layer.requires_grad_()
        weight, bias = layer[:, :-1], layer[:, -1]
        losses = torch.nn.functional.cross_entropy(
            features @ weight.T + bias, labels, reduction="none"
        )
        loss = losses @ balanced + penalty * weight.square().sum()
        loss.backward()
        return loss.item(), layer.grad.flatten().cpu().numpy()

    start = np.zeros(classes * (features.shape[1] + 1))
    found = minimize(
        loss_and_gradient,
        start,
        jac=True,
        method="L-BFGS-B",
        options={"gtol": 1e-6, "ftol": 0, "maxiter": 2000},
    )
    layer = found.x.reshape(classes, -1)
    return layer[:, :-1], layer[:, -1]


def _fit_values(train, valid, truth, held_out):
    """Weight and bias, strength and CCC of the best ridge regression."""
    # CCC does not see that both are standardised.
    mean, deviation = truth.mean(0), truth.std(0)
    truth, held_out = ((v - mean) / deviation for v in (truth, held_out))
    best_ccc = -2
    for alpha in ALPHAS:
        model = Ridge(alpha).fit(train, truth)
        guess = model.predict(valid).reshape(held_out.shape)
        ccc = concordance(held_out, guess).mean()
        if ccc > best_ccc:
            best, chosen, best_ccc = model, alpha, float(ccc)
    # scikit-learn drops an axis of one.
    layer = np.atleast_2d(best.coef_), best.intercept_.reshape(-1)
    return layer, chosen, best_ccc
