"""The linear probe: the baseline that every trained method must beat."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import recall_score
from sklearn.preprocessing import StandardScaler
from speechbrain.dataio.dataloader import make_dataloader
from tqdm import tqdm

from ser_peft.adapters import PeftLobe
from ser_peft.data import datasets, eval_batches
from ser_peft.evaluation.fairness import group_columns
from ser_peft.evaluation.report import write_report
from ser_peft.evaluation.results import run_results
from ser_peft.heads import LinearHead, masked_mean
from ser_peft.inference import EmotionModel, by_window
from ser_peft.lobes import lengths_in_samples, load_lobe

__all__ = ["Probe", "fit_probe", "pooled_states", "run_probe"]

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

    Clips longer than the encoder takes are windowed as in `EmotionModel`.

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
    clips : list of tuple
        Id, speaker and label of each, in the same order.
    """
    encoder.eval()
    states, clips = [], []
    for batch in tqdm(batches, desc="hidden states", unit="batch"):
        wav, lengths = (tensor.to(device) for tensor in batch.sig)
        lengths = lengths_in_samples(wav, lengths)
        states.append(by_window(encoder, wav, lengths, _pool).cpu())
        labels = batch.label.tolist()
        clips.extend(zip(batch.id, batch.speaker, labels, strict=True))
    # With many processes, one may have got no batch at all.
    return torch.cat(states) if states else torch.empty(0), clips


def _pool(hidden, frames):
    return masked_mean(hidden, frames).transpose(0, 1)


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
    scaler = StandardScaler().fit(train[0].flatten(1).numpy())
    features, held_out = (
        scaler.transform(states.flatten(1).numpy())
        for states, _ in (train, valid)
    )
    mean, deviation = (
        torch.from_numpy(array).float().reshape(train[0].shape[1:])
        for array in (scaler.mean_, scaler.scale_)
    )
    best = None
    for strength in STRENGTHS:
        model = LogisticRegression(
            C=strength, class_weight="balanced", max_iter=2000
        ).fit(features, train[1])
        ua = recall_score(
            valid[1],
            model.predict(held_out),
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
    encoder = PeftLobe(lobe, "frozen").to(device)
    classes = about["classes"]
    states, clips = {}, {}
    for split, dataset in sets.items():
        loader = make_dataloader(
            dataset, batch_sampler=eval_batches(dataset, batch_seconds)
        )
        states[split], clips[split] = pooled_states(encoder, loader, device)
    labels = {
        split: [label for _, _, label in rows] for split, rows in clips.items()
    }
    probe = fit_probe(
        (states["train"], labels["train"]),
        (states["valid"], labels["valid"]),
        len(classes),
    )
    head = LinearHead(encoder, classes)
    head.start_from(probe)
    model = EmotionModel(encoder, head.eval(), classes)
    measured = {}
    for split in ("valid", "test"):
        with torch.no_grad():
            probabilities = head.score(states[split]).softmax(-1).numpy()
        ids, speakers, truth = zip(*clips[split], strict=True)
        measured[split] = {
            "id": list(ids),
            "speaker": list(speakers),
            "label": list(truth),
            "predicted": probabilities.argmax(1).tolist(),
            "probabilities": probabilities,
            "gender": [sets[split].data[key].get("gender") for key in ids],
        }
    results = run_results(
        about,
        measured["valid"],
        measured["test"],
        group_columns(sets["test"].data),
        model,
        seed=None,
        valid_ua=probe.valid_ua,
        best_epoch=None,
        kept=f"C={probe.strength:g} by valid UA",
        epochs=0,
        train_seconds=time.time() - start,
        peak_memory_mb=None,
        device=str(device),
        processes=1,
    )
    results["method"] = "probe"
    model.temperature = results["calibration"]["temperature"]
    model.save(Path(output_folder) / "model")
    write_report(
        output_folder,
        results,
        measured["test"],
        [],
        layer_weights=head.layer_weights.tolist(),
        command=command,
    )
    return results
