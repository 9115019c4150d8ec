"""A trained model, tested on any set whose speakers it has not heard."""

import logging
import os
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from speechbrain.dataio.dataloader import make_dataloader
from tqdm import tqdm

from ser_peft.corpora import load_corpus
from ser_peft.corpora.protocols import Whole, classes_of, relabel
from ser_peft.corpora.splits import fingerprint, has_all
from ser_peft.data import (
    dataset_of,
    entries_of,
    eval_batches,
    measured_on,
    read_manifests,
    root_of,
)
from ser_peft.data.checking import durations
from ser_peft.data.provenance import Heard
from ser_peft.device import loader_workers
from ser_peft.errors import InputError
from ser_peft.evaluation.fairness import group_columns
from ser_peft.evaluation.results import corpus_scores, run_results
from ser_peft.inference import check_scores, load_model, read_model
from ser_peft.lobes import lengths_in_samples
from ser_peft.report.run_page import write_report

__all__ = ["evaluate"]

logger = logging.getLogger(__name__)


def evaluate(
    run,
    test,
    out,
    data_folder=None,
    trust_start=False,
    device="cpu",
    batch_seconds=60,
    command="",
    **places,
):
    """Test a trained model on another set, and report it as its own test.

    Arguments
    ---------
    run : str or Path
        A finished run, its ``model/`` folder, or a model's name.
    test : str or Path
        All of a corpus: its name, as for `ser_peft.data.prepare`, or a
        manifests folder. One split: that folder's ``test.json``, say.
        Utterances of other classes than the model's are left out.
    out : str or Path
        Gets ``results.json``, ``predictions.csv``, ``report.html``.
    data_folder : str, optional
        Of a corpus that is named.
    trust_start : bool
        Test a model without a record of whom it has heard.
    device : str
        Where to compute.
    batch_seconds : float
        Of audio at once.
    command : str
        The command line, for the report.
    **places
        Of the encoders, see `ser_peft.inference.load_model`.

    Returns
    -------
    dict
        ``results.json``. Nothing in it was chosen here: the temperature is
        the model's own.

    Raises
    ------
    InputError
        If there is no such model or set, the model has heard any of its
        speakers, or nothing in it is of the model's classes or dimensions.
    """
    start = time.time()
    folder, described = read_model(run)
    classes, dimensions = described["classes"], [*described["dimensions"]]
    if data_folder is None:
        about, entries = _of_manifests(Path(test))
    else:
        about, entries = _of_corpus(str(test), data_folder, classes, out)
    about, entries = _fitting(about, entries, classes, dimensions, test)
    about["protocol_sha"] = fingerprint({"test": entries})
    heard = Heard(
        about, {"train": {}, "valid": {}, "test": entries}, trust_start
    )
    heard.add("model", folder)
    model = load_model(run, device=device, **places)
    measured = _measure(model, about, entries, device, batch_seconds)
    results = run_results(
        about,
        None,
        measured,
        group_columns(entries),
        model,
        **corpus_scores(entries, measured, about["classes"]),
        seed=None,
        best_epoch=None,
        kept=f"the model of {folder.resolve()}",
        epochs=0,
        train_seconds=0.0,
        evaluation_seconds=time.time() - start,
        peak_memory_mb=None,
        device=str(device),
        processes=1,
        precision="fp32",
        heard=heard.record,
    )
    write_report(
        out,
        results,
        measured,
        [],
        layer_weights=model.head.layer_weights.tolist(),
        command=command,
    )
    return results


def _of_manifests(path):
    """What a manifests folder, or a split in one, says of its entries."""
    if path.is_dir():
        about, manifests = read_manifests(path)
        entries = {k: e for part in manifests.values() for k, e in part.items()}
        return about | {"protocol": "whole"}, entries
    if path.suffix != ".json":
        raise InputError(
            f"{path}: is no folder of manifests; of a corpus give its name and "
            "its folder"
        )
    about, manifests = read_manifests(path.parent)
    if path.stem not in manifests:
        raise InputError(
            f"{path}: is no split of manifests; give train.json, valid.json or "
            "test.json of a folder that `ser-peft prepare` made"
        )
    title = f"{about['protocol']}, {path.stem}"
    return about | {"protocol": title}, manifests[path.stem]


def _of_corpus(name, data_folder, classes, out):
    """All utterances of a corpus, by the class set that fits best."""
    corpus = load_corpus(name)
    utterances = corpus.read(data_folder)
    sets = (
        corpus.class_sets(utterances)
        if hasattr(corpus, "class_sets")
        else corpus.CLASS_SETS
    )
    label = "emotion"
    if hasattr(corpus, "PROTOCOLS"):
        label = next(iter(corpus.PROTOCOLS.values())).label
    wanted = {*classes}
    best = max(
        sets.values(),
        key=lambda one: (len(wanted & {*classes_of(one)}), -len(one)),
    )
    class_set = {k: name for k, name in best.items() if name in wanted}
    chosen = [(u, None) for u in utterances]
    if class_set:
        chosen = relabel(utterances, class_set, label)
    root = root_of(data_folder)
    entries = entries_of(
        [u for u, _ in chosen], {u.id: name for u, name in chosen}, root
    )
    wavs = {u.id: u.wav for u, _ in chosen}
    listing = f"{os.path.abspath(out)}.audio.txt"
    seconds = durations({root: [*wavs.values()]}, listing)
    for key, entry in entries.items():
        entry["duration"] = round(seconds[str(wavs[key])], 4)
    about = {
        "corpus": name,
        "data_folder": root,
        "protocol": Whole.name,
        "fold": 1,
        "folds_total": 1,
    }
    return about, entries


def _fitting(about, entries, classes, dimensions, source):
    """What of a set a model can be tested on; says what is left out."""
    names = [
        name
        for name in dimensions
        if all(has_all(entry, [name]) for entry in entries.values())
    ]
    found = Counter(entry.get("emotion") for entry in entries.values())
    if not {*classes} & {*found}:
        classes = []
    if not (classes or names):
        raise InputError(
            f"{source}: has none of the model's classes and dimensions "
            f"({', '.join([*classes, *dimensions])}); it has "
            f"{', '.join(str(name) for name in found)}"
        )
    kept = entries
    if classes:
        kept = {k: e for k, e in entries.items() if e.get("emotion") in classes}
    if len(kept) < len(entries):
        others = {name: n for name, n in found.items() if name not in classes}
        logger.warning(
            "%s: %d of %d utterances are left out, which have none of the "
            "model's classes: %s", source, len(entries) - len(kept),
            len(entries), ", ".join(f"{n} {k}" for k, n in others.items()),
        )  # fmt: skip
    return {**about, "classes": classes, "dimensions": names}, kept


def _measure(model, about, entries, device, batch_seconds):
    """What `run_results` wants to know of a test set."""
    dataset = dataset_of(entries, about)
    loader = make_dataloader(
        dataset,
        batch_sampler=eval_batches(dataset, batch_seconds),
        num_workers=loader_workers("auto", device),
    )
    rows = {}
    columns = [[*model.dimensions].index(name) for name in about["dimensions"]]
    for batch in tqdm(loader, desc="test", unit="batch"):
        wavs, lens = batch.sig
        lengths = lengths_in_samples(wavs, lens)
        with torch.no_grad():
            scores = model(wavs.to(device), lengths, batch.text).float().cpu()
        check_scores(scores, ", ".join(batch.id))
        logits, values = scores.tensor_split([len(model.classes)], 1)
        chances = logits.softmax(-1).numpy()
        rows |= dict(
            zip(
                batch.id,
                zip(chances, values[:, columns].numpy(), strict=True),
                strict=True,
            )
        )
    ids = sorted(rows)
    chances, guesses = (np.array([rows[key][i] for key in ids]) for i in (0, 1))
    return measured_on(entries, ids, about, chances, guesses)
