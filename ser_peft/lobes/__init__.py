"""Encoders of speech, right for short, padded clips; and encoders of text."""

from pathlib import Path

from ser_peft.errors import InputError
from ser_peft.lobes.base import SpeechLobe, lengths_in_samples
from ser_peft.lobes.configs import SCRATCH, commit_of, config_of, read_config
from ser_peft.lobes.filterbank_cnn import FilterbankCnnLobe
from ser_peft.lobes.masks import SpanMask
from ser_peft.lobes.text import FAMILIES, TextLobe
from ser_peft.lobes.vggish import VGGishLobe
from ser_peft.lobes.wav2vec2 import Wav2Vec2Lobe
from ser_peft.lobes.wavlm import WavLMLobe
from ser_peft.lobes.whisper import WhisperLobe

__all__ = [
    "SpanMask",
    "SpeechLobe",
    "TextLobe",
    "lengths_in_samples",
    "load_lobe",
    "load_text",
    "shapes",
]

LOBES = {
    "speech": {
        "filterbank_cnn": FilterbankCnnLobe,
        "hubert": Wav2Vec2Lobe,
        "vggish": VGGishLobe,
        "wav2vec2": Wav2Vec2Lobe,
        "wavlm": WavLMLobe,
        "whisper": WhisperLobe,
    },
    "text": dict.fromkeys(FAMILIES, TextLobe),
}
"""Kind of encoder -> ``model_type`` of the configuration -> lobe."""


def load_lobe(source, save_path="", **kwargs):
    """Load a speech encoder.

    Arguments
    ---------
    source : str
        Hugging Face id or local folder, in Hugging Face layout with
        safetensors weights; or "filterbank_cnn" or "vggish", which start
        from scratch.
    save_path : str
        Folder for downloads.
    **kwargs
        See `SpeechLobe` and `TransformerLobe`; ``depth=4`` for instance keeps
        the lowest 4 layers.

    Returns
    -------
    SpeechLobe
        Takes waveforms [B, T] at 16 kHz and relative lengths [B], gives all
        hidden states [L + 1, B, T', C] and the valid frames [B].

    Raises
    ------
    InputError
        If there is no such checkpoint or it is no speech encoder.

    Example
    -------
    >>> import torch
    >>> lobe = load_lobe("filterbank_cnn")
    >>> states, frames = lobe(torch.randn(2, 16000), torch.tensor([1.0, 0.5]))
    >>> states.shape, frames
    (torch.Size([7, 2, 25, 96]), tensor([25, 12]))
    """
    if source in SCRATCH:
        if Path(source).is_dir():
            raise InputError(
                f"backbone {source}: is a folder here, and the name of an "
                f"encoder from scratch; write ./{source} for the folder"
            )
        kwargs = {"weights": "random", "config": config_of(source), **kwargs}
    return _load("speech", source, save_path, **kwargs)


def load_text(source, save_path="", **kwargs):
    """Load a text encoder and its tokenizer.

    Arguments
    ---------
    source, save_path, **kwargs
        See `load_lobe`.

    Returns
    -------
    TextLobe
        Takes a list of texts, gives all hidden states and the numbers of
        tokens.

    Raises
    ------
    InputError
        If there is no such checkpoint or it is no text encoder.
    """
    return _load("text", source, save_path, **kwargs)


def _load(kind, source, save_path="", config=None, **kwargs):
    if config is None:
        revision = commit_of(source, kwargs.get("revision"), save_path)
        config = read_config(source, save_path, revision)
        kwargs["revision"] = revision
    if config.model_type not in LOBES[kind]:
        raise InputError(
            f"backbone {source}: '{config.model_type}' is not a {kind} "
            f"encoder; give one of {', '.join(sorted(LOBES[kind]))}"
        )
    lobe = LOBES[kind][config.model_type]
    return lobe(source, save_path, config=config, **kwargs)


def shapes(backbone, depth=None):
    """Build a backbone's lobe as shapes: no weights, no memory, no network.

    Arguments
    ---------
    backbone : str or Path
        Hugging Face id or local folder, of speech or of text; ids that are
        not in `ser_peft.lobes.configs.KNOWN` are looked up on the hub.
    depth : int, optional
        Number of its lowest layers; all where absent.

    Returns
    -------
    SpeechLobe or TextLobe
        A lobe on torch's meta device. `PeftLobe` takes it where nothing has
        to be computed, that is with ``trainable=False``.

    Example
    -------
    >>> lobe = shapes("openai/whisper-tiny")
    >>> sum(p.numel() for p in lobe.parameters())
    8208384
    """
    config = config_of(backbone)
    kind = "text" if config.model_type in FAMILIES else "speech"
    lobe = _load(kind, backbone, config=config, weights=False, depth=depth)
    lobe.source = str(backbone)
    return lobe
