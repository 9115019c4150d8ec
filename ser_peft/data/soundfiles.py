"""Sound files as they are found: read to their end, whatever they claim."""

import os
import re
import shlex
import struct
from pathlib import Path
from threading import Thread
from typing import NamedTuple

import numpy as np
import soundfile

from ser_peft.errors import InputError
from ser_peft.io import find_file, is_pointer

__all__ = ["STEP", "Sound", "unreadable"]

BLOCK = 1 << 18
"""Samples read at once, over all channels: a header may claim any length."""
STEP = 1 << 14
"""Frames, of which all blocks but the last are multiples."""
RATES = 4000, 1_000_000
"""Lowest and highest sample rate that is believed, Hz."""
OGG_DAMAGE = re.compile("Junk after the last page|Corrupted|reports a hole")
"""What libsndfile notes when it passes over pages of an Ogg."""
MP3_REST = 4096
"""Bytes behind the last frame of an mp3 that are no concern."""
SLACK = 0.02
"""Seconds, a frame of most encoders, that a header may be wrong by."""


def unreadable(path, reason, advice):
    """The `InputError` for a file that is no audio."""
    return InputError(f"{path}: cannot be read as audio ({reason}); {advice}")


class _Stream(soundfile.SoundFile):
    """A file that is read until nothing comes any more.

    python-soundfile seeks after every read where it can, which fails at the
    end of a file that claims to be longer.
    """

    def seekable(self):
        """See `soundfile.SoundFile`."""
        return False


class Sound:
    """What is in a sound file, or in a stretch of it, in blocks.

    Arguments
    ---------
    path : str or Path
        Any format that libsndfile reads.
    start, stop : float
        The stretch, in seconds; up to the end where `stop` is absent.

    Attributes
    ----------
    rate, channels : int
        Hz, and how many; known with the first block.
    frames : int
        Samples of each channel, so far.
    fault : str
        Known at the end. How much was read, as ``1.50 of 3.00 s``, of a file
        that is cut off or damaged; empty of a whole one.
    """

    def __init__(self, path, start=0.0, stop=None):
        self.path, self.start, self.stop = path, start, stop

    def __iter__(self):
        """Read what is there, from the start.

        Yields
        ------
        numpy.ndarray
            Samples as they are stored, integers as fractions; float32,
            [T, channels]. All but the last have a multiple of `STEP`.

        Raises
        ------
        InputError
            If nothing can be read: what the file is, and what to do.
        """
        path = self.path
        self.rate, self.channels, self.frames, self.fault = None, 1, 0, ""
        found = find_file(path)
        if os.path.isdir(found):
            raise unreadable(path, "a folder", "give the files in it")
        if os.path.exists(found) and not os.path.isfile(found):
            raise unreadable(
                path, "a pipe or device", "write it to a file first"
            )
        try:
            with open(found, "rb", buffering=0) as file:
                yield from self._decode(file)
        except FileNotFoundError as error:
            raise unreadable(
                path, "no such file", "restore it or correct the path"
            ) from error
        except OSError as error:
            raise unreadable(
                path,
                error.strerror or error,
                "copy it again or correct its mode",
            ) from error

    def _decode(self, file):
        chunk = _sound_chunk(file)
        source = file.fileno()
        if chunk and chunk.misleads:
            source = chunk.corrected(file)
        file.seek(0)
        try:
            with _Stream(source, closefd=False) as sound:
                rate = self.rate = sound.samplerate
                self.channels = sound.channels
                if not RATES[0] <= rate <= RATES[1]:
                    raise InputError(
                        f"{self.path}: its header says {rate} Hz, a rate at "
                        "which no speech is recorded; correct the header or "
                        "remove it"
                    )
                if self.stop is not None:
                    failed = yield from self._read_stretch(sound)
                    claimed = max(0.0, self.stop - self.start)
                elif sound.format == "MP3":
                    failed, frames = yield from self._read_mp3(file)
                    claimed = self._seconds(frames)
                else:
                    failed = yield from self._read(sound, 1 << 62)
                    claimed = self._seconds(sound.frames)
                    if chunk:
                        claimed = chunk.seconds(self.frames / rate)
                    elif sound.format == "NIST":
                        frames = _nist_frames(file) or self.frames
                        claimed = frames / rate
                    elif sound.format == "OGG":
                        failed = failed or not _has_end(file)
                failed = failed or OGG_DAMAGE.search(sound.extra_info)
        except soundfile.SoundFileError as error:
            raise unreadable(
                self.path, *_explain(file, self.path, error)
            ) from error
        seconds = self.frames / rate
        if claimed > seconds + SLACK:
            self.fault = f"{seconds:.2f} of {claimed:.2f} s"
        elif claimed < seconds - SLACK:
            self.fault = f"{seconds:.2f} s, its header says {claimed:.2f} s"
        elif failed:
            self.fault = f"{seconds:.2f} s"
        if self.fault and not self.frames:
            raise unreadable(
                self.path,
                "cut off or damaged before any sound",
                "get it again",
            )

    def _seconds(self, frames):
        """What a header says, or what there is if it says nothing."""
        return (self.frames if frames >= 1 << 62 else frames) / self.rate

    def _read_stretch(self, sound):
        """As `_read`."""
        first, last = (round(t * self.rate) for t in (self.start, self.stop))
        try:
            sound.seek(first)
        except soundfile.SoundFileError as error:
            raise InputError(
                f"{self.path}: the recording ends before {self.start:g} s; "
                "correct the times"
            ) from error
        return (yield from self._read(sound, max(0, last - first)))

    def _read(self, sound, wanted):
        """Yield blocks; tell whether it was an error that ended them."""
        size = max(1, BLOCK // STEP // sound.channels) * STEP
        failed = False
        while wanted and not failed:
            # NaN tells how far the decoder came if it fails within a block.
            shape = min(size, wanted), sound.channels
            block = np.full(shape, np.nan, np.float32)
            try:
                block = sound.read(out=block)
            except soundfile.SoundFileError:
                failed = True
                missing = np.isnan(block[:, 0])
                block = block[: missing.argmax() if missing.any() else None]
            if not len(block):
                break
            self.frames += len(block)
            wanted -= len(block)
            yield block
        return failed

    def _read_mp3(self, file):
        """As `_read`; also how many frames it says that it has.

        Through a pipe: of a file that does not say it, libsndfile would guess
        it by the first bit rate, and give no more than that.
        """
        head = _bytes(file, 0, 10)
        start = 0
        if head.startswith(b"ID3"):  # a tag, in front of the first frame
            for digit in head[6:]:
                start = start << 7 | digit
            start += 10
        reader, writer = os.pipe()

        def feed():
            at = start
            try:
                while content := os.pread(file.fileno(), 1 << 16, at):
                    at += os.write(writer, content)
            except BrokenPipeError:
                pass  # enough was read
            finally:
                os.close(writer)

        thread = Thread(target=feed)
        thread.start()
        try:
            with _Stream(reader, closefd=False) as sound:
                failed = yield from self._read(sound, 1 << 62)
                # A decoder that has lost its way leaves the rest.
                rest = os.read(reader, 1 << 16)
                while len(rest) <= MP3_REST and (
                    more := os.read(reader, 1 << 16)
                ):
                    rest += more
                failed = failed or (len(rest) > MP3_REST and _is_sound(rest))
                return failed, sound.frames
        finally:
            os.close(reader)
            thread.join()


# ---------------------------------------------------- lengths that headers tell


class _Chunk(NamedTuple):
    """The chunk of a file that its sound is in."""

    place: int  # of its size, a number in the header
    kind: str  # of number, for struct
    claimed: int  # bytes
    held: int  # bytes from its beginning to the end of the file
    more: bool  # whether there is sound behind the claimed bytes

    @property
    def unknown(self):
        """Whether the writer did not know the size yet.

        It then left 0, or about as much as 31, 32 or 64 bits can say.
        """
        near = (abs(self.claimed - limit) for limit in (1 << 31, 1 << 32))
        return not self.claimed or self.claimed >> 62 or min(near) <= 1 << 16

    @property
    def misleads(self):
        """Whether libsndfile would read less than there is."""
        return self.more or (self.unknown and self.kind != "<I")

    def seconds(self, read):
        """What the header says, where `read` seconds could be read."""
        if self.unknown or (self.claimed <= self.held and not self.more):
            return read
        return read * self.claimed / max(self.held, 1)

    def corrected(self, file):
        """The file, as if it said the size that it has."""
        most = (1 << 8 * struct.calcsize(self.kind)) - 1
        size = struct.pack(self.kind, min(self.held, most))
        return _Corrected(file, self.place, size)


class _Corrected:
    """A file that is read as if other bytes were in one place of it."""

    def __init__(self, file, place, content):
        self.file, self.place, self.content = file, place, content
        self.seek, self.tell = file.seek, file.tell

    def read(self, count):
        """See `io.RawIOBase`."""
        start = self.file.tell()
        content = bytearray(self.file.read(count))
        for at, byte in enumerate(self.content, self.place - start):
            if 0 <= at < len(content):
                content[at] = byte
        return bytes(content)


# Magic -> where the chunks begin, the head of one, what its size counts
# besides the content, and to what multiple they are padded.
FORMS = {
    b"RIFF": (12, "<4sI", 0, 2),
    b"RIFX": (12, ">4sI", 0, 2),
    b"RF64": (12, "<4sI", 0, 2),
    b"BW64": (12, "<4sI", 0, 2),
    b"FORM": (12, ">4sI", 0, 2),
    b"riff": (40, "<16sQ", 24, 8),
}
TAGS = b"ID3", b"TAG", b"APETAGEX", b"LYRICSBEGIN"


def _sound_chunk(file):
    """`_Chunk` of a wav, w64, aiff or au; None of any other file."""
    end = os.fstat(file.fileno()).st_size
    magic = _bytes(file, 0, 4)
    if magic == b".snd" and end >= 12:
        start, claimed = struct.unpack(">II", _bytes(file, 4, 8))
        held = max(0, end - start)
        return _Chunk(8, ">I", claimed, held, claimed < held)
    if magic not in FORMS:
        return None
    at, head, besides, multiple = FORMS[magic]
    wide = None
    while at + struct.calcsize(head) <= end:
        name, size = struct.unpack(
            head, _bytes(file, at, struct.calcsize(head))
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
                (size,) = struct.unpack(kind, _bytes(file, wide, 8))
            more = at + size < end and _is_sound(
                _bytes(file, at + size, 1 << 16), head
            )
            return _Chunk(place, kind, size, end - at, more)
        at += size + -size % multiple
    return None


def _is_sound(rest, head="<4sI"):
    """Whether what follows the sound is more of it: no chunk, tag, filling."""
    if not rest.strip(b"\0") or rest.startswith(TAGS):
        return False
    for at in (0, 1):  # not everybody fills up to the multiple
        if at + struct.calcsize(head) <= len(rest):
            name, size = struct.unpack_from(head, rest, at)
            if re.fullmatch(rb"[ -~]{4}", name[:4]) and size < 1 << 24:
                return False
    return True


def _bytes(file, at, count):
    file.seek(at)
    return file.read(count)


def _has_end(file):
    """Whether the last page of an Ogg is whole and says that it is the last."""
    size = os.fstat(file.fileno()).st_size
    tail = _bytes(file, max(0, size - (1 << 17)), -1)
    page = tail[tail.rfind(b"OggS") :]
    if len(page) < 27 or not page[5] & 4:
        return False
    return len(page) >= 27 + page[26] + sum(page[27 : 27 + page[26]])


def _nist_frames(file):
    """What the header of a NIST Sphere file says; None where it does not."""
    found = re.search(rb"sample_count -i (\d{1,18})", _bytes(file, 0, 1 << 10))
    return int(found[1]) if found else None


# ------------------------------------------------------ files that are no sound

FOREIGN = (
    (4, b"ftyp", "MPEG-4, as m4a, mp4 and mov"),
    (4, b"moov", "QuickTime, as mov"),
    (4, b"mdat", "QuickTime, as mov"),
    (0, b"\x1aE\xdf\xa3", "Matroska, as webm and mkv"),
    (0, b"0&\xb2u\x8ef\xcf\x11", "Windows Media, as wma"),
    (0, b"#!AMR", "AMR"),
    (0, b"\xff\xf1", "AAC"),
    (0, b"\xff\xf9", "AAC"),
    (8, b"AVI ", "a video, as avi"),
    (0, b"FLV", "a video, as flv"),
    (0, b"\0\0\1\xba", "a video, as mpg"),
    (0, b"wvpk", "WavPack"),
    (0, b"MAC ", "Monkey's Audio"),
    (0, b".RMF", "RealMedia"),
)
ARCHIVES = b"PK\3\4", b"\x1f\x8b", b"7z\xbc\xaf", b"Rar!"


def _explain(file, path, error):
    """What a file is that libsndfile does not read, and what to do."""
    head = _bytes(file, 0, 1 << 10)
    name = shlex.quote(str(path))
    convert = f"convert it with `ffmpeg -i {name} {name}.wav`"
    if not head:
        return "an empty file", "copy or download it again"
    if is_pointer(head):
        return (
            "a Git LFS pointer, not the recording itself",
            f"run `git lfs pull` in {Path(path).parent}",
        )
    for offset, magic, kind in FOREIGN:
        if head.startswith(magic, offset):
            return kind, convert
    if head.startswith(ARCHIVES):
        return "an archive", "unpack it"
    if head.startswith(b"\0\5\26\7"):
        return "what macOS keeps beside a file", "remove it"
    if re.search(rb"(?i)<(!doctype html|html)\b", head):
        return "a web page", "download the recording itself; log in if need be"
    if not re.search(rb"[\0-\x08\x0e-\x1f]", head):
        return "a text", "give the recording itself"
    reason = str(error).rpartition(": ")[2].rstrip(".")
    return reason, (
        "it is damaged, or of a kind that libsndfile does not know: get it "
        f"again, or {convert}"
    )
