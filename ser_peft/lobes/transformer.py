"""What the lobes of speech and of text share: a checkpoint and its layers."""

import os
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
from transformers import AutoConfig, AutoModel
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
        Where downloads are kept.
    dtype : str
        Precision of the weights. Checkpoints stored in float16 are loaded in
        float32 unless asked otherwise: mixed precision is the Brain's
        business (``--precision=bf16``).
    gradient_checkpointing : bool
        Recompute each layer in the backward pass: less memory, about a
        third more time. Non-reentrant, so that adapters get gradients.
    weights : bool or str
        False: the encoder's shapes only, on torch's meta device, which takes
        neither a checkpoint's weights nor memory. "random": from scratch,
        by torch's generator.
    depth : int, optional
        Keep so many of the lowest layers; all where absent. The checkpoint
        may lack the others.
    revision : str, optional
        Commit of a Hugging Face id, of which all files are; `load_lobe`
        finds the newest.
    """

    not_needed = ()
    """Tensors that the checkpoint may lack."""

    # Where the encoder keeps things, relative to `backbone`.
    layers_path = "encoder.layers"
    attention = ()
    ffn = ()
    ffn_input = None
    """Where our own adapters go; None where they cannot."""
    front_end = ()
    """What is below the transformer: convolutions and their projection."""
    closing = ()
    """What is above its layers: the final norm."""

    divisible = False
    """Whether `below` can stop between two layers."""

    prefix = ""
    """Of the encoder's tensors in the checkpoint."""
    depth = None
    """How many of the lowest layers were kept; None for all."""
    random = False
    """Whether it starts from scratch."""
    adapter_name = "adapter"
    """Of the folder of a saved model that its adapter is in."""
    identity = None
    """Of the weights: ``commit`` of a Hugging Face id, or ``sha256``, file to
    digest, of a local folder. None of what has no checkpoint."""

    def __init__(
        self,
        source,
        save_path="",
        dtype="float32",
        gradient_checkpointing=False,
        weights=True,
        depth=None,
        revision=None,
    ):
        source, local = str(source), os.path.isdir(source)
        save_path = str(save_path or HF_HUB_CACHE)
        # Not SpeechBrain's constructor: it takes whatever commit is newest.
        torch.nn.Module.__init__(self)
        with quiet():
            self.config = self.override_config(
                AutoConfig.from_pretrained(
                    source,
                    cache_dir=save_path,
                    revision=revision,
                    trust_remote_code=False,
                )
            )
            self.commit = revision
            if weights is True:
                self.identity = {"commit": self.commit}
                if local:
                    self.identity = {"sha256": weights_of(source)}
            self._from_pretrained(
                source,
                save_path=save_path,
                dtype=getattr(torch, dtype),
                weights=weights,
                depth=depth,
            )
            self.model.train()
            if gradient_checkpointing:
                self.model.gradient_checkpointing_enable(
                    gradient_checkpointing_kwargs={"use_reentrant": False}
                )
        # Absolute, so that a saved model finds its backbone from anywhere.
        self.source = os.path.abspath(source) if local else source
        if depth is not None:
            self._truncate(depth)

    def _from_pretrained(self, source, save_path, dtype, weights, depth):
        """Load safetensors, all of them, and unpickle nothing.

        Replaces SpeechBrain's, which would unpickle its own checkpoints and
        leave at random whatever the file lacks.
        """
        self.random = weights == "random"
        if weights is not True:
            with torch.device("cpu" if self.random else "meta"):
                self.model = AutoModel.from_config(
                    self.config, dtype=dtype, trust_remote_code=False
                )
            return
        try:
            self.model, report = AutoModel.from_pretrained(
                source,
                config=self.config,
                cache_dir=save_path,
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
        missing = sorted(report["missing_keys"])
        for name in missing:
            if name == "masked_spec_embed":
                # A random one would be another in every run.
                self.model.masked_spec_embed.data.zero_()
        cut_off = ()
        if depth is not None:
            cut_off = tuple(
                f"{self.prefix}{self.layers_path}.{i}."
                for i in range(depth, self.config.num_hidden_layers)
            )
        missing = [
            name
            for name in missing
            if not name.startswith((*self.not_needed, *cut_off))
        ]
        if missing:
            raise InputError(
                f"backbone {source}: model.safetensors lacks {len(missing)} "
                f"of the encoder's tensors ({missing[0]}, ...); give the "
                "checkpoint of a whole encoder"
            )

    @property
    def extractor(self):
        """What prepares the input of the stock encoder, for its users."""
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
        # Names code, which stays where it was.
        for told in (vars(self.config), getattr(extractor, "init_kwargs", {})):
            told.pop("auto_map", None)
        self.config.save_pretrained(folder)
        extractor.save_pretrained(folder)
        tensors = {
            self.prefix + name: tensor.detach().cpu().clone().contiguous()
            for name, tensor in self.backbone.state_dict().items()
        }
        path = os.path.join(folder, "model.safetensors")
        save_file(tensors, path, metadata={"format": "pt"})

    def train(self, mode=True):
        """As always; also makes leaner what PEFT brought or wrapped."""
        make_lean(self)
        return super().train(mode)

    @property
    def backbone(self):
        """The transformers encoder, below whatever PEFT has put around it."""
        base = getattr(self.model, "get_base_model", None)
        return base() if base else self.model

    @property
    def layers(self):
        """The transformer layers, bottom first (ModuleList)."""
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
    """SHA-256 of an encoder's weights.

    Arguments
    ---------
    folder : str or Path
        In Hugging Face layout.

    Returns
    -------
    dict of str to str
        File -> hexadecimal digest.
    """
    files = sorted(Path(folder).glob("*.safetensors"))
    return {file.name: sha256_of(file) for file in files if file.is_file()}


@contextmanager
def quiet():
    """Load without the noise of transformers; downloads keep their bar.

    What its report of the weights says that matters is an error of ours,
    and SpeechBrain calls a method that will be renamed in version 6.
    """
    shown, verbosity = (
        logging.is_progress_bar_enabled(),
        logging.get_verbosity(),
    )
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
