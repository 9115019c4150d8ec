"""Containers that libsndfile does not read: m4a, mp4, webm, mkv, wma, ..."""

from importlib.util import find_spec

import numpy as np
import soundfile

__all__ = ["Container", "NoSound", "can_decode"]

SLACK = 0.25
"""Seconds that a container's length may differ from that of its sound, by the
encoder's delay and its last frame."""
GUESSED = ("aac", "amr", "mpeg")
"""Formats without a length, which FFmpeg guesses."""


def can_decode():
    """Whether PyAV is installed (``pip install 'ser_peft[media]'``)."""
    return find_spec("av") is not None


class NoSound(soundfile.SoundFileRuntimeError):
    """Error for a container that is whole and has no sound, as a video."""


class Container:
    """The first sound of a container, decoded as `soundfile.SoundFile` does.

    By PyAV, which has FFmpeg in it. Of FFmpeg's formats only the given one is
    tried, and no other file or address is opened, whatever the file names.

    Arguments
    ---------
    file : file object
        Seekable, binary.
    form : str
        Name of its format in FFmpeg.

    Attributes
    ----------
    samplerate, channels : int
        Sample rate, Hz, and number of channels.
    damaged : bool
        Whether anything could not be decoded, so far.

    Raises
    ------
    soundfile.SoundFileError
        If there is no sound that can be decoded.
    """

    format = "CONTAINER"

    def __init__(self, file, form):
        import av

        # An IndexError where a stream comes to light in the middle.
        self._errors = av.FFmpegError, IndexError
        self.damaged = False
        try:
            self._container = av.open(
                file,
                format=form,
                container_options={"protocol_whitelist": "none"},
                metadata_errors="replace",
            )
        except av.FFmpegError as error:
            raise _failed(error.strerror) from error
        streams = self._container.streams
        if not streams.audio:
            raise NoSound("no sound in it")
        self._stream = streams.audio[0]
        self._claimed = None
        if form in GUESSED:
            pass
        elif self._stream.duration:
            self._claimed = self._stream.duration * self._stream.time_base
        elif self._container.duration and not streams.video:
            self._claimed = self._container.duration / av.time_base
        self._blocks = self._decode(av.AudioResampler)
        self._left = next(self._blocks, None)
        if self._left is None:
            raise _failed("cut off or damaged before any sound")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._blocks.close()
        self._container.close()

    def claimed(self, seconds):
        """Seconds that the header claims, or `seconds` if it is near them."""
        if self._claimed is None or self._claimed < seconds + SLACK:
            return seconds
        return float(self._claimed)

    def seek(self, frame):
        """Skip frames; all are decoded, since only that is exact."""
        while frame:
            skipped = self.read(np.empty((min(frame, 1 << 16), self.channels)))
            if not len(skipped):
                raise _failed("too short")
            frame -= len(skipped)

    def read(self, out):
        """Fill an array [T, channels]; the part of it that could be filled."""
        at = 0
        while at < len(out) and self._left is not None:
            some = self._left[: len(out) - at]
            out[at : at + len(some)] = some
            at += len(some)
            self._left = self._left[len(some) :]
            if not len(self._left):
                self._left = next(self._blocks, None)
        return out[:at]

    def _decode(self, resampler):
        """Yield decoded samples, float32 [T, channels]."""
        first = convert = None
        for packet in self._packets():
            try:
                frames = packet.decode()
            except self._errors:
                self.damaged = True  # what follows may be whole
                continue
            for frame in frames:
                kind = frame.format.name, frame.layout.name, frame.sample_rate
                if first is None:
                    first, self.samplerate = kind, frame.sample_rate
                    self.channels = frame.layout.nb_channels
                    # Interleaved: of eight planes or more PyAV reads memory
                    # that is not theirs.
                    convert = resampler("flt", frame.layout, self.samplerate)
                if kind != first:
                    self.damaged = True
                    return
                for part in convert.resample(frame):
                    if part.samples:
                        yield part.to_ndarray().reshape(-1, self.channels)

    def _packets(self):
        try:
            yield from self._container.demux(self._stream)
        except self._errors:
            self.damaged = True


def _failed(reason):
    return soundfile.SoundFileRuntimeError(reason)
