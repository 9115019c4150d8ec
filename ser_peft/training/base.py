"""What every way of training shares: batches, steps, resume."""

import json
import logging
import math
import resource
import time
from pathlib import Path

import speechbrain as sb
import torch
from speechbrain.dataio.dataloader import make_dataloader
from speechbrain.dataio.sampler import DistributedSamplerWrapper
from speechbrain.utils.checkpoints import (
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)
from speechbrain.utils.distributed import if_main_process
from speechbrain.utils.seed import seed_everything
from torch.utils.data import DistributedSampler

from ser_peft.adapters.folder import find
from ser_peft.data import batch_sampler, eval_batches
from ser_peft.data.provenance import Heard
from ser_peft.device import loader_workers
from ser_peft.errors import InputError
from ser_peft.storage.optimizers import (
    load_optimizer,
    load_scaler,
    save_optimizer,
    save_scaler,
)
from ser_peft.training.checks import check_settings
from ser_peft.training.schedules import SCHEDULES

__all__ = ["PeftBrain", "rank"]


@register_checkpoint_hooks
class History(list):
    """What every finished epoch measured; saved with each checkpoint."""

    @mark_as_saver
    def save(self, path):
        """Write as JSON."""
        Path(path).write_text(json.dumps(self), encoding="utf-8")

    @mark_as_loader
    def load(self, path, end_of_epoch=True):
        """Read what `save` wrote."""
        self[:] = json.loads(Path(path).read_text(encoding="utf-8"))


class RankSampler(DistributedSamplerWrapper):
    """This process's batches, also where there is but one.

    Arguments are those of SpeechBrain's `DistributedSamplerWrapper`, which
    takes the clips of a single batch for batches.

    Example
    -------
    >>> sampler = RankSampler(
    ...     [[4, 5], [6]], num_replicas=2, rank=0, shuffle=False
    ... )
    >>> [*sampler]
    [[4, 5]]
    """

    def __iter__(self):
        batches = [*self.sampler]
        chosen = DistributedSampler.__iter__(self)
        return iter([batches[i] for i in chosen])


class PeftBrain(sb.Brain):
    """Trains a `PeftLobe` and what sits on it.

    Everything random in an epoch follows from seed and epoch, and
    checkpoints are written between epochs: a killed run goes on with the
    epoch it was in and ends as if nothing had happened.

    Arguments
    ---------
    hparams : dict
        The loaded yaml; the keys in `reads` are read. ``head_epochs``, where
        present: so many epochs come first in which the encoders rest, at a
        constant learning rate; ``modules`` may hold a ``text_encoder``.
    run_opts : dict
        SpeechBrain's run options.
    sets : dict
        Split -> DynamicItemDataset, from `ser_peft.data.datasets.datasets`.
    """

    reads = frozenset(
        "seed output_folder manifests_folder init_from "
        "modules checkpointer epoch_counter train_logger "
        "adapter_opt head_opt schedule warmup_epochs "
        "batch_seconds max_seconds num_workers keep_best sorting "
        "head_epochs trust_start".split()
    )
    head_name = "head"
    """Of the module that `head_opt` trains."""

    def __init__(self, hparams, run_opts, sets):
        check_settings(hparams)
        for name in ("adapter_opt", "head_opt"):  # before anything is written
            try:
                hparams[name]([torch.nn.Parameter(torch.zeros(1))])
            except (TypeError, ValueError) as error:
                raise InputError(f"{name}: {error}") from error
        super().__init__(
            modules=hparams["modules"],
            hparams=hparams,
            run_opts=run_opts,
            checkpointer=hparams["checkpointer"],
        )
        if self.scaler.is_enabled():
            # SpeechBrain would pickle it. A run begun without one has none.
            self.checkpointer.add_recoverable(
                "scaler", self.scaler, load_scaler, save_scaler, True
            )
        # Kept apart from self.modules, which DDP will wrap: evaluation calls
        # these, so that ranks need not have equally many batches.
        self.encoder = self.modules.encoder
        self.encoders = {
            name: self.modules[name]
            for name in ("encoder", "text_encoder")
            if name in self.modules
        }
        self.head = self.modules[self.head_name]
        self.sets = sets
        self.workers = loader_workers(hparams["num_workers"], self.device)
        self.epoch, self.steps = 1, 0
        self.history = History()
        self.checkpointer.add_recoverable("history", self.history)
        self.rest = hparams.get("head_epochs", 0)
        if self.rest >= hparams["epoch_counter"].limit:
            raise InputError(
                f"head_epochs: {self.rest} leaves no epoch of "
                "number_of_epochs in which the encoder trains; lower it"
            )
        self.world = 1
        if self.distributed_launch:
            self.world = torch.distributed.get_world_size()

    def hear(self, about):
        """Begin the record of speakers with all that the run starts from.

        Arguments
        ---------
        about : dict
            ``protocol.json`` of the manifests.

        Returns
        -------
        Heard
            The run's.

        Raises
        ------
        InputError
            If a start has heard, or may have heard, test speakers.
        """
        trust = getattr(self.hparams, "trust_start", False)
        heard = Heard(about, self.sets, trust)
        if self.hparams.init_from:
            heard.add("init_from", find(self.hparams.init_from))
        for name, encoder in self.encoders.items():
            key = name.replace("encoder", "backbone")
            heard.add(key, encoder.lobe.source, needed=False)
        return heard

    # ---------------------------------------------------------------- data

    def train_loader(self):
        """Length-bucketed batches, split over the processes."""
        sampler = batch_sampler(
            self.sets["train"],
            self.hparams.batch_seconds,
            shuffle=True,
            seed=self.hparams.seed,
            max_seconds=self.hparams.max_seconds,
        )
        if self.distributed_launch:
            sampler = RankSampler(
                sampler,
                rank=self.rank,
                shuffle=getattr(self.hparams, "sorting", "random") == "random",
            )
        self.train_sampler = sampler  # SpeechBrain tells it the epoch
        # Not by `make_dataloader`, which would deal out the batches itself.
        loader = make_dataloader(
            self.sets["train"],
            batch_sampler=sampler,
            num_workers=self.workers,
            pin_memory=self.device_type == "cuda",
        )
        self.checkpointer.add_recoverable("dataloader-TRAIN", loader)
        # Of the optimisers, in an epoch; what is left over makes none.
        self.steps = len(self.train_sampler) // self.grad_accumulation_factor
        if not self.steps:
            raise InputError(
                f"grad_accumulation_factor: {self.grad_accumulation_factor} is "
                f"more than the {len(self.train_sampler)} batches of an epoch; "
                "lower it, or batch_seconds"
            )
        epochs = self.hparams.epoch_counter.limit - self.rest
        for encoder in self.encoders.values():
            encoder.set_total_steps(self.steps * epochs)
        return loader

    def eval_loader(self, split, sets=None):
        """Every clip of a split once, over all processes together."""
        dataset = (sets or self.sets)[split]
        rank = self.rank if self.distributed_launch else 0
        return self.make_dataloader(
            dataset,
            sb.Stage.VALID,
            ckpt_prefix=None,
            batch_sampler=eval_batches(dataset, self.hparams.batch_seconds)[
                rank :: self.world
            ],
            num_workers=self.workers,
            pin_memory=self.device_type == "cuda",
        )

    def on_device(self, tensor):
        """The tensor on this Brain's device; a GPU is not waited for."""
        return tensor.to(self.device, non_blocking=True)

    def audio(self, batch):
        """Waveforms on the device, [B, T]; relative lengths on the CPU, [B].

        To look at a length on a GPU is to wait for all that is queued there.
        """
        wavs, lens = batch.sig
        return self.on_device(wavs), lens

    def gather(self, items):
        """Lists of all processes, joined, the same everywhere."""
        if self.world == 1:
            return items
        everyone = [None] * self.world
        torch.distributed.all_gather_object(everyone, items)
        return [item for part in everyone for item in part]

    def gather_on_main(self, item):
        """One item of each process, as a list; nothing but on the main one."""
        if self.world == 1:
            return [item]
        everyone = [None] * self.world if if_main_process() else None
        torch.distributed.gather_object(item, everyone)
        return everyone

    # ------------------------------------------------------------ training

    def init_optimizers(self):
        """One optimiser for the adapters, one for the head."""
        self.optimizers_dict = {}
        for name, modules in (
            ("adapter_opt", [*self.encoders.values()]),
            ("head_opt", self.head_modules()),
        ):
            params = [
                parameter
                for module in modules
                for parameter in module.parameters()
                if parameter.requires_grad
            ]
            if params:
                optimizer = getattr(self.hparams, name)(params)
                self.optimizers_dict[name] = optimizer
                self.checkpointer.add_recoverable(
                    name, optimizer, load_optimizer, save_optimizer
                )
        self.full_lr = {
            name: optimizer.param_groups[0]["lr"]
            for name, optimizer in self.optimizers_dict.items()
        }

    def head_modules(self):
        """What `head_opt` trains."""
        return [self.head]

    @property
    def resting(self):
        """Whether the encoders rest in this epoch."""
        return self.epoch <= self.rest

    def on_stage_start(self, stage, epoch=None):
        """Seed a training epoch, empty the lists of an evaluation."""
        self.collected = []
        if stage == sb.Stage.TRAIN:
            self.losses, self.loss_count = [], 0
            self.epoch = epoch
            self.stage_start = time.time()
        self.keep_states(stage)
        if stage == sb.Stage.TRAIN:
            rank = self.rank if self.distributed_launch else 0
            seed_everything(
                (self.hparams.seed * 10007 + epoch * 101 + rank) % 2**32,
                verbose=False,
            )

    def keep_states(self, stage):
        """Compute what the frozen layers give of the clips of a stage."""

    def fitting(self, wavs, lens):
        """A training batch, cut to what the encoder takes at all.

        Augmentation slows clips down, and so makes them longer.
        """
        lobe = self.encoder.lobe
        return lobe.beginning(wavs, lens) if lobe.limited else (wavs, lens)

    def on_fit_batch_start(self, batch, should_step):
        """Set the learning rates of this step."""
        step = (self.step - 1) // self.grad_accumulation_factor
        done = self.epoch - 1 + step / self.steps
        if not self.resting:
            done -= self.rest
        epochs = self.hparams.epoch_counter.limit - self.rest
        warm = max(self.hparams.warmup_epochs, 1e-9)
        factor = min(1.0, (done + 1 / self.steps) / warm)
        if not self.resting:
            factor *= SCHEDULES[self.hparams.schedule](
                done / epochs,
                [past["valid_loss"] for past in self.history[self.rest :]],
            )
        for name, optimizer in self.optimizers_dict.items():
            optimizer.param_groups[0]["lr"] = self.full_lr[name] * factor

    def train_objective(self, total, count):
        """Loss of a training batch, noted for the epoch's mean.

        DDP averages the processes' gradients, whose batches may differ in
        size: they are weighed so that the mean is that over all.

        Arguments
        ---------
        total : torch.Tensor
            Sum over this process's clips (or frames), scalar.
        count : int
            Of them.

        Returns
        -------
        torch.Tensor
            What to call ``backward`` on, the adapter's own loss added.
        """
        self.losses.append(total.detach())
        self.loss_count += count
        count = torch.full((), float(count), device=total.device)
        if self.world > 1:
            torch.distributed.all_reduce(count)
        loss = total * self.world / count.clamp(min=1)
        if self.resting:
            return loss
        return loss + sum(
            encoder.regularization() for encoder in self.encoders.values()
        )

    def train_loss(self):
        """Mean loss of the epoch so far, over all processes."""
        total = torch.stack(self.losses).cpu().double().sum().item()
        sums = self.gather([(total, self.loss_count)])
        total, count = (sum(part) for part in zip(*sums, strict=True))
        return total / count

    def check_loss_isfinite(self, loss):
        """Stop in one line where SpeechBrain would with a traceback."""
        try:
            super().check_loss_isfinite(loss)
        except ValueError as error:
            raise InputError(
                f"epoch {self.epoch}: the training loss is {loss.item()}; "
                "lower adapter_lr or head_lr"
            ) from error

    def optimizers_step(self):
        """Step both optimisers after clipping one norm over all gradients."""
        optimizers = [
            optimizer
            for name, optimizer in self.optimizers_dict.items()
            # A gradient scaler takes none without gradients.
            if not (self.resting and name == "adapter_opt")
        ]
        for optimizer in optimizers:
            self.scaler.unscale_(optimizer)
        if self.max_grad_norm > 0:
            torch.nn.utils.clip_grad_norm_(
                [
                    p
                    for optimizer in optimizers
                    for p in optimizer.param_groups[0]["params"]
                ],
                self.max_grad_norm,
            )
        if self.skip_nonfinite_grads and not self.scaler.is_enabled():
            self.check_gradients()
        scale = self.scaler.get_scale()
        for optimizer in optimizers:
            self.scaler.step(optimizer)
        self.scaler.update()
        # It falls where a gradient overflowed: no step was taken.
        if self.scaler.get_scale() >= scale:
            self.optimizer_step += 1
            self.on_step()
        self.zero_grad(set_to_none=True)

    def on_step(self):
        """Let methods look at the gradients of a step that was taken."""
        if not self.resting:
            step = self.optimizer_step - self.rest * self.steps
            for encoder in self.encoders.values():
                encoder.on_step(step)

    def costs(self):
        """What the training took, for its results."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
        if self.device_type == "cuda":
            peak = torch.cuda.max_memory_allocated() / 2**20
        return {
            "epochs": len(self.history),
            "steps": self.optimizer_step,
            "train_seconds": sum(past["seconds"] for past in self.history),
            "peak_memory_mb": peak,
            "processes": self.world,
            "precision": self.precision,
            "eval_precision": self.eval_precision,
        }

    def learning_rates(self):
        """Name -> rate now."""
        return {
            f"lr_{name.removesuffix('_opt')}": optimizer.param_groups[0]["lr"]
            for name, optimizer in self.optimizers_dict.items()
        }

    def finish_epoch(self, epoch, score, train, valid):
        """Note and log what an epoch measured, save it, count it.

        Arguments
        ---------
        epoch : int
            Its number.
        score : float
            Higher is better: what decides early stopping.
        train, valid : dict
            Name -> measure. ``loss`` must be in both.
        """
        loss = valid["loss"]
        if not math.isfinite(loss):
            raise InputError(
                f"epoch {epoch}: the valid loss is {loss}; lower adapter_lr "
                "or head_lr"
            )
        self.history.append(
            {
                "epoch": epoch,
                **{f"train_{name.lower()}": v for name, v in train.items()},
                **{f"valid_{name.lower()}": v for name, v in valid.items()},
                **self.learning_rates(),
                "seconds": time.time() - self.stage_start,
            }
        )
        self.hparams.train_logger.log_stats(
            {"epoch": epoch, **self.learning_rates()},
            train_stats=train,
            valid_stats=valid,
        )
        counter = self.hparams.epoch_counter
        # It takes an equal score for a better one, and would never stop.
        counter.update_metric(
            score if score > counter.best_score else -math.inf
        )
        self.checkpointer.save_and_keep_only(
            meta={"epoch": epoch, **valid, "rank": rank(score, loss)},
            max_keys=["rank"],
            num_to_keep=self.hparams.keep_best,
            # The start stays, to be tested beside what came of it.
            ckpt_predicate=lambda checkpoint: checkpoint.meta["epoch"] > 0,
            verbosity=logging.DEBUG,  # it would name the provisional folder
        )

    def look_for_kept(self):
        """See that no checkpoint is gone which the report will want.

        By what the newest one says of all epochs; what is gone is trained
        again.
        """
        newest = self.checkpointer.find_checkpoint()
        if newest is None or "epoch" not in newest.path.name:
            return  # or of an earlier version
        history = json.loads(newest.paramfiles["history"].read_text("utf-8"))
        history.sort(key=lambda past: (self.rank_of(past), past["epoch"]))
        keep = self.hparams.keep
        count = {"last": 0, "best": 1, "average": self.hparams.keep_best}[keep]
        epochs = [past["epoch"] for past in history[::-1][:count]]
        if getattr(self.hparams, "start_from_probe", False):
            epochs.append(0)
        self.checkpointer.expect(epochs)

    def rank_of(self, past):
        """Order of an epoch, from its entry in the history."""
        raise NotImplementedError


def rank(score, loss):
    """Order of checkpoints: among equal scores the lower loss is better."""
    return score - 1e-6 * min(loss, 1e3)
