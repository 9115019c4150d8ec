"""Manifests as they are written: checked, hashed, with warnings."""

import logging
import os
from collections import defaultdict
from pathlib import Path

from ser_peft.corpora.balance import confounding
from ser_peft.corpora.protocols import SPLITS
from ser_peft.corpora.splits import (
    check_splits,
    fingerprint,
    leaks,
    missing_classes,
)
from ser_peft.corpora.transcripts import GOLD
from ser_peft.data.checking import durations
from ser_peft.data.manifests import read_manifests
from ser_peft.errors import InputError
from ser_peft.io import write_json

__all__ = ["add_durations", "entries_of", "held", "root_of", "write_manifests"]

logger = logging.getLogger(__name__)

RESERVED = ("id", "duration", "sig", "label", "values")
"""Names of items that a corpus's own labels may not take."""


def root_of(data_folder):
    """Folder that a corpus's paths are relative to; a csv lies in it."""
    root = os.path.abspath(data_folder)
    return os.path.dirname(root) if os.path.isfile(root) else root


def held(folder, request):
    """Whether whole manifests of this request exist; warns of them again."""
    try:
        about, _ = read_manifests(folder)
    except InputError:
        return False
    same = all(about.get(key) == value for key, value in request.items())
    if same:
        _warn(about)
    return same


def write_manifests(splits, labels, save_folder, about, roots=None):
    """Check the audio of splits and write them as SpeechBrain manifests.

    Arguments
    ---------
    splits : dict
        ``train``, ``valid`` and, but for inner folds, ``test`` lists of
        `Utterance`.
    labels : dict
        Utterance id -> class; None where there are none.
    save_folder : str or Path
        Gets one JSON a split and ``protocol.json``, written last. What is
        wrong with recordings is listed beside it, in a file of its name and
        ``.audio.txt``.
    about : dict
        Content of `protocol.json` besides the hash and what is measured
        here: `missing_classes`, `confounding` and, where speakers are
        shared, the `leaks`. ``data_folder`` and ``classes`` are needed here;
        see `read_manifests` for the others.
    roots : dict, optional
        Corpus -> its folder, where utterances have a label ``corpus``: the
        memory of checked audio is that of the corpus's own manifests.

    Raises
    ------
    InputError
        If recordings cannot be used or the splits are not honest.
    """
    root, classes = about["data_folder"], about["classes"]
    manifests = {
        split: entries_of(utterances, labels, root)
        for split, utterances in splits.items()
    }
    shares = about.get("shares_speakers", False)
    check_splits(
        manifests,
        classes,
        shares,
        about.get("dimensions", ()),
        about.get("side_classes", ()),
    )
    about = {**about, "missing_classes": missing_classes(manifests, classes)}
    if shares:
        about["leaks"] = leaks(manifests)
    if classes:
        about["confounding"] = confounding(
            [
                entry
                for entries in manifests.values()
                for entry in entries.values()
                if entry["emotion"] in classes
            ]
        )
    _warn(about)
    wavs = {u.id: u.wav for us in splits.values() for u in us}
    add_durations(
        manifests,
        wavs,
        save_folder,
        (lambda entry: roots[entry["corpus"]]) if roots else lambda _: root,
    )
    # Removed first, written last: if it is there, all files fit one request.
    done = Path(save_folder) / "protocol.json"
    done.unlink(missing_ok=True)
    for split in SPLITS:  # none is left of another request
        (Path(save_folder) / f"{split}.json").unlink(missing_ok=True)
    for split, entries in manifests.items():
        write_json(Path(save_folder) / f"{split}.json", entries)
    write_json(done, {**about, "protocol_sha": fingerprint(manifests)})


def add_durations(manifests, wavs, folder, root):
    """Check the recordings of entries, and set each one's ``duration``.

    Arguments
    ---------
    manifests : dict
        Split -> {utterance id: entry}; the entries are changed in place.
    wavs : dict
        Utterance id -> path.
    folder : str or Path
        Faults are listed in the file of this name and ``.audio.txt``.
    root : callable
        Takes an entry, gives the folder of its corpus: what is found of its
        recordings is remembered for that folder.

    Raises
    ------
    InputError
        If recordings cannot be used.
    """
    entries = [pair for part in manifests.values() for pair in part.items()]
    by_root = defaultdict(list)
    for key, entry in entries:
        by_root[root(entry)].append(wavs[key])
    seconds = durations(by_root, f"{os.path.abspath(folder)}.audio.txt")
    for key, entry in entries:
        entry["duration"] = round(seconds[str(wavs[key])], 4)


def entries_of(utterances, labels, root):
    """Manifest entries of utterances, without durations.

    Arguments
    ---------
    utterances : list of Utterance
        Utterances of a corpus.
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


def _warn(about):
    """Warn of what scores do not show, by a `protocol.json`."""
    where = "{corpus}, {protocol}, fold {fold}".format_map(about)
    if about.get("leaks"):
        shared = (
            f"{share:.0%} of its {kind.replace('_', ' ')}"
            for kind, share in about["leaks"].items()
        )
        logger.warning(
            "%s: the test set shares with train %s: the scores are not those "
            "of unheard speakers", where, ", ".join(shared),
        )  # fmt: skip
    for split, names in about.get("missing_classes", {}).items():
        logger.warning(
            "%s: no clip of %s in %s: its scores are over %d of %d classes",
            where, ", ".join(f"'{name}'" for name in names), split,
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
            "%s: the speaker gives away the class: %d of %d speakers with "
            "several clips have one class only, and two clips of a speaker "
            "are of one class in %.0f %% of all cases (%.0f %% by chance): a "
            "model may learn voices, not emotions; %s",
            about["corpus"], found["one_class"], found["speakers"],
            100 * found["same_class"], 100 * found["expected"], meaning,
        )  # fmt: skip
