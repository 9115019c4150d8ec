"""Recordings: read as 16 kHz mono, and checked once."""

import hashlib
import json
import logging
import math
import os
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import soxr
import torch
from tqdm import tqdm

from ser_peft.data.soundfiles import STEP, Sound, unreadable
from ser_peft.errors import InputError
from ser_peft.io import SAMPLE_RATE, atomic_path, find_file

__all__ = [
    "Recording",
    "check_samples",
    "durations",
    "read_audio",
    "resample",
    "summary",
]

logger = logging.getLogger(__name__)

MIN_SECONDS = 0.1
"""Below this there is nothing an encoder of 20 ms frames could judge."""
QUIETEST = 2**-14
"""Two steps of 16 bits: a recording that is never louder is rounding noise."""
LOUDEST = 8.0
"""No samples of a float recording are so large, of which 1 is full scale."""
SPEECH = 200, 4000
"""Band in which the channels of a recording are compared, Hz."""
HELD = 1 << 25
"""Samples, over all channels, of a recording that is kept in memory, 128 MB:
half an hour at 16 kHz; a longer one is read again."""
LONG_SECONDS = 30
"""Longer recordings are cut into windows."""
NAMED = 10
"""Of many recordings so many are named in a message."""
CHECKS = 2
"""Higher whenever more is checked: what was fine before may not be."""

ODDITIES = {
    "fault": "cut off or damaged; what is there is read",
    "phase": "channels in opposite phase; one of them is taken",
    "scale": "samples far beyond 1; taken for integers and scaled",
}
"""What may be wrong with a recording that can be used nevertheless."""


def read_audio(path, warn=False):
    """Read a recording as 16 kHz mono.

    Of several channels the mean is taken, of channels in opposite phase one.

    Arguments
    ---------
    path : str or Path
        Any format that libsndfile reads, any rate, any number of channels;
        ``long.wav#t=1.5,4`` is the stretch between two times in seconds.
    warn : bool
        Log what is odd, see `ODDITIES`. Of what is in manifests
        ``prepare`` has told.

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
    return Recording(path, warn).read()


def resample(wav, rate, new_rate):
    """Change the sample rate, at a cost that any two rates have.

    Arguments
    ---------
    wav : torch.Tensor
        [T].
    rate, new_rate : int
        Hz.

    Returns
    -------
    torch.Tensor
        [T * new_rate / rate].

    Example
    -------
    >>> resample(torch.zeros(44099), 44099, 16000).shape
    torch.Size([16000])
    """
    if rate == new_rate:
        return wav
    return torch.from_numpy(soxr.resample(wav.numpy(), rate, new_rate))


def check_samples(wav, rate, name):
    """Refuse what no encoder can judge.

    Arguments
    ---------
    wav : torch.Tensor
        Mono, [T].
    rate : int
        Hz.
    name : str or Path
        Whose samples, for the message.

    Raises
    ------
    InputError
        If they are too short, silent, far beyond 1, NaN or infinite.
    """
    # By NumPy: torch's own threads do not like those of a forked process.
    _check_peak(len(wav), _peak(wav.detach().cpu().numpy()), rate, name)


def _peak(samples):
    """The largest of [..., T], whatever its sign; NaN if one is."""
    return max(float(samples.max(initial=0)), -float(samples.min(initial=0)))


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
        raise InputError(f"{name}: silent {what}; repair or remove it")
    if peak > LOUDEST:
        raise InputError(
            f"{name}: samples up to {peak:.4g}; give samples in [-1, 1]"
        )


def durations(recordings, listing):
    """Check that recordings can be used, and how long they are.

    Everything is decoded: a broken file found after hours of training, in
    the test set, would be worse. But once: what was fine is remembered, in
    ``$XDG_CACHE_HOME/ser_peft`` (``~/.cache/ser_peft``), for the next fold,
    seed and method, until the file's size or time changes.

    Arguments
    ---------
    recordings : dict
        Folder of a corpus -> its recordings, paths as for `read_audio`.
    listing : str or Path
        Text file that gets a line for everything that is wrong with a
        recording, if there are several; removed otherwise.

    Returns
    -------
    dict
        Path -> seconds. What is odd, see `ODDITIES`, is logged.

    Raises
    ------
    InputError
        If some cannot be used: names the first ones, see `summary`.
    """
    found = {}
    for root, paths in recordings.items():
        found |= _check([*map(str, paths)], root)
    top = os.path.commonpath([os.path.abspath(root) for root in recordings])
    broken, odd, lines = {}, defaultdict(list), []
    for path, one in sorted(found.items()):
        name = os.path.relpath(path, top)
        if isinstance(one, str):
            broken[name] = one
            lines.append(one)
            continue
        for kind, detail in one[1].items():
            odd[kind].append(f"{name} ({detail})")
            lines.append(f"{path}: {ODDITIES[kind]} ({detail})")
    if not _write_listing(listing, lines):
        listing = None
    for kind, names in odd.items():
        logger.warning(
            "%d of %d recordings: %s: %s", len(names), len(found),
            ODDITIES[kind], _some(names, listing),
        )  # fmt: skip
    if broken:
        raise InputError(summary(broken, len(found), listing))
    seconds = {path: one[0] for path, one in found.items()}
    long = [path for path, one in seconds.items() if one > LONG_SECONDS]
    if long:
        logger.warning(
            "%d of %d recordings are longer than %d s, as %s (%.0f s): "
            "training cuts them to max_seconds, everything else judges them "
            "window by window",
            len(long), len(found), LONG_SECONDS, long[0], seconds[long[0]],
        )  # fmt: skip
    return seconds


def summary(broken, total, listing=None):
    """One line about recordings that cannot be used.

    Arguments
    ---------
    broken : dict
        Name -> what is wrong with it, a message that names the file.
    total : int
        How many recordings there are.
    listing : str or Path, optional
        Where all messages are.

    Returns
    -------
    str
        Of a single one its message; otherwise how many they are, the names
        of the first ones, and what is wrong with the first.

    Example
    -------
    >>> messages = {"a": "a: empty; remove it", "b": "b: silent; remove it"}
    >>> summary(messages, 3)
    '2 of 3 recordings cannot be used: a, b; a: empty; remove it'
    """
    messages = [*broken.values()]
    if len(messages) == 1:
        return messages[0]
    return (
        f"{len(broken)} of {total} recordings cannot be used: "
        f"{_some([*broken], listing)}; {messages[0]}"
    )


def _some(names, listing):
    """The first of many names, and where the others are."""
    text = ", ".join(names[:NAMED])
    if len(names) > NAMED:
        text += f" and {len(names) - NAMED} more"
    return f"{text} (all in {listing})" if listing else text


def _write_listing(path, lines):
    """Whether there is more than a message tells by itself."""
    if len(lines) < 2:
        Path(path).unlink(missing_ok=True)
        return False
    with atomic_path(path) as tmp:
        text = "".join(f"{' '.join(line.split())}\n" for line in lines)
        tmp.write_text(text, "utf-8", errors="backslashreplace")
    return True


def _check(paths, root):
    """Path -> (seconds, oddities), or what makes it useless, in order."""
    name = os.fsencode(f"{CHECKS} {os.path.realpath(root)}")
    name = hashlib.sha256(name).hexdigest()[:16]
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    memory = Path(home) / "ser_peft" / "audio" / f"{name}.json"
    try:
        known = json.loads(memory.read_text(encoding="utf-8"))
        for seconds, oddities in known.values():
            if not isinstance(seconds, float) or oddities.keys() - ODDITIES:
                raise ValueError
    except (OSError, ValueError, TypeError, AttributeError):
        known = {}  # not there, or not whole: begin anew
    before = dict(known)

    def check(path):
        try:
            stat = os.stat(find_file(path.partition("#t=")[0]))
            # The state is a part of the key: a changed file is another one.
            key = os.path.relpath(path, root)
            key = f"{key} {stat.st_size} {stat.st_mtime_ns}"
        except OSError:
            key = None
        try:
            if key not in known:
                recording = Recording(path)
                seconds = recording.frames / recording.rate
                known[key] = [seconds, recording.oddities]
            return known[key]
        except InputError as error:
            return str(error)

    # libsndfile frees the GIL.
    pool = ThreadPoolExecutor(max_workers=min(8, os.cpu_count()))
    try:
        with pool:
            checked = tqdm(
                pool.map(check, paths),
                total=len(paths),
                desc="checking audio",
                unit="clip",
            )
            return dict(zip(paths, checked, strict=True))
    finally:
        # Also what was fine before Ctrl-C.
        if known != before:
            try:
                with atomic_path(memory) as tmp:
                    tmp.write_text(json.dumps(known), encoding="utf-8")
            except OSError as error:
                logger.warning("%s: not written (%s)", memory, error)


class Recording:
    """A recording, measured and checked; 16 kHz mono when it is wanted.

    A long one is not held: its file is read again for all that is asked of
    it, block by block, and its length in memory matters to nobody.

    Arguments
    ---------
    path : str or Path
        See `read_audio`.
    warn : bool
        See `read_audio`.

    Attributes
    ----------
    rate, frames : int
        Of the file, Hz and samples.
    oddities : dict
        Of `ODDITIES` -> details.
    held : bool
        Whether it is short.

    Raises
    ------
    InputError
        See `read_audio`.
    """

    def __init__(self, path, warn=False):
        name, mark, times = str(path).partition("#t=")
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
        self._sound = Sound(name, start, stop)
        self._wav = None
        with np.errstate(all="ignore"):  # what is not finite is told below
            blocks = self._measure()
            self.held = blocks is not None
            if self.held:
                self._wav = _joined(map(self._mix, blocks), self.frames)
            peaks = [_peak(block) for block in self._mono()]
        peak = float(np.max(peaks, initial=0))
        _check_peak(self.frames, peak, self.rate, path)
        if warn:
            for kind, detail in self.oddities.items():
                logger.warning("%s: %s (%s)", path, ODDITIES[kind], detail)

    def __len__(self):
        """Samples at 16 kHz."""
        return (self.frames * SAMPLE_RATE + self.rate // 2) // self.rate

    def read(self):
        """All of it, [T]."""
        if self.held:
            wav = torch.from_numpy(self._wav)
            return resample(wav, self.rate, SAMPLE_RATE)
        return torch.from_numpy(_joined(self._blocks(), len(self)))

    def windows(self, samples, count):
        """Cut its first samples into equal windows, as `tensor_split` does.

        Arguments
        ---------
        samples : int
            So many of them, at 16 kHz.
        count : int
            Of windows.

        Yields
        ------
        torch.Tensor
            [T].
        """
        blocks, left = self._blocks(), np.empty(0, np.float32)
        for number in range(count):
            size = samples // count + (number < samples % count)
            window, filled = np.empty(size, np.float32), 0
            while filled < size:
                if not len(left):
                    left = next(blocks)
                some = left[: size - filled]
                window[filled : filled + len(some)] = some
                filled += len(some)
                left = left[len(some) :]
            yield torch.from_numpy(window)

    def _measure(self):
        """Find out what there is to know; all blocks, of a short one."""
        kept, power, products = [], 0.0, 0.0
        peak, beyond, sounding = 0.0, 0, 0
        for block in self._sound:
            if kept is not None:
                kept.append(block)
                if self._sound.frames * self._sound.channels > HELD:
                    kept = None
            highest = _peak(block)
            # NaN stays.
            peak = highest if not highest <= peak else peak
            sounding += np.count_nonzero(block)
            if highest > 1:
                beyond += np.count_nonzero(np.abs(block) > 1)
            power = power + np.einsum("tc,tc->c", block, block).astype(float)
            if block.shape[1] > 1:
                products = products + _products(block, self._sound.rate)
        self.rate, self.frames = self._sound.rate, self._sound.frames
        fault = self._sound.fault
        self.oddities = {"fault": fault} if fault else {}
        self._full_scale = 1.0
        # Wild samples among others are no sign of integers.
        if LOUDEST < peak <= 1 << 31 and beyond >= 0.1 * sounding:
            bits = next(bits for bits in (16, 24, 32) if peak <= 1 << bits - 1)
            self._full_scale = 2.0 ** (bits - 1)
            self.oddities["scale"] = f"up to {peak:.0f}: of {bits} bits"
        self._channels, phase = _choose(power, products)
        if phase:
            self.oddities["phase"] = phase
        return kept

    def _mix(self, block):
        """One channel, [T], of several, [T, channels]."""
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
                f"{self._sound.path}: was changed while it was read; give it "
                "again when it is whole"
            )

    def _blocks(self):
        """Blocks [T] at 16 kHz."""
        if self.held:
            yield self.read().numpy()
        elif self.rate == SAMPLE_RATE:
            yield from self._mono()
        else:
            stream = soxr.ResampleStream(self.rate, SAMPLE_RATE, 1)
            for block in self._mono():
                yield stream.resample_chunk(block)
            yield stream.resample_chunk(np.empty(0, np.float32), last=True)


def _joined(blocks, count):
    """Blocks as one array, of so many samples; nothing is held twice."""
    joined = np.empty(count, np.float32)
    at = 0
    for block in blocks:
        joined[at : at + len(block)] = block
        at += len(block)
    return joined


def _choose(power, products):
    """The channels whose mean is taken, all for None; which, if one had to be.

    Arguments
    ---------
    power : numpy.ndarray
        Of each channel.
    products : numpy.ndarray
        Of all pairs, from `_products`.
    """
    count = np.size(power)
    # Channels that nothing is on would only make the others quieter.
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
    """Scalar products of all channels, of speech alone, [channels, channels].

    Neither hum nor hiss, which may be in phase where the speech is not, has
    a say.
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
