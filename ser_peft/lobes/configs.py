"""Configurations of encoders: read, or known without any file."""

from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from huggingface_hub.errors import StrictDataclassError
from transformers import (
    AutoConfig,
    BertConfig,
    DistilBertConfig,
    HubertConfig,
    RobertaConfig,
    Wav2Vec2Config,
    WavLMConfig,
    WhisperConfig,
)
from transformers.utils.hub import resolve_revision

from ser_peft.errors import BAD_ARGUMENTS, InputError
from ser_peft.io import refuse_pointer
from ser_peft.lobes.filterbank_cnn import FilterbankCnnConfig
from ser_peft.lobes.vggish import VGGishConfig
from ser_peft.storage.model_files import PartsFile
from ser_peft.storage.schema import read_json

__all__ = [
    "KNOWN",
    "SCRATCH",
    "commit_of",
    "config_folder",
    "config_of",
    "read_config",
]

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


def _bert(layers, width):
    return BertConfig, {
        "num_hidden_layers": layers,
        "hidden_size": width,
        "num_attention_heads": width // 64,
        "intermediate_size": 4 * width,
    }


_ROBERTA = {
    "vocab_size": 50265,
    "max_position_embeddings": 514,
    "type_vocab_size": 1,
}

SCRATCH = {
    "filterbank_cnn": (FilterbankCnnConfig, {}),
    "vggish": (VGGishConfig, {}),
}
"""What has no checkpoint anywhere: as `KNOWN`."""

KNOWN = {
    **SCRATCH,
    "google-bert/bert-base-uncased": (BertConfig, {}),
    "google-bert/bert-large-uncased": _bert(24, 1024),
    "distilbert/distilbert-base-uncased": (DistilBertConfig, {}),
    "FacebookAI/roberta-base": (RobertaConfig, _ROBERTA),
    **{
        f"google/bert_uncased_L-{layers}_H-{width}_A-{width // 64}": _bert(
            layers, width
        )
        for layers in (2, 4, 6, 8, 10, 12)
        for width in (128, 256, 512, 768)
    },
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


def commit_of(source, revision=None, save_path=""):
    """Commit that a Hugging Face id stands for.

    Arguments
    ---------
    source : str or Path
        The id, or a local folder.
    revision : str, optional
        Commit, branch or tag; the newest commit where absent.
    save_path : str
        Where downloads are kept.

    Returns
    -------
    str or None
        The commit; `revision` itself of a folder, or where nobody knows.
    """
    cache = str(save_path) or None
    found = resolve_revision(str(source), revision, cache_dir=cache)
    return getattr(found, "resolved", found)


def read_config(source, save_path="", revision=None):
    """Read the configuration of a checkpoint.

    Arguments
    ---------
    source : str or Path
        Hugging Face id or local folder.
    save_path : str
        Where downloads are kept.
    revision : str, optional
        Commit of a Hugging Face id; the newest one where absent.

    Returns
    -------
    transformers.PretrainedConfig
        As it says.

    Raises
    ------
    InputError
        If there is no such checkpoint, or a file of it is a pointer.
    """
    # All that is read of it, here: others tell a pointer for damage.
    for file in filter(Path.is_file, Path(source).glob("*")):
        if file.suffix in (".json", ".safetensors", ".model", ".txt"):
            refuse_pointer(file)
        if file.name.endswith(".index.json"):
            _refuse_way_out(file)
    try:
        return AutoConfig.from_pretrained(
            str(source),
            cache_dir=str(save_path) or None,
            revision=revision,
            trust_remote_code=False,
        )
    except (*BAD_ARGUMENTS, StrictDataclassError) as error:
        reason = (str(error).splitlines() or [repr(error)])[0]
        raise InputError(
            f"backbone {source}: cannot be read ({reason}); give a Hugging "
            "Face id or a folder with config.json and model.safetensors"
        ) from error


def _refuse_way_out(path):
    """Refuse a list of a checkpoint's parts that are in other folders."""
    advice = "copy the checkpoint again"
    listed = read_json(path, PartsFile, "is no list of parts", advice)
    for name, part in listed["weight_map"].items():
        if Path(part).name != part:
            raise InputError(
                f"backbone {path}: weight_map: {name}: {part}: is in another "
                f"folder; {advice}"
            )


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
        If there is no such backbone.

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
