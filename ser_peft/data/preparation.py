"""Manifests of one fold of a corpus: split, checked, written."""

import hashlib
import itertools
import logging
import os
from collections import defaultdict
from pathlib import Path

from ser_peft.corpora import load_corpus
from ser_peft.corpora.balance import confounding
from ser_peft.corpora.protocols import Whole, classes_of, relabel
from ser_peft.corpora.splits import (
    check_splits,
    fingerprint,
    has_all,
    leaks,
    missing_classes,
)
from ser_peft.corpora.transcripts import GOLD
from ser_peft.data.audio import durations
from ser_peft.data.manifests import read_manifests
from ser_peft.errors import InputError
from ser_peft.io import write_json
from ser_peft.settings.flags import place

__all__ = [
    "choose",
    "entries_of",
    "held",
    "prepare",
    "root_of",
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
    """Write the manifests of one fold of a corpus, or of several at once.

    Manifests that are there already, whole and for the same request, are
    kept.

    Arguments
    ---------
    corpus : str or dict
        A name, as in `ser_peft.corpora.CORPORA`, or ``emobox:NAME``. Several
        corpora as ``{folders: {name: folder}, train: [name, ...], test:
        [name, ...], whole_targets: bool}``; see
        `ser_peft.data.pool.prepare_pool`.
    data_folder : str or Path
        The corpus as published; the csv of a ``custom`` one, or
        ``emobox:NAME@FOLDER``, which is corpus ``emobox:NAME`` in EmoBox's
        folder ``data``. Not looked at for several corpora.
    save_folder : str or Path
        Gets ``train.json``, ``valid.json``, ``test.json``, ``protocol.json``.
    classes : int, str or dict, optional
        One of the corpus's class sets; its first one by default. A dict maps
        the corpus's labels to classes. 0 for none: dimensions alone.
    fold : int
        From 1.
    protocol : str, optional
        One of the corpus's protocols; its first one by default.
    dimensions : list of str
        Labels that are numbers to predict, as ``arousal``, ``valence`` and
        ``dominance``. Utterances that lack one are left out.

    Raises
    ------
    InputError
        If the folder, the classes, the fold, the dimensions or a recording
        cannot be used.

    Example
    -------
    >>> prepare("ravdess", "/data/RAVDESS", "manifests")  # doctest: +SKIP
    """
    if isinstance(corpus, dict):
        _prepare_several(
            corpus, save_folder, classes, fold, protocol, dimensions
        )
        return
    if corpus == "custom" and str(data_folder).startswith("emobox:"):
        corpus, _, data_folder = str(data_folder).partition("@")
        data_folder = place(data_folder, "data_folder")
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
    splits = deal.split([u for u, _ in chosen], fold, labels)
    write_manifests(splits, labels, save_folder, request)


def _prepare_several(corpora, save_folder, classes, fold, protocol, dimensions):
    """Hand on a request for several corpora; see `prepare`."""
    from ser_peft.data.pool import prepare_pool

    known = {"folders", "train", "test", "whole_targets"}
    if not {"folders", "train", "test"} <= corpora.keys() <= known:
        raise InputError(
            f"corpus: {', '.join(map(str, corpora)) or 'empty'}: several "
            "corpora need folders, train and test, and may have whole_targets"
        )
    if dimensions:
        raise InputError(
            f"dimensions: {', '.join(dimensions)}: every corpus has its own "
            "scale; leave them out, or take a single corpus"
        )
    prepare_pool(
        corpora["folders"],
        save_folder,
        corpora["train"],
        corpora["test"],
        4 if classes is None else classes,
        fold,
        protocol,
        corpora.get("whole_targets", False),
    )


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
