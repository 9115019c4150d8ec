"""Sound files as they are found: read to their end, whatever they claim."""

import os
import re
from threading import Thread

import numpy as np
import soundfile

from ser_peft.data.containers import Container, can_decode
from ser_peft.data.headers import (
    bytes_of,
    explain,
    foreign,
    has_end,
    is_sound,
    nist_frames,
    sound_chunk,
)
from ser_peft.errors import InputError
from ser_peft.io import find_file

__all__ = ["STEP", "Sound", "unreadable"]

BLOCK = 1 << 18
"""Samples read at once, over all channels: a header may claim any length."""
STEP = 1 << 14
"""Frames, of which all blocks but the last are multiples."""
RATES = 4000, 1_000_000
"""Lowest and highest plausible sample rate, Hz."""
OGG_DAMAGE = re.compile("Junk after the last page|Corrupted|reports a hole")
"""Log messages of libsndfile when it skips damaged pages of an Ogg."""
MP3_REST = 4096
"""Bytes after the last frame of an mp3 that are ignored."""
SLACK = 0.02
"""Seconds that a header may be wrong by: a frame of most encoders."""


def unreadable(path, reason, advice):
    """Error for a file that is no audio."""
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
    """Samples of a sound file, or of a stretch of it, in blocks.

    Arguments
    ---------
    path : str or Path
        Any format that libsndfile reads, and those of `Container` where PyAV
        is installed.
    start, stop : float
        The stretch, in seconds; up to the end where `stop` is absent.
    name : str, optional
        Name for messages, in place of the path.

    Attributes
    ----------
    rate, channels : int
        Sample rate, Hz, and number of channels; known with the first block.
    frames : int
        Samples of each channel, so far.
    fault : str
        Known at the end: how much was read of a file that is cut off or
        damaged, as ``1.50 of 3.00 s``; empty for a whole file.
    """

    def __init__(self, path, start=0.0, stop=None, name=None):
        self.path, self.start, self.stop = path, start, stop
        self.name = name or path

    def __iter__(self):
        """Read everything that is there, from the start.

        Yields
        ------
        numpy.ndarray
            Samples as they are stored, integers as fractions; float32,
            [T, channels]. T is a multiple of `STEP` in all but the last.

        Raises
        ------
        InputError
            If nothing can be read; says what the file is instead.
        """
        path, name = self.path, self.name
        self.rate, self.channels, self.frames, self.fault = None, 1, 0, ""
        found = find_file(path)
        if os.path.exists(found) and not os.path.isfile(found):
            raise unreadable(
                name, "a folder, a pipe or the like", "give the name of a file"
            )
        try:
            with open(found, "rb", buffering=0) as file:
                yield from self._decode(file)
        except OSError as error:
            raise unreadable(
                name,
                str(error.strerror or error).lower(),
                "restore it, or correct its path or mode",
            ) from error

    def _decode(self, file):
        chunk = sound_chunk(file)
        source = file.fileno()
        if chunk and chunk.misleads:
            source = chunk.corrected(file)
        _, form = foreign(file)
        file.seek(0)
        try:
            with (
                Container(file, form)
                if form and can_decode()
                else _Stream(source, closefd=False)
            ) as sound:
                rate = self.rate = sound.samplerate
                self.channels = sound.channels
                if not RATES[0] <= rate <= RATES[1]:
                    raise InputError(
                        f"{self.name}: its header says {rate} Hz, a rate at "
                        "which no speech is recorded; correct the header or "
                        "remove it"
                    )
                if self.stop is not None:
                    failed = yield from self._read_stretch(sound)
                    claimed = max(0.0, self.stop - self.start)
                elif sound.format == "MP3":
                    failed, frames = yield from self._read_mp3(file)
                    claimed = self._seconds(frames)
                elif isinstance(sound, Container):
                    failed = yield from self._read(sound, 1 << 62)
                    failed = failed or sound.damaged
                    claimed = sound.claimed(self.frames / rate)
                else:
                    failed = yield from self._read(sound, 1 << 62)
                    claimed = self._seconds(sound.frames)
                    if chunk:
                        claimed = chunk.seconds(self.frames / rate)
                    elif sound.format == "NIST":
                        frames = nist_frames(file) or self.frames
                        claimed = frames / rate
                    elif sound.format == "OGG":
                        failed = failed or not has_end(file)
                if isinstance(sound, _Stream):
                    failed = failed or OGG_DAMAGE.search(sound.extra_info)
        except soundfile.SoundFileError as error:
            raise unreadable(
                self.name, *explain(file, self.name, error)
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
                self.name,
                "cut off or damaged before any sound",
                "get it again",
            )

    def _seconds(self, frames):
        """Seconds that a header claims, or that were read if it does not."""
        return (self.frames if frames >= 1 << 62 else frames) / self.rate

    def _read_stretch(self, sound):
        """Yield the blocks of the stretch, as `_read`."""
        first, last = (round(t * self.rate) for t in (self.start, self.stop))
        try:
            sound.seek(first)
        except soundfile.SoundFileError as error:
            raise InputError(
                f"{self.name}: the recording ends before {self.start:g} s; "
                "correct the times"
            ) from error
        return (yield from self._read(sound, max(0, last - first)))

    def _read(self, sound, wanted):
        """Yield blocks; return whether an error ended them."""
        size = max(1, BLOCK // STEP // sound.channels) * STEP
        failed = False
        while wanted and not failed:
            # NaN shows how far the decoder came if it fails within a block.
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
        """Yield blocks, as `_read`; return the claimed number of frames too.

        Read through a pipe: where a file does not say its length, libsndfile
        would guess it by the first bit rate, and give no more than that.
        """
        head = bytes_of(file, 0, 10)
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
                rest = more = os.read(reader, 1 << 16)
                while more and len(rest) <= MP3_REST:
                    more = os.read(reader, 1 << 16)
                    rest += more
                failed = failed or (len(rest) > MP3_REST and is_sound(rest))
                return failed, sound.frames
        finally:
            os.close(reader)
            thread.join()
