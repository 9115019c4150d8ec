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

__all__ = ["RECORD", "Heard", "record_of", "speakers_of", "united"]

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


def record_of(key, folder, trust=False, needed=True):
    """Read the record of whom a model, or a part of one, has heard.

    Arguments
    ---------
    key : str
        The yaml's key, or what the model is for, for messages.
    folder : str or Path
        ``model/``, an adapter in it, or an encoder.
    trust : bool
        Take one without a record; that says so.
    needed : bool
        Refuse one without a record. Without this it counts as a public
        encoder, which has heard no speaker of the corpora.

    Returns
    -------
    HeardFile or None
        None without a record where none is needed.

    Raises
    ------
    InputError
        If it has no record and is not trusted.
    """
    folder = Path(folder)
    places = folder / RECORD, folder.parent / RECORD
    path = next(filter(Path.is_file, places), None)
    if path:
        wrong, advice = "is no record of speakers", "copy it again"
        return read_json(path, HeardFile, wrong, advice)
    if not needed:
        return None
    if not trust:
        raise InputError(
            f"{key} {folder}: has no {RECORD}, so that nobody can tell "
            "whether it has heard those whom this run tests; train it "
            "again, or vouch for it by --trust_start=True"
        )
    logger.warning(
        "%s %s: has no record of whom it has heard; it is trusted, and "
        "results.json says so", key, folder,
    )  # fmt: skip
    return HeardFile(speakers={}, deals=[], trust_start=[f"{key}: {folder}"])


def pairs_of(speakers):
    """Pairs (corpus, speaker) of a record's ``speakers``."""
    return {(corpus, one) for corpus, all in speakers.items() for one in all}


def by_corpus(pairs):
    """Corpus -> its speakers, as a record has them."""
    speakers = defaultdict(list)
    for corpus, speaker in sorted(pairs):
        speakers[corpus].append(speaker)
    return dict(speakers)


def united(records):
    """Unite the records of several models.

    Arguments
    ---------
    records : list of HeardFile
        From `record_of`.

    Returns
    -------
    dict
        Content of ``heard.json``: the speakers whom any of them has heard.

    Example
    -------
    >>> records = [
    ...     HeardFile(speakers={"x": [name]}, deals=["a"], trust_start=[])
    ...     for name in "ts"
    ... ]
    >>> united(records)["speakers"]
    {'x': ['s', 't']}
    """
    heard = set().union(*(pairs_of(one.speakers) for one in records))
    chained = {
        key: [*dict.fromkeys(x for one in records for x in getattr(one, key))]
        for key in ("deals", "trust_start")
    }
    return {"speakers": by_corpus(heard), **chained}


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
        return {
            "speakers": by_corpus(self.heard),
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
        self.origins += origins_of(folder)
        if record := record_of(key, folder, self.trust, needed):
            self._carry(key, folder, record)

    def _carry(self, key, folder, start):
        """Add the record of a start."""
        before = pairs_of(start.speakers)
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
