"""Provenance: the speakers that a model, or any part of it, has heard."""

import logging
from collections import defaultdict
from pathlib import Path

from ser_peft.corpora.emobox import own_name
from ser_peft.errors import InputError
from ser_peft.io import write_json
from ser_peft.storage.closed import origins_of
from ser_peft.storage.model_files import HeardFile
from ser_peft.storage.schema import read_json

__all__ = ["RECORD", "Heard", "speakers_of"]

logger = logging.getLogger(__name__)

RECORD = "heard.json"
"""File of the record in a ``model/`` folder, and beside a merged encoder."""


def speakers_of(about, entries):
    """Speakers of a manifest, under the names of their own corpora.

    Arguments
    ---------
    about : dict
        ``protocol.json`` of the manifests.
    entries : iterable of dict
        A manifest's entries.

    Returns
    -------
    set of tuple
        Pairs (corpus, speaker), named as by the corpus's own recipe, also
        where it is one of several or described by EmoBox.

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
    """Record of the speakers of train and valid, and of what a run starts from.

    Arguments
    ---------
    about : dict
        ``protocol.json`` of the run's manifests.
    sets : dict
        Split -> DynamicItemDataset or manifest.
    trust : bool
        Accept a start without a record; results say so for good.

    Example
    -------
    >>> about = {"corpus": "x", "protocol_sha": "a"}
    >>> sets = {"train": {"1": {"speaker": "s"}}, "valid": {}, "test": {}}
    >>> Heard(about, sets).record["speakers"]
    {'x': ['s']}
    """

    def __init__(self, about, sets, trust=False):
        self.about, self.trust = about, trust
        found = {
            split: speakers_of(about, getattr(part, "data", part).values())
            for split, part in sets.items()
        }
        self.heard = found["train"] | found["valid"]
        # Nobody but the test may hear these.
        held_out = [{"speaker": s} for s in about.get("held_out_speakers", ())]
        self.closed = found.get("test", speakers_of(about, held_out))
        self.tested = self.closed
        if about.get("scored_on") == "valid":
            self.tested = self.closed | found["valid"]
        both = self.heard & self.closed
        if both and not about.get("shares_speakers"):
            # A corpus's recipe and EmoBox's name the same speakers.
            raise InputError(
                f"{about['protocol']}: trains on speakers whom it tests "
                f"({_names(both)}); leave one of the corpora out"
            )
        self.protocols, self.trusted = [about["protocol_sha"]], []
        self.origins = []
        """Models of the hub that it starts from: `closed.origins_of`."""

    @property
    def record(self):
        """Content of ``heard.json``."""
        speakers = defaultdict(list)
        for corpus, speaker in sorted(self.heard):
            speakers[corpus].append(speaker)
        return {
            "speakers": dict(speakers),
            "deals": self.protocols,
            "trust_start": self.trusted,
        }

    def add(self, key, folder, needed=True):
        """Add the speakers that a start has heard.

        Arguments
        ---------
        key : str
            The yaml's key, for messages.
        folder : str or Path
            ``model/``, an adapter in it, or an encoder.
        needed : bool
            Refuse a start without a record. Without this it counts as a
            public encoder, which has heard no speaker of the corpora.

        Raises
        ------
        InputError
            If it has heard any of the run's test speakers, or has no record
            and is not trusted.
        """
        folder = Path(folder)
        self.origins += origins_of(folder)
        places = folder / RECORD, folder.parent / RECORD
        path = next(filter(Path.is_file, places), None)
        if path:
            wrong, advice = "is no record of speakers", "copy it again"
            self._carry(key, folder, read_json(path, HeardFile, wrong, advice))
        elif self.trust and needed:
            self.trusted.append(f"{key}: {folder}")
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
        """Add the record of a start."""
        before = {
            (corpus, speaker)
            for corpus, speakers in start.speakers.items()
            for speaker in speakers
        }
        both = before & self.tested
        # Where a corpus's own split tests speakers of train, a start may have
        # heard as much as training on this very split will; and all that
        # trains on inner folds chooses by the valid speakers it is scored on.
        same = {*start.deals} <= {self.about["protocol_sha"]}
        open_ = self.about.get("shares_speakers") or not both & self.closed
        if both and not (same and open_):
            raise InputError(
                f"{key} {folder}: has heard {len(both)} of the "
                f"{len(self.tested)} speakers whom this run tests "
                f"({_names(both)}); give one trained on the same fold of the "
                "same protocol, or on other corpora"
            )
        self.heard |= before
        self.protocols = [*dict.fromkeys(self.protocols + start.deals)]
        self.trusted = [*dict.fromkeys(self.trusted + start.trust_start)]

    def write(self, folder):
        """Put the record into a ``model/`` folder."""
        write_json(Path(folder) / RECORD, self.record)


def _names(pairs, most=5):
    """The first few speakers, for a message."""
    names = [f"{speaker} of {corpus}" for corpus, speaker in sorted(pairs)]
    return ", ".join(names[:most] + ["..."] * (len(names) > most))
