"""Any corpus that EmoBox describes, split and labelled as EmoBox does.

Ma et al. 2024, "EmoBox: Multilingual Multi-corpus Speech Emotion Recognition
Toolkit and Benchmark", Interspeech. Its manifests have no licence file: they
are read from the user's copy.
"""

import logging
import re
from collections import Counter
from pathlib import Path

import numpy as np
import soundfile
from pydantic import ConfigDict
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from typing_extensions import NotRequired, TypedDict

from ser_peft.corpora import About, Utterance
from ser_peft.corpora.protocols import SPLITS, Folds, by_name, class_sets
from ser_peft.errors import InputError
from ser_peft.io import find_file, refuse_pointer
from ser_peft.storage.schema import Name, Number, parse, read_json

__all__ = ["EmoBox", "own_name"]

logger = logging.getLogger(__name__)

SPEAKER = re.compile(r"<id=(.*?),lang=.*?,spk=(.*?),emotion=")
SOUND = {f".{kind.lower()}" for kind in soundfile.available_formats()}
# Corpora that have a recipe of another name.
OWN_NAMES = {
    "cremad": "crema-d", "emovdb": "emov-db", "msppodcast": "msp-podcast",
}  # fmt: skip
# EmoBox names the dialogue's actor as speaker in IEMOCAP, but both speak.
TURN = re.compile(r"(Ses\d\d)[FM]_.*_([FM])\d+$")
FOLDS = 5  # where EmoBox has no valid set, one of so many parts of train is


AGAIN = "take EmoBox's data folder whole"


class Entry(TypedDict):
    """Entry of a manifest, and what else is in it."""

    __pydantic_config__ = ConfigDict(extra="allow")

    key: Name
    wav: Name
    emo: Name
    start_time: NotRequired[Number]
    end_time: NotRequired[Number]


class EmoBox:
    """Reader of one of EmoBox's corpora.

    Arguments
    ---------
    name : str
        Name of its folder, as ``emodb``.
    """

    class_sets = staticmethod(class_sets)

    ABOUT = About(restricted=True)
    """No manifest says what a corpus's licence allows."""

    def __init__(self, name):
        self.name = name

    def read(self, folder):
        """List the utterances.

        Arguments
        ---------
        folder : str or Path
            EmoBox's ``data``; the recordings are beside it, in
            ``downloads``, at the paths that the manifests give. The sound of
            videos is expected beside them, as wav or flac.

        Returns
        -------
        list of Utterance
            Sorted by id. The label ``emotion`` is that of the label map in
            small letters; ``group`` is the split in each fold: ``"train
            test"``. Utterances without recording or without class are left
            out, with a warning that counts them.

        Raises
        ------
        InputError
            If a manifest is missing or broken, or no recording is there.
        """
        root = Path(folder).absolute() / self.name
        if not self.name or not (root / "fold_1").is_dir():
            known = sorted(p.parent.name for p in root.parent.glob("*/fold_1"))
            raise InputError(
                f"data_folder {folder}: no corpus '{self.name}' of EmoBox; "
                f"it has {', '.join(known) or 'none: give its folder data'}"
            )
        label_map = read_json(
            root / "label_map.json", dict[str, Name], "is no label map", AGAIN
        )
        # The manifests do not always write labels as the map does.
        classes = {k.lower(): name.lower() for k, name in label_map.items()}
        # The only file that names speakers.
        stm = root / "data.seg.wrd.stm"
        speakers = {
            key: _own_speaker(self.name, key, speaker)
            for key, speaker in SPEAKER.findall(_text(stm))
        }
        entries, folds = {}, []
        for number in range(1, len([*root.glob("fold_*")]) + 1):
            folds.append(_fold(root, number, entries))
        paths = {key: _find(root.parents[1], e) for key, e in entries.items()}
        if not any(paths.values()):
            places = [entry["wav"] for entry in entries.values()]
            place = [*places, f"downloads/{self.name}"][0]
            raise InputError(
                f"{root.parents[1] / place}: no such file, nor any other of "
                f"{self.name}; put downloads/{self.name} beside the folder "
                "data, laid out as in its manifests"
            )
        labels = {k: classes.get(e["emo"].lower()) for k, e in entries.items()}
        kept = sorted(k for k in entries if paths[k] and labels[k])
        if len(kept) < len(entries):
            logger.warning(
                "emobox:%s: %d of %d utterances are left out: %d have no "
                "recording, %d no class in label_map.json",
                self.name, len(entries) - len(kept), len(entries),
                sum(p is None for p in paths.values()),
                sum(label is None for label in labels.values()),
            )  # fmt: skip
        for key in kept:
            if key not in speakers:
                raise InputError(f"{stm}: names no speaker of {key}; {AGAIN}")
        for fold in folds:
            if "valid" not in fold.values():
                _hold_out(fold, kept, labels, speakers)
        return [
            Utterance(
                id=key,
                wav=paths[key],
                speaker=speakers[key],
                labels={"emotion": labels[key]},
                group=" ".join(fold.get(key, "-") for fold in folds),
            )
            for key in kept
        ]

    @staticmethod
    def protocols(utterances, class_set=None):
        """EmoBox's folds.

        Arguments
        ---------
        utterances : list of Utterance
            From `read`.
        class_set : dict, optional
            Unused.

        Returns
        -------
        dict
            ``emobox``. Where EmoBox has no valid set, about a fifth of train
            becomes one: a fifth of its speakers if there are at least four,
            so that three train, else of each class's utterances.
        """
        groups = sorted({u.group for u in utterances})
        sets = {
            split: [
                [group for group in groups if group.split()[k] == split]
                for k in range(len(groups[0].split()))
            ]
            for split in SPLITS
        }
        seen = {
            (k, u.speaker, split)
            for u in utterances
            for k, split in enumerate(u.group.split())
            if split in SPLITS
        }
        shares = len({(k, speaker) for k, speaker, _ in seen}) < len(seen)
        return by_name(
            Folds("emobox", **sets, by="group", shares_speakers=shares)
        )


def own_name(corpus):
    """Name of a corpus, also where EmoBox describes it.

    Arguments
    ---------
    corpus : str
        Name for `ser_peft.corpora.load_corpus`.

    Returns
    -------
    str
        Name by its own recipe, where it has one.

    Example
    -------
    >>> own_name("emobox:cremad"), own_name("emobox:savee"), own_name("meld")
    ('crema-d', 'savee', 'meld')
    """
    if not corpus.startswith("emobox:"):
        return corpus
    name = corpus.removeprefix("emobox:")
    return OWN_NAMES.get(name, name)


def _own_speaker(corpus, key, speaker):
    """Name of a speaker by the corpus's own recipe."""
    if corpus == "iemocap" and (turn := TURN.search(key)):
        return "".join(turn.groups())
    return speaker.rpartition("_")[2] if corpus == "emodb" else speaker


def _text(path):
    refuse_pointer(path)
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: cannot be read ({error}); {AGAIN}"
        ) from error


def _fold(root, number, entries):
    """Map keys to splits of a fold; add the manifests' entries to `entries`."""
    fold = {}
    for split in SPLITS:
        name = f"{root.name}_{split}_fold_{number}.jsonl"
        path = root / f"fold_{number}" / name
        if split == "valid" and not path.exists():
            continue
        for row, line in enumerate(_text(path).splitlines(), start=1):
            where = f"{path}, row {row}"
            entry = parse(where, line.encode(), Entry, "is no entry", AGAIN)
            fold[entry["key"]] = split
            entries[entry["key"]] = entry
    return fold


def _find(root, entry):
    """Path of a recording, or of the sound beside a video, or None."""
    path = root / entry["wav"]
    found = [path] if path.suffix.lower() in SOUND else []
    found += [path.with_suffix(".wav"), path.with_suffix(".flac")]
    for path in map(find_file, found):
        if path.is_file():
            if "end_time" in entry:  # a stretch of a long recording
                times = f"#t={entry['start_time']},{entry['end_time']}"
                return path.with_name(path.name + times)
            return path
    return None


def _hold_out(fold, kept, labels, speakers):
    """Make a fifth of train valid, by speakers where there are enough."""
    train = np.array([key for key in kept if fold.get(key) == "train"])
    names = np.array([labels[key] for key in train])
    voices = np.array([speakers[key] for key in train])
    parts = min(FOLDS, max(Counter(names.tolist()).values(), default=0))
    if parts < 2:
        return
    if len(set(voices)) < 4:
        splitter = StratifiedKFold(parts, shuffle=True, random_state=0)
        voices = None
    else:
        splitter = StratifiedGroupKFold(min(parts, len(set(voices))))
    halves = [*splitter.split(train, names, voices)]
    # A class may have only one speaker, who then has to train.
    held = next(
        (held for rest, held in halves if set(names[rest]) == set(names)),
        halves[0][1],
    )
    fold.update(dict.fromkeys(train[held].tolist(), "valid"))
