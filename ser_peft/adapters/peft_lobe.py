"""A lobe with a parameter-efficient method plugged into it."""

import json
import logging
import re
import shutil
import warnings
from itertools import chain
from pathlib import Path

import peft
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from speechbrain.utils.checkpoints import (
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)

from ser_peft.adapters import folder as adapter_folder
from ser_peft.adapters.folder import several
from ser_peft.adapters.liveness import gradients, reference_states
from ser_peft.adapters.methods import as_methods, method_name, prepare
from ser_peft.adapters.prompts import PromptConfig
from ser_peft.errors import BAD_ARGUMENTS, InputError, out_of_memory
from ser_peft.io import atomic_path
from ser_peft.lobes.lean import LeanLinear

__all__ = ["PeftLobe", "load_adapter"]

logger = logging.getLogger(__name__)


@register_checkpoint_hooks
class PeftLobe(torch.nn.Module):
    """A lobe whose encoder is frozen but for a few trained parameters.

    On building, a dummy batch proves that every trainable tensor gets a
    gradient. Checkpoints hold only what training changes.

    Arguments
    ---------
    lobe : SpeechLobe or TextLobe
        From `ser_peft.lobes.load_lobe` or `load_text`. Changed in place.
    method : peft.PeftConfig, BottleneckConfig, PromptConfig, str or list
        What trains: a method of PEFT (``!new:peft.LoraConfig {r: 16}``),
        one of ours, "frozen" (nothing), "full" (all that can),
        "transformer" (all but the convolutional front end), or a list of
        methods used together, with at most one of PEFT's.
    targets : str
        Where a method of PEFT goes: "attention", "ffn", "attention+ffn",
        "norm", or a regex that matches full module names within the
        encoder (names, groups, alternatives, sets and a few repetitions: see
        `check_pattern`). A `target_modules` in the configuration goes first.
    layers : list of int, optional
        Transformer layers that are adapted, counted from 0 at the bottom;
        all where absent. With "full": the layers that train, nothing else.
    mask : SpanMask, optional
        Hides spans of frames and channels in training, as SpecAugment does.
    frozen_dropout : bool
        Keep the dropout of the encoder's frozen modules on in training. It
        costs a fifth of a step on CPU, and what it would regularise does
        not train; a method's own dropout (``lora_dropout``) stays on.
    init_from : str or Path, optional
        A run, its ``model/`` folder, or an exported adapter, to start from.
        One of the same method is carried on; any other is folded into the
        encoder's weights, and the method starts anew on top of that.
    init_merged : bool
        Fold in one of the same method too.
    trainable : bool
        False for inference: nothing trains, eval mode whatever `train`
        says, and no check.

    Raises
    ------
    InputError
        If the method or its targets cannot work on this encoder, or a
        trainable tensor gets no gradient.

    Example
    -------
    >>> from ser_peft.lobes import load_lobe
    >>> lobe = load_lobe("microsoft/wavlm-base-plus")  # doctest: +SKIP
    >>> config = peft.LoraConfig(r=16, lora_alpha=32)
    >>> encoder = PeftLobe(lobe, config)  # doctest: +SKIP
    >>> states, frames = encoder(torch.rand(2, 16000))  # doctest: +SKIP
    >>> states.shape  # doctest: +SKIP
    torch.Size([13, 2, 49, 768])
    """

    base = None
    """Folder of an adapter that was folded into the encoder's weights."""

    def __init__(
        self,
        lobe,
        method,
        targets="attention+ffn",
        layers=None,
        mask=None,
        frozen_dropout=False,
        init_from=None,
        init_merged=False,
        trainable=True,
    ):
        super().__init__()
        self.lobe = lobe
        self.methods = as_methods(method)
        self.method_name = method_name(self.methods)
        self.layers = layers
        self.mask = mask
        self.trainable = trainable and self.methods != ["frozen"]
        self._check_layers()
        if trainable and lobe.random and self.methods != ["full"]:
            raise InputError(
                f"method {self.method_name}: {lobe.source} starts from "
                "scratch, so that all of it must train; use 'full'"
            )
        carried = self._fold_in(init_from, init_merged)
        # Held until the adapters' tensors are told from these by their ids.
        base = [*lobe.model.parameters(), *lobe.model.buffers()]
        own = [*lobe.model.modules()]
        if self.methods in (["full"], ["transformer"]):
            self._freeze_others()
        else:
            lobe.model.requires_grad_(False)
            self._attach(targets)
        self._saved = self._changed_by_training({id(t) for t in base})
        self.frozen_layers = self._count_frozen_layers(own)
        self._quiet = []
        if self.trainable and not frozen_dropout:
            self._quiet = self._frozen_modules(own, {id(t) for t in base})
        self.num_adapter_parameters = sum(
            p.numel() for p in lobe.parameters() if p.requires_grad
        )
        if self.trainable:
            self._check_liveness()
        else:
            lobe.requires_grad_(False)
        if carried:
            self._carry_on(carried)
        self.train(lobe.training)

    def _fold_in(self, run, merged):
        """Fold another run's adapter in; give it back if it is carried on."""
        if not run:
            return None
        folder = adapter_folder.find(run, self.lobe.adapter_name)
        if folder is None:
            return None
        methods = [adapter_folder.read(one)[0] for one in several(folder)]
        if methods == ["frozen"]:
            return None
        carried = method_name(methods) == self.method_name and not merged
        self.base = folder / adapter_folder.BASE if carried else folder
        self.base = self.base if self.base.is_dir() else None
        if self.base:
            _fold(self.lobe, self.base)
        return folder if carried else None

    def _check_layers(self):
        count = self.num_layers
        own = [getattr(method, "layers", None) for method in self.methods]
        for asked in (self.layers, *own):
            if asked is None or (asked and set(asked) <= set(range(count))):
                continue
            raise InputError(
                f"layers: {asked} must be some of the layers 0 to "
                f"{count - 1} of {self.lobe.source}"
            )

    def _freeze_others(self):
        if self.methods == ["transformer"]:
            for name, parameter in self.lobe.model.named_parameters():
                if name.startswith(self.lobe.front_end):
                    parameter.requires_grad_(False)
        if self.layers is None:
            return
        kept = {
            id(p) for i in self.layers for p in self.lobe.layers[i].parameters()
        }
        for parameter in self.lobe.model.parameters():
            if id(parameter) not in kept:
                parameter.requires_grad_(False)

    def _attach(self, targets):
        """Put the methods in: PEFT's first, for it freezes all it finds."""
        lobe = self.lobe
        for method in self.methods:
            if isinstance(method, peft.PeftConfig):
                config = prepare(lobe, method, targets, self.layers)
                before = reference_states(lobe) if self.trainable else None
                self._inject(config)
                if self.trainable:
                    self._warn_if_shifted(before, "before any training")
        for method in self.methods:
            if hasattr(method, "attach"):
                # Prompts are to be attended to.
                prompt = isinstance(method, PromptConfig)
                if not lobe.ffn_input or (prompt and not lobe.attention):
                    raise InputError(
                        f"method {self.method_name}: {lobe.source} has no "
                        "layers for it; use a method of peft"
                    )
                chosen = method.layers or self.layers
                every = range(self.num_layers)
                method.attach(lobe, [lobe.layers[i] for i in chosen or every])

    def _inject(self, config):
        lobe = self.lobe
        # PEFT answers gradient checkpointing with gradients for the input,
        # which only the reentrant kind needs.
        recomputed = [
            module
            for module in lobe.model.modules()
            if getattr(module, "gradient_checkpointing", False)
        ]
        for module in recomputed:
            module.gradient_checkpointing = False
        # Some methods know torch's own class only.
        for module in lobe.model.modules():
            if type(module) is LeanLinear:
                module.__class__ = torch.nn.Linear
        try:
            with warnings.catch_warnings():
                # PEFT calls a method that transformers will rename.
                warnings.filterwarnings("ignore", ".*deprecated", FutureWarning)
                lobe.model = peft.get_peft_model(lobe.model, config)
        except (NotImplementedError, ValueError) as error:
            raise InputError(f"method {self.method_name}: {error}") from error
        for module in recomputed:
            module.gradient_checkpointing = True
        for name, module in lobe.backbone.named_modules():
            if getattr(getattr(module, "base_layer", None), "groups", 1) > 1:
                raise InputError(
                    f"targets: {name} is a grouped convolution, into which "
                    f"peft cannot merge {self.method_name}; leave it out"
                )

    def _warn_if_shifted(self, before, when):
        shift = (reference_states(self.lobe) - before).norm() / before.norm()
        if shift > 1e-4:
            logger.warning(
                "%s: %s the encoder's hidden states move by %.2g %%",
                self.method_name,
                when,
                100 * shift,
            )

    def _changed_by_training(self, base):
        """Names of the tensors that are not the checkpoint's own."""
        model = self.lobe.model
        persistent = model.state_dict(keep_vars=True).keys()
        return [
            name
            for name, tensor in chain(
                model.named_parameters(), model.named_buffers()
            )
            if tensor.requires_grad
            or (id(tensor) not in base and name in persistent)
        ]

    def _count_frozen_layers(self, own):
        """How many of the lowest layers nothing trains in or below.

        None where what enters the first layer changes in training too.
        """
        lobe = self.lobe
        if not self.trainable:
            return self.num_layers
        most = self.num_layers
        for name, parameter in lobe.backbone.named_parameters():
            if not parameter.requires_grad:
                continue
            if lobe.closing and name.startswith(f"{lobe.closing}."):
                most = self.num_layers - 1  # the last state is normed
            elif not (
                lobe.divisible and name.startswith(f"{lobe.layers_path}.")
            ):
                return None
        before = {id(module) for module in own}
        for i, layer in enumerate(lobe.layers):
            # A method may change a layer without a parameter of its own.
            added = any(id(module) not in before for module in layer.modules())
            if added or any(p.requires_grad for p in layer.parameters()):
                return min(i, most)
        return most

    def _frozen_modules(self, own, base):
        """Modules of the encoder in whose block no weight of its own trains."""
        own, frozen = {id(module) for module in own}, []

        def visit(module, trains):
            weights = [p for p in module.parameters() if id(p) in base]
            if weights:  # a dropout has none: as the block that it is in
                trains = any(weight.requires_grad for weight in weights)
            # In train mode only, its activations are recomputed.
            recomputes = getattr(module, "gradient_checkpointing", False)
            if id(module) in own and not (trains or recomputes):
                frozen.append(module)
            for part in module.children():
                visit(part, trains)

        visit(self.lobe.model, True)
        return frozen

    def _check_liveness(self):
        found = gradients(self.lobe)
        if isinstance(self.methods[0], str):
            # Parts of a checkpoint that no hidden state depends on.
            for name, gradient in found.items():
                if gradient is None:
                    parameter = self.lobe.model.get_parameter(name)
                    parameter.requires_grad_(False)
                    self.num_adapter_parameters -= parameter.numel()
            found = {n: g for n, g in found.items() if g is not None}
        dead = [n for n, g in found.items() if g is None or not g.any()]
        if dead or not found:
            raise InputError(
                f"method {self.method_name}: {len(dead)} of {len(found)} "
                f"trainable tensors get no gradient {dead[:3]}: the module "
                "they sit in is never called, or something in front of them "
                "blocks them; change targets"
            )

    @property
    def quiet(self):
        """Whether training draws nothing at random in its frozen layers."""
        return not self.mask and bool(self._quiet or not self.trainable)

    @property
    def hidden_size(self):
        """Width of the hidden states."""
        return self.lobe.hidden_size

    @property
    def num_layers(self):
        """Number of transformer layers; there is one hidden state more."""
        return self.lobe.num_layers

    @property
    def sample_rate(self):
        """Hz."""
        return self.lobe.sample_rate

    @property
    def min_samples(self):
        """Shorter clips are padded to this."""
        return self.lobe.min_samples

    @property
    def max_samples(self):
        """Longest input in samples, None where there is no limit."""
        return self.lobe.max_samples

    @property
    def num_saved_bytes(self):
        """Size of the tensors that `export` writes."""
        model, saved = self.lobe.model, set(self._saved)
        return sum(
            tensor.nbytes
            for name, tensor in chain(
                model.named_parameters(), model.named_buffers()
            )
            if name in saved
        )

    def train(self, mode=True):
        """Train mode where something trains, see `frozen_dropout`."""
        super().train(mode and self.trainable)
        if self.training:
            for module in self._quiet:
                module.training = False
        return self

    @torch.no_grad()
    def below(self, inputs, wav_lens=None, layers=None):
        """Encode a batch of clips up to a layer.

        Arguments
        ---------
        inputs, wav_lens
            See `forward`.
        layers : int, optional
            How many of the lowest layers; all where absent.

        Returns
        -------
        hidden_states : torch.Tensor
            [layers + 1, B, T', C]; of all layers, as `forward` gives them.
        frames : torch.Tensor
            Valid frames of each clip, [B], on the CPU.
        """
        layers = self.num_layers if layers is None else layers
        return self.lobe.below(inputs, wav_lens, layers)

    def forward(self, inputs, wav_lens=None, time_mask=None, below=None):
        """Encode a batch of clips.

        Arguments
        ---------
        inputs : torch.Tensor or list of str
            16 kHz mono waveforms, [B, T]; of a text encoder the transcripts.
        wav_lens : torch.Tensor, optional
            Lengths relative to T, [B].
        time_mask : torch.Tensor, optional
            Frames to be hidden, bool, [B, T'], whatever `mask` is.
        below : tuple of torch.Tensor, optional
            What `below` gave of this batch, to go on from; `inputs`,
            lengths and masks are not looked at.

        Returns
        -------
        hidden_states : torch.Tensor
            [L + 1, B, T', C].
        frames : torch.Tensor
            Valid frames of each clip (tokens of each text), [B].
        """
        grad = self.trainable and torch.is_grad_enabled()
        if below is not None:
            with torch.set_grad_enabled(grad):
                return self.lobe.above(*below)
        about = () if wav_lens is None else (wav_lens,)
        masks = {} if time_mask is None else {"time_mask": time_mask}
        if self.mask and self.training and time_mask is None:
            frames = self.lobe.valid_frames(inputs, wav_lens)
            width = self.lobe.mask_channels
            masks = {
                "time_mask": self.mask.time(frames),
                "channel_mask": self.mask.channels(
                    len(inputs), width, inputs.device
                ),
            }
        with torch.set_grad_enabled(grad):
            return self.lobe(inputs, *about, **masks)

    def _tensors(self, method=None):
        """The live tensors that are saved, by name; or one method's."""
        model = self.lobe.model
        live = dict(chain(model.named_parameters(), model.named_buffers()))
        live = {name: live[name] for name in self._saved}
        if method is None:
            return live | self._importance()
        if isinstance(method, str):
            return live
        part = f".{getattr(method, 'attribute', None)}."
        return {
            name.removeprefix("base_model.model."): tensor
            for name, tensor in live.items()
            if part in name
        }

    @property
    def _config(self):
        """The configuration of PEFT in use, None where there is none."""
        return getattr(self.lobe.model, "peft_config", {}).get("default")

    @property
    def _allocator(self):
        """AdaLoRA's, None for every other method."""
        tuner = getattr(self.lobe.model, "base_model", None)
        return getattr(tuner, "rankallocator", None)

    def _importance(self):
        """AdaLoRA's running averages, so that a restored run goes on alike."""
        if self._allocator is None:
            return {}
        averages = {}
        for kind in ("ipt", "exp_avg_ipt", "exp_avg_unc"):
            kept = getattr(self._allocator, kind)
            for name, parameter in self.lobe.backbone.named_parameters():
                if "lora_" in name:
                    kept.setdefault(name, torch.zeros_like(parameter))
                    averages[f"{kind}.{name}"] = kept[name]
        return averages

    def set_total_steps(self, steps):
        """Tell AdaLoRA how many optimiser steps there will be.

        Arguments
        ---------
        steps : int
            Over the whole training. Ignored by every other method.
        """
        if self._allocator is None:
            return
        config = self._config
        if config.tinit + config.tfinal >= steps:
            raise InputError(
                f"method adalora: tinit={config.tinit} and tfinal="
                f"{config.tfinal} leave nothing of {steps} steps; lower them "
                "or train longer"
            )
        self._allocator.set_total_step(steps)

    def on_step(self, step):
        """Let methods that share out ranks (AdaLoRA, AdaMSS) do so.

        Needs the gradients: call it behind the optimiser's step, before
        ``zero_grad``. Does nothing for every other method.

        Arguments
        ---------
        step : int
            Number of this optimiser step, counted from 1.
        """
        tuner = getattr(self.lobe.model, "base_model", None)
        if hasattr(tuner, "update_and_allocate"):
            tuner.update_and_allocate(step)

    def regularization(self):
        """AdaLoRA's orthogonality loss, 0 for every other method.

        Returns
        -------
        torch.Tensor or float
            To be added to the loss. Paper: Zhang et al. 2023, "AdaLoRA".
        """
        if self._allocator is None:
            return 0.0
        factors = [
            p if "lora_A" in name else p.T
            for name, p in self.lobe.backbone.named_parameters()
            if "lora_A" in name or "lora_B" in name
        ]
        gaps = [f @ f.T - torch.eye(len(f), device=f.device) for f in factors]
        norms = torch.stack([gap.norm() for gap in gaps])
        return self._config.orth_reg_weight * norms.mean()

    @mark_as_saver
    def save(self, path):
        """Write what training changes, and nothing else, as safetensors.

        Arguments
        ---------
        path : str or Path
            One file.
        """
        tensors = {
            name: tensor.detach().cpu().clone().contiguous()
            for name, tensor in self._tensors().items()
        }
        # AdaLoRA's ranks live in its configuration.
        ranks = json.dumps(getattr(self._config, "rank_pattern", None))
        save_file(tensors, path, metadata={"rank_pattern": ranks})

    @mark_as_loader
    def load(self, path, end_of_epoch=True):
        """Restore what `save` wrote, bit by bit.

        Arguments
        ---------
        path : str or Path
            The file.
        end_of_epoch : bool
            Unused, SpeechBrain's signature.

        Raises
        ------
        InputError
            If a tensor is missing, unknown or of another shape.
        """
        tensors = adapter_folder.read_tensors(path)
        adapter_folder.copy_tensors(tensors, self._tensors(), path)
        if self._allocator is not None:
            with safe_open(path, "pt") as file:
                ranks = json.loads(file.metadata()["rank_pattern"])
            self._config.rank_pattern = ranks

    def export(self, folder):
        """Write the adapter as a folder that `load_adapter` takes.

        ``adapter_config.json`` and ``adapter_model.safetensors``, which for
        a method of PEFT is what `peft.PeftModel.from_pretrained` takes too.
        A list of methods becomes one such subfolder each.

        Arguments
        ---------
        folder : str or Path
            Replaced as a whole if it is there.
        """
        if not self.methods:
            raise InputError(
                f"{folder}: nothing to export, the adapter is merged into the "
                "encoder; export before merging"
            )
        with atomic_path(folder) as tmp:
            for method in self.methods:
                adapter_folder.write(
                    self.lobe,
                    method,
                    self.layers,
                    self._tensors(method),
                    tmp / method_name([method]) if self.methods[1:] else tmp,
                )
            if self.base:
                shutil.copytree(self.base, tmp / adapter_folder.BASE)

    def _carry_on(self, folder):
        """Take over the tensors of an adapter of the same method."""
        mine = {method_name([method]): method for method in self.methods}
        for one in several(folder):
            method, *_ = adapter_folder.read(one)
            own = self._tensors(mine[method_name([method])])
            adapter_folder.load(self.lobe, method, own, one)

    def merge(self):
        """Fold the adapter into the encoder's weights, for inference.

        Returns
        -------
        PeftLobe
            This one, with a plain encoder in `lobe`, nothing trainable.

        Raises
        ------
        InputError
            If one of the methods cannot be folded in.
        """
        for method in self.methods:
            if hasattr(method, "attach"):
                raise InputError(
                    f"merge: {method.method_name} is a module of its own, "
                    "which no weight of the encoder can stand for; use it "
                    "unmerged"
                )
        if isinstance(self.lobe.model, peft.PeftModel):
            before = reference_states(self.lobe)
            try:
                self.lobe.model = self.lobe.model.merge_and_unload()
            except (AttributeError, NotImplementedError, ValueError) as error:
                raise InputError(
                    f"merge: peft cannot merge {self.method_name} ({error}); "
                    "use it unmerged"
                ) from error
            self._warn_if_shifted(before, "by merging")
        self.methods, self._saved, self.trainable = [], [], False
        self.base = None
        self.lobe.requires_grad_(False)
        return self.eval()


def load_adapter(lobe, folder):
    """Rebuild an exported adapter, for inference.

    Arguments
    ---------
    lobe : SpeechLobe
        A freshly loaded lobe of the backbone that the adapter was trained
        in. Changed in place.
    folder : str or Path
        From `PeftLobe.export`, or an adapter of PEFT for this encoder.

    Returns
    -------
    PeftLobe
        Frozen, in eval mode.

    Raises
    ------
    InputError
        If the folder cannot be read, or does not fit this backbone.
    """
    base = Path(folder) / adapter_folder.BASE
    if base.is_dir():
        _fold(lobe, base)
    folders = several(folder) or [Path(folder)]
    methods = []
    for one in folders:
        method, layers, backbone = adapter_folder.read(one)
        here = type(lobe.backbone).__name__
        if backbone not in (None, here):
            raise InputError(
                f"{one}: was trained in a {backbone}; {lobe.source} is a {here}"
            )
        methods.append(method)
    try:
        encoder = PeftLobe(
            lobe,
            methods if methods[1:] else methods[0],
            layers=layers,
            trainable=False,
        )
    except (*BAD_ARGUMENTS, re.error) as error:
        if out_of_memory(error):
            raise
        # The configuration's fault: the lobe has been proven by loading.
        raise InputError(
            f"{folder}/{adapter_folder.CONFIG}: cannot be built: "
            f"{str(error) or repr(error)}"
        ) from error
    for method, one in zip(methods, folders, strict=True):
        adapter_folder.load(lobe, method, encoder._tensors(method), one)
    encoder.base = base if base.is_dir() else None
    # AdaLoRA makes new, smaller parameters for the ranks that were kept.
    return encoder.requires_grad_(False)


def _fold(lobe, folder):
    """Fold an exported adapter in, and leave free what was."""
    free = [parameter.requires_grad for parameter in lobe.model.parameters()]
    load_adapter(lobe, folder).merge()
    for parameter, trains in zip(lobe.model.parameters(), free, strict=True):
        parameter.requires_grad_(trains)
