"""Datasets and batches: from manifests to tensors."""

import hashlib
import logging
import random
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch

from ser_peft.corpora.transcripts import clean_text
from ser_peft.data.audio import SAMPLE_RATE, read_audio
from ser_peft.data.manifests import read_manifests

# It announces the draw of every epoch.
logging.getLogger("speechbrain.dataio.sampler").setLevel(logging.WARNING)

__all__ = [
    "Progress",
    "batch_sampler",
    "dataset_of",
    "datasets",
    "eval_batches",
    "measured_on",
    "scale_of",
    "seeded",
    "values_of",
]


@dataclass
class Progress:
    """State that a Brain shares with a dataset and its workers for an epoch.

    Arguments
    ---------
    version : object
        Seed of the cuts of training clips; None cuts anew every time.
    kept : set of str
        Ids of clips whose audio is not needed, since their hidden states are
        kept: one sample stands for it.
    """

    version: object = None
    kept: set = field(default_factory=set)


@contextmanager
def seeded(*content, device="cpu"):
    """Seed the random numbers of a block by `content` alone.

    Arguments
    ---------
    *content : object
        Objects whose text is hashed to the seed.
    device : str or torch.device
        Device whose generator is seeded too.

    Yields
    ------
    None
        After the block, all generators of Python and torch go on as if
        nothing had been drawn.

    Example
    -------
    >>> with seeded(8, "clip 1"):
    ...     first = torch.rand(())
    >>> with seeded(8, "clip 1"):
    ...     print(bool(torch.rand(()) == first))
    True
    """
    digest = hashlib.sha256(repr(content).encode()).digest()
    state = random.getstate()
    devices = [device] if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        random.seed(digest)
        try:
            yield
        finally:
            random.setstate(state)


def datasets(folder, max_seconds=None, crop=1.0, first_seconds=None, hop=1):
    """SpeechBrain datasets of a manifests folder.

    Arguments
    ---------
    folder : str or Path
        Manifests.
    max_seconds : float, optional
        Longer training clips are cut to a random stretch of this length,
        another one every epoch. Valid and test clips stay whole.
    crop : float
        Training clips are cut to a random stretch of at least this share.
    first_seconds : float, optional
        Only the beginning of every clip is used, in valid and test too, as
        in PEFT-SER.
    hop : int
        Training clips are cut at multiples of so many samples, so that
        frames of the whole clip are frames of the cut one.

    Returns
    -------
    about : dict
        ``protocol.json``.
    sets : dict
        Split -> DynamicItemDataset with ``id``, ``sig`` (16 kHz mono, [T]),
        ``start`` (its first sample's place in the clip),
        ``label`` (index into classes and side classes, -1 without them),
        ``values`` (of the dimensions, [D]), ``text`` (cleaned; empty where
        there is none), ``speaker`` and ``duration``. Its attribute
        ``progress`` is a `Progress`.
    """
    about, manifests = read_manifests(folder)

    def cut(sig):
        # Nothing is drawn for a clip that stays whole.
        share = crop + (1 - crop) * float(torch.rand(())) if crop < 1 else 1.0
        length = int(share * len(sig))
        if max_seconds is not None:
            length = min(length, int(max_seconds * SAMPLE_RATE))
        if length == len(sig):
            return sig, 0
        start = int(torch.randint(len(sig) - length + 1, ()))
        start -= start % hop
        return sig[start : start + length], start

    return about, {
        split: dataset_of(
            entries, about, first_seconds, cut if split == "train" else None
        )
        for split, entries in manifests.items()
    }


def dataset_of(entries, about, first_seconds=None, cut=None):
    """SpeechBrain dataset of one manifest.

    Arguments
    ---------
    entries : dict
        Id -> entry.
    about : dict
        ``protocol.json``.
    first_seconds : float, optional
        See `datasets`.
    cut : callable, optional
        Whole clip, [T] -> its stretch and that one's first sample.

    Returns
    -------
    DynamicItemDataset
        See `datasets`.
    """
    # Imported here, as below: writing manifests, or an error about a flag,
    # need not wait for SpeechBrain.
    from speechbrain.dataio.dataset import DynamicItemDataset
    from speechbrain.utils.data_pipeline import provides, takes

    classes = [*about["classes"], *about.get("side_classes", ())]
    index = {name: i for i, name in enumerate(classes)}
    progress = Progress()

    @takes("id", "wav")
    @provides("sig", "start")
    def audio(id_, wav):
        if id_ in progress.kept:
            return torch.zeros(1), 0
        sig = read_audio(wav.replace("{data_root}", about["data_folder"], 1))
        if first_seconds is not None:
            sig = sig[: int(first_seconds * SAMPLE_RATE)]
        if not cut:
            return sig, 0
        if progress.version is None:
            return cut(sig)
        with seeded(progress.version, id_):
            return cut(sig)

    @takes("id")
    @provides("label")
    def label(id_):
        return index[entries[id_]["emotion"]] if index else -1

    @takes("id")
    @provides("values")
    def values(id_):
        return [float(entries[id_][name]) for name in about["dimensions"]]

    # A key of some entries only would be one of all or none.
    said = {
        key: {**entry, "text": clean_text(entry.get("text", ""))}
        for key, entry in entries.items()
    }
    dataset = DynamicItemDataset(
        said,
        dynamic_items=[audio, label, values],
        output_keys=[
            *("id", "sig", "start", "label", "values", "text", "speaker")
        ],
    )
    dataset.progress = progress
    return dataset


def values_of(entries, dimensions):
    """Values of the dimensions of a manifest's entries.

    Arguments
    ---------
    entries : iterable of dict
        A manifest's entries.
    dimensions : list of str
        Their names.

    Returns
    -------
    numpy.ndarray
        [N, D].
    """
    rows = [[entry[name] for name in dimensions] for entry in entries]
    return np.array(rows, float)


def measured_on(entries, ids, about, chances, guesses):
    """Labels of a manifest's clips beside a model's predictions.

    Arguments
    ---------
    entries : dict
        Manifest, id -> entry.
    ids : list of str
        Ids of the clips, in the order of the predictions.
    about : dict
        ``protocol.json`` of the manifests.
    chances, guesses : np.ndarray
        Predicted probabilities, [N, C], and dimensions, [N, D].

    Returns
    -------
    dict
        See `ser_peft.evaluation.results.run_results`; and ``gender``,
        None where it is unknown.
    """
    chosen = [entries[key] for key in ids]
    measured = {
        "id": list(ids),
        "speaker": [entry["speaker"] for entry in chosen],
        "gender": [entry.get("gender") for entry in chosen],
    }
    if classes := about["classes"]:
        measured |= {
            "label": [classes.index(entry["emotion"]) for entry in chosen],
            "predicted": chances.argmax(1).tolist(),
            "probabilities": chances,
        }
    if names := about["dimensions"]:
        measured |= {
            "values": values_of(chosen, names),
            "predicted_values": guesses,
        }
    return measured


def scale_of(values, dimensions):
    """Name -> mean and standard deviation of values [N, D]."""
    scale = zip(values.mean(0).tolist(), values.std(0).tolist(), strict=True)
    return dict(zip(dimensions, scale, strict=True))


def batch_sampler(dataset, seconds, shuffle, seed=0, max_seconds=None):
    """Sampler of batches of clips of similar length, by seconds of audio.

    Arguments
    ---------
    dataset : DynamicItemDataset
        Entries have ``duration`` in seconds.
    seconds : float
        Upper limit of clips times longest clip; at least one clip fits.
    shuffle : bool
        Draw anew every epoch; else go from long to short (evaluation: the
        largest batch comes first, so that memory runs out early if at all).
    seed : int
        The draw of epoch e depends on seed and e alone.
    max_seconds : float, optional
        Clips count as at most this long.

    Returns
    -------
    speechbrain.dataio.sampler.DynamicBatchSampler
        Four buckets of equal count, or fewer for few lengths.
    """
    from speechbrain.dataio.sampler import DynamicBatchSampler

    durations = [
        min(dataset.data[key]["duration"], max_seconds or float("inf"))
        for key in dataset.data_ids
    ]
    edges = np.quantile(durations, [0.25, 0.5, 0.75, 1.0])
    return DynamicBatchSampler(
        dataset,
        max_batch_length=max(seconds, edges[-1]),
        bucket_boundaries=np.unique(edges).tolist(),
        lengths_list=durations,
        shuffle=shuffle,
        batch_ordering="random" if shuffle else "descending",
        # SpeechBrain adds the epoch: seeds would share draws.
        seed=10007 * seed,
    )


def eval_batches(dataset, seconds):
    """List batches that hold every clip once, long clips first.

    Arguments
    ---------
    dataset : DynamicItemDataset
        Entries have ``duration`` in seconds.
    seconds : float
        Upper limit of clips times longest clip.

    Returns
    -------
    list of list of int
        Indices into the dataset.
    """
    return list(batch_sampler(dataset, seconds, shuffle=False))
