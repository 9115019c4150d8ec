"""Encoders of speech that are right for short, padded clips; and of text."""

from pathlib import Path

from ser_peft.errors import InputError
from ser_peft.lobes.base import SpeechLobe, lengths_in_samples
from ser_peft.lobes.configs import (
    SCRATCH,
    commit_of,
    config_folder,
    config_of,
    read_config,
)
from ser_peft.lobes.filterbank_cnn import FilterbankCnnLobe
from ser_peft.lobes.masks import SpanMask
from ser_peft.lobes.text import FAMILIES, TextLobe
from ser_peft.lobes.vggish import VGGishLobe
from ser_peft.lobes.wav2vec2 import Wav2Vec2Lobe
from ser_peft.lobes.wavlm import WavLMLobe
from ser_peft.lobes.whisper import WhisperLobe

__all__ = [
    "FilterbankCnnLobe",
    "SpanMask",
    "SpeechLobe",
    "TextLobe",
    "VGGishLobe",
    "Wav2Vec2Lobe",
    "WavLMLobe",
    "WhisperLobe",
    "lengths_in_samples",
    "load_lobe",
    "load_text",
    "shapes",
]

LOBES = {
    "filterbank_cnn": FilterbankCnnLobe,
    "hubert": Wav2Vec2Lobe,
    "vggish": VGGishLobe,
    "wav2vec2": Wav2Vec2Lobe,
    "wavlm": WavLMLobe,
    "whisper": WhisperLobe,
}


def load_lobe(source, save_path="", **kwargs):
    """Load a speech encoder, whichever it is.

    Arguments
    ---------
    source : str
        Hugging Face id or local folder, in Hugging Face layout with
        safetensors weights; or "filterbank_cnn" or "vggish": from scratch.
    save_path : str
        Where downloads are kept.
    **kwargs
        See `TransformerLobe`, as ``depth``: how many of the lowest layers
        are kept.

    Returns
    -------
    SpeechLobe
        Takes ``wav[B, T]`` and relative lengths, gives all hidden states
        and their valid lengths.

    Raises
    ------
    InputError
        If there is no such checkpoint or it is no speech encoder.
    """
    if source in SCRATCH:
        if Path(source).is_dir():
            raise InputError(
                f"backbone {source}: is a folder here, and the name of what "
                f"starts from scratch; write ./{source} for the folder"
            )
        kwargs.setdefault("weights", "random")
        with config_folder(source) as folder:
            lobe = LOBES[source](folder, save_path, **kwargs)
        lobe.source = source
        return lobe
    kwargs["revision"] = commit_of(source, kwargs.get("revision"), save_path)
    config = read_config(source, save_path, kwargs["revision"])
    if config.model_type not in LOBES:
        raise InputError(
            f"backbone {source}: '{config.model_type}' is not a speech "
            f"encoder; give one of {', '.join(sorted(LOBES))}"
        )
    return LOBES[config.model_type](str(source), save_path, **kwargs)


def load_text(source, save_path="", **kwargs):
    """Load a text encoder and its tokenizer.

    Arguments
    ---------
    source, save_path, **kwargs
        See `load_lobe`.

    Returns
    -------
    TextLobe
        Takes a list of texts, gives all hidden states and their numbers of
        tokens.

    Raises
    ------
    InputError
        If there is no such checkpoint or it is no text encoder.
    """
    kwargs["revision"] = commit_of(source, kwargs.get("revision"), save_path)
    config = read_config(source, save_path, kwargs["revision"])
    if config.model_type not in FAMILIES:
        raise InputError(
            f"backbone {source}: '{config.model_type}' is not a text encoder; "
            f"give one of {', '.join(sorted(FAMILIES))}"
        )
    return TextLobe(str(source), save_path, **kwargs)


def shapes(backbone, depth=None):
    """The lobe of a backbone as shapes: no weights, no memory, no network.

    Arguments
    ---------
    backbone : str or Path
        Hugging Face id or local folder, of speech or of text; ids that are
        not in `ser_peft.lobes.configs.KNOWN` are looked up on the hub.
    depth : int, optional
        How many of its layers; all where absent.

    Returns
    -------
    SpeechLobe or TextLobe
        On torch's meta device. `PeftLobe` takes it where nothing has to be
        computed, that is with ``trainable=False``.

    Example
    -------
    >>> lobe = shapes("openai/whisper-tiny")
    >>> sum(p.numel() for p in lobe.parameters())
    8208384
    """
    text = config_of(backbone).model_type in FAMILIES
    with config_folder(backbone) as folder:
        lobe = (load_text if text else load_lobe)(
            folder, weights=False, depth=depth
        )
    lobe.source = str(backbone)
    return lobe
