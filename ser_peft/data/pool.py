"""Several corpora as one: each split by its own protocol, labelled alike."""

import os
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from ser_peft.corpora import DIMENSIONS
from ser_peft.corpora.inner import inner_name
from ser_peft.corpora.protocols import SPLITS, Whole, classes_of
from ser_peft.data.sources import choose
from ser_peft.data.writing import held, root_of, write_manifests
from ser_peft.errors import InputError
from ser_peft.storage.schema import Name, fit

__all__ = ["prepare_pool"]

_Names = Annotated[list[Name], Field(min_length=1)]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    folders: dict[str, Any]
    train: _Names
    test: _Names
    whole_targets: bool = False


def prepare_pool(
    corpora, save_folder, classes=None, fold=1, protocol=None, dimensions=()
):
    """Write the manifests of a training on several corpora.

    Manifests that exist, whole and for the same request, are kept. Ids and
    speakers begin with the corpus's name and a slash, and each utterance has
    a label ``corpus``. Arousal, valence and dominance are left out: every
    corpus has its own scale.

    Arguments
    ---------
    corpora : dict
        ``folders``: name, as for `ser_peft.data.prepare` -> folder, of which
        only those named below are read. ``train``: corpora whose train and
        valid splits are used. ``test``: corpora whose test splits are used,
        even if they are not trained on: a score is that of the same
        utterances whatever was trained on. ``whole_targets``, optional:
        corpora that are not trained on are tested whole, all of their
        utterances of these classes.
    save_folder : str or Path
        Gets ``train.json``, ``valid.json``, ``test.json``, ``protocol.json``.
    classes : int or str
        A class set that all of them have, with the same classes; 4 by
        default.
    fold : int
        From 1; corpora with a single fold are split alike in every one.
    protocol : str, optional
        Used for the corpora that have it, else their first one.
    dimensions : list of str
        Must be empty.

    Raises
    ------
    InputError
        If a list, a corpus, the classes, the fold, the protocol or a
        recording cannot be used, or no corpus would be tested whole.

    Example
    -------
    >>> folders = {"crema-d": "/data/CREMA-D", "ravdess": "/data/RAVDESS"}
    >>> prepare_pool(
    ...     {"folders": folders, "train": ["crema-d"], "test": ["ravdess"]},
    ...     "manifests",
    ... )  # doctest: +SKIP
    """
    request = fit(
        "corpus",
        corpora,
        _Request,
        "is no choice of several corpora",
        "write {folders: {crema-d: FOLDER, ravdess: FOLDER}, train: "
        "[crema-d], test: [crema-d, ravdess]}",
    )
    if dimensions:
        raise InputError(
            f"dimensions: {', '.join(dimensions)}: every corpus has its own "
            "scale; leave them out, or take a single corpus"
        )
    if protocol and inner_name(protocol):
        raise InputError(
            f"protocol {protocol}: several corpora have no inner folds; choose "
            "settings on one of them"
        )
    classes = 4 if classes is None else classes
    folders = request.folders
    trained, tested = sorted({*request.train}), sorted({*request.test})
    names = sorted({*trained, *tested})
    for name in names:
        if not isinstance(folders.get(name), (str, Path)):
            raise InputError(
                f"corpora: {name} has no folder; give "
                f"--corpora='{{{name}: FOLDER}}'"
            )
    targets = {*tested} - {*trained} if request.whole_targets else set()
    if request.whole_targets and not targets:
        raise InputError(
            "whole_targets: all of test_corpora are trained on; name one there "
            "that is not in train_corpora"
        )
    roots = {name: root_of(folders[name]) for name in names}
    sources, protocols, known = {}, {}, {"released"}
    for name in names:
        with _naming(name):
            source = choose(name, folders[name], classes, name in targets)
        sources[name] = source
        known |= source.protocols.keys()
        first = next(iter(source.protocols.values()))
        protocols[name] = source.protocols.get(protocol, first)
        if name in targets:
            protocols[name] = Whole(protocols[name].label)
    if protocol and protocol not in known:
        raise InputError(
            f"protocol {protocol}: none of {', '.join(names)} has it"
        )
    orders = {name: classes_of(sources[name].class_set) for name in names}
    for name, order in orders.items():
        if order != orders[names[0]]:
            raise InputError(
                f"classes {classes}: {', '.join(order)} in {name}, "
                f"{', '.join(orders[names[0]])} in {names[0]}; choose a set "
                "that is the same in all, as 4"
            )
    folds_total = max(protocol.folds for protocol in protocols.values())
    if fold not in range(1, folds_total + 1):
        raise InputError(f"--fold={fold}: there are folds 1 to {folds_total}")
    folds = {n: 1 if protocols[n].folds == 1 else fold for n in names}
    used = dict.fromkeys(protocol.name for protocol in protocols.values())
    title = f"{'+'.join(used)}: {'+'.join(trained)}"
    if tested != trained:
        title += f" to {'+'.join(tested)}"
    request = {
        "corpus": "pooled",
        "data_folder": os.path.commonpath(roots.values()),
        "protocol": title,
        "fold": fold,
        "folds_total": folds_total,
        "shares_speakers": any(protocols[n].shares_speakers for n in trained),
        "classes": orders[names[0]],
        "train_corpora": trained,
        "test_corpora": tested,
        "corpora": {
            name: {
                "data_folder": roots[name],
                "content": sources[name].content,
                "protocol": protocols[name].name,
                "fold": folds[name],
                "class_set": sources[name].class_set,
            }
            for name in names
        },
    }
    if held(save_folder, request):
        return
    splits, labels = {split: [] for split in SPLITS}, {}
    for name in names:
        with _naming(name):
            parts, classed = sources[name].split(protocols[name], folds[name])
        labels |= {f"{name}/{key}": label for key, label in classed.items()}
        for split, utterances in parts.items():
            if name in (tested if split == "test" else trained):
                splits[split] += [_prefixed(name, u) for u in utterances]
    write_manifests(splits, labels, save_folder, request, roots)


def _prefixed(corpus, utterance):
    """An utterance whose id and speaker begin with its corpus."""
    labels = {
        key: value
        for key, value in utterance.labels.items()
        if key not in DIMENSIONS
    }
    return replace(
        utterance,
        id=f"{corpus}/{utterance.id}",
        speaker=f"{corpus}/{utterance.speaker}",
        labels={**labels, "corpus": corpus},
    )


@contextmanager
def _naming(corpus):
    """Name the corpus in errors."""
    try:
        yield
    except InputError as error:
        raise InputError(f"corpora: {corpus}: {error}") from error
