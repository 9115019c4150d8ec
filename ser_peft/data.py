"""Manifests, audio and batches: from a corpus folder to tensors."""

import hashlib
import itertools
import logging
import os
import random
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from ser_peft.audio import SAMPLE_RATE, check_samples, durations, read_audio
from ser_peft.corpora import load_corpus
from ser_peft.corpora.balance import confounding
from ser_peft.corpora.protocols import (
    Whole,
    check_splits,
    classes_of,
    fingerprint,
    has_all,
    leaks,
    missing_classes,
    relabel,
)
from ser_peft.errors import InputError
from ser_peft.io import write_json
from ser_peft.manifests import read_manifests
from ser_peft.text import GOLD, clean_text

__all__ = [
    "Progress",
    "batch_sampler",
    "check_samples",
    "choose",
    "dataset_of",
    "datasets",
    "entries_of",
    "eval_batches",
    "held",
    "measured_on",
    "prepare",
    "read_audio",
    "read_manifests",
    "root_of",
    "scale_of",
    "seeded",
    "values_of",
    "write_manifests",
]

# It announces every epoch's draw.
logging.getLogger("speechbrain.dataio.sampler").setLevel(logging.WARNING)

logger = logging.getLogger(__name__)

RESERVED = ("id", "duration", "sig", "label", "values")
"""Names of items that a corpus's own labels may not take."""


def prepare(
    corpus,
    data_folder,
    save_folder,
    classes=None,
    fold=1,
    protocol=None,
    dimensions=(),
):
    """Write the manifests of one fold of a corpus.

    What is there already, whole and for the same request, is kept.

    Arguments
    ---------
    corpus : str
        As in `ser_peft.corpora.CORPORA`, or ``emobox:NAME``.
    data_folder : str or Path
        The corpus as published; of a custom one, its csv.
    save_folder : str or Path
        Gets ``train.json``, ``valid.json``, ``test.json``, ``protocol.json``.
    classes : int, str or dict, optional
        One of the corpus's class sets, its first one where absent; a dict
        maps its labels to classes. 0 for none, dimensions alone.
    fold : int
        From 1.
    protocol : str, optional
        One of the corpus's protocols; its first one where absent.
    dimensions : list of str
        Labels that are numbers to predict, as ``arousal``, ``valence`` and
        ``dominance``. Utterances that lack one are left out.

    Raises
    ------
    InputError
        If the folder, the classes, the fold, the dimensions or a recording
        is unfit.
    """
    class_set, protocols, utterances, content = choose(
        corpus, data_folder, classes
    )
    protocol = protocol or next(iter(protocols))
    if protocol not in [*protocols]:
        raise InputError(
            f"protocol {protocol}: {corpus} has {', '.join(protocols)}"
        )
    deal = protocols[protocol]
    request = {
        "corpus": corpus,
        "data_folder": root_of(data_folder),
        "content": content,
        "protocol": protocol,
        "fold": fold,
        "folds_total": deal.folds,
        "shares_speakers": deal.shares_speakers,
        "class_set": class_set,
        "classes": classes_of(class_set),
        "dimensions": list(dimensions),
    }
    if held(save_folder, request):
        return
    utterances = utterances or load_corpus(corpus).read(data_folder)
    if class_set:
        chosen = relabel(utterances, class_set, deal.label)
    else:
        chosen = [(utterance, None) for utterance in utterances]
    chosen = _rated(chosen, dimensions, corpus)
    labels = {utterance.id: label for utterance, label in chosen}
    splits = deal.deal([u for u, _ in chosen], fold, labels)
    write_manifests(splits, labels, save_folder, request)


def _warn(about):
    """Say what scores on manifests do not show, by their `protocol.json`."""
    corpus, protocol = about.get("corpus"), about.get("protocol")
    if about.get("leaks"):
        shared = [
            f"{share:.0%} of its {kind.replace('_', ' ')}"
            for kind, share in about["leaks"].items()
        ]
        logger.warning(
            "%s, %s: the test set shares with train %s: the scores are not "
            "those of unheard speakers", corpus, protocol, ", ".join(shared),
        )  # fmt: skip
    for split, names in about.get("missing_classes", {}).items():
        logger.warning(
            "%s, %s, fold %s: no clip of %s in %s: its scores are over %d of "
            "%d classes", corpus, protocol, about.get("fold"),
            ", ".join(f"'{name}'" for name in names), split,
            len(about["classes"]) - len(names), len(about["classes"]),
        )  # fmt: skip
    found = about.get("confounding", {})
    if found.get("confounded"):
        meaning = (
            "scores may be those of knowing the voices, some of which are "
            "tested and trained on here"
            if about.get("shares_speakers")
            else "scores on other speakers hold, but rest on few a class "
            f"('{found['rarest']}': {found['rarest_speakers']})"
        )
        logger.warning(
            "%s: who speaks tells the class: %d of %d speakers with several "
            "clips have one class only, and two clips of a speaker are of one "
            "class in %.0f %% of all cases (%.0f %% by chance): a model may "
            "learn voices, not emotions; %s", corpus, found["one_class"],
            found["speakers"], 100 * found["same_class"],
            100 * found["expected"], meaning,
        )  # fmt: skip


def _rated(chosen, dimensions, corpus):
    """Those of the (utterance, class) that have every dimension."""
    for name in dimensions:
        if not any(has_all(u.labels, [name]) for u, _ in chosen):
            raise InputError(
                f"dimensions: {corpus} has no numbers '{name}'; leave it out"
            )
    rated = [pair for pair in chosen if has_all(pair[0].labels, dimensions)]
    if len(rated) < len(chosen):
        logger.warning(
            "%s: %d of %d utterances lack %s and are left out", corpus,
            len(chosen) - len(rated), len(chosen), " or ".join(dimensions),
        )  # fmt: skip
    return rated


def choose(corpus, data_folder, classes, whole=False):
    """Find a class set of a corpus, and its protocols.

    Arguments
    ---------
    corpus, data_folder, classes
        As for `prepare`.
    whole : bool
        All of it is tested: its speakers need not be enough for folds.

    Returns
    -------
    class_set : dict
        The corpus's label -> class, none for 0.
    protocols : dict
        Name -> `Folds`, `RandomSplit` or `Whole`.
    utterances : list of Utterance or None
        The corpus, if it had to be read for these.
    content : str or None
        Hash of it.

    Raises
    ------
    InputError
        If there is no such corpus or class set.
    """
    module = load_corpus(corpus)
    reads = hasattr(module, "class_sets")  # they depend on what is read
    utterances, content = None, None
    if reads:
        utterances = module.read(data_folder)
        content = hashlib.sha256(repr(utterances).encode()).hexdigest()
    if classes == 0 or isinstance(classes, dict):
        class_set = classes or {}
        for label, name in class_set.items():
            if not isinstance(name, str):
                raise InputError(
                    f"classes: {label}: {name} is no text; write '{name}'"
                )
    else:
        sets = module.class_sets(utterances) if reads else module.CLASS_SETS
        if classes is None:
            classes = next(iter(sets))
        if classes not in [*sets]:
            raise InputError(
                f"classes {classes}: {corpus} has sets of "
                f"{', '.join(map(str, sets))}; or give a mapping"
            )
        class_set = sets[classes]
    if not reads:
        protocols = module.PROTOCOLS
    elif whole:
        protocols = {"whole": Whole()}
    else:
        protocols = module.protocols(utterances, class_set)
    return class_set, protocols, utterances, content


def root_of(data_folder):
    """The folder that a corpus's paths are relative to; a csv lies in it."""
    root = os.path.abspath(data_folder)
    return os.path.dirname(root) if os.path.isfile(root) else root


def held(folder, request):
    """Whether whole manifests of this request are there; warns as if made."""
    try:
        about, _ = read_manifests(folder)
    except InputError:
        return False
    same = all(about.get(key) == value for key, value in request.items())
    if same:
        _warn(about)
    return same


def write_manifests(splits, labels, save_folder, about, roots=None):
    """Check the audio of a deal and write it as SpeechBrain manifests.

    Arguments
    ---------
    splits : dict
        ``train``, ``valid`` and ``test`` lists of `Utterance`.
    labels : dict
        Utterance id -> class; None where there are none.
    save_folder : str or Path
        Gets one JSON a split and ``protocol.json``, written last. What is
        wrong with recordings is listed beside it, in a file of its name and
        ``.audio.txt``.
    about : dict
        What `protocol.json` says besides the hash and what is measured here:
        `missing_classes`, `confounding` and, where speakers are shared, the
        `leaks`; ``data_folder`` and ``classes`` are needed here, see
        `read_manifests` for the rest.
    roots : dict, optional
        Corpus -> its folder, where utterances have a label ``corpus``: what
        is known of its audio is shared with the corpus's own manifests.

    Raises
    ------
    InputError
        If recordings cannot be used or the splits are not honest.
    """
    root = about["data_folder"]
    manifests = {
        split: entries_of(utterances, labels, root)
        for split, utterances in splits.items()
    }
    shares = about.get("shares_speakers", False)
    dimensions = about.get("dimensions", ())
    classes = about["classes"]
    check_splits(manifests, classes, shares, dimensions)
    about = {**about, "missing_classes": missing_classes(manifests, classes)}
    if shares:
        about["leaks"] = leaks(manifests)
    if classes:
        entries = [e for part in manifests.values() for e in part.values()]
        about["confounding"] = confounding(entries)
    _warn(about)
    everything = {u.id: str(u.wav) for us in splits.values() for u in us}
    by_root = defaultdict(list)
    for u in itertools.chain.from_iterable(splits.values()):
        by_root[roots[u.labels["corpus"]] if roots else root].append(u.wav)
    listing = f"{os.path.abspath(save_folder)}.audio.txt"
    seconds = durations(by_root, listing)
    # Gone first, back last: with it, all files are there and of one request.
    done = Path(save_folder) / "protocol.json"
    done.unlink(missing_ok=True)
    for split, entries in manifests.items():
        for key, entry in entries.items():
            entry["duration"] = round(seconds[everything[key]], 4)
        write_json(Path(save_folder) / f"{split}.json", entries)
    write_json(done, {**about, "protocol_sha": fingerprint(manifests)})


def entries_of(utterances, labels, root):
    """Manifest entries of utterances, without durations.

    Arguments
    ---------
    utterances : list of Utterance
        Of a corpus.
    labels : dict
        Utterance id -> class; None where there are none.
    root : str
        Folder that their paths are given from.

    Returns
    -------
    dict
        Id -> entry.
    """
    entries = {}
    for u in utterances:
        text = (u.text or "").strip()
        entry = {
            "wav": "{data_root}/" + os.path.relpath(u.wav, root),
            "speaker": u.speaker,
            "emotion": labels[u.id],
            "gender": u.gender,
            "text": text or None,
            "text_source": GOLD if text else None,
        }
        # Age, intensity, arousal: whatever else the corpus says.
        entry |= {
            name: value
            for name, value in u.labels.items()
            if name not in (*entry, *RESERVED)
            and isinstance(value, (str, int, float))
        }
        entries[u.id] = {k: v for k, v in entry.items() if v is not None}
    return entries


@dataclass
class Progress:
    """What a Brain tells a dataset and its workers before an epoch.

    Arguments
    ---------
    version : object
        Training clips are cut as this says, whoever cuts them when; None:
        anew every time.
    kept : set of str
        Ids of clips whose audio nobody asks for, since their hidden states
        are kept: one sample stands for it.
    """

    version: object = None
    kept: set = field(default_factory=set)


@contextmanager
def seeded(*content, device="cpu"):
    """Make what is drawn in a block follow from `content` alone.

    Arguments
    ---------
    *content : object
        Whose text is hashed.
    device : str or torch.device
        Whose generator is drawn from too.

    Yields
    ------
    None
        All generators of Python and torch go on behind the block as if
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
        Of all clips, those of valid and test too, only the beginning is
        taken, as PEFT-SER does.
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
        ``label`` (index into the classes, -1 without them), ``values`` (of
        the dimensions, [D]), ``text`` (cleaned; empty where there is none),
        ``speaker`` and ``duration``. Its attribute ``progress`` is a
        `Progress`.
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
    """SpeechBrain dataset of a manifest.

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
    # Here, as below: who only writes manifests, or is told of a wrong flag,
    # does not wait for SpeechBrain.
    from speechbrain.dataio.dataset import DynamicItemDataset
    from speechbrain.utils.data_pipeline import provides, takes

    index = {name: i for i, name in enumerate(about["classes"])}
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
    """The dimensions of a manifest's entries.

    Arguments
    ---------
    entries : iterable of dict
        Of a manifest.
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
    """Clips of a manifest with what a model says of them.

    Arguments
    ---------
    entries : dict
        Manifest, id -> entry.
    ids : list of str
        Which of them, in the order of what follows.
    about : dict
        ``protocol.json`` of the manifests.
    chances, guesses : np.ndarray
        Probabilities, [N, C], and dimensions, [N, D], that a model gives.

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
    """Batches of clips of like length, so many seconds of audio in each.

    Arguments
    ---------
    dataset : DynamicItemDataset
        Entries have ``duration`` in seconds.
    seconds : float
        Upper limit of clips times longest clip; at least one clip fits.
    shuffle : bool
        Draw anew every epoch, or go from long to short (evaluation: the
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
    """Batches that hold every clip once, long clips first.

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
