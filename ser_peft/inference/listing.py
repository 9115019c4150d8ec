"""Lists of recordings: files, folders, globs, manifests, standard input."""

import glob
import json
import os
import sys
import tempfile
from pathlib import Path

from ser_peft.errors import InputError

__all__ = ["Listing"]

SUFFIXES = frozenset(
    ".3gp .aac .aif .aifc .aiff .amr .au .avi .caf .flac .m4a .mka .mkv .mov "
    ".mp3 .mp4 .mpeg .oga .ogg .opus .rf64 .snd .sph .w64 .wav .webm "
    ".wma".split()
)
"""Files of a folder that are taken for recordings."""


class Listing:
    """Recordings that arguments name, in an order that stays.

    It can be gone through again and again, and holds one folder's names at
    a time.

    Arguments
    ---------
    places : list of str
        Files; folders, all of whose sound files are meant, also those of
        subfolders; globs, as ``calls/**/*.wav``; manifests (``.json``); and
        ``-`` for standard input, a path a line.
    texts : list of str, optional
        Transcript of each place, if all of them are files.

    Raises
    ------
    InputError
        If a place has no recordings, or texts are not one a file.
    """

    def __init__(self, places, texts=None):
        self._spool = None
        self.places = []
        for place in places:
            if place == "-":
                self._spool = self._spool or _spooled()
                self.places.append((_lines, self._spool))
            elif os.path.isdir(place):
                self.places.append((_walk, place))
            elif place.endswith(".json") and os.path.exists(place):
                self.places.append((_entries, place))
            elif glob.has_magic(place) and not os.path.lexists(place):
                self.places.append((_matches, place))
            else:
                self.places.append((_one, place))
        if texts and (
            len(texts) != len(places)
            or any(find is not _one for find, _ in self.places)
        ):
            raise InputError(
                f"--texts: {len(texts)} for {len(places)} audio files; give "
                "one each, or a manifest with texts"
            )
        self.texts = texts

    def __iter__(self):
        """Go through the recordings.

        Yields
        ------
        path, text : str, str or None
        """
        for number, (find, place) in enumerate(self.places):
            found = False
            for path, text in find(place):
                found = True
                yield path, self.texts[number] if self.texts else text
            if not found:
                raise InputError(_NOTHING[find].format(place))


def _one(path):
    yield path, None


def _matches(pattern):
    for path in sorted(glob.iglob(pattern, recursive=True)):
        if os.path.isfile(path):
            yield path, None


def _walk(folder):
    for top, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            if os.path.splitext(name)[1].lower() in SUFFIXES:
                yield os.path.join(top, name), None


def _spooled():
    """Copy standard input, which cannot be read twice, to a file."""
    spool = tempfile.TemporaryFile()
    while block := sys.stdin.buffer.read(1 << 20):
        spool.write(block)
    return spool


def _lines(spool):
    spool.seek(0)
    for line in spool:
        path = os.fsdecode(line.rstrip(b"\r\n"))
        if path.strip():
            yield path, None


def _entries(path):
    """Read a manifest of one split, as SpeechBrain has it."""
    wrong = (
        f"{path}: is no manifest: give JSON of id -> {{'wav': path}}, as "
        "`ser-peft prepare` writes it"
    )
    try:
        entries = json.loads(Path(path).read_text("utf-8"))
        wavs = [(entry["wav"], entry.get("text")) for entry in entries.values()]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(wrong) from error
    if not all(isinstance(wav, str) for wav, _ in wavs):
        raise InputError(wrong)
    root = _root(path) if any("{data_root}" in wav for wav, _ in wavs) else ""
    for wav, text in wavs:
        yield wav.replace("{data_root}", root, 1), text


def _root(manifest):
    """Data folder of a manifest, from the ``protocol.json`` beside it."""
    path = Path(manifest).with_name("protocol.json")
    try:
        return json.loads(path.read_text("utf-8"))["data_folder"]
    except (OSError, TypeError, KeyError, ValueError) as error:
        raise InputError(
            f"{path}: names no data_folder, which {manifest} needs; make both "
            "with `ser-peft prepare`"
        ) from error


_NOTHING = {
    _one: "{}: nothing there",
    _matches: "{}: no file matches; correct the pattern",
    _walk: "{}: no sound files in this folder; give another one",
    _lines: "-: no paths on standard input; give one a line",
    _entries: "{}: no entries; give another manifest",
}
