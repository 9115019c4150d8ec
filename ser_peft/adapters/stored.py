"""Adapters that are saved, exported, restored and merged."""

import json
import re
import shutil
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from speechbrain.utils.checkpoints import (
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)

from ser_peft.adapters import folder as adapter_folder
from ser_peft.adapters.adalora import allocator_of, importance
from ser_peft.adapters.folder import several
from ser_peft.adapters.insertion import named_tensors, warn_if_shifted
from ser_peft.adapters.liveness import reference_states
from ser_peft.adapters.methods import is_of_peft, method_name
from ser_peft.errors import BAD_ARGUMENTS, InputError, out_of_memory
from ser_peft.io import atomic_path

__all__ = ["StoredAdapter"]

PARALLEL = (None, "frozen", "trained")
"""What may become of an adapter that stays beside a new one."""


def _methods(folder):
    """Methods of an exported adapter."""
    return [adapter_folder.read(one)[0] for one in several(folder)]


@register_checkpoint_hooks
class StoredAdapter:
    """The part of `PeftLobe` that reads and writes adapters."""

    base = None
    """Folder of an adapter that was folded into the encoder's weights."""

    def _live(self):
        """Tensors that `save` writes, by name."""
        live = named_tensors(self.lobe.model)
        return {name: live[name] for name in self._saved}

    def _tensors(self, method=None):
        """Tensors of one method, by name; or all, with AdaLoRA's averages."""
        live = self._live()
        if method is None:
            return live | importance(self.lobe)
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
        """Configuration of PEFT in use, None where there is none."""
        return getattr(self.lobe.model, "peft_config", {}).get("default")

    @mark_as_saver
    def save(self, path):
        """Write the tensors that training changes, as safetensors.

        Arguments
        ---------
        path : str or Path
            One file.
        """
        tensors = adapter_folder.copies(self._tensors())
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
        if allocator_of(self.lobe) is not None:
            with safe_open(path, "pt") as file:
                ranks = json.loads(file.metadata()["rank_pattern"])
            self._config.rank_pattern = ranks

    def export(self, folder):
        """Write the adapter as a folder that `load_adapter` takes.

        It holds ``adapter_config.json`` and ``adapter_model.safetensors``;
        that of a method of PEFT can be loaded by
        `peft.PeftModel.from_pretrained` too. A list of methods becomes one
        such subfolder each.

        Arguments
        ---------
        folder : str or Path
            Replaced as a whole if it is there.

        Raises
        ------
        InputError
            If the adapter was merged.
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
            Itself, with a plain encoder in `lobe`, nothing trainable.

        Raises
        ------
        InputError
            If one of the methods cannot be folded in.
        """
        for method in self.methods:
            if hasattr(method, "attach"):
                raise InputError(
                    f"merge: {method.method_name} is a module of its own, "
                    "which cannot become part of the encoder's weights; use "
                    "it unmerged"
                )
        if any(map(is_of_peft, self.methods)):
            before = reference_states(self.lobe)
            try:
                self.lobe.model = self.lobe.model.merge_and_unload()
            except (AttributeError, NotImplementedError, ValueError) as error:
                raise InputError(
                    f"merge: peft cannot merge {self.method_name} ({error}); "
                    "use it unmerged"
                ) from error
            when = f"{self.method_name}: by merging"
            warn_if_shifted(self.lobe, before, when)
        self.methods, self._saved, self.trainable = [], [], False
        self.base = None
        self.lobe.requires_grad_(False)
        return self.eval()

    @classmethod
    def restore(cls, lobe, folder):
        """Rebuild an exported adapter, for inference.

        Arguments
        ---------
        lobe : SpeechLobe
            Freshly loaded lobe of the backbone that the adapter was trained in.
            Changed in place.
        folder : str or Path
            Output of `export`, or an adapter of PEFT for this encoder.

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
            cls._fold(lobe, base)
        folders = several(folder) or [Path(folder)]
        methods, here = [], type(lobe.backbone).__name__
        for one in folders:
            method, layers, backbone = adapter_folder.read(one)
            if backbone not in (None, here):
                raise InputError(
                    f"{one}: was trained in a {backbone}; {lobe.source} is a "
                    f"{here}"
                )
            methods.append(method)
        try:
            method = methods if methods[1:] else methods[0]
            encoder = cls(lobe, method, layers=layers, trainable=False)
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

    def _start(self, run):
        """Folder of another run's adapter, None where there is none."""
        if not run:
            return None
        folder = adapter_folder.find(run, self.lobe.adapter_name)
        if folder and _methods(folder) != ["frozen"]:
            return folder
        return None

    def _fold_in(self, folder, merged, beside):
        """Fold an adapter in; give it back if it is carried on instead."""
        if not folder:
            return None
        same = method_name(_methods(folder)) == self.method_name
        carried = same and not merged
        self.base = folder / adapter_folder.BASE if carried else folder
        self.base = self.base if self.base.is_dir() else None
        if self.base:
            self._fold(self.lobe, self.base)
        return folder if carried and not beside else None

    def _beside(self, folder, merged, parallel):
        """Whether an adapter stays, beside the new method."""
        if parallel not in PARALLEL:
            raise InputError(
                f"init_parallel: {parallel} is not one of "
                f"{', '.join(map(str, PARALLEL))}"
            )
        if not (folder and parallel):
            return False
        names = method_name(_methods(folder)), self.method_name
        if merged or names != ("lora", "lora"):
            raise InputError(
                f"init_parallel: {parallel}: LoRA goes beside LoRA, without "
                f"init_merged; {folder} is {names[0]}, the method "
                f"{names[1]}, init_merged {bool(merged)}"
            )
        return True

    def _put_beside(self, folder, trains):
        """Put a trained LoRA beside the new one."""
        from ser_peft.adapters.of_peft import START
        from ser_peft.adapters.parallel import add_gates, add_start

        (config,) = _methods(folder)
        add_start(self.lobe, config)
        adapter_folder.load(self.lobe, config, {}, folder, START)
        add_gates(self.lobe, trains)

    @classmethod
    def _fold(cls, lobe, folder):
        """Fold an exported adapter in; what was trainable stays so."""
        trained = [p.requires_grad for p in lobe.model.parameters()]
        cls.restore(lobe, folder).merge()
        for p, trains in zip(lobe.model.parameters(), trained, strict=True):
            p.requires_grad_(trains)
