"""Recordings in every form that people hold them in: files, arrays, bytes."""

import os
import tempfile
from collections.abc import Iterable, Mapping
from numbers import Integral
from pathlib import Path

import numpy as np

from ser_peft.data.audio import Recording, check_samples, resample
from ser_peft.errors import InputError
from ser_peft.io import SAMPLE_RATE

__all__ = ["Clip", "as_samples", "open_clip", "several"]

KINDS = (
    "a path, samples [T] (floats in [-1, 1], or integers) at 16 kHz, "
    "(samples, rate), {'array': samples, 'sampling_rate': rate}, the bytes "
    "of a file, or an open file"
)
RATES = 4000, 1_000_000


class Clip:
    """Samples in memory, with the interface of a `Recording`.

    Arguments
    ---------
    wav : numpy.ndarray
        16 kHz mono, float32 [T].
    """

    held = True

    def __init__(self, wav):
        self._wav = wav

    @property
    def seconds(self):
        """Duration, s."""
        return len(self._wav) / SAMPLE_RATE

    def __len__(self):
        """Samples at 16 kHz."""
        return len(self._wav)

    def blocks(self):
        """All samples, as one block."""
        yield self._wav

    def windows(self, samples, count):
        """Cut the first samples into equal windows, as `Recording.windows`."""
        yield from np.array_split(self._wav[:samples], count)


def several(recordings):
    """Tell one recording from several.

    Arguments
    ---------
    recordings : object
        One recording in any form that `open_clip` takes, or an iterable of
        them. A pair of samples and a rate is one; so is a bare array [T].

    Returns
    -------
    iterable
        Recordings.

    Raises
    ------
    InputError
        If it is neither.

    Example
    -------
    >>> several("a.wav"), len(several(np.zeros((2, 16000))))
    (['a.wav'], 2)
    """
    if (
        isinstance(recordings, (str, bytes, bytearray, memoryview, os.PathLike))
        or isinstance(recordings, Mapping)
        or hasattr(recordings, "read")
        or _is_pair(recordings)
        or getattr(recordings, "ndim", 2) == 1
    ):
        return [recordings]
    if not isinstance(recordings, Iterable) or not getattr(
        recordings, "ndim", 1
    ):
        raise InputError(
            f"recordings: {type(recordings).__name__}; give {KINDS}, or a "
            "list of such"
        )
    return recordings


def _is_pair(recording):
    return (
        isinstance(recording, tuple)
        and len(recording) == 2
        and isinstance(recording[1], Integral)
        and not isinstance(recording[0], (str, os.PathLike))
    )


def open_clip(recording, name):
    """Open one recording and check it.

    Arguments
    ---------
    recording : object
        Path; samples [T] as array, tensor or list, at 16 kHz; a pair of
        samples and their rate; a dict with ``array`` (or ``raw``) and
        ``sampling_rate``, or with ``bytes`` or ``path``, as of Hugging Face's
        datasets and pipelines; the bytes of a file, or an open file.
    name : str
        Name of the recording, for messages.

    Returns
    -------
    Recording or Clip
        Long files are not held in memory, see `Recording`.

    Raises
    ------
    InputError
        If it is nothing of that, or cannot be used, see `read_audio`.
    """
    rate = SAMPLE_RATE
    if isinstance(recording, Mapping):
        recording, rate = _of_mapping(recording, name)
    elif _is_pair(recording):
        recording, rate = recording
    if isinstance(recording, (str, os.PathLike)):
        return Recording(recording, warn=True)
    if hasattr(recording, "read") and not hasattr(recording, "dtype"):
        recording = recording.read()
        if not isinstance(recording, (bytes, bytearray)):
            raise InputError(
                f"{name}: an open file that gives no bytes; open it with 'rb'"
            )
    if isinstance(recording, (bytes, bytearray, memoryview)):
        return _of_bytes(recording, name)
    if not isinstance(rate, Integral) or not RATES[0] <= rate <= RATES[1]:
        raise InputError(
            f"{name}: sample rate {rate!r}; give the one that it was recorded "
            "at, in Hz"
        )
    wav = as_samples(recording, name)
    check_samples(wav, rate, name)
    return Clip(resample(wav, rate, SAMPLE_RATE))


def _of_mapping(recording, name):
    for key in ("array", "raw"):
        if recording.get(key) is not None:
            rate = recording.get("sampling_rate")
            if rate is None:
                raise InputError(
                    f"{name}: a dict without 'sampling_rate'; give it beside "
                    f"{key!r}, in Hz"
                )
            return recording[key], rate
    for key in ("bytes", "path"):
        if recording.get(key) is not None:
            return recording[key], SAMPLE_RATE
    raise InputError(
        f"{name}: a dict of {', '.join(map(str, recording)) or 'nothing'}; "
        "give 'array' and 'sampling_rate'"
    )


def _of_bytes(content, name):
    """Decode the bytes of a file, through the same checks as any file."""
    number, path = tempfile.mkstemp()
    try:
        with open(number, "wb") as file:
            file.write(content)
        recording = Recording(path, warn=True, name=name)
        return Clip(recording.read())
    finally:
        Path(path).unlink()


def as_samples(samples, name):
    """Turn samples of any type into floats.

    Arguments
    ---------
    samples : array_like or torch.Tensor
        [T] or [1, T]. Integers are scaled by the full scale of their type;
        those of 64 bits by the least of 16, 24 and 32 bits that holds them.
    name : str
        Name, for messages.

    Returns
    -------
    numpy.ndarray
        float32, [T].

    Raises
    ------
    InputError
        If these are no samples.

    Example
    -------
    >>> as_samples(np.array([-32768, 16384], np.int16), "clip").tolist()
    [-1.0, 0.5]
    """
    if hasattr(samples, "detach"):  # a tensor; bfloat16 is unknown to numpy
        samples = samples.detach().cpu()
        if samples.is_floating_point():
            samples = samples.float()
    try:
        wav = np.asarray(samples)
    except (TypeError, ValueError) as error:  # lists of several lengths
        raise InputError(f"{name}: is no array ({error})") from error
    if wav.ndim == 2 and len(wav) == 1:
        wav = wav[0]
    if wav.ndim != 1 or wav.dtype.kind not in "fiu":
        raise InputError(f"{name}: {wav.dtype} {list(wav.shape)}; give {KINDS}")
    if wav.dtype.kind != "f":
        return _scaled(wav)
    # A copy: others may have foreign byte order, be read backwards, or be
    # read-only, of which torch takes none.
    return np.array(wav, np.float32, order="C")


def _scaled(wav):
    bits = 8 * wav.dtype.itemsize
    wide = wav.astype(np.float64)
    if wav.dtype.kind == "u" and bits < 64:
        wide -= 2.0 ** (bits - 1)  # as in wav files of 8 bits
    if bits == 64:
        peak = np.abs(wide).max(initial=0)
        bits = next((b for b in (16, 24, 32) if peak <= 1 << b - 1), 64)
    return (wide / 2.0 ** (bits - 1)).astype(np.float32)
