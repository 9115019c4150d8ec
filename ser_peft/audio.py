"""Recordings: read as 16 kHz mono, and checked once."""

import hashlib
import json
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import soundfile
import torch
import torchaudio
from tqdm import tqdm

from ser_peft.errors import InputError
from ser_peft.io import atomic_path

__all__ = ["check_samples", "durations", "read_audio"]

logger = logging.getLogger(__name__)

SAMPLE_RATE = 16000
MIN_SECONDS = 0.1
"""Below this there is nothing an encoder of 20 ms frames could judge."""


def read_audio(path):
    """Read a recording as 16 kHz mono.

    Arguments
    ---------
    path : str or Path
        Any format that libsndfile reads, any rate, any number of channels;
        ``long.wav#t=1.5,4`` is the stretch between two times in seconds.

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
    wav, rate = _decode(path)
    return torchaudio.functional.resample(wav, rate, SAMPLE_RATE)


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
        If they are too short, all zeros, NaN or infinite.
    """
    if len(wav) < MIN_SECONDS * rate:
        raise InputError(
            f"{name}: {len(wav) / rate:.3f} s of audio, too short for the "
            f"encoder; give at least {MIN_SECONDS} s or remove it"
        )
    if not wav.isfinite().all():
        raise InputError(
            f"{name}: NaN or infinite samples; repair or remove it"
        )
    if not wav.any():
        raise InputError(f"{name}: silent (all zeros); repair or remove it")


def durations(paths, root):
    """Check that recordings can be used, and how long they are.

    Everything is decoded: a broken file found after hours of training, in
    the test set, would be worse. But once: what was fine is remembered, in
    ``$XDG_CACHE_HOME/ser_peft`` (``~/.cache/ser_peft``), for the next fold,
    seed and method, until the file's size or time changes.

    Arguments
    ---------
    paths : iterable of str
        As for `read_audio`.
    root : str or Path
        Folder of the corpus; one memory each.

    Returns
    -------
    dict
        Path -> seconds.

    Raises
    ------
    InputError
        If one cannot be used, see `read_audio`.
    """
    # Another version may check more.
    name = f"{version('ser_peft')} {os.path.realpath(root)}"
    name = hashlib.sha256(name.encode()).hexdigest()[:16]
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    memory = Path(home) / "ser_peft" / "audio" / f"{name}.json"
    try:
        known = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not there, or not whole: begin anew
        known = {}
    if not isinstance(known, dict):
        known = {}
    before = dict(known)

    def seconds(path):
        try:
            stat = os.stat(path.partition("#t=")[0])
        except OSError:
            _decode(path)  # says what is wrong with it
            raise
        # The state is a part of the key: a changed file is another one.
        key = f"{os.path.relpath(path, root)} {stat.st_size} {stat.st_mtime_ns}"
        if not isinstance(known.get(key), float):
            wav, rate = _decode(path)
            known[key] = len(wav) / rate
        return known[key]

    paths = [*map(str, paths)]
    # libsndfile frees the GIL.
    pool = ThreadPoolExecutor(max_workers=min(8, os.cpu_count()))
    try:
        with pool:
            checked = tqdm(
                pool.map(seconds, paths),
                total=len(paths),
                desc="checking audio",
                unit="clip",
            )
            return dict(zip(paths, checked, strict=True))
    finally:
        # Also what was fine before a broken file, or before Ctrl-C.
        if known != before:
            try:
                with atomic_path(memory) as tmp:
                    tmp.write_text(json.dumps(known), encoding="utf-8")
            except OSError as error:
                logger.warning("%s: not written (%s)", memory, error)


def _decode(path):
    """Samples, mono and checked, [T], and their rate in Hz."""
    name, _, times = str(path).partition("#t=")
    try:
        with soundfile.SoundFile(name) as file:
            rate = file.samplerate
            start, stop = 0, file.frames
            if times:
                start, stop = (round(float(t) * rate) for t in times.split(","))
                file.seek(start)
            samples = file.read(max(0, stop - start), "float32", always_2d=True)
    except (soundfile.SoundFileError, OSError, ValueError) as error:
        raise InputError(
            f"{path}: cannot be read as audio ({error}); repair or remove it"
        ) from error
    wav = torch.from_numpy(samples).mean(1)
    check_samples(wav, rate, path)
    return wav, rate
