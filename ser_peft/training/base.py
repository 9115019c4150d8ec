"""Base of all Brains: loaders, epochs, checkpoints, resume."""

import json
import logging
import math
import resource
import time

import speechbrain as sb
import torch
from speechbrain.dataio.dataloader import make_dataloader
from speechbrain.utils.distributed import if_main_process
from speechbrain.utils.seed import seed_everything

from ser_peft.adapters.folder import find
from ser_peft.data import batch_sampler, eval_batches
from ser_peft.data.provenance import Heard
from ser_peft.device import loader_workers
from ser_peft.errors import InputError
from ser_peft.storage.optimizers import (
    load_scaler,
    save_scaler,
)
from ser_peft.training.checks import check_settings
from ser_peft.training.history import History, rank, track
from ser_peft.training.sampler import RankSampler
from ser_peft.training.steps import SteppingBrain

__all__ = ["PeftBrain"]


class PeftBrain(SteppingBrain):
    """Trains a `PeftLobe` and what sits on it.

    Everything random in an epoch follows from seed and epoch, and
    checkpoints are written between epochs: a killed run goes on with the
    epoch it was in and ends as if nothing had happened.

    Arguments
    ---------
    modules : dict
        Name -> module: ``encoder``, the head; a ``text_encoder`` perhaps.
    opt_class : dict
        ``adapter_opt`` and ``head_opt``: each takes parameters and gives an
        optimiser.
    hparams : dict
        The loaded yaml.
    run_opts : RunOptions
        SpeechBrain's options.
    checkpointer : SafeCheckpointer
        It has all modules.
    about : dict
        ``protocol.json`` of the manifests.
    datasets : dict
        Split -> DynamicItemDataset, from `ser_peft.data.datasets`.
    **settings
        Any of `defaults`, in place of the yaml's top-level keys. ``tracker``
        is a second logger, of SpeechBrain, for TensorBoard or the like. With
        ``head_epochs`` the encoders are frozen in so many first epochs, at a
        constant learning rate. With ``ema_decay`` the model that is validated
        and kept has the average of the weights, see `WeightAverage`.
    """

    defaults = {
        "init_from": None,
        "trust_start": False,
        "schedule": "constant",
        "warmup_epochs": 0,
        "head_epochs": 0,
        "ema_decay": 0.0,
        "batch_seconds": 60,
        "max_seconds": None,
        "num_workers": "auto",
        "keep": "last",
        "keep_best": 1,
        "sorting": "random",
        "ckpt_interval_minutes": 0,
        "tracker": None,
    }
    """Settings that the Brain reads, and their values where a yaml has none."""

    needed = ()
    """Further keys that a yaml must have."""
    head_name = "head"
    """Name of the module that `head_opt` trains."""

    def __init__(
        self,
        modules,
        opt_class,
        hparams,
        run_opts,
        checkpointer,
        about,
        datasets,
        **settings,
    ):
        for name in settings:
            if name not in self.defaults:
                raise InputError(
                    f"brain: {type(self).__name__} has no setting '{name}'; it "
                    f"has {', '.join(self.defaults)}"
                )
        hparams = {**self.defaults, **hparams, **settings}
        check_settings(hparams)
        for name, make in opt_class.items():  # before anything is written
            try:
                make([torch.nn.Parameter(torch.zeros(1))])
            except (TypeError, ValueError) as error:
                raise InputError(f"{name}: {error}") from error
        super().__init__(
            modules=modules,
            opt_class=opt_class,
            hparams=hparams,
            run_opts=run_opts,
            checkpointer=checkpointer,
        )
        self.about, self.sets = about, datasets
        if self.scaler.is_enabled():
            # SpeechBrain would pickle it. A run begun without one has none.
            self.checkpointer.add_recoverable(
                "scaler", self.scaler, load_scaler, save_scaler, True
            )
        # Not self.modules, which DDP will wrap: evaluation calls these, so
        # that ranks need not have equally many batches.
        self.encoder = self.modules.encoder
        self.encoders = {
            name: self.modules[name]
            for name in ("encoder", "text_encoder")
            if name in self.modules
        }
        self.head = self.modules[self.head_name]
        self.workers = loader_workers(hparams["num_workers"], self.device)
        self.epoch, self.steps = 1, 0
        self.history = History()
        self.checkpointer.add_recoverable("history", self.history)
        self.frozen_epochs = self.hparams.head_epochs
        if self.frozen_epochs >= self.hparams.epoch_counter.limit:
            raise InputError(
                f"head_epochs: {self.frozen_epochs} leaves no epoch of "
                "number_of_epochs in which the encoder trains; lower it"
            )
        self.world = 1
        if self.distributed_launch:
            self.world = torch.distributed.get_world_size()

    @staticmethod
    def check(settings):
        """Refuse settings that this Brain cannot use, before it is built.

        Arguments
        ---------
        settings : dict
            The yaml's values.
        """

    @staticmethod
    def prepare_labels(run, train):
        """Prepare what the datasets need besides the manifests: nothing."""

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
        heard = Heard(about, self.sets, self.hparams.trust_start)
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
                shuffle=self.hparams.sorting == "random",
            )
        self.train_sampler = sampler  # SpeechBrain tells it the epoch
        # Not by `make_dataloader`, which would split the batches itself.
        loader = make_dataloader(
            self.sets["train"],
            batch_sampler=sampler,
            num_workers=self.workers,
            pin_memory=self.device_type == "cuda",
        )
        self.checkpointer.add_recoverable("dataloader-TRAIN", loader)
        # Optimiser steps of an epoch; left-over batches make none.
        self.steps = len(self.train_sampler) // self.grad_accumulation_factor
        if not self.steps:
            raise InputError(
                f"grad_accumulation_factor: {self.grad_accumulation_factor} is "
                f"more than the {len(self.train_sampler)} batches of an epoch; "
                "lower it, or batch_seconds"
            )
        epochs = self.hparams.epoch_counter.limit - self.frozen_epochs
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
        """Concatenate lists of all processes; every process gets the whole."""
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

    def on_stage_start(self, stage, epoch=None):
        """Seed a training epoch, empty the lists of an evaluation."""
        self.collected = []
        if stage == sb.Stage.TRAIN:
            self.losses, self.loss_count = [], 0
            self.epoch = epoch
            self.stage_start = time.time()
        self.keep_states(stage)
        if stage == sb.Stage.TRAIN:
            self.train_weights()
            rank = self.rank if self.distributed_launch else 0
            seed_everything(
                (self.hparams.seed * 10007 + epoch * 101 + rank) % 2**32,
                verbose=False,
            )

    def keep_states(self, stage):
        """Compute what the frozen layers give of the clips of a stage."""

    def costs(self):
        """Cost of the training, for its results: steps, seconds, memory."""
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
        self.log(
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

    def log(self, meta, **stats):
        """Log to ``train_logger``, and to ``tracker`` if there is one.

        Arguments
        ---------
        meta : dict
            See SpeechBrain's `TrainLogger.log_stats`.
        **stats : dict
            ``train_stats``, ``valid_stats``, ``test_stats``: name -> number.
        """
        self.hparams.train_logger.log_stats(meta, **stats)
        if self.hparams.tracker and ("epoch" in meta or "test_stats" in stats):
            epoch = meta.get("epoch", len(self.history))
            track(self.hparams.tracker, epoch, meta, stats)

    def look_for_kept(self):
        """Check that no checkpoint is missing which the report will need.

        The newest one tells of all epochs; a missing one is trained again.

        Raises
        ------
        InputError
            If there is none to test with ``--test_only``.
        """
        newest = self.checkpointer.find_checkpoint()
        if self.test_only and not (newest and not self.checkpointer.damaged):
            where = f"--test_only: {self.checkpointer.checkpoints_dir} holds"
            raise InputError(
                f"{where} a damaged checkpoint; leave --test_only out: what "
                "it was is trained again"
                if self.checkpointer.damaged
                else f"{where} no checkpoint; train first"
            )
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
