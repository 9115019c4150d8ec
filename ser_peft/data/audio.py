"""Recordings: read as 16 kHz mono, and refused if nothing can be heard."""

import logging
import math

import numpy as np
import soxr

from ser_peft.data.soundfiles import STEP, Sound, unreadable
from ser_peft.errors import InputError
from ser_peft.io import SAMPLE_RATE

__all__ = [
    "Recording",
    "Silent",
    "check_samples",
    "read_audio",
    "resample",
]

logger = logging.getLogger(__name__)

MIN_SECONDS = 0.1
"""Shorter recordings are too short for an encoder of 20 ms frames."""
QUIETEST = 2**-14
"""Two steps of 16 bits: a recording that is never louder is rounding noise."""
LOUDEST = 8.0
"""Larger samples are in no float recording, whose full scale is 1."""
SPEECH = 200, 4000
"""Band in which the channels of a recording are compared, Hz."""
HELD = 1 << 25
"""Samples, over all channels, of the longest recording that is kept in memory,
128 MB or half an hour at 16 kHz; a longer one is read again."""

ODDITIES = {
    "fault": "cut off or damaged; what is there is read",
    "phase": "channels in opposite phase; one of them is taken",
    "scale": "samples far beyond 1; taken for integers and scaled",
}
"""Faults of recordings that can be used nevertheless."""


class Silent(InputError):
    """Error for a recording that is whole, and in which nothing is heard."""


def read_audio(path, warn=False):
    """Read a recording as 16 kHz mono.

    Several channels are averaged; of channels in opposite phase one is taken.

    Arguments
    ---------
    path : str or Path
        Any format that libsndfile reads, or PyAV where it is installed (m4a,
        mp4, webm, mkv, wma, ...); any rate, any number of channels;
        ``long.wav#t=1.5,4`` is the stretch between two times in seconds.
    warn : bool
        Log the recording's `ODDITIES`. ``prepare`` has logged those of all
        recordings in manifests.

    Returns
    -------
    torch.Tensor
        Samples in [-1, 1], [T].

    Raises
    ------
    InputError
        If the file cannot be read, is empty, too short, silent, or holds
        NaN or infinite samples.
    """
    import torch  # the one function here that has to do with it

    return torch.from_numpy(Recording(path, warn).read())


def resample(wav, rate, new_rate):
    """Change the sample rate, at the same cost for any two rates.

    Arguments
    ---------
    wav : numpy.ndarray
        [T].
    rate, new_rate : int
        Hz.

    Returns
    -------
    numpy.ndarray
        [T * new_rate / rate].

    Example
    -------
    >>> resample(np.zeros(44099), 44099, 16000).shape
    (16000,)
    """
    return wav if rate == new_rate else soxr.resample(wav, rate, new_rate)


def check_samples(wav, rate, name):
    """Refuse samples that no encoder can judge.

    Arguments
    ---------
    wav : numpy.ndarray
        Mono, [T].
    rate : int
        Hz.
    name : str or Path
        The recording, for the message.

    Raises
    ------
    InputError
        If they are too short, silent (`Silent`), far beyond 1, NaN or
        infinite.
    """
    _check_peak(len(wav), _peak(wav), rate, name)


def _peak(samples):
    """Largest magnitude of samples; NaN if one is NaN."""
    return float(np.abs(samples).max(initial=0))


def _check_peak(frames, peak, rate, name):
    if frames < MIN_SECONDS * rate:
        raise InputError(
            f"{name}: {frames / rate:.3f} s of audio, too short for the "
            f"encoder; give at least {MIN_SECONDS} s or remove it"
        )
    if not math.isfinite(peak):
        raise InputError(
            f"{name}: NaN or infinite samples; repair or remove it"
        )
    if peak <= QUIETEST:
        what = "but for rounding noise" if peak else "(all zeros)"
        raise Silent(f"{name}: silent {what}; repair or remove it")
    if peak > LOUDEST:
        raise InputError(
            f"{name}: samples up to {peak:.4g}; give samples in [-1, 1]"
        )


class Recording:
    """A recording, measured and checked; 16 kHz mono when it is wanted.

    A long one is not held in memory: its file is read again, block by block,
    for everything that is asked of it.

    Arguments
    ---------
    path : str or Path
        See `read_audio`.
    warn : bool
        See `read_audio`.
    name : str, optional
        Name for messages, in place of the path.

    Attributes
    ----------
    rate, frames : int
        Sample rate, Hz, and number of samples of the file.
    oddities : dict
        Key of `ODDITIES` -> details.
    held : bool
        Whether it is short and held in memory.

    Raises
    ------
    InputError
        See `read_audio`.
    """

    def __init__(self, path, warn=False, name=None):
        file, mark, times = str(path).partition("#t=")
        start, stop = 0.0, None
        if mark:
            try:
                start, stop = map(float, times.split(","))
                if not (0 <= start < 1e9 and 0 <= stop < 1e9):
                    raise ValueError
            except ValueError as error:
                raise unreadable(
                    path, f"'{times}' are no times",
                    "write #t=START,STOP, in seconds",
                ) from error  # fmt: skip
        self._sound = Sound(file, start, stop, name)
        path = name or path
        self._wav = None
        with np.errstate(all="ignore"):  # what is not finite is told below
            blocks = self._measure()
            self.held = blocks is not None
            if self.held:
                self._wav = _joined(map(self._mix, blocks), self.frames)
            peak = np.max([_peak(mono) for mono in self._mono()], initial=0)
        _check_peak(self.frames, float(peak), self.rate, path)
        if warn:
            for kind, detail in self.oddities.items():
                logger.warning("%s: %s (%s)", path, ODDITIES[kind], detail)

    @property
    def seconds(self):
        """Duration, s."""
        return self.frames / self.rate

    def __len__(self):
        """Samples at 16 kHz."""
        return (self.frames * SAMPLE_RATE + self.rate // 2) // self.rate

    def read(self):
        """Read all samples, float32 [T] at 16 kHz."""
        if self.held:
            return resample(self._wav, self.rate, SAMPLE_RATE)
        return _joined(self.blocks(), len(self))

    def windows(self, samples, count):
        """Cut the first samples into equal windows, as `tensor_split` does.

        Arguments
        ---------
        samples : int
            Number of samples at 16 kHz.
        count : int
            Number of windows.

        Yields
        ------
        numpy.ndarray
            [T].
        """
        blocks, left = self.blocks(), np.empty(0, np.float32)
        for number in range(count):
            size = samples // count + (number < samples % count)
            while len(left) < size:
                left = np.concatenate([left, next(blocks)])
            yield left[:size]
            left = left[size:]

    def _measure(self):
        """Measure the file; returns its blocks if it is short, else None."""
        kept, power, products = [], 0.0, 0.0
        peak, beyond, sounding = 0.0, 0, 0
        for block in self._sound:
            if kept is not None:
                kept.append(block)
                if self._sound.frames * self._sound.channels > HELD:
                    kept = None
            peak = np.maximum(peak, _peak(block))  # keeps NaN
            sounding += np.count_nonzero(block)
            beyond += np.count_nonzero(np.abs(block) > 1)
            power = power + np.einsum("tc,tc->c", block, block).astype(float)
            if block.shape[1] > 1:
                products = products + _products(block, self._sound.rate)
        self.rate, self.frames = self._sound.rate, self._sound.frames
        fault = self._sound.fault
        self.oddities = {"fault": fault} if fault else {}
        self._full_scale = 1.0
        # A few wild samples among others are no sign of integers.
        if LOUDEST < peak <= 1 << 31 and beyond >= 0.1 * sounding:
            bits = next(bits for bits in (16, 24, 32) if peak <= 1 << bits - 1)
            self._full_scale = 2.0 ** (bits - 1)
            self.oddities["scale"] = f"up to {peak:.0f}: of {bits} bits"
        self._channels, phase = _choose(power, products)
        if phase:
            self.oddities["phase"] = phase
        return kept

    def _mix(self, block):
        """Mix channels, [T, channels], down to one, [T]."""
        if self._full_scale != 1:
            block = block / self._full_scale
        if self._channels is not None:
            block = block[:, self._channels]
        return block.mean(1)

    def _mono(self):
        """Blocks [T] at the file's own rate, as many as were measured."""
        if self._wav is not None:
            yield self._wav
            return
        for block in self._sound:
            if self._sound.frames > self.frames:
                break
            yield self._mix(block)
        if self._sound.frames != self.frames:
            raise InputError(
                f"{self._sound.name}: was changed while it was read; give it "
                "again when it is whole"
            )

    def blocks(self):
        """Read all samples in blocks, float32 [T] at 16 kHz."""
        if self.held:
            yield self.read()
        elif self.rate == SAMPLE_RATE:
            yield from self._mono()
        else:
            stream = soxr.ResampleStream(self.rate, SAMPLE_RATE, 1)
            for block in self._mono():
                yield stream.resample_chunk(block)
            yield stream.resample_chunk(np.empty(0, np.float32), last=True)


def _joined(blocks, count):
    """Join blocks of so many samples in all; none is held twice."""
    joined = np.empty(count, np.float32)
    at = 0
    for block in blocks:
        joined[at : at + len(block)] = block
        at += len(block)
    return joined


def _choose(power, products):
    """Choose the channels to average.

    Arguments
    ---------
    power : numpy.ndarray
        Power of each channel.
    products : numpy.ndarray
        Scalar products of all pairs, from `_products`.

    Returns
    -------
    channels : list of int or None
        Their numbers from 0, or None for all.
    phase : str or None
        Says which one was taken of channels in opposite phase.
    """
    count = np.size(power)
    # Empty channels would only make the others quieter.
    heard = np.flatnonzero(~(power <= 1e-6 * np.max(power)))
    if count == 1 or not len(heard):
        return None, None
    products = products[np.ix_(heard, heard)]
    power = products.diagonal()
    # The sum of two channels keeps less than 0.15 of their power.
    if (-2 * products > 0.85 * np.add.outer(power, power)).any():
        loudest = heard[power.argmax()]
        return [loudest], f"number {loudest + 1} of {count}"
    return heard, None


def _products(samples, rate):
    """Scalar products of all channels in the band of speech, [C, C].

    Hum and hiss, which may be in phase where the speech is not, do not count.
    """
    size = STEP
    bins = np.fft.rfftfreq(size, 1 / rate)
    bins = slice(*np.searchsorted(bins, SPEECH))
    products = 0.0
    for start in range(0, len(samples), size):
        block = samples[start : start + size]
        spectrum = np.fft.rfft(block, size, axis=0)[bins]
        products = products + (spectrum.T @ spectrum.conj()).real
    return products
