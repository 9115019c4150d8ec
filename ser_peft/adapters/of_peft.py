"""Methods of PEFT: read from files, prepared for an encoder, put into it.

The one module here that imports PEFT, and is itself imported where a method
of PEFT is used: a merged model is loaded without it.
"""

import copy
import functools
import json
import re
import typing
import warnings

import peft
import torch
from peft import PeftType
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from pydantic import ConfigDict, TypeAdapter

from ser_peft.adapters.methods import check_pattern
from ser_peft.errors import InputError
from ser_peft.lobes.lean import LeanLinear

__all__ = ["configuration", "inject", "prepare", "set_tensors", "tensors_of"]

NEW, START = "default", "start"
"""PEFT's names of the method, and of an adapter that stays beside it."""
PATTERNS = ("_modules", "_pattern", "_parameters", "modules_to_save")
"""Ends of the names of PEFT's settings that name modules, some by regex."""
PRESETS = ("attention", "ffn", "attention+ffn", "norm")


@functools.cache
def _hints(kind):
    """Fields of one of PEFT's configurations -> validators of pydantic."""
    hints = typing.get_type_hints(PEFT_TYPE_TO_CONFIG_MAPPING[kind])
    strict = ConfigDict(strict=True)
    return {
        name: TypeAdapter(hint, config=strict)
        for name, hint in hints.items()
        if not name.endswith("_config")
    }


def configuration(content):
    """Build a configuration of PEFT from its file's content.

    Arguments
    ---------
    content : dict
        ``adapter_config.json``.

    Returns
    -------
    peft.PeftConfig

    Raises
    ------
    ValueError, TypeError
        If PEFT has no such method, or a setting is not one of its kind.
    """
    kind = str(content.get("peft_type"))
    if kind not in PEFT_TYPE_TO_CONFIG_MAPPING:
        raise ValueError(f"peft_type: {kind!r}: no such method")
    for key, value in content.items():
        if key.endswith("_config") and value:
            raise ValueError(f"{key}: {value!r:.60}: leave it out")
        if key in _hints(kind):
            try:
                _hints(kind)[key].validate_json(json.dumps(value))
            except ValueError as error:
                reason = error.errors()[0]["msg"]
                raise ValueError(f"{key}: {value!r:.60}: {reason}") from error
        if key.endswith(PATTERNS):
            for pattern in [value] if isinstance(value, str) else value or ():
                check_pattern(pattern, key)
    if content.get("layer_replication"):
        raise ValueError("layer_replication: copies layers; leave it out")
    method = peft.PeftConfig.from_peft_type(**content)
    method.inference_mode = False  # else PEFT builds it without parameters
    # PEFT would warn that the backbone has moved, which does not matter.
    method.base_model_name_or_path = None
    return method


def prepare(lobe, config, targets, layers):
    """Copy a PEFT configuration and fill in its targets.

    Arguments
    ---------
    lobe : SpeechLobe
        Lobe whose modules are targeted.
    config : peft.PeftConfig
        Configuration, not changed.
    targets : str or None
        See `PeftLobe`.
    layers : list of int or None
        See `PeftLobe`.

    Returns
    -------
    peft.PeftConfig
        Configuration for `peft.get_peft_model`.

    Raises
    ------
    InputError
        If the method cannot work on a speech encoder, or the targets match
        nothing.
    """
    config = copy.deepcopy(config)
    _refuse(config)
    if config.target_modules is None:
        config.target_modules = _target_regex(lobe, config, targets, layers)
        if config.peft_type == PeftType.IA3:
            # Scaled at its input, not at its output.
            config.feedforward_modules = rf".*{re.escape(lobe.ffn[-1])}"
    elif targets not in (None, "attention+ffn") or layers is not None:
        raise InputError(
            "targets, layers: the method's target_modules says already where "
            f"it goes ({config.target_modules}); leave the two out"
        )
    elif isinstance(config.target_modules, str):
        check_pattern(config.target_modules, "target_modules")
    return config


def _refuse(config):
    """Refuse a configuration that cannot work, and give the reason."""
    reason = REFUSED.get(config.peft_type)
    start = str(getattr(config, "init_lora_weights", ""))
    if start.startswith(UNREPEATABLE):
        reason = (
            f"with init_lora_weights={start} starts from data or from a random "
            "decomposition that a restored run cannot repeat; use 'pissa', "
            "'olora' or the default"
        )
    if getattr(config, "megatron_config", None):
        reason = "with megatron_config imports what it names; leave it out"
    if config.task_type is not None:
        reason = (
            f"has task_type={config.task_type}, for which peft calls the "
            "encoder as if it took text; leave it out"
        )
    if config.is_prompt_learning:
        reason = (
            "puts embeddings in front of text tokens, which a speech encoder "
            "does not have; use ser_peft.adapters.PromptConfig"
        )
    if reason:
        raise InputError(f"method: {PeftType(config.peft_type).value} {reason}")


REFUSED = {
    PeftType.ADAPTION_PROMPT: "is written for the attention of a few text "
    "decoders; use ser_peft.adapters.PromptConfig",
    PeftType.POLY: "wants a task id with every batch; use peft.LoraConfig",
    PeftType.SHADOW: "rides on a text decoder's own layer loop; use "
    "peft.LoraConfig",
    PeftType.TRAINABLE_TOKENS: "trains rows of a token embedding, which a "
    "speech encoder does not have; use peft.LoraConfig",
    PeftType.XLORA: "mixes LoRAs by what a text decoder does with its "
    "tokens; use peft.LoraConfig",
}
# Starting points of LoRA that are computed from training data, or at random
# from the encoder's weights, so that no later run could find them again.
UNREPEATABLE = ("corda", "eva", "loftq", "lora_ga", "pissa_niter")


def _target_regex(lobe, config, targets, layers):
    """Build a regex of module names within the encoder."""
    names = [name for name, _ in lobe.backbone.named_modules()]
    if targets not in PRESETS:
        if layers is not None:
            raise InputError(
                f"layers: goes with targets in {PRESETS}; with a regex of "
                "your own, put the layers in it"
            )
        check_pattern(targets, "targets")
        if not any(re.fullmatch(targets, name) for name in names):
            first = f"{lobe.layers_path}.0."
            inside = [name for name in names if name.startswith(first)]
            raise InputError(
                f"targets: {targets!r} matches no module of {lobe.source}; "
                f"it must match full names, as {', '.join(inside[:6])}; or "
                f"give one of {PRESETS}"
            )
        return targets
    if config.peft_type == PeftType.LN_TUNING:
        targets = "norm"
    attention, ffn = lobe.attention, lobe.ffn
    if config.peft_type == PeftType.IA3:
        # Where Liu et al. 2022 put it: keys, values, inner FFN activations.
        attention, ffn = attention[1:3], ffn[-1:]
    modules = {
        "attention": attention,
        "ffn": ffn,
        "attention+ffn": (*attention, *ffn),
        "norm": [
            name
            for layer in lobe.layers[:1]
            for name, module in layer.named_modules()
            if isinstance(module, torch.nn.LayerNorm)
        ],
    }[targets]
    if not modules:
        raise InputError(
            f"targets: {lobe.source} has no {targets} in layers; give a regex "
            "of module names"
        )
    # Any layer, not their numbers, where all are meant: then an adapter
    # shows that it does not fit a deeper backbone.
    index = r"\d+" if layers is None else "|".join(map(str, layers))
    inside = "|".join(map(re.escape, modules))
    return rf"{re.escape(lobe.layers_path)}\.({index})\.({inside})"


def inject(lobe, config, name):
    """Put a method of PEFT into a lobe, or a second one beside it.

    Arguments
    ---------
    lobe : SpeechLobe or TextLobe
        Changed in place.
    config : peft.PeftConfig
        Output of `prepare`.
    name : str
        Name of the method, for messages.

    Raises
    ------
    InputError
        If PEFT refuses, or could not merge it.
    """
    modules = [*lobe.model.modules()]
    # PEFT answers gradient checkpointing with gradients for the input, which
    # only the reentrant kind needs.
    recomputed = [
        m for m in modules if getattr(m, "gradient_checkpointing", False)
    ]
    for module in recomputed:
        module.gradient_checkpointing = False
    # Some methods know torch's own class only.
    for module in modules:
        if type(module) is LeanLinear:
            module.__class__ = torch.nn.Linear
    try:
        with warnings.catch_warnings():
            # PEFT calls a method that transformers will rename.
            warnings.filterwarnings("ignore", ".*deprecated", FutureWarning)
            if isinstance(lobe.model, peft.PeftModel):
                lobe.model.add_adapter(START, config)
            else:
                lobe.model = peft.get_peft_model(lobe.model, config)
    except (NotImplementedError, ValueError) as error:
        raise InputError(f"method {name}: {error}") from error
    for module in recomputed:
        module.gradient_checkpointing = True
    for target, module in lobe.backbone.named_modules():
        if getattr(getattr(module, "base_layer", None), "groups", 1) > 1:
            raise InputError(
                f"targets: {target} is a grouped convolution, into which "
                f"peft cannot merge {name}; leave it out"
            )


def tensors_of(lobe, name=NEW):
    """Tensors of PEFT's method in a lobe, as in its files, by name."""
    return peft.get_peft_model_state_dict(
        lobe.model, adapter_name=name, save_embedding_layers=False
    )


def set_tensors(lobe, tensors, name=NEW):
    """Overwrite the tensors that `tensors_of` gives."""
    peft.set_peft_model_state_dict(lobe.model, tensors, name)
