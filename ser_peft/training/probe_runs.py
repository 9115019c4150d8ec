"""Linear probes as finished runs: fitted, tested and reported fold by fold."""

import time
from pathlib import Path

import torch
from speechbrain.dataio.dataloader import make_dataloader

from ser_peft.adapters import PeftLobe
from ser_peft.data import (
    dataset_of,
    eval_batches,
    measured_on,
    read_manifests,
    scale_of,
    values_of,
)
from ser_peft.data.manifests import path_of, shareable
from ser_peft.data.provenance import Heard
from ser_peft.evaluation.fairness import group_columns
from ser_peft.evaluation.reads import note_read
from ser_peft.evaluation.results import UNTRAINED, corpus_scores, run_results
from ser_peft.heads import LinearHead
from ser_peft.inference import EmotionModel
from ser_peft.inference.card import write_card
from ser_peft.lobes import load_lobe
from ser_peft.report.run_page import write_report
from ser_peft.training.probe import fit_probe, pool_with, pooled_states

__all__ = ["run_probe"]


def run_probe(backbone, folders, device="cpu", batch_seconds=60, command=""):
    """Fit, test and write linear probes of a frozen backbone.

    The hidden states of each recording are computed once, however many folds
    it is in.

    Arguments
    ---------
    backbone : str
        Hugging Face id or local folder.
    folders : dict
        Manifests folder of a fold, from `ser-peft prepare` or a recipe ->
        output folder, which gets what a training leaves: ``results.json``,
        ``predictions.csv``, ``confusion.png``, ``report.html``, ``model/``.
    device : str
        Device that the encoder runs on.
    batch_seconds : float
        Seconds of audio in a batch.
    command : str
        The command line, for the report.

    Returns
    -------
    list of dict
        ``results.json`` of each fold, with ``method`` "probe".

    Raises
    ------
    InputError
        If the backbone or manifests cannot be used, or the backbone has
        heard test speakers.
    """
    start = time.time()
    folds = [read_manifests(folder) for folder in folders]
    outs = [Path(out) for out in folders.values()]
    lobe = load_lobe(backbone, outs[0] / "backbone")
    heard = [Heard(about, manifests) for about, manifests in folds]
    for one in heard:
        one.add("backbone", lobe.source, needed=False)
    encoder = PeftLobe(lobe, "frozen").to(device)
    states = _states(encoder, folds, device, batch_seconds)
    seconds = (time.time() - start) / len(folds)
    return [
        _run(encoder, states, *fold, *where, seconds, device, command)
        for *where, fold in zip(outs, heard, folds, strict=True)
    ]


def _states(encoder, folds, device, batch_seconds):
    """Recording -> its mean hidden states, [L + 1, C]."""
    clips = {
        path_of(entry, about): {
            **{key: entry[key] for key in ("duration", "speaker")},
            "wav": path_of(entry, about),
        }
        for about, manifests in folds
        for entries in manifests.values()
        for entry in entries.values()
    }
    about = {"data_folder": "", "classes": [], "dimensions": []}
    dataset = dataset_of(clips, about)
    loader = make_dataloader(
        dataset, batch_sampler=eval_batches(dataset, batch_seconds)
    )
    states, rows = pooled_states(loader, pool_with(encoder, device))
    return {path: mean for (path, *_), mean in zip(rows, states, strict=True)}


def _run(
    encoder, states, about, manifests, out, heard, seconds, device, command
):
    """Probe of one fold; its ``results.json``."""
    start = time.time()
    classes, names = about["classes"], about["dimensions"]
    if classes:  # a recipe may train on others too
        manifests = {
            split: {k: e for k, e in part.items() if e["emotion"] in classes}
            for split, part in manifests.items()
        }
    found, labels, values = {}, {}, {}
    for split, entries in manifests.items():
        rows = entries.values()
        found[split] = torch.stack([states[path_of(e, about)] for e in rows])
        if classes:
            labels[split] = [classes.index(e["emotion"]) for e in rows]
        values[split] = values_of(rows, names)
    probe = fit_probe(
        *((found[split], labels.get(split)) for split in ("train", "valid")),
        len(classes),
        (values["train"], values["valid"]),
        device,
    )
    head = LinearHead(encoder, classes, names)
    head.start_from(probe)
    scale = scale_of(values["train"], names)
    model = EmotionModel(encoder, head.eval(), classes, dimensions=scale)
    measured, scored_on = {}, about.get("scored_on", "test")
    reads = note_read(out, "probe") if scored_on == "test" else 0
    for split in dict.fromkeys(("valid", scored_on)):
        with torch.no_grad():
            scores = model.rescale(head.score(head.standardize(found[split])))
        logits, guess = scores.tensor_split([len(classes)], 1)
        measured[split] = measured_on(
            manifests[split],
            [*manifests[split]],
            about,
            logits.softmax(-1).numpy(),
            guess.numpy(),
        )
    results = run_results(
        about,
        measured["valid"],
        measured[scored_on],
        group_columns(manifests[scored_on]),
        model,
        **corpus_scores(manifests[scored_on], measured[scored_on], classes),
        **UNTRAINED,
        kept=probe.choice,
        test_reads=reads,
        train_seconds=seconds + time.time() - start,
        device=str(device),
        heard=heard.record,
    )
    results["method"] = "probe"
    if classes:
        found = results["calibration"]
        model.temperature, model.unsure = found["temperature"], found["unsure"]
    model.save(out / "model", heard)
    write_card(out / "model", results)
    write_report(
        out,
        results,
        measured[scored_on],
        [],
        layer_weights=head.layer_weights.tolist(),
        valid=measured["valid"] if scored_on == "test" else None,
        command=command,
        recordings=shareable(about, manifests[scored_on]),
    )
    return results
