"""Several corpora as one: dealt each by its own protocol, labelled alike."""

import os
from dataclasses import replace
from pathlib import Path

from ser_peft.corpora import DIMENSIONS, load_corpus
from ser_peft.corpora.protocols import SPLITS, Whole, classes_of, relabel
from ser_peft.data import choose, held, root_of, write_manifests
from ser_peft.errors import InputError

__all__ = ["prepare_pool"]


def prepare_pool(
    corpora,
    save_folder,
    train_corpora,
    test_corpora,
    classes=4,
    fold=1,
    protocol="released",
    whole_targets=False,
):
    """Write the manifests of a training on several corpora.

    What is there already, whole and for the same request, is kept. Ids and
    speakers begin with the corpus's name and a slash, and each utterance has
    a label ``corpus``. Arousal, valence and dominance are left out: every
    corpus has its own scale.

    Arguments
    ---------
    corpora : dict
        Name, as in `ser_peft.corpora.CORPORA` or ``emobox:NAME`` -> its
        folder. Only those named below are read.
    save_folder : str or Path
        Gets ``train.json``, ``valid.json``, ``test.json``, ``protocol.json``.
    train_corpora : list of str
        Corpora whose train and valid splits are used.
    test_corpora : list of str
        Corpora whose test splits are used, of those not trained on too: a
        score is that of the same utterances whatever was trained on.
    classes : int or str
        A class set that all of them have, with the same classes.
    fold : int
        From 1; of corpora with more than one.
    protocol : str, optional
        Of the corpora that have it; the others' first one.
    whole_targets : bool
        Corpora that are not trained on are tested whole: all of their
        utterances of these classes, not their test splits alone.

    Raises
    ------
    InputError
        If a list, a corpus, the classes, the fold, the protocol or a
        recording is unfit, or no corpus would be tested whole.

    Example
    -------
    >>> places = {"crema-d": "/data/CREMA-D", "ravdess": "/data/RAVDESS"}
    >>> prepare_pool(
    ...     places, "manifests", ["crema-d"], ["ravdess"]
    ... )  # doctest: +SKIP
    """
    if not isinstance(corpora, dict):
        raise InputError(f"corpora: {corpora}: write {{crema-d: FOLDER}}")
    for key, names in (
        ("train_corpora", train_corpora),
        ("test_corpora", test_corpora),
    ):
        if not isinstance(names, list) or not names:
            raise InputError(
                f"{key}: {names} is no list of corpora; write [crema-d, "
                "iemocap]"
            )
        for name in names:
            if not isinstance(corpora.get(str(name)), (str, Path)):
                raise InputError(
                    f"{key}: where {name} is, is not said; give "
                    f"--corpora='{{{name}: FOLDER}}'"
                )
    names = sorted({*train_corpora, *test_corpora})
    targets = {*test_corpora} - {*train_corpora} if whole_targets else set()
    if whole_targets and not targets:
        raise InputError(
            "whole_targets: all of test_corpora are trained on; name one there "
            "that is not in train_corpora"
        )
    roots = {name: root_of(corpora[name]) for name in names}
    chosen, deals = {}, {}
    for name in names:
        chosen[name] = _named(
            name, choose, name, corpora[name], classes, name in targets
        )
        protocols = chosen[name][1]
        deals[name] = protocols.get(protocol) or next(iter(protocols.values()))
        if name in targets:
            deals[name] = Whole(deals[name].label)
    known = {"released"}.union(*(part[1] for part in chosen.values()))
    if protocol and protocol not in known:
        raise InputError(
            f"protocol {protocol}: none of {', '.join(names)} has it"
        )
    orders = {name: classes_of(chosen[name][0]) for name in names}
    for name, order in orders.items():
        if order != orders[names[0]]:
            raise InputError(
                f"classes {classes}: {', '.join(order)} in {name}, "
                f"{', '.join(orders[names[0]])} in {names[0]}; choose a set "
                "that is the same in all, as 4"
            )
    folds_total = max(deal.folds for deal in deals.values())
    if fold not in range(1, folds_total + 1):
        raise InputError(f"--fold={fold}: there are folds 1 to {folds_total}")
    # Those with a single fold are dealt alike in every one.
    folds = {n: 1 if deals[n].folds == 1 else fold for n in names}
    trained, tested = sorted({*train_corpora}), sorted({*test_corpora})
    used = dict.fromkeys(deal.name for deal in deals.values())
    title = f"{'+'.join(used)}: {'+'.join(trained)}"
    if tested != trained:
        title += f" to {'+'.join(tested)}"
    request = {
        "corpus": "pooled",
        "data_folder": os.path.commonpath(roots.values()),
        "protocol": title,
        "fold": fold,
        "folds_total": folds_total,
        "shares_speakers": any(deals[n].shares_speakers for n in trained),
        "classes": orders[names[0]],
        "train_corpora": trained,
        "test_corpora": tested,
        "corpora": {
            name: {
                "data_folder": roots[name],
                "content": chosen[name][3],
                "protocol": deals[name].name,
                "fold": folds[name],
                "class_set": chosen[name][0],
            }
            for name in names
        },
    }
    if held(save_folder, request):
        return
    splits, labels = {split: [] for split in SPLITS}, {}
    for name in names:
        class_set, _, utterances, _ = chosen[name]
        utterances = utterances or _named(
            name, load_corpus(name).read, corpora[name]
        )
        kept = _named(name, relabel, utterances, class_set, deals[name].label)
        labels |= {f"{name}/{u.id}": label for u, label in kept}
        dealt = _named(
            name, deals[name].split, [u for u, _ in kept], folds[name],
            {u.id: label for u, label in kept},
        )  # fmt: skip
        for split in SPLITS:
            if name in (tested if split == "test" else trained):
                splits[split] += [_of(name, u) for u in dealt[split]]
    write_manifests(splits, labels, save_folder, request, roots)


def _of(corpus, utterance):
    """An utterance among those of other corpora."""
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


def _named(corpus, function, *arguments):
    """Call a function; what is wrong with a corpus is told with its name."""
    try:
        return function(*arguments)
    except InputError as error:
        raise InputError(f"corpora: {corpus}: {error}") from error
