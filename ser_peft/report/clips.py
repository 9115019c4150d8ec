"""Short clips of recordings, to be heard inside of a page."""

import base64
import io

import numpy as np
import soundfile

from ser_peft.data.audio import Recording
from ser_peft.errors import InputError
from ser_peft.io import SAMPLE_RATE

__all__ = ["BUDGET", "SECONDS", "embed"]

SECONDS = 8
"""Length of a clip at most; it is the beginning of its recording."""
BUDGET = 1 << 20
"""Bytes of all clips of a page together, as text."""


def embed(ids, recordings):
    """Encode the beginnings of recordings as data URIs.

    MP3, 16 kHz, mono: every browser plays it. (Ogg Opus, which is smaller,
    Safari plays since 2025 only.)

    Arguments
    ---------
    ids : iterable of str
        Utterances, the most important first.
    recordings : dict
        Id -> path, from `ser_peft.data.manifests.shareable`.

    Returns
    -------
    dict
        Id -> URI, for as many as fit in `BUDGET`. A recording that cannot be
        read any more has none.
    """
    found, left = {}, BUDGET
    for id_ in ids:
        if id_ not in recordings:
            continue
        try:
            clip = _beginning(Recording(recordings[id_]))
        except InputError:
            continue  # was there in the test; no reason to lose its report
        file = io.BytesIO()
        soundfile.write(
            file,
            clip.clip(-1, 1),
            SAMPLE_RATE,
            format="MP3",
            subtype="MPEG_LAYER_III",
            bitrate_mode="VARIABLE",
            compression_level=0.3,
        )
        content = base64.b64encode(file.getvalue()).decode("ascii")
        uri = f"data:audio/mpeg;base64,{content}"
        left -= len(uri)
        if left < 0:
            break
        found[id_] = uri
    return found


def _beginning(recording):
    """Samples of a clip, float32 [T] at 16 kHz."""
    parts, wanted = [], SECONDS * SAMPLE_RATE
    for block in recording.blocks():
        parts.append(block[:wanted])
        wanted -= len(parts[-1])
        if not wanted:
            break
    return np.concatenate(parts)
