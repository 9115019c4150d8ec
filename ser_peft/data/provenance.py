"""Who was heard: the speakers that a model, or any part of it, learned of."""

import logging
from collections import defaultdict
from pathlib import Path

from ser_peft.corpora.emobox import own_name
from ser_peft.errors import InputError
from ser_peft.io import write_json
from ser_peft.storage.model_files import HeardFile
from ser_peft.storage.schema import read_json

__all__ = ["RECORD", "Heard", "speakers_of"]

logger = logging.getLogger(__name__)

RECORD = "heard.json"
"""Record's file in a ``model/`` folder, and beside a merged encoder."""


def speakers_of(about, entries):
    """Speakers of a manifest, under the names of their own corpora.

    Arguments
    ---------
    about : dict
        ``protocol.json`` of the manifests.
    entries : iterable of dict
        Of a manifest.

    Returns
    -------
    set of tuple
        (corpus, speaker): those of a pool and of EmoBox too are named as by
        the corpus's own recipe.

    Example
    -------
    >>> pooled = {"corpus": "emobox:cremad", "speaker": "emobox:cremad/1001"}
    >>> speakers_of({"corpus": "pooled"}, [pooled])
    {('crema-d', '1001')}
    """
    found = set()
    for entry in entries:
        corpus, speaker = about["corpus"], entry["speaker"]
        if corpus == "pooled":
            corpus = entry["corpus"]
            speaker = speaker.removeprefix(f"{corpus}/")
        found.add((own_name(corpus), speaker))
    return found


class Heard:
    """Record of whom a run hears: in training, for choosing, before it began.

    Arguments
    ---------
    about : dict
        ``protocol.json`` of the run's manifests.
    sets : dict
        Split -> DynamicItemDataset or manifest.
    trust : bool
        Take a start without a record; the record says so for good.

    Example
    -------
    >>> about = {"corpus": "x", "protocol_sha": "a"}
    >>> sets = {"train": {"1": {"speaker": "s"}}, "valid": {}, "test": {}}
    >>> Heard(about, sets).record["speakers"]
    {'x': ['s']}
    """

    def __init__(self, about, sets, trust=False):
        self.about, self.trust = about, trust
        heard, self.tested = (
            {
                pair
                for split in splits
                for pair in speakers_of(
                    about, getattr(sets[split], "data", sets[split]).values()
                )
            }
            for splits in (("train", "valid"), ("test",))
        )
        if heard & self.tested and not about.get("shares_speakers"):
            # As of a corpus's recipe and EmoBox's in one pool.
            raise InputError(
                f"{about['protocol']}: trains on speakers whom it tests "
                f"({_names(heard & self.tested)}); leave one of the corpora out"
            )
        self.record = {
            "speakers": _by_corpus(heard),
            "deals": [about["protocol_sha"]],
            "trust_start": [],
        }

    def add(self, key, folder, needed=True):
        """Carry on what a start has heard.

        Arguments
        ---------
        key : str
            Of the yaml, for messages.
        folder : str or Path
            ``model/``, an adapter in it, or an encoder.
        needed : bool
            Whether what has no record is refused, or as a public encoder
            taken for one that heard nobody of the corpora.

        Raises
        ------
        InputError
            If it has heard any of the run's test speakers, or has no record
            and is not trusted.
        """
        folder = Path(folder)
        places = folder / RECORD, folder.parent / RECORD
        path = next(filter(Path.is_file, places), None)
        if path:
            wrong, advice = "is no record of speakers", "copy it again"
            start = read_json(path, HeardFile, wrong, advice)
            self._carry(key, folder, start.model_dump())
        elif self.trust and needed:
            self.record["trust_start"].append(f"{key}: {folder}")
            logger.warning(
                "%s %s: has no record of whom it has heard; it is trusted, "
                "and results.json says so", key, folder,
            )  # fmt: skip
        elif needed:
            raise InputError(
                f"{key} {folder}: has no {RECORD}, so that nobody can tell "
                "whether it has heard those whom this run tests; train it "
                "again, or vouch for it by --trust_start=True"
            )

    def _carry(self, key, folder, start):
        before = {
            (corpus, speaker)
            for corpus, speakers in start["speakers"].items()
            for speaker in speakers
        }
        both = before & self.tested
        # Where a corpus's own deal tests speakers of train, a start may have
        # heard as much as this very deal's training will.
        same = {*start["deals"]} <= {self.about["protocol_sha"]}
        if both and not (same and self.about.get("shares_speakers")):
            raise InputError(
                f"{key} {folder}: has heard {len(both)} of the "
                f"{len(self.tested)} speakers whom this run tests "
                f"({_names(both)}); give one trained on the same fold of the "
                "same protocol, or on other corpora"
            )
        now = {
            (corpus, speaker)
            for corpus, speakers in self.record["speakers"].items()
            for speaker in speakers
        }
        self.record = {
            "speakers": _by_corpus(now | before),
            **{
                name: [*dict.fromkeys(self.record[name] + start[name])]
                for name in ("deals", "trust_start")
            },
        }

    def write(self, folder):
        """Put the record into a ``model/`` folder."""
        write_json(Path(folder) / RECORD, self.record)


def _names(pairs, most=5):
    """The first few speakers, for a message."""
    names = [f"{speaker} of {corpus}" for corpus, speaker in sorted(pairs)]
    if len(names) > most:
        names[most:] = ["..."]
    return ", ".join(names)


def _by_corpus(pairs):
    found = defaultdict(list)
    for corpus, speaker in sorted(pairs):
        found[corpus].append(speaker)
    return dict(found)
