"""Preparation: from corpora to the manifests of one fold."""

from dataclasses import replace

from ser_peft.corpora.inner import InnerFolds
from ser_peft.corpora.protocols import classes_of
from ser_peft.data.pool import prepare_pool
from ser_peft.data.sources import choose
from ser_peft.data.writing import held, root_of, write_manifests
from ser_peft.errors import InputError
from ser_peft.settings.places import place

__all__ = ["prepare"]


def prepare(
    corpus,
    data_folder,
    save_folder,
    classes=None,
    fold=1,
    protocol=None,
    dimensions=(),
    targets="majority",
    train_classes=None,
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
        One of the corpus's protocols; its first one by default. Of those
        that split speakers or sessions there are also the inner folds,
        ``<protocol>/inner`` (within outer fold 1) and ``<protocol>/inner2``,
        ...: see `ser_peft.corpora.inner`. They have no ``test.json``.
    dimensions : list of str
        Labels that are numbers to predict, as ``arousal``, ``valence`` and
        ``dominance``. Utterances that lack one are left out.
    targets : str
        ``majority``: utterances whose label is a class. ``votes``: train has
        those too of which annotators' votes are for classes by half at least,
        without a majority that is one.
    train_classes : int, str or dict, optional
        Another class set: clips of the labels that `classes` leaves out
        train as well. Classes that only these have are side classes, which
        nothing is validated or tested on.

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
        if train_classes is not None:
            raise InputError(
                "train_classes: not for several corpora at once; leave it out"
            )
        prepare_pool(
            corpus, save_folder, classes, fold, protocol, dimensions, targets
        )
        return
    if corpus == "custom" and str(data_folder).startswith("emobox:"):
        corpus, _, data_folder = str(data_folder).partition("@")
        data_folder = place(data_folder, "data_folder")
    source = choose(corpus, data_folder, classes)
    protocol = source.protocol(protocol, dimensions)
    request = {
        "corpus": corpus,
        "data_folder": root_of(data_folder),
        "content": source.content,
        "protocol": protocol.name,
        "fold": fold,
        "folds_total": protocol.folds,
        "shares_speakers": protocol.shares_speakers,
        "class_set": source.class_set,
        "classes": classes_of(source.class_set),
        "dimensions": list(dimensions),
        "targets": targets,
        "train_class_set": None,
        "side_classes": [],
    }
    if isinstance(protocol, InnerFolds):
        request |= {
            "scored_on": "valid",
            "held_out_speakers": protocol.held_out,
        }
    more, named = [], {}
    if train_classes is not None:
        if targets == "votes":
            raise InputError(
                "train_classes: not with targets: votes, which count for the "
                "classes alone; leave one of them out"
            )
        larger = choose(corpus, data_folder, train_classes)
        if not isinstance(train_classes, dict):  # a part of the corpus is fine
            there = {u.labels.get(protocol.label) for u in larger.everything}
            kept = {k: v for k, v in larger.class_set.items() if k in there}
            larger = replace(larger, class_set=kept)
        clips, named = larger.clips(protocol.label, dimensions)
        own = {u.id for u in source.clips(protocol.label, dimensions)[0]}
        clips = [u for u in clips if u.id not in own]
        more = protocol.split(clips, fold, named)["train"] if clips else []
        trained = {named[u.id] for u in more}
        request |= {
            "train_class_set": larger.class_set,
            "side_classes": [
                name
                for name in classes_of(larger.class_set)
                if name in trained and name not in request["classes"]
            ],
        }
    if not held(save_folder, request):
        splits, labels = source.split(protocol, fold, dimensions, targets)
        splits["train"] += more
        labels = named | labels
        write_manifests(splits, labels, save_folder, request)
