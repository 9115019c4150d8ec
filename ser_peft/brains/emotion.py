"""Emotion recognition: the Brain, from first batch to report."""

import json
import logging
import math
import resource
import shlex
import sys
import time
from pathlib import Path

import numpy as np
import speechbrain as sb
import torch
from speechbrain.utils.checkpoints import (
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)
from speechbrain.utils.distributed import if_main_process
from speechbrain.utils.seed import seed_everything
from torch.nn.functional import cross_entropy

from ser_peft.brains.objectives import clip_weights, concordance_loss
from ser_peft.brains.schedules import SCHEDULES
from ser_peft.brains.settings import check_settings
from ser_peft.checkpoints import load_mean, load_optimizer, save_optimizer
from ser_peft.data import (
    batch_sampler,
    datasets,
    eval_batches,
    scale_of,
    values_of,
)
from ser_peft.errors import InputError
from ser_peft.evaluation.fairness import group_columns
from ser_peft.evaluation.report import write_report
from ser_peft.evaluation.results import (
    corpus_scores,
    judge,
    run_results,
)
from ser_peft.evaluation.robustness import disturbed, talkers
from ser_peft.inference import EmotionModel, read_model
from ser_peft.probe import fit_probe, pooled_states

__all__ = ["EmotionBrain"]


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


class EmotionBrain(sb.Brain):
    """Trains an adapter and a head, keeps what valid says, tests it once.

    Everything random in an epoch follows from seed and epoch, and
    checkpoints are written between epochs: a killed run goes on with the
    epoch it was in and ends as if nothing had happened.

    Arguments
    ---------
    hparams : dict
        The loaded yaml. Read here: ``modules`` (encoder, head),
        ``checkpointer``, ``epoch_counter``, ``train_logger``,
        ``output_folder``, ``seed``, ``adapter_opt``, ``head_opt``,
        ``schedule``, ``warmup_epochs``, ``label_smoothing``,
        ``batch_seconds``, ``max_seconds``, ``num_workers``, ``augment``,
        ``wav_augment``, ``start_from_probe``, ``keep``, ``keep_best``; by the
        recipe: ``manifests_folder``, ``classes``, ``crop`` and what its
        ``prepare`` takes. Where present: ``robustness`` (test also under
        babble and over the telephone), ``fairness_columns`` (of the test
        manifest, besides ``gender``), ``balance`` (columns of the manifests;
        the training clips of each combination of their values weigh the same
        in all; ``[emotion]`` where absent), ``dimension_weight`` (of the
        concordance loss beside the cross-entropy; 1 where absent).
    run_opts : dict
        SpeechBrain's run options.
    about : dict
        ``protocol.json`` of the manifests.
    sets : dict
        Split -> DynamicItemDataset, from `ser_peft.data.datasets`.
    """

    reads = frozenset(
        "seed output_folder manifests_folder classes "
        "modules checkpointer epoch_counter train_logger "
        "adapter_opt head_opt schedule warmup_epochs label_smoothing "
        "batch_seconds max_seconds first_seconds num_workers augment crop "
        "wav_augment "
        "start_from_probe init_from keep keep_best sorting "
        "robustness fairness_columns balance dimension_weight".split()
    )

    def __init__(self, hparams, run_opts, about, sets):
        check_settings(hparams)
        methods = hparams["modules"]["encoder"].methods
        if hparams["keep"] == "average" and any(
            getattr(method, "peft_type", None) == "ADALORA"
            for method in methods
        ):
            raise InputError(
                "keep: average does not go with AdaLoRA, whose checkpoints "
                "have different ranks; use best or last"
            )
        super().__init__(
            modules=hparams["modules"],
            hparams=hparams,
            run_opts=run_opts,
            checkpointer=hparams["checkpointer"],
        )
        # Kept apart from self.modules, which DDP will wrap: evaluation calls
        # these, so that ranks need not have equally many batches.
        names = about["dimensions"]
        train = sets["train"].data
        self.model = EmotionModel(
            self.modules.encoder,
            self.modules.head,
            about["classes"],
            dimensions=scale_of(values_of(train.values(), names), names),
        )
        scores = len(about["classes"]) + len(names)
        if self.model.head.outputs != scores:
            raise InputError(
                f"head: gives {self.model.head.outputs} scores, the manifests "
                f"have {len(about['classes'])} classes and {len(names)} "
                "dimensions; give it classes: !ref <classes> and dimensions: "
                "!ref <dimensions>"
            )
        self.dimension_weight = hparams.get("dimension_weight", 1.0)
        self.about = about
        self.sets = sets
        self.chosen_by = "UA" if about["classes"] else "CCC"
        # What the report could not be made with is known before training.
        test = sets["test"].data
        self.groups = group_columns(test, hparams.get("fairness_columns", ()))
        # Of classes only.
        self.robustness = about["classes"] and hparams.get("robustness", False)
        if self.robustness:
            talkers(train, test)
        self.history = History()
        self.checkpointer.add_recoverable("history", self.history)
        self.world = 1
        if self.distributed_launch:
            self.world = torch.distributed.get_world_size()
        self.weight_of = clip_weights(
            {split: dataset.data for split, dataset in sets.items()},
            hparams.get("balance", ["emotion"] if about["classes"] else []),
        )

    # ---------------------------------------------------------------- data

    def train_loader(self):
        """Length-bucketed batches, dealt to the processes by SpeechBrain."""
        sampler = batch_sampler(
            self.sets["train"],
            self.hparams.batch_seconds,
            shuffle=True,
            seed=self.hparams.seed,
            max_seconds=self.hparams.max_seconds,
        )
        # SpeechBrain tells its own samplers the epoch; this one, without
        # DDP, only if told so.
        self.train_sampler = sampler
        loader = self.make_dataloader(
            self.sets["train"],
            sb.Stage.TRAIN,
            batch_sampler=sampler,
            num_workers=self.hparams.num_workers,
        )
        # Of the optimisers, in an epoch; what is left over makes none.
        self.steps = len(self.train_sampler) // self.grad_accumulation_factor
        if not self.steps:
            raise InputError(
                f"grad_accumulation_factor: {self.grad_accumulation_factor} is "
                f"more than the {len(self.train_sampler)} batches of an epoch; "
                "lower it, or batch_seconds"
            )
        self.model.encoder.set_total_steps(
            self.steps * self.hparams.epoch_counter.limit
        )
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
            num_workers=self.hparams.num_workers,
        )

    def gather(self, items):
        """Lists of all processes, joined, the same everywhere."""
        if self.world == 1:
            return items
        everyone = [None] * self.world
        torch.distributed.all_gather_object(everyone, items)
        return [item for part in everyone for item in part]

    # ------------------------------------------------------------ training

    def on_fit_start(self):
        """Start from another model and the probe, if a checkpoint is not."""
        if self.checkpointer.find_checkpoint() is None:
            if self.hparams.init_from:
                self.start_from_model(self.hparams.init_from)
            if self.hparams.start_from_probe:
                self.start_from_probe()
        super().on_fit_start()

    def start_from_model(self, folder):
        """Go on from a trained model, of these classes and dimensions or not.

        Arguments
        ---------
        folder : str or Path
            A finished run or its ``model/`` folder: same backbone, same
            method and same kind of head. With other classes or dimensions
            the layers that give the scores start anew.
        """
        folder, about = read_model(folder)
        self.model.encoder.start_from(folder / "adapter")
        self.model.head.start_from_head(
            folder / "head.safetensors",
            same_scores=about["classes"] == self.model.classes
            and [*about["dimensions"]] == self.about["dimensions"],
        )

    def start_from_probe(self):
        """Fit the linear probe on the encoder as it is now.

        Raises
        ------
        InputError
            If the head has no probe in it.
        """
        if not hasattr(self.model.head, "start_from"):
            raise InputError(
                f"start_from_probe: {type(self.model.head).__name__} has no "
                "probe; choose ProbeMixHead or LinearHead, or set "
                "start_from_probe: False"
            )
        # Whole clips: training cuts its own at random.
        _, whole = datasets(self.hparams.manifests_folder)
        measured, values = [], []
        for split in ("train", "valid"):
            loader = self.eval_loader(split, whole)
            # One tensor a process: as rows, each would carry the whole.
            parts = self.gather(
                [pooled_states(self.model.encoder, loader, self.device)]
            )
            clips = [clip for _, part in parts for clip in part]
            order = sorted(range(len(clips)), key=clips.__getitem__)
            entries = (self.sets[split].data[clips[i][0]] for i in order)
            values.append(values_of(entries, self.about["dimensions"]))
            measured.append(
                (
                    torch.cat([states for states, _ in parts])[order],
                    [clips[i][2] for i in order],
                )
            )
        probe = fit_probe(*measured, len(self.about["classes"]), values)
        self.model.head.start_from(probe)
        scores = {"UA": probe.valid_ua, "CCC": probe.valid_ccc}
        self.hparams.train_logger.log_stats(
            {"linear probe": probe.choice},
            valid_stats={k: v for k, v in scores.items() if v is not None},
        )

    def init_optimizers(self):
        """One optimiser for the adapter, one for the head."""
        self.optimizers_dict = {}
        for name, module in (
            ("adapter_opt", self.model.encoder),
            ("head_opt", self.model.head),
        ):
            params = [p for p in module.parameters() if p.requires_grad]
            if params:
                try:
                    optimizer = getattr(self.hparams, name)(params)
                except (TypeError, ValueError) as error:
                    raise InputError(f"{name}: {error}") from error
                self.optimizers_dict[name] = optimizer
                self.checkpointer.add_recoverable(
                    name, optimizer, load_optimizer, save_optimizer
                )
        self.full_lr = {
            name: optimizer.param_groups[0]["lr"]
            for name, optimizer in self.optimizers_dict.items()
        }

    def on_stage_start(self, stage, epoch=None):
        """Seed a training epoch, empty the lists of an evaluation."""
        self.collected = []
        self.loss_sum, self.loss_count = 0.0, 0
        if stage == sb.Stage.TRAIN:
            self.epoch = epoch
            self.stage_start = time.time()
            rank = self.rank if self.distributed_launch else 0
            seed_everything(
                (self.hparams.seed * 10007 + epoch * 101 + rank) % 2**32,
                verbose=False,
            )

    def on_fit_batch_start(self, batch, should_step):
        """Set the learning rates of this step."""
        step = (self.step - 1) // self.grad_accumulation_factor
        done = self.epoch - 1 + step / self.steps
        epochs = self.hparams.epoch_counter.limit
        warm = max(self.hparams.warmup_epochs, 1e-9)
        factor = min(1.0, (done + 1 / self.steps) / warm)
        factor *= SCHEDULES[self.hparams.schedule](
            done / epochs, [past["valid_loss"] for past in self.history]
        )
        for name, optimizer in self.optimizers_dict.items():
            optimizer.param_groups[0]["lr"] = self.full_lr[name] * factor

    def compute_forward(self, batch, stage):
        """Batch to scores as of `EmotionModel`, [B, classes + dimensions]."""
        wavs, lens = batch.sig
        wavs, lens = wavs.to(self.device), lens.to(self.device)
        if stage != sb.Stage.TRAIN:
            samples = (lens * wavs.shape[1]).round().long()
            return self.model(wavs, samples)
        if self.hparams.augment:
            wavs, lens = self.hparams.wav_augment(wavs, lens)
        hidden, frames = self.modules.encoder(wavs, lens)
        return self.model.rescale(self.modules.head(hidden, frames))

    def compute_objectives(self, predictions, batch, stage):
        """Weighted cross-entropy and concordance, over the global batch."""
        train = stage == sb.Stage.TRAIN
        classes, dimensions = self.about["classes"], self.about["dimensions"]
        labels = batch.label.to(self.device)
        truth = torch.zeros(len(labels), 0)
        if dimensions:
            truth = torch.tensor(batch.values)
        weights = torch.tensor([self.weight_of[id_] for id_ in batch.id])
        truth, weights = truth.to(self.device), weights.to(self.device)
        if train and self.hparams.augment:
            labels, truth, weights = map(
                self.hparams.wav_augment.replicate_labels,
                (labels, truth, weights),
            )
        logits, values = predictions.float().tensor_split([len(classes)], 1)
        loss = torch.zeros_like(weights)
        if classes:
            smoothing = self.hparams.label_smoothing if train else 0.0
            loss = weights * cross_entropy(
                logits, labels, reduction="none", label_smoothing=smoothing
            )
        if not train:
            # The concordance is that of the whole set: see `outcome`.
            columns = (labels, logits.softmax(-1), truth, values, loss)
            columns = [column.tolist() for column in columns]
            self.collected.extend(
                zip(batch.id, batch.speaker, *columns, strict=True)
            )
            return loss.mean()
        if dimensions:
            ccc_loss = concordance_loss(values, truth)
            loss = loss + self.dimension_weight * ccc_loss
        self.loss_sum += float(loss.detach().sum())
        self.loss_count += len(loss)
        # DDP averages the processes' gradients, whose batches may differ in
        # size: weigh them so that the mean is that over all clips.
        count = torch.tensor(float(len(loss)), device=loss.device)
        if self.world > 1:
            torch.distributed.all_reduce(count)
        loss = loss.sum() * self.world / count
        return loss + self.model.encoder.regularization()

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
        for optimizer in self.optimizers_dict.values():
            self.scaler.unscale_(optimizer)
        if self.max_grad_norm > 0:
            torch.nn.utils.clip_grad_norm_(
                [
                    p
                    for optimizer in self.optimizers_dict.values()
                    for p in optimizer.param_groups[0]["params"]
                ],
                self.max_grad_norm,
            )
        if self.skip_nonfinite_grads and not self.scaler.is_enabled():
            self.check_gradients()
        for optimizer in self.optimizers_dict.values():
            self.scaler.step(optimizer)
        self.scaler.update()
        self.optimizer_step += 1
        self.model.encoder.on_step(self.optimizer_step)
        self.zero_grad(set_to_none=True)

    # ---------------------------------------------------------- evaluation

    def outcome(self):
        """Everything collected in an evaluation, over all processes.

        Returns
        -------
        dict
            ``id``, ``speaker`` (lists sorted by id), the ``loss``, ``scores``
            from `ser_peft.evaluation.results.judge`; where there are classes
            ``label``, ``predicted`` (lists), ``probabilities`` [N, C]; where
            there are dimensions ``values``, ``predicted_values`` [N, D].
        """
        rows = sorted(self.gather(self.collected))
        ids, speakers, labels, chances, truth, values, losses = (
            [*column] for column in zip(*rows, strict=True)
        )
        measured = {"id": ids, "speaker": speakers}
        if self.about["classes"]:
            measured["label"] = labels
            measured["predicted"] = np.argmax(chances, 1).tolist()
            measured["probabilities"] = np.array(chances)
        loss = float(np.mean(losses))
        if self.about["dimensions"]:
            measured["values"] = np.array(truth)
            measured["predicted_values"] = np.array(values)
        measured["scores"] = judge(measured, self.about)
        if self.about["dimensions"]:
            loss += self.dimension_weight * (1 - measured["scores"]["ccc_mean"])
        return {**measured, "loss": loss}

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """Log an epoch, save it, decide whether it was the last."""
        if stage == sb.Stage.TRAIN:
            sums = self.gather([(self.loss_sum, self.loss_count)])
            total, count = (sum(part) for part in zip(*sums, strict=True))
            self.train_loss = total / count
            return
        self.measured = self.outcome()
        if stage == sb.Stage.TEST:
            return
        judged, loss = self.measured["scores"], self.measured["loss"]
        if not math.isfinite(loss):
            raise InputError(
                f"epoch {epoch}: the valid loss is {loss}; lower adapter_lr "
                "or head_lr"
            )
        measures = {"UA": judged["ua"], "CCC": judged.get("ccc_mean")}
        measures = {k: v for k, v in measures.items() if v is not None}
        score = measures[self.chosen_by]
        lrs = {
            f"lr_{name.removesuffix('_opt')}": optimizer.param_groups[0]["lr"]
            for name, optimizer in self.optimizers_dict.items()
        }
        self.history.append(
            {
                "epoch": epoch,
                "train_loss": self.train_loss,
                "valid_loss": loss,
                **{f"valid_{name.lower()}": v for name, v in measures.items()},
                **lrs,
                "seconds": time.time() - self.stage_start,
            }
        )
        self.hparams.train_logger.log_stats(
            {"epoch": epoch, **lrs},
            train_stats={"loss": self.train_loss},
            valid_stats={"loss": loss, **measures},
        )
        counter = self.hparams.epoch_counter
        # It takes an equal score for a better one, and would never stop.
        counter.update_metric(
            score if score > counter.best_score else -math.inf
        )
        self.checkpointer.save_and_keep_only(
            # Among equal scores the lower loss is better.
            meta={
                "epoch": epoch,
                **measures,
                "rank": score - 1e-6 * min(loss, 1e3),
            },
            max_keys=["rank"],
            num_to_keep=self.hparams.keep_best,
            verbosity=logging.DEBUG,  # it would name the provisional folder
        )

    def on_evaluate_start(self, max_key=None, min_key=None):
        """Load what is kept: best, last, or the mean of the best."""
        keep = self.hparams.keep
        chosen = self.checkpointer.find_checkpoints(
            max_key=None if keep == "last" else "rank",
            max_num_checkpoints=(
                self.hparams.keep_best if keep == "average" else 1
            ),
        )
        if not chosen:
            raise InputError(
                f"{self.checkpointer.checkpoints_dir}: no checkpoint to test; "
                "train first"
            )
        # Nothing else is loaded: the history stays that of all epochs.
        for name in ("encoder", "head"):
            load_mean(
                getattr(self.model, name),
                [checkpoint.paramfiles[name] for checkpoint in chosen],
            )
        self.kept_epochs = sorted(c.meta["epoch"] for c in chosen)

    def report(self, command=None):
        """Test what was kept, once, and write everything the run leaves.

        Arguments
        ---------
        command : list of str, optional
            What made the run; ``sys.argv`` where absent.

        Returns
        -------
        dict
            ``results.json``.
        """
        # The history of the last epoch, also after --test_only.
        self.checkpointer.recover_if_possible()
        self.evaluate(self.eval_loader("valid"))
        valid = self.measured
        self.evaluate(self.eval_loader("test"))
        measured = self.measured
        results = self.results(valid, measured)
        if self.robustness:
            _, whole = datasets(self.hparams.manifests_folder)
            results["robustness"] = {}
            views = disturbed(whole["train"], whole["test"])
            for name, dataset in views.items():
                self.evaluate(self.eval_loader("test", {"test": dataset}))
                results["robustness"][name] = self.measured["scores"]["ua"]
        if self.about["classes"]:
            self.model.temperature = results["calibration"]["temperature"]
        if if_main_process():
            folder = Path(self.hparams.output_folder)
            self.model.save(folder / "model")
            gender_of = self.groups.get("gender", {})
            write_report(
                folder,
                results,
                {**measured, "gender": [*map(gender_of.get, measured["id"])]},
                list(self.history),
                layer_weights=self.model.head.layer_weights.tolist(),
                command=shlex.join(command or ["python", *sys.argv]),
            )
        # Waits for all processes itself.
        self.hparams.train_logger.log_stats(
            {"kept": results["kept"]},
            test_stats={
                key: results[key]
                for key in ("ua", "wa", "macro_f1", "ccc_mean")
                if results.get(key) is not None
            },
        )
        return results

    def results(self, valid, measured):
        """The content of ``results.json``."""
        epochs = self.kept_epochs
        how = {
            "best": f"best valid {self.chosen_by}: epoch {epochs[0]}",
            "last": f"last epoch: {epochs[0]}",
            "average": f"mean of the {len(epochs)} best by valid "
            f"{self.chosen_by}: epochs {', '.join(map(str, epochs))}",
        }
        if self.device_type == "cuda":
            peak = torch.cuda.max_memory_allocated() / 2**20
        else:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
        key = f"valid_{self.chosen_by.lower()}"
        best = max(
            self.history, key=lambda past: (past[key], -past["valid_loss"])
        )
        return run_results(
            self.about,
            valid,
            measured,
            self.groups,
            self.model,
            **corpus_scores(
                self.sets["test"].data, measured, self.about["classes"]
            ),
            seed=self.hparams.seed,
            best_epoch=best["epoch"],
            kept=how[self.hparams.keep],
            epochs=len(self.history),
            steps=self.optimizer_step,
            train_seconds=sum(past["seconds"] for past in self.history),
            peak_memory_mb=peak,
            device=self.device,
            processes=self.world,
        )
