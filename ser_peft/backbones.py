"""Known backbones: their configurations and shapes, without any weights."""

from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from transformers import (
    HubertConfig,
    Wav2Vec2Config,
    WavLMConfig,
    WhisperConfig,
)

from ser_peft.lobes import load_lobe, read_config

__all__ = ["KNOWN", "config_of", "shapes"]

_LARGE = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
}
_PRE_NORM = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}
_XLSR = (Wav2Vec2Config, {**_LARGE, **_PRE_NORM, "conv_bias": True})


def _whisper(width, layers, **changes):
    return WhisperConfig, {
        "d_model": width,
        **dict.fromkeys(("encoder_layers", "decoder_layers"), layers),
        **dict.fromkeys(
            ("encoder_attention_heads", "decoder_attention_heads"), width // 64
        ),
        **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 4 * width),
        **changes,
    }


_WHISPERS = {
    "tiny": (384, 4),
    "base": (512, 6),
    "small": (768, 12),
    "medium": (1024, 24),
}

KNOWN = {
    "facebook/wav2vec2-base": (Wav2Vec2Config, {}),
    "facebook/wav2vec2-base-960h": (Wav2Vec2Config, {}),
    "facebook/wav2vec2-large": (Wav2Vec2Config, _LARGE),
    "facebook/wav2vec2-large-robust": _XLSR,
    "facebook/wav2vec2-large-xlsr-53": _XLSR,
    "facebook/mms-300m": _XLSR,
    "facebook/hubert-base-ls960": (HubertConfig, {}),
    "facebook/hubert-large-ll60k": (HubertConfig, _XLSR[1]),
    "microsoft/wavlm-base": (WavLMConfig, {}),
    "microsoft/wavlm-base-plus": (WavLMConfig, {}),
    "microsoft/wavlm-large": (WavLMConfig, {**_LARGE, **_PRE_NORM}),
    **{
        f"openai/whisper-{name}": _whisper(*size)
        for name, size in _WHISPERS.items()
    },
    **{
        f"openai/whisper-{name}.en": _whisper(*size, vocab_size=51864)
        for name, size in _WHISPERS.items()
    },
    "openai/whisper-large": _whisper(1280, 32),
    "openai/whisper-large-v2": _whisper(1280, 32),
    "openai/whisper-large-v3": _whisper(
        1280, 32, num_mel_bins=128, vocab_size=51866
    ),
}
"""Hugging Face id -> configuration class and what differs from its defaults.

Shapes only: dropout rates and the like are not those of the checkpoint.
"""


def config_of(backbone):
    """Configuration of a backbone, from this module where it is known.

    Arguments
    ---------
    backbone : str or Path
        Hugging Face id or local folder.

    Returns
    -------
    transformers.PretrainedConfig
        Right in all that decides shapes.

    Raises
    ------
    InputError
        If there is no such backbone or it is no speech encoder.

    Example
    -------
    >>> config_of("openai/whisper-small").encoder_layers
    12
    """
    if str(backbone) in KNOWN:
        kind, changes = KNOWN[str(backbone)]
        return kind(**changes)
    return read_config(backbone)


@contextmanager
def config_folder(backbone):
    """A temporary folder that holds a backbone's ``config.json`` only.

    Arguments
    ---------
    backbone : str or Path
        See `config_of`.

    Yields
    ------
    str
        Its path, which `load_lobe` takes with ``weights=False``.
    """
    with TemporaryDirectory() as folder:
        text = config_of(backbone).to_json_string()
        Path(folder, "config.json").write_text(text, encoding="utf-8")
        yield folder


def shapes(backbone):
    """The lobe of a backbone as shapes: no weights, no memory, no network.

    Arguments
    ---------
    backbone : str or Path
        See `config_of`; ids that are not known are looked up on the hub.

    Returns
    -------
    SpeechLobe
        On torch's meta device. `PeftLobe` takes it where nothing has to be
        computed, that is with ``trainable=False``.

    Example
    -------
    >>> lobe = shapes("openai/whisper-tiny")
    >>> sum(p.numel() for p in lobe.parameters())
    8208384
    """
    with config_folder(backbone) as folder:
        lobe = load_lobe(folder, weights=False)
    lobe.source = str(backbone)
    return lobe
