"""Sources of manifests: a corpus, its classes and its protocols."""

import hashlib
import logging
from dataclasses import dataclass
from functools import cached_property

from ser_peft.corpora import load_corpus
from ser_peft.corpora.inner import inner_folds, inner_name
from ser_peft.corpora.protocols import Whole, relabel
from ser_peft.corpora.splits import has_all
from ser_peft.errors import InputError

__all__ = ["Source", "choose"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """A corpus with the chosen classes and its protocols.

    Arguments
    ---------
    corpus, data_folder
        See `ser_peft.data.prepare`.
    class_set : dict
        The corpus's label -> class, empty without classes.
    protocols : dict
        Name -> `Folds`, `RandomSplit` or `Whole`.
    utterances : list of Utterance or None
        The whole corpus, if it had to be read for these.
    content : str or None
        Hash of them.
    """

    corpus: str
    data_folder: str
    class_set: dict
    protocols: dict
    utterances: list | None = None
    content: str | None = None

    @cached_property
    def everything(self):
        """The whole corpus, list of Utterance."""
        if self.utterances is not None:
            return self.utterances
        return load_corpus(self.corpus).read(self.data_folder)

    def protocol(self, name=None, dimensions=()):
        """Find a protocol; inner folds are dealt now.

        Arguments
        ---------
        name : str, optional
            One of ``protocols``, the first one by default; or
            ``<protocol>/inner``, see `ser_peft.corpora.inner.inner_folds`.
        dimensions : list of str
            See `ser_peft.data.prepare`.

        Returns
        -------
        Folds, RandomSplit, Whole or InnerFolds

        Raises
        ------
        InputError
            If there is no such protocol.
        """
        name = name or next(iter(self.protocols))
        if name in [*self.protocols]:
            return self.protocols[name]
        outer, fold = inner_name(str(name)) or (None, None)
        if outer not in self.protocols:
            raise InputError(
                f"protocol {name}: {self.corpus} has "
                f"{', '.join(self.protocols)}, and of each NAME the inner "
                "folds NAME/inner"
            )
        outer = self.protocols[outer]
        return inner_folds(outer, fold, *self.clips(outer.label, dimensions))

    def split(self, protocol, fold, dimensions=()):
        """Split the utterances of the class set that have all dimensions.

        Arguments
        ---------
        protocol : Folds, RandomSplit, Whole or InnerFolds
            How to split them.
        fold : int
            From 1.
        dimensions : list of str
            See `ser_peft.data.prepare`.

        Returns
        -------
        splits : dict
            ``train``, ``valid`` and ``test`` lists of `Utterance`; no
            ``test`` where the protocol has none.
        labels : dict
            Utterance id -> class, None without classes.

        Raises
        ------
        InputError
            If there is no such folder, label, fold or dimension, or two
            utterances have one id.
        """
        utterances, labels = self.clips(protocol.label, dimensions)
        return protocol.split(utterances, fold, labels), labels

    def clips(self, label, dimensions=()):
        """Utterances of the class set that have all dimensions.

        Arguments
        ---------
        label : str
            The label that is the emotion.
        dimensions : list of str
            See `ser_peft.data.prepare`.

        Returns
        -------
        utterances : list of Utterance
            In the corpus's order.
        labels : dict
            Utterance id -> class, None without classes.

        Raises
        ------
        InputError
            See `split`.
        """
        chosen = relabel(self.everything, self.class_set, label)
        for name in dimensions:
            if not any(has_all(u.labels, [name]) for u, _ in chosen):
                raise InputError(
                    f"dimensions: {self.corpus} has no numbers '{name}'; leave "
                    "it out"
                )
        rated = [one for one in chosen if has_all(one[0].labels, dimensions)]
        if len(rated) < len(chosen):
            logger.warning(
                "%s: %d of %d utterances lack %s and are left out",
                self.corpus, len(chosen) - len(rated), len(chosen),
                " or ".join(dimensions),
            )  # fmt: skip
        labels = {}
        for utterance, name in rated:
            if utterance.id in labels:
                raise InputError(
                    f"{self.corpus}: two utterances have the id "
                    f"'{utterance.id}'; correct its reader"
                )
            labels[utterance.id] = name
        return [u for u, _ in rated], labels


def choose(corpus, data_folder, classes, whole=False):
    """Find a class set of a corpus, and its protocols.

    Arguments
    ---------
    corpus, data_folder, classes
        See `ser_peft.data.prepare`.
    whole : bool
        Test all of it: its speakers need not be enough for folds.

    Returns
    -------
    Source
        Read only where classes or protocols depend on the content.

    Raises
    ------
    InputError
        If there is no such corpus or class set.
    """
    reader = load_corpus(corpus)
    utterances, content = None, None
    if hasattr(reader, "class_sets"):
        utterances = reader.read(data_folder)
        content = hashlib.sha256(repr(utterances).encode()).hexdigest()
    if classes == 0 or isinstance(classes, dict):
        class_set = classes or {}
        for label, name in class_set.items():
            if not isinstance(name, str):
                raise InputError(
                    f"classes: {label}: {name} is no text; write '{name}'"
                )
    else:
        sets = (
            reader.CLASS_SETS
            if utterances is None
            else reader.class_sets(utterances)
        )
        if classes is None:
            classes = next(iter(sets))
        if classes not in [*sets]:
            raise InputError(
                f"classes {classes}: {corpus} has sets of "
                f"{', '.join(map(str, sets))}; or give a mapping"
            )
        class_set = sets[classes]
    if utterances is None:
        protocols = reader.PROTOCOLS
    elif whole:
        protocols = {"whole": Whole()}
    else:
        protocols = reader.protocols(utterances, class_set)
    return Source(
        corpus, data_folder, class_set, protocols, utterances, content
    )
