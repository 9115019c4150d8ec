"""Headers of sound files: the length that they claim; other kinds of files."""

import mmap
import os
import re
import shlex
import struct
from pathlib import Path
from typing import NamedTuple

from soundfile import LibsndfileError

from ser_peft.data.containers import NoSound
from ser_peft.io import is_pointer

__all__ = [
    "bytes_of",
    "explain",
    "foreign",
    "has_end",
    "is_sound",
    "nist_frames",
    "sound_chunk",
]


class _Chunk(NamedTuple):
    """The chunk of a file that its sound is in."""

    place: int  # where the header has its size
    kind: str  # format of that number, for struct
    claimed: int  # its size as the header has it, bytes
    held: int  # bytes from its beginning to the end of the file
    more: bool  # whether there is sound after the claimed bytes

    @property
    def unknown(self):
        """Whether the writer did not know the size yet.

        It then left 0, or about the largest number of 31, 32 or 64 bits.
        """
        near = (abs(self.claimed - limit) for limit in (1 << 31, 1 << 32))
        return not self.claimed or self.claimed >> 62 or min(near) <= 1 << 16

    @property
    def misleads(self):
        """Whether libsndfile would read less than there is."""
        return self.more or (self.unknown and self.kind != "<I")

    def seconds(self, read):
        """Seconds that the header claims, where `read` could be read."""
        if self.unknown or (self.claimed <= self.held and not self.more):
            return read
        return read * self.claimed / max(self.held, 1)

    def corrected(self, file):
        """File-like object whose header has the right size."""
        most = (1 << 8 * struct.calcsize(self.kind)) - 1
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        struct.pack_into(self.kind, content, self.place, min(self.held, most))
        return content


# Magic -> place of the first chunk, format of a chunk's head, bytes that its
# size counts besides the content, and the multiple that chunks are padded to.
FORMS = {
    b"RIFF": (12, "<4sI", 0, 2),
    b"RIFX": (12, ">4sI", 0, 2),
    b"RF64": (12, "<4sI", 0, 2),
    b"BW64": (12, "<4sI", 0, 2),
    b"FORM": (12, ">4sI", 0, 2),
    b"riff": (40, "<16sQ", 24, 8),
}
TAGS = b"ID3", b"TAG", b"APETAGEX", b"LYRICSBEGIN"


def sound_chunk(file):
    """`_Chunk` of a wav, w64, aiff or au; None of any other file."""
    end = os.fstat(file.fileno()).st_size
    magic = bytes_of(file, 0, 4)
    if magic == b".snd" and end >= 12:
        start, claimed = struct.unpack(">II", bytes_of(file, 4, 8))
        held = max(0, end - start)
        return _Chunk(8, ">I", claimed, held, claimed < held)
    if magic not in FORMS:
        return None
    at, head, besides, multiple = FORMS[magic]
    wide = None
    while at + struct.calcsize(head) <= end:
        name, size = struct.unpack(
            head, bytes_of(file, at, struct.calcsize(head))
        )
        size = max(0, size - besides)
        at += struct.calcsize(head)
        if name == b"ds64":
            wide = at + 8
        if name[:4] in (b"data", b"SSND"):
            kind = head[0] + head[-1]
            place = at - struct.calcsize(kind)
            if wide and size == 0xFFFFFFFF:
                place, kind = wide, "<Q"
                (size,) = struct.unpack(kind, bytes_of(file, wide, 8))
            more = at + size < end and is_sound(
                bytes_of(file, at + size, 1 << 16), head
            )
            return _Chunk(place, kind, size, end - at, more)
        at += size + -size % multiple
    return None


def is_sound(rest, head="<4sI"):
    """Whether bytes after the sound are more of it: no chunk, tag, filling."""
    if not rest.strip(b"\0") or rest.startswith(TAGS):
        return False
    for at in (0, 1):  # not everybody fills up to the multiple
        if at + struct.calcsize(head) <= len(rest):
            name, size = struct.unpack_from(head, rest, at)
            if re.fullmatch(rb"[ -~]{4}", name[:4]) and size < 1 << 24:
                return False
    return True


def bytes_of(file, at, count):
    """Read bytes at a place of a file."""
    file.seek(at)
    return file.read(count)


def has_end(file):
    """Whether an Ogg ends with a whole page that is marked as the last."""
    size = os.fstat(file.fileno()).st_size
    tail = bytes_of(file, max(0, size - (1 << 17)), -1)
    page = tail[tail.rfind(b"OggS") :]
    if len(page) < 27 or not page[5] & 4:
        return False
    return len(page) >= 27 + page[26] + sum(page[27 : 27 + page[26]])


def nist_frames(file):
    """Frames that the header of a NIST Sphere file claims, or None."""
    head = bytes_of(file, 0, 1 << 10)
    found = re.search(rb"sample_count -i (\d{1,18})", head)
    return int(found[1]) if found else None


# Place, magic, what it is, and the name of its format in FFmpeg.
FOREIGN = (
    (4, b"ftyp", "MPEG-4, as m4a, mp4 and mov", "mov"),
    (4, b"moov", "QuickTime, as mov", "mov"),
    (4, b"mdat", "QuickTime, as mov", "mov"),
    (0, b"\x1aE\xdf\xa3", "Matroska, as webm and mkv", "matroska"),
    (0, b"0&\xb2u\x8ef\xcf\x11", "Windows Media, as wma", "asf"),
    (0, b"#!AMR", "AMR", "amr"),
    (0, b"\xff\xf1", "AAC", "aac"),
    (0, b"\xff\xf9", "AAC", "aac"),
    (8, b"AVI ", "a video, as avi", "avi"),
    (0, b"FLV", "a video, as flv", "flv"),
    (0, b"\0\0\1\xba", "a video, as mpg", "mpeg"),
    (0, b"wvpk", "WavPack", "wv"),
    (0, b"MAC ", "Monkey's Audio", "ape"),
    (0, b".RMF", "RealMedia", "rm"),
)
ARCHIVES = b"PK\3\4", b"\x1f\x8b", b"7z\xbc\xaf", b"Rar!"


def foreign(file):
    """Kind and FFmpeg's format of a file that libsndfile does not read.

    Returns
    -------
    kind, form : str or None
        None, None of all else.
    """
    head = bytes_of(file, 0, 16)
    for offset, magic, kind, form in FOREIGN:
        if head.startswith(magic, offset):
            return kind, form
    return None, None


def explain(file, path, error):
    """Kind of a file that could not be read, and what to do."""
    head = bytes_of(file, 0, 1 << 10)
    reason = str(error).rpartition(": ")[2].rstrip(".")
    name = shlex.quote(str(path))
    convert = f"convert it with `ffmpeg -i {name} {name}.wav`"
    if not head:
        return "an empty file", "copy or download it again"
    if is_pointer(head):
        return (
            "a Git LFS pointer, not the recording itself",
            f"run `git lfs pull` in {Path(path).parent}",
        )
    kind, _ = foreign(file)
    if kind and isinstance(error, LibsndfileError):
        return (
            kind,
            f"pip install 'ser_peft[media]', which reads it, or {convert}",
        )
    if isinstance(error, NoSound):
        return f"{kind}: {reason}", "give one with sound"
    if kind:
        return f"{kind}: {reason}", f"get it again, or {convert}"
    if head.startswith(ARCHIVES):
        return "an archive", "unpack it"
    if head.startswith(b"\0\5\26\7"):
        return "what macOS keeps beside a file", "remove it"
    if re.search(rb"(?i)<(!doctype html|html)\b", head):
        return "a web page", "download the recording itself; log in if need be"
    if not re.search(rb"[\0-\x08\x0e-\x1f]", head):
        return "a text", "give the recording itself"
    return reason, (
        "it is damaged, or of a kind that libsndfile does not know: get it "
        f"again, or {convert}"
    )
