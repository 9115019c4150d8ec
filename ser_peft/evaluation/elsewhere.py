"""Test of a trained model on any set whose speakers it has not heard."""

import logging
import time
from collections import Counter
from pathlib import Path

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
from ser_peft.data.manifests import shareable
from ser_peft.data.provenance import Heard
from ser_peft.data.writing import add_durations
from ser_peft.device import loader_workers
from ser_peft.errors import InputError
from ser_peft.evaluation.fairness import group_columns
from ser_peft.evaluation.reads import note_read
from ser_peft.evaluation.results import UNTRAINED, corpus_scores, run_results
from ser_peft.inference import check_scores, load_model, read_model
from ser_peft.lobes import lengths_in_samples

__all__ = ["evaluate", "fitting", "measure", "of_manifests"]

logger = logging.getLogger(__name__)


def evaluate(
    run,
    test,
    out,
    data_folder=None,
    trust_start=False,
    device="cpu",
    batch_seconds=60,
    **places,
):
    """Test a trained model on another set, as on its own test set.

    Arguments
    ---------
    run : str or Path
        A finished run, its ``model/`` folder, or a model's name.
    test : str or Path
        Name of a corpus, as for `ser_peft.data.prepare`, or a manifests
        folder: all of it is tested. One split: that folder's ``test.json``.
        Utterances of classes that the model has not are left out.
    out : str or Path
        Folder that the report will go to; files that cannot be read are
        listed beside it.
    data_folder : str, optional
        Folder of a corpus that is named.
    trust_start : bool
        Test a model without a record of the speakers it has heard.
    device : str
        Device to compute on.
    batch_seconds : float
        Seconds of audio in a batch.
    **places
        Places of the encoders, see `ser_peft.inference.load_model`.

    Returns
    -------
    dict
        ``results``, ``predictions``, ``layer_weights``, ``recordings`` as
        `ser_peft.report.run_page.write_report` takes them. Nothing is chosen
        on this set: temperature and threshold are the model's own.

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
        about, entries = of_manifests(Path(test))
    else:
        about, entries = _of_corpus(str(test), data_folder, classes, out)
    about, entries = fitting(about, entries, classes, dimensions, test)
    # Manifests of inner folds too: this is a test, whose speakers are unheard.
    about["scored_on"] = "test"
    about["protocol_sha"] = fingerprint({"test": entries})
    heard = Heard(
        about, {"train": {}, "valid": {}, "test": entries}, trust_start
    )
    heard.add("model", folder)
    model = load_model(run, device=device, **places)
    reads = note_read(out, f"evaluate {run}")
    measured = measure(model, about, entries, device, batch_seconds)
    results = run_results(
        about,
        None,
        measured,
        group_columns(entries),
        model,
        **corpus_scores(entries, measured, about["classes"]),
        **UNTRAINED,
        kept=f"the model of {folder.resolve()}",
        train_seconds=0.0,
        test_reads=reads,
        evaluation_seconds=time.time() - start,
        device=str(device),
        heard=heard.record,
    )
    return {
        "results": results,
        "predictions": measured,
        "layer_weights": model.layer_weights,
        "recordings": shareable(about, entries),
    }


def of_manifests(path):
    """Description and entries of a manifests folder, or of one split.

    Arguments
    ---------
    path : Path
        Folder, or ``test.json`` or another split in one.

    Returns
    -------
    about : dict
        ``protocol.json``.
    entries : dict
        Id -> entry.

    Raises
    ------
    InputError
        If it is neither.
    """
    if path.is_dir():
        about, manifests = read_manifests(path)
        return about | {"protocol": "whole"}, _agreed(manifests.values())
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
    return about | {"protocol": title}, _agreed([manifests[path.stem]])


def _agreed(parts):
    """Entries of splits, but for those nobody could be right about."""
    return {
        key: entry
        for part in parts
        for key, entry in part.items()
        if not entry.get("no_majority")
    }


def _of_corpus(name, data_folder, classes, out):
    """Description and entries of a corpus, in the best fitting classes."""
    corpus = load_corpus(name)
    utterances = corpus.read(data_folder)
    if hasattr(corpus, "class_sets"):  # they depend on what is read
        sets, label = corpus.class_sets(utterances), "emotion"
    else:
        sets = corpus.CLASS_SETS
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
    add_durations({"test": entries}, wavs, out, lambda _: root)
    about = {
        "corpus": name,
        "data_folder": root,
        "protocol": Whole.name,
        "fold": 1,
        "folds_total": 1,
    }
    return about, entries


def fitting(about, entries, classes, dimensions, source):
    """Description and entries a model can be tested on; warns of others.

    Arguments
    ---------
    about, entries
        From `of_manifests`.
    classes, dimensions : list of str
        What the model tells.
    source : str
        Name of the set, for messages.

    Returns
    -------
    about, entries
        With the classes and dimensions of both, and utterances of these.

    Raises
    ------
    InputError
        If nothing is of both.
    """
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


def measure(model, about, entries, device, batch_seconds):
    """Predict a test set.

    Arguments
    ---------
    model : EmotionModel or EnsembleModel
        Model on `device`.
    about, entries : dict
        ``protocol.json`` and manifest of the set.
    device : str
        Device.
    batch_seconds : float
        Seconds of audio in a batch.

    Returns
    -------
    dict
        For `run_results`; probabilities are not calibrated.
    """
    dataset = dataset_of(entries, about)
    loader = make_dataloader(
        dataset,
        batch_sampler=eval_batches(dataset, batch_seconds),
        num_workers=loader_workers("auto", device),
    )
    ids, parts = [], []
    for batch in tqdm(loader, desc="test", unit="batch"):
        wavs, lens = batch.sig
        lengths = lengths_in_samples(wavs, lens)
        with torch.no_grad():
            scores = model(wavs.to(device), lengths, batch.text).float().cpu()
        check_scores(scores, ", ".join(batch.id))
        ids += batch.id
        parts.append(scores)
    order = sorted(range(len(ids)), key=ids.__getitem__)
    logits, values = torch.cat(parts)[order].tensor_split(
        [len(model.classes)], 1
    )
    columns = [[*model.dimensions].index(name) for name in about["dimensions"]]
    chances, guesses = logits.softmax(-1), values[:, columns]
    return measured_on(
        entries, sorted(ids), about, chances.numpy(), guesses.numpy()
    )
