"""SpeechBrain checkpoints that survive kills and damage, without pickles."""

import logging
import math
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from speechbrain.utils.checkpoints import (
    METAFNAME,
    PARAMFILE_EXT,
    Checkpointer,
    ckpt_recency,
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)
from speechbrain.utils.distributed import (
    ddp_barrier,
    if_main_process,
    main_process_only,
)

from ser_peft.errors import InputError
from ser_peft.io import atomic_path, naming, refuse_pointer, sha256, sweep

__all__ = [
    "SafeCheckpointer",
    "SafeModule",
    "load_mean",
    "load_tensors",
    "newest_epoch",
]

logger = logging.getLogger(__name__)

EPOCH = re.compile(r"CKPT\+epoch(\d+)")
PARTIAL = "partial-"
HASHES = "SHA256SUMS"
"""File of the hashes of all other files, as ``sha256sum`` writes it."""
UNKNOWN = math.inf
"""Epoch of a damaged checkpoint of an earlier version."""


class SafeCheckpointer(Checkpointer):
    """Checkpointer whose folders are whole or not there, and verified.

    SpeechBrain writes the meta file of a checkpoint first, so that a process
    killed while saving leaves a folder that looks finished and cannot be
    loaded. Here a checkpoint gets its name, that of its epoch, when
    everything is in it, and loses it before it is deleted.

    The files of a checkpoint that another process wrote are compared with
    the hashes in it, once. A damaged one is left out with a warning, and so
    are all newer ones until its epoch has been trained again: the choice is
    among the same checkpoints as without the damage. Checkpoints of earlier
    versions have no hashes; they are used, with a warning.

    The newer of two has the higher ``epoch`` in its meta, whatever the clock
    said; without epochs, or with equal ones, the clock decides.

    Arguments are those of `speechbrain.utils.checkpoints.Checkpointer`.
    """

    def __init__(self, checkpoints_dir, recoverables=None, **kwargs):
        if not isinstance(recoverables, Mapping | None):
            raise InputError(
                f"checkpointer: recoverables: {recoverables}: is no mapping of "
                "names to objects; copy it from one of the recipe's yamls"
            )
        super().__init__(checkpoints_dir, recoverables, **kwargs)
        self.intact = {}
        """Name of a folder that was verified -> its Checkpoint."""
        self.damaged = {}
        """Name of a folder that failed, or is gone -> its epoch."""
        if if_main_process():
            sweep(self.checkpoints_dir)
            for leftover in self.checkpoints_dir.glob(f"{PARTIAL}CKPT+*"):
                _delete(leftover)

    def _new_checkpoint_dirpath(self):
        path = super()._new_checkpoint_dirpath()
        return path.with_name(PARTIAL + path.name)

    def _custom_checkpoint_dirpath(self, name):
        path = super()._custom_checkpoint_dirpath(name)
        return path.with_name(PARTIAL + path.name)

    def save_checkpoint(self, meta=None, end_of_epoch=True, name=None, **more):
        """Save under a provisional name, then rename."""
        meta = meta or {}
        if name is None and "epoch" in meta:
            name = f"epoch{meta['epoch']:04d}"
        try:
            checkpoint = super().save_checkpoint(
                meta, end_of_epoch, name, **more
            )
        except (OSError, SafetensorError):
            files = self.checkpoints_dir.glob(f"{PARTIAL}CKPT+*/*")
            written = sorted(files, key=lambda file: file.stat().st_mtime_ns)
            with naming([self.checkpoints_dir, *written][-1]):
                raise
        whole = self.checkpoints_dir / f"CKPT+{name}"
        if if_main_process():
            whole = whole.with_name(checkpoint.path.name[len(PARTIAL) :])
            with atomic_path(whole) as tmp:  # a name may be given again
                os.replace(checkpoint.path, tmp)
                _write_hashes(tmp)
            for path in self.checkpoints_dir.glob("CKPT+*"):
                if self.damaged.get(path.name) is UNKNOWN:
                    _remove(path)
            checkpoint = _read(whole)
        ddp_barrier()
        self.damaged = {
            name: epoch
            for name, epoch in self.damaged.items()
            if name != whole.name and epoch is not UNKNOWN
        }
        if whole.exists():
            self.intact[whole.name] = _read(whole)
        return checkpoint

    def list_checkpoints(self):
        """List the checkpoints that may be used.

        Returns
        -------
        list of Checkpoint
            Their ``unixtime``, by which SpeechBrain finds the newest, is
            epoch and seconds.
        """
        paths = sorted(self.checkpoints_dir.glob("CKPT+*"))
        for path in paths:
            if path.name not in {*self.intact, *self.damaged}:
                self._verify(path)
        names = {path.name for path in paths}
        self.intact = {k: v for k, v in self.intact.items() if k in names}
        first = min(self.damaged.values(), default=UNKNOWN)
        return [c for c in self.intact.values() if ckpt_recency(c) < (first,)]

    def expect(self, epochs):
        """Treat checkpoints that are gone as damaged ones.

        Arguments
        ---------
        epochs : list of int
            Epochs whose checkpoints must be there.
        """
        there = {c.meta["epoch"] for c in self.list_checkpoints()}
        for epoch in sorted({*epochs} - there):
            path = self.checkpoints_dir / f"CKPT+epoch{epoch:04d}"
            if path.name not in self.damaged:
                self._leave_out(path, "is gone", epoch)

    def _verify(self, path):
        """Verify a checkpoint that another process wrote."""
        epoch = EPOCH.fullmatch(path.name)
        try:
            if epoch or (path / HASHES).exists():
                _check_hashes(path)
            else:
                _warn(f"{path}: an earlier version's, without {HASHES}: used")
            self.intact[path.name] = _read(path)
        except (OSError, ValueError) as error:
            reason = error
            if isinstance(error, OSError):
                name = Path(error.filename or path).name
                reason = f"{name}: {error.strerror}"
            epoch = int(epoch[1]) if epoch else UNKNOWN
            self._leave_out(path, f"damaged ({reason})", epoch)

    def _leave_out(self, path, reason, epoch):
        self.damaged[path.name] = epoch
        more = "left out"
        if epoch is not UNKNOWN:
            more += f", and all newer ones, until epoch {epoch} is done again"
        _warn(f"{path}: {reason}: {more}")

    def delete_checkpoints(
        self,
        *,
        num_to_keep=1,
        min_keys=None,
        max_keys=None,
        importance_keys=(ckpt_recency,),
        ckpt_predicate=None,
        verbosity=logging.INFO,
    ):
        """Delete all but the best; a kill leaves none that is half there.

        Arguments are those of SpeechBrain's method.
        """
        ways = [{"min_key": key} for key in min_keys or ()]
        ways += [{"max_key": key} for key in max_keys or ()]
        # SpeechBrain's save_and_keep_only gives one more with every call.
        ways += [{"importance_key": key} for key in {*importance_keys}]
        found, kept = {}, set()
        for way in ways:
            ranked = self.find_checkpoints(**way, ckpt_predicate=ckpt_predicate)
            found |= {checkpoint.path: None for checkpoint in ranked}
            kept |= {checkpoint.path for checkpoint in ranked[:num_to_keep]}
        ddp_barrier()
        if if_main_process():
            for path in found:
                if path not in kept:
                    _remove(path)
                    logger.log(verbosity, f"Deleted checkpoint in {path}")
        ddp_barrier()


@main_process_only
def _warn(message):
    logger.warning(message)


def newest_epoch(folder):
    """Last epoch that has a checkpoint, by the names alone.

    Arguments
    ---------
    folder : str or Path
        Checkpoints folder.

    Returns
    -------
    int
        0 where there is none.
    """
    found = (EPOCH.fullmatch(path.name) for path in Path(folder).glob("*"))
    return max((int(epoch[1]) for epoch in found if epoch), default=0)


def _write_hashes(folder):
    lines = []
    for path in sorted(folder.iterdir()):
        with open(path, "rb") as file:
            lines.append(f"{sha256(file)}  {path.name}\n")
    (folder / HASHES).write_text("".join(lines), encoding="utf-8")


def _check_hashes(folder):
    """Raise OSError or ValueError, with the file's name, if one is wrong."""
    try:
        with naming(folder / HASHES):
            lines = (folder / HASHES).read_text("utf-8").splitlines()
        hashes = dict(line.split("  ", 1)[::-1] for line in lines)
    except ValueError as error:
        raise ValueError(f"{HASHES} is no list of hashes") from error
    files = {path.name for path in folder.iterdir() if path.is_file()}
    for name in sorted({*hashes} - files):
        raise ValueError(f"{name} is missing")
    needed = {METAFNAME, *(f for f in files if f.endswith(PARAMFILE_EXT))}
    for name in sorted(needed - {*hashes}):
        raise ValueError(f"{HASHES} does not name {name}")
    for name, expected in hashes.items():
        with naming(folder / name), open(folder / name, "rb") as file:
            if sha256(file) != expected:
                raise ValueError(f"{name} is not what was written")


def _read(folder):
    """Checkpoint of a folder; ValueError if its meta is none."""
    try:
        (checkpoint,) = Checkpointer._construct_checkpoint_objects([folder])
        meta = checkpoint.meta
        newness = int(meta.get("epoch", -1)), float(meta["unixtime"])
        meta["end-of-epoch"]  # which SpeechBrain will look for
    except (AttributeError, KeyError, TypeError, yaml.YAMLError) as error:
        raise ValueError(f"{METAFNAME} cannot be read") from error
    return checkpoint._replace(meta=meta | {"unixtime": newness})


def _remove(path):
    """Take a checkpoint's name away, then delete it."""
    gone = path.with_name(PARTIAL + path.name)
    os.replace(path, gone)
    _delete(gone)


def _delete(path):
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def load_mean(module, paths):
    """Load the mean of several checkpoints of a module.

    Arguments
    ---------
    module : torch.nn.Module
        Module with a ``load`` method. Trainable parameters and what is
        measured in training (buffers of floats) become the mean; everything
        else is as in the last checkpoint.
    paths : list of Path
        Its checkpoints, the newest one last.
    """
    averaged = [p for p in module.parameters() if p.requires_grad]
    averaged += [b for b in module.buffers() if b.is_floating_point()]
    # On the CPU: not all devices have float64.
    means = [torch.zeros(t.shape, dtype=torch.float64) for t in averaged]
    with torch.no_grad():
        for path in paths:
            module.load(path)
            for mean, tensor in zip(means, averaged, strict=True):
                mean += tensor.cpu()
        for mean, tensor in zip(means, averaged, strict=True):
            tensor.copy_(mean / len(paths))


def load_tensors(module, path, kept=()):
    """Load a module's state from safetensors, every key matched.

    Arguments
    ---------
    module : torch.nn.Module
        Gets the tensors.
    path : str or Path
        A safetensors file.
    kept : dict of str to torch.Tensor
        Tensors that replace those of the file.

    Raises
    ------
    InputError
        If the file is not one, or holds other tensors than the module.
    """
    refuse_pointer(path)
    try:
        module.load_state_dict({**load_file(path), **dict(kept)})
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{path}: cannot be read ({error}); restore it or train again"
        ) from error
    except RuntimeError as error:
        raise InputError(
            f"{path}: does not fit {type(module).__name__} ({error}); was it "
            "trained with other classes, another backbone or another head?"
        ) from error


@register_checkpoint_hooks
class SafeModule(torch.nn.Module):
    """Module whose checkpoint is one safetensors file."""

    @mark_as_saver
    def save(self, path):
        """Write the state as safetensors."""
        save_file(
            {k: v.contiguous() for k, v in self.state_dict().items()}, path
        )

    @mark_as_loader
    def load(self, path, end_of_epoch=True):
        """Load the state from `save`'s file."""
        load_tensors(self, path)
