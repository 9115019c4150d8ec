"""Base class of all lobes: a checkpoint's encoder and its layers."""

import os
import re
import warnings
from contextlib import contextmanager
from pathlib import Path

import torch
from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.utils import enable_progress_bars
from safetensors import SafetensorError
from safetensors.torch import save_file
from speechbrain.integrations.huggingface.huggingface import (
    HFTransformersInterface,
)
from transformers import AutoModel
from transformers.utils import logging

from ser_peft.errors import BAD_ARGUMENTS, InputError, out_of_memory
from ser_peft.io import sha256_of
from ser_peft.lobes.lean import make_lean

__all__ = ["TransformerLobe"]


class TransformerLobe(HFTransformersInterface):
    """A checkpoint's encoder, into whose layers adapters go.

    Arguments
    ---------
    source : str
        Hugging Face id or local folder (safetensors weights).
    save_path : str
        Folder for downloads.
    config : transformers.PretrainedConfig
        Configuration of the encoder.
    dtype : str
        Precision of the weights. Checkpoints stored in float16 are loaded in
        float32 unless asked otherwise: mixed precision is set in the Brain
        (``--precision=bf16``).
    gradient_checkpointing : bool
        Recompute each layer in the backward pass: less memory, about a
        third more time. Non-reentrant, so that adapters get gradients.
    weights : bool or str
        False: the encoder's shapes only, on torch's meta device, which takes
        neither a checkpoint's weights nor memory. "random": from scratch,
        by torch's generator.
    depth : int, optional
        Number of the lowest layers that are kept; all where absent. The
        checkpoint may lack the others.
    revision : str, optional
        Commit of a Hugging Face id that all files are taken from.

    Raises
    ------
    InputError
        If the weights cannot be read or some are missing, or there are
        fewer layers than `depth`.
    """

    not_needed = ()
    """Prefixes of tensors that the checkpoint may lack."""

    # Names of modules, relative to `backbone` or to a layer.
    layers_path = "encoder.layers"
    attention = ()
    ffn = ()
    ffn_input = None
    """Module that bottleneck adapters start from; None where none can."""
    front_end = ()
    """Modules below the transformer: convolutions and their projection."""
    closing = None
    """Layer norm above the layers."""

    divisible = False
    """Whether `below` can stop between two layers."""

    checkpoint_class = AutoModel
    """Class of transformers that reads the checkpoint."""
    prefix = ""
    """Prefix of the encoder's tensors in the checkpoint."""
    depth = None
    """Number of the lowest layers that were kept; None for all."""
    random = False
    """Whether the encoder starts from scratch."""
    adapter_name = "adapter"
    """Adapter subfolder name in a saved model."""
    identity = None
    """Identity of the weights: ``commit`` of a Hugging Face id, or ``sha256``
    (file name to digest) of a local folder; None without a checkpoint."""

    def __init__(
        self,
        source,
        save_path="",
        config=None,
        dtype="float32",
        gradient_checkpointing=False,
        weights=True,
        depth=None,
        revision=None,
    ):
        source, local = str(source), os.path.isdir(source)
        # Not SpeechBrain's constructor: it takes whatever commit is newest.
        torch.nn.Module.__init__(self)
        # Absolute, so that a saved model finds its backbone from anywhere.
        self.source = os.path.abspath(source) if local else source
        self.config, self.commit = self.override_config(config), revision
        self.random = weights == "random"
        dtype = getattr(torch, dtype)
        with quiet():
            if weights is True:
                self.identity = {"commit": self.commit}
                if local:
                    self.identity = {"sha256": weights_of(source)}
                self._from_pretrained(source, save_path, dtype, depth)
            else:
                with torch.device("cpu" if self.random else "meta"):
                    self.model = AutoModel.from_config(
                        config, dtype=dtype, trust_remote_code=False
                    )
            self.model = self.encoder_of(self.model)
            self.model.train()
            if gradient_checkpointing:
                self.model.gradient_checkpointing_enable(
                    gradient_checkpointing_kwargs={"use_reentrant": False}
                )
        if depth is not None:
            self._truncate(depth)

    def encoder_of(self, model):
        """Take the encoder out of the checkpoint's model."""
        return model

    def _from_pretrained(self, source, save_path, dtype, depth):
        """Load safetensors, all of them, and unpickle nothing.

        Replaces SpeechBrain's, which would unpickle its own checkpoints and
        leave at random whatever the file lacks.
        """
        prefix = re.escape(self.prefix)
        try:
            self.model, report = self.checkpoint_class.from_pretrained(
                source,
                key_mapping={rf"^(model\.)?{prefix}": ""} if prefix else None,
                config=self.config,
                cache_dir=str(save_path or HF_HUB_CACHE),
                revision=self.commit,
                dtype=dtype,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
            )
        except (*BAD_ARGUMENTS, SafetensorError) as error:
            if out_of_memory(error):
                raise
            raise InputError(
                f"backbone {source}: model.safetensors is missing or damaged "
                f"({error}); where there is a pytorch_model.bin only, convert "
                "it once with transformers.AutoModel.from_pretrained(THIS)"
                ".save_pretrained(FOLDER) and give that folder"
            ) from error
        if "masked_spec_embed" in report["missing_keys"]:
            # A random one would be another in every run.
            self.model.masked_spec_embed.data.zero_()
        cut_off = range(depth, self.config.num_hidden_layers) if depth else ()
        not_needed = (
            *self.not_needed,
            *(f"{self.layers_path}.{i}." for i in cut_off),
        )
        missing = [
            name
            for name in sorted(report["missing_keys"])
            if not name.startswith(not_needed)
        ]
        if missing:
            raise InputError(
                f"backbone {source}: model.safetensors lacks {len(missing)} "
                f"of the encoder's tensors ({self.prefix}{missing[0]}, ...); "
                "give the checkpoint of a whole encoder"
            )

    @property
    def extractor(self):
        """Feature extractor (tokenizer) of the stock encoder."""
        raise NotImplementedError

    def save_pretrained(self, folder):
        """Write the encoder as Hugging Face does, without any adapter.

        Arguments
        ---------
        folder : str or Path
            Created. `load_lobe` (`load_text`) takes it, and so does
            transformers' `AutoModel.from_pretrained`.
        """
        extractor = self.extractor
        # It names code, which is not copied.
        for keys in (vars(self.config), getattr(extractor, "init_kwargs", {})):
            keys.pop("auto_map", None)
        self.config.save_pretrained(folder)
        extractor.save_pretrained(folder)
        tensors = {
            self.prefix + name: tensor.detach().cpu().clone().contiguous()
            for name, tensor in self.backbone.state_dict().items()
        }
        path = os.path.join(folder, "model.safetensors")
        save_file(tensors, path, metadata={"format": "pt"})

    def train(self, mode=True):
        """Set train or eval mode, and make leaner the modules of PEFT."""
        make_lean(self)
        return super().train(mode)

    @property
    def backbone(self):
        """Encoder of transformers, without PEFT's wrapper around it."""
        base = getattr(self.model, "get_base_model", None)
        return base() if base else self.model

    @property
    def layers(self):
        """Transformer layers, bottom first (ModuleList)."""
        return self.backbone.get_submodule(self.layers_path)

    def _truncate(self, depth):
        """Keep the lowest layers, whose hidden states stay as they were."""
        if depth not in range(1, self.num_layers + 1):
            raise InputError(
                f"depth: {depth}: {self.source} has 1 to {self.num_layers} "
                "layers"
            )
        if depth < self.num_layers:
            self.depth = depth
            del self.layers[depth:]

    @property
    def num_layers(self):
        """Number of transformer layers; there is one hidden state more."""
        return len(self.layers)

    @property
    def hidden_size(self):
        """Width of the hidden states."""
        return self.config.hidden_size


def weights_of(folder):
    """Hash an encoder's weights by SHA-256.

    Arguments
    ---------
    folder : str or Path
        Checkpoint in Hugging Face layout.

    Returns
    -------
    dict of str to str
        File name -> hexadecimal digest.
    """
    files = sorted(Path(folder).glob("*.safetensors"))
    return {file.name: sha256_of(file) for file in files if file.is_file()}


@contextmanager
def quiet():
    """Load without log lines of transformers; downloads keep their bar.

    The part of its report of the weights that matters is an error of ours,
    and SpeechBrain calls a method that will be renamed in version 6.
    """
    shown = logging.is_progress_bar_enabled()
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if shown:
        enable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*deprecated", FutureWarning)
            yield
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()
