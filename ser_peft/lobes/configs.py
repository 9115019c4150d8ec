"""Configurations of encoders: read from files, or known without any."""

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


def _sizes(layers, width):
    """Sizes of a transformer, as all but Whisper name them."""
    return {
        "num_hidden_layers": layers,
        "hidden_size": width,
        "num_attention_heads": width // 64,
        "intermediate_size": 4 * width,
    }


def _whisper(width, layers, **changes):
    sizes = {"d_model": width}
    for side in ("encoder", "decoder"):
        sizes |= {
            f"{side}_layers": layers,
            f"{side}_attention_heads": width // 64,
            f"{side}_ffn_dim": 4 * width,
        }
    return WhisperConfig, {**sizes, **changes}


_LARGE = _sizes(24, 1024)
_PRE_NORM = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}
_XLSR = (Wav2Vec2Config, {**_LARGE, **_PRE_NORM, "conv_bias": True})
_WHISPERS = {
    "tiny": (384, 4),
    "base": (512, 6),
    "small": (768, 12),
    "medium": (1024, 24),
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
"""Encoders that start from scratch, in the format of `KNOWN`."""

KNOWN = {
    **SCRATCH,
    "google-bert/bert-base-uncased": (BertConfig, {}),
    "google-bert/bert-large-uncased": (BertConfig, _LARGE),
    "distilbert/distilbert-base-uncased": (DistilBertConfig, {}),
    "FacebookAI/roberta-base": (RobertaConfig, _ROBERTA),
    **{
        f"google/bert_uncased_L-{layers}_H-{width}_A-{width // 64}": (
            BertConfig,
            _sizes(layers, width),
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
        f"openai/whisper-{name}{language}": _whisper(*size, vocab_size=words)
        for language, words in (("", 51865), (".en", 51864))
        for name, size in _WHISPERS.items()
    },
    "openai/whisper-large": _whisper(1280, 32),
    "openai/whisper-large-v2": _whisper(1280, 32),
    "openai/whisper-large-v3": _whisper(
        1280, 32, num_mel_bins=128, vocab_size=51866
    ),
}
"""Hugging Face id -> configuration class, and values unlike its defaults.

Shapes only: dropout rates and the like are not those of the checkpoint.
"""


def commit_of(source, revision=None, save_path=""):
    """Find the commit that a Hugging Face id stands for.

    Arguments
    ---------
    source : str or Path
        Hugging Face id or local folder.
    revision : str, optional
        Commit, branch or tag; the newest commit where absent.
    save_path : str
        Folder for downloads.

    Returns
    -------
    str or None
        The commit; `revision` itself for a folder, or without a network.
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
        Folder for downloads.
    revision : str, optional
        Commit of a Hugging Face id; the newest one where absent.

    Returns
    -------
    transformers.PretrainedConfig
        The configuration of its ``config.json``.

    Raises
    ------
    InputError
        If there is no such checkpoint, or a file of it is a pointer.
    """
    # All files that are read: other messages would call a pointer damaged.
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
    """Refuse a list of a checkpoint's parts that leads to other folders."""
    advice = "copy the checkpoint again"
    listed = read_json(path, PartsFile, "is no list of parts", advice)
    for name, part in listed["weight_map"].items():
        if Path(part).name != part:
            raise InputError(
                f"backbone {path}: weight_map: {name}: {part}: is in another "
                f"folder; {advice}"
            )


def config_of(backbone):
    """Find a backbone's configuration, in `KNOWN` or else in its files.

    Arguments
    ---------
    backbone : str or Path
        Hugging Face id or local folder.

    Returns
    -------
    transformers.PretrainedConfig
        Configuration with the right shapes.

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
    """Make a temporary folder that holds a backbone's ``config.json`` only.

    Arguments
    ---------
    backbone : str or Path
        See `config_of`.

    Yields
    ------
    str
        Path of the folder, which `load_lobe` takes with ``weights=False``.
    """
    with TemporaryDirectory() as folder:
        text = config_of(backbone).to_json_string()
        Path(folder, "config.json").write_text(text, encoding="utf-8")
        yield folder
