"""Speech encoders that are right for short, padded clips."""

from transformers import AutoConfig

from ser_peft.errors import InputError
from ser_peft.lobes.base import SpeechLobe, lengths_in_samples
from ser_peft.lobes.masks import SpanMask
from ser_peft.lobes.wav2vec2 import Wav2Vec2Lobe
from ser_peft.lobes.wavlm import WavLMLobe
from ser_peft.lobes.whisper import WhisperLobe

__all__ = [
    "SpanMask",
    "SpeechLobe",
    "Wav2Vec2Lobe",
    "WavLMLobe",
    "WhisperLobe",
    "lengths_in_samples",
    "load_lobe",
    "read_config",
]

LOBES = {
    "hubert": Wav2Vec2Lobe,
    "wav2vec2": Wav2Vec2Lobe,
    "wavlm": WavLMLobe,
    "whisper": WhisperLobe,
}


def load_lobe(source, save_path="", depth=None, **kwargs):
    """Load the encoder of a checkpoint, whichever of the four it is.

    Arguments
    ---------
    source : str
        Hugging Face id or local folder, in Hugging Face layout with
        safetensors weights.
    save_path : str
        Where downloads are kept.
    depth : int, optional
        Keep so many of the lowest transformer layers; all where absent.
    **kwargs
        See `SpeechLobe`.

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
    config = read_config(source, save_path)
    lobe = LOBES[config.model_type](str(source), save_path, **kwargs)
    if depth is not None:
        lobe.truncate(depth)
    return lobe


def read_config(source, save_path=""):
    """Read the configuration of a speech encoder.

    Arguments
    ---------
    source, save_path
        See `load_lobe`.

    Returns
    -------
    transformers.PretrainedConfig
        Its `model_type` is one of `LOBES`.

    Raises
    ------
    InputError
        If there is no such checkpoint or it is no speech encoder.
    """
    source = str(source)
    try:
        config = AutoConfig.from_pretrained(
            source,
            cache_dir=str(save_path) or None,
            trust_remote_code=False,
        )
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"backbone {source}: cannot be read ({reason}); give a Hugging "
            "Face id or a folder with config.json and model.safetensors"
        ) from error
    if config.model_type not in LOBES:
        raise InputError(
            f"backbone {source}: '{config.model_type}' is not a speech "
            f"encoder; give one of {', '.join(sorted(LOBES))}"
        )
    return config
