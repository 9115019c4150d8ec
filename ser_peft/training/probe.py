"""The linear probe: the baseline that every trained method must beat."""

import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss, recall_score
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_sample_weight
from speechbrain.dataio.dataloader import make_dataloader
from speechbrain.dataio.dataset import FilteredSortedDynamicItemDataset
from tqdm import tqdm

from ser_peft.adapters import PeftLobe
from ser_peft.data import (
    datasets,
    eval_batches,
    measured_on,
    scale_of,
    values_of,
)
from ser_peft.data.provenance import Heard
from ser_peft.evaluation.fairness import group_columns
from ser_peft.evaluation.metrics import concordance
from ser_peft.evaluation.results import corpus_scores, run_results
from ser_peft.heads import LinearHead, masked_mean
from ser_peft.inference import EmotionModel, by_window
from ser_peft.lobes import lengths_in_samples, load_lobe
from ser_peft.report.run_page import write_report

__all__ = [
    "Probe",
    "fit_probe",
    "mean_states",
    "pool_with",
    "pooled_states",
    "run_probe",
    "some_clips",
]

CLIPS = 10_000
"""Of a split, at most, that a training starts from. Their states take 1 GB of
a large encoder with 24 layers."""

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
        Of the training set's means, [L + 1, C].
    weight : torch.Tensor
        Of a logistic regression, then of a ridge regression of the
        standardised dimensions, [classes + dimensions, (L + 1) C].
    bias : torch.Tensor
        [classes + dimensions].
    strength : float
        The inverse regularisation strength chosen for the classes.
    valid_ua : float
        What it reaches on valid, a fraction.
    alpha : float
        The regularisation strength chosen for the dimensions.
    valid_ccc : float
        What it was chosen by, the mean over the dimensions.
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
        """What was chosen, and by what, as text."""
        parts = []
        if self.strength is not None:
            parts.append(f"C={self.strength:g} by valid loss")
        if self.alpha is not None:
            parts.append(f"alpha={self.alpha:g} by valid CCC")
        return ", ".join(parts)


@torch.no_grad()
def pooled_states(batches, pool):
    """Mean over time of every hidden state of every clip.

    Arguments
    ---------
    batches : iterable
        Of PaddedBatch with ``label``.
    pool : callable
        Takes a batch, gives its clips' means, [B, L + 1, C].

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
    """Hidden states [L + 1, B, T', C] averaged over time, [B, L + 1, C]."""
    return masked_mean(hidden, frames).transpose(0, 1)


def pool_with(encoder, device="cpu"):
    """A function for `pooled_states`.

    Arguments
    ---------
    encoder : PeftLobe or SpeechLobe
        Put in eval mode. Clips longer than it takes are windowed as in
        `EmotionModel`.
    device : str
        Where it is.

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
    """A view of a dataset with no more than `CLIPS` clips, or it itself.

    Arguments
    ---------
    dataset : DynamicItemDataset
        Entries may have an ``emotion``.
    seed : int
        Of the draw, from every class its share and at least one.

    Returns
    -------
    DynamicItemDataset
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


def fit_probe(train, valid, classes, values=None, device="cpu"):
    """Fit on train, choose the regularisation on valid.

    Arguments
    ---------
    train, valid : tuple
        States [N, L + 1, C] and integer labels [N].
    classes : int
        Number of classes; 0 for none.
    values : tuple, optional
        The dimensions of train and of valid, [N, D], on any scale.
    device : str
        Where to fit the classes, if it is a CUDA GPU.

    Returns
    -------
    Probe
        The best on valid: by log loss, dimensions by CCC.
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
            *features, train[1], valid[1], device
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


def _fit_classes(train, valid, labels, held_out, device):
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
    best, chosen, least = None, None, np.inf
    for strength in STRENGTHS:
        weight, bias = logistic(train, labels, strength)
        scores = valid @ weight.T + bias
        loss = log_loss(
            held_out,
            softmax(scores, 1),
            sample_weight=weights,
            labels=range(len(bias)),
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
    """The same, where the features are; float64, which TF32 is not for."""
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
    best, chosen, best_ccc = None, None, -2
    for alpha in ALPHAS:
        model = Ridge(alpha).fit(train, truth)
        guess = model.predict(valid).reshape(held_out.shape)
        ccc = concordance(held_out, guess).mean()
        if ccc > best_ccc:
            best, chosen, best_ccc = model, alpha, float(ccc)
    # scikit-learn drops an axis of one.
    layer = np.atleast_2d(best.coef_), best.intercept_.reshape(-1)
    return layer, chosen, best_ccc


def run_probe(
    backbone,
    manifests,
    output_folder,
    device="cpu",
    batch_seconds=60,
    command="",
):
    """Fit, test and write the linear probe of a frozen backbone.

    Arguments
    ---------
    backbone : str
        Hugging Face id or local folder.
    manifests : str or Path
        A manifests folder, from `ser-peft prepare` or a recipe.
    output_folder : str or Path
        Gets what a training leaves: ``results.json``, ``predictions.csv``,
        ``confusion.png``, ``report.html`` and ``model/``.
    device : str
        Where the encoder runs.
    batch_seconds : float
        Seconds of audio in a batch.
    command : str
        The command line, for the report.

    Returns
    -------
    dict
        ``results.json``, with ``method`` "probe".
    """
    start = time.time()
    about, sets = datasets(manifests)
    lobe = load_lobe(backbone, Path(output_folder) / "backbone")
    heard = Heard(about, sets)
    heard.add("backbone", lobe.source, needed=False)
    encoder = PeftLobe(lobe, "frozen").to(device)
    classes, names = about["classes"], about["dimensions"]
    states, clips = {}, {}
    for split, dataset in sets.items():
        loader = make_dataloader(
            dataset, batch_sampler=eval_batches(dataset, batch_seconds)
        )
        states[split], clips[split] = pooled_states(
            loader, pool_with(encoder, device)
        )
    labels, values = {}, {}
    for split, rows in clips.items():
        labels[split] = [label for _, _, label in rows]
        entries = (sets[split].data[id_] for id_, *_ in rows)
        values[split] = values_of(entries, names)
    probe = fit_probe(
        (states["train"], labels["train"]),
        (states["valid"], labels["valid"]),
        len(classes),
        (values["train"], values["valid"]),
        device,
    )
    head = LinearHead(encoder, classes, names)
    head.start_from(probe)
    scale = scale_of(values["train"], names)
    model = EmotionModel(encoder, head.eval(), classes, dimensions=scale)
    measured = {}
    for split in ("valid", "test"):
        with torch.no_grad():
            scores = model.rescale(head.score(head.standardize(states[split])))
        logits, guess = scores.tensor_split([len(classes)], 1)
        measured[split] = measured_on(
            sets[split].data,
            [id_ for id_, *_ in clips[split]],
            about,
            logits.softmax(-1).numpy(),
            guess.numpy(),
        )
    results = run_results(
        about,
        measured["valid"],
        measured["test"],
        group_columns(sets["test"].data),
        model,
        **corpus_scores(sets["test"].data, measured["test"], classes),
        seed=None,
        best_epoch=None,
        kept=probe.choice,
        epochs=0,
        train_seconds=time.time() - start,
        peak_memory_mb=None,
        device=str(device),
        processes=1,
        precision="fp32",
        heard=heard.record,
    )
    results["method"] = "probe"
    if classes:
        model.temperature = results["calibration"]["temperature"]
    model.save(Path(output_folder) / "model", heard)
    write_report(
        output_folder,
        results,
        measured["test"],
        [],
        layer_weights=head.layer_weights.tolist(),
        command=command,
    )
    return results
