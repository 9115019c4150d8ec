"""Robustness: the test set as it sounds in a crowd or over the telephone.

Each clip is changed by itself when it is read, so the result depends neither
on padding nor on batch mates, and processes share the work as they share any
test. SpeechBrain's `AddBabble` sums the clips of the batch, test speakers
among them; its `AddNoise` draws anew every time.
"""

from functools import partial
from itertools import cycle
from zlib import crc32

import numpy as np
import torch
from scipy.signal import butter, sosfilt
from speechbrain.dataio.dataset import FilteredSortedDynamicItemDataset
from torchaudio.functional import (
    add_noise,
    mu_law_decoding,
    mu_law_encoding,
)

from ser_peft.data.audio import SAMPLE_RATE, resample
from ser_peft.errors import InputError

__all__ = [
    "add_babble",
    "babble_track",
    "disturbed",
    "talkers",
    "telephone",
    "without_text",
]

SNRS = 20, 10, 5, 0
"""Signal-to-noise ratios of the babble, dB."""
TALKERS = 8
"""Voices at once: enough that none of them can be followed."""
SECONDS = 60
"""Length of the babble, of which a clip gets a stretch, seconds."""
BAND = 300, 3400
"""Band of a telephone (ITU-T G.712), Hz."""


def talkers(train, test):
    """Training speakers who may babble: those not in the test set.

    Arguments
    ---------
    train, test : dict
        Manifests, id -> entry.

    Returns
    -------
    dict
        Speaker -> ids of the training utterances.

    Raises
    ------
    InputError
        If there is none.
    """
    tested = {entry["speaker"] for entry in test.values()}
    clips = {}
    for id_, entry in train.items():
        if entry["speaker"] not in tested:
            clips.setdefault(entry["speaker"], []).append(id_)
    if not clips:
        raise InputError(
            "robustness: every training speaker is also in the test set, so "
            "nobody is left to babble; set robustness: False"
        )
    return clips


def babble_track(train, test, seed=0):
    """Mix the speech of several training speakers.

    Arguments
    ---------
    train, test : DynamicItemDataset
        With ``sig``, whole clips, and ``speaker`` in their entries.
    seed : int
        Draws speakers and clips.

    Returns
    -------
    torch.Tensor
        One minute of eight voices of equal power, [T]. Where there are fewer
        speakers, some have two voices or more.
    """
    rng = np.random.default_rng(seed)
    clips = talkers(train.data, test.data)
    length = SECONDS * SAMPLE_RATE
    track = torch.zeros(length)
    speakers = cycle(rng.permutation(sorted(clips)).tolist())
    with train.output_keys_as(["sig"]):
        index = {id_: i for i, id_ in enumerate(train.data_ids)}
        for _, speaker in zip(range(TALKERS), speakers, strict=False):
            voice, missing = [], length
            for id_ in cycle(rng.permutation(clips[speaker]).tolist()):
                voice.append(train[index[id_]]["sig"])
                missing -= len(voice[-1])
                if missing <= 0:
                    break
            voice = torch.cat(voice)[:length]
            track += voice / voice.square().mean().sqrt()
    return track


def add_babble(wav, id_, track, snr):
    """Add a stretch of babble to a clip.

    Arguments
    ---------
    wav : torch.Tensor
        The clip, [T].
    id_ : str
        Id of the utterance; decides on the stretch, the same at every SNR.
    track : torch.Tensor
        From `babble_track`. It starts again where it ends.
    snr : float
        Power of the clip over that of its babble, dB.

    Returns
    -------
    torch.Tensor
        [T]. The speech is as loud as before.

    Example
    -------
    >>> wav, track = torch.randn(2, 8000).unbind()
    >>> noise = add_babble(wav, "clip", track, 10) - wav
    >>> round(float(10 * (wav.square().sum() / noise.square().sum()).log10()))
    10
    """
    start = crc32(id_.encode("utf-8", "backslashreplace")) % len(track)
    where = torch.arange(start, start + len(wav)) % len(track)
    return add_noise(wav, track[where], torch.tensor(float(snr)))


def telephone(wav):
    """Pass a clip through a telephone line.

    Arguments
    ---------
    wav : torch.Tensor
        16 kHz samples in [-1, 1], [T].

    Returns
    -------
    torch.Tensor
        [T], at 16 kHz again: sampled at 8 kHz, 300 to 3400 Hz (Butterworth,
        eighth order), 8 bit mu-law (as in ITU-T G.711).
    """
    narrow = resample(wav.numpy(), SAMPLE_RATE, 8000)
    band = butter(4, BAND, "bandpass", fs=8000, output="sos")
    narrow = torch.from_numpy(sosfilt(band, narrow)).clamp(-1, 1)
    narrow = mu_law_decoding(mu_law_encoding(narrow, 256), 256).float()
    wide = resample(narrow.numpy(), 8000, SAMPLE_RATE)
    return torch.from_numpy(wide)[: len(wav)]


def disturbed(train, test):
    """Views of the test set under every disturbance.

    Arguments
    ---------
    train, test : DynamicItemDataset
        From `ser_peft.data.datasets`, whole clips.

    Returns
    -------
    dict
        ``babble 20 dB`` to ``babble 0 dB`` and ``telephone`` -> dataset like
        `test`, whose ``sig`` is disturbed.
    """
    track = babble_track(train, test)
    views = {
        f"babble {snr} dB": _changed(
            test, partial(add_babble, track=track, snr=snr), ["sig", "id"]
        )
        for snr in SNRS
    }
    return {**views, "telephone": _changed(test, telephone, ["sig"])}


def without_text(dataset):
    """View of a dataset whose transcripts are all empty."""
    return _changed(dataset, lambda id_: "", ["id"], "text")


def _changed(dataset, change, takes, item="sig"):
    """View of a dataset, one item of which `change` makes."""
    view = FilteredSortedDynamicItemDataset(dataset, dataset.data_ids)
    view.add_dynamic_item(change, takes=takes, provides="changed")
    keys = dataset.pipeline.output_mapping
    view.set_output_keys({**keys, item: "changed"})
    return view
