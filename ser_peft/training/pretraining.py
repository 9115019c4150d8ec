"""Pretraining on the task's own speech, by telling what masked frames were."""

import shlex
import sys
from pathlib import Path

import speechbrain as sb
import torch
from speechbrain.utils.distributed import if_main_process

from ser_peft.data import datasets
from ser_peft.errors import InputError
from ser_peft.evaluation.results import versions
from ser_peft.inference import identities
from ser_peft.io import atomic_path, write_json
from ser_peft.lobes import SpeechLobe
from ser_peft.pretraining.pseudo_labels import (
    perplexity,
)
from ser_peft.report.pretraining_page import write_pretraining_report
from ser_peft.storage.closed import seal
from ser_peft.training.base import PeftBrain
from ser_peft.training.history import rank

__all__ = ["PretrainBrain", "TaptBrain"]


class PretrainBrain(PeftBrain):
    """Base of TAPT and P-TAPT: masks, measures, the encoder to keep.

    Trains on the training speakers of a fold; the validation speakers only
    show how far it got, and those of the test are not touched.

    Arguments
    ---------
    *args, **kwargs
        See `PeftBrain`. ``mask``: a `SpanMask`. ``keep``: "last" or "best"
        by valid loss.
    """

    defaults = PeftBrain.defaults | {"mask": None}
    needed = ("mask",)
    head_name = "objective"
    stage = None
    """Name of the kind of pretraining."""

    @staticmethod
    def datasets(folder, max_seconds, *_):
        """Datasets of clips that begin at a frame."""
        return datasets(folder, max_seconds, hop=SpeechLobe.frame_hop)

    @staticmethod
    def check(settings):
        """See `PeftBrain.check`."""
        if settings.get("keep") == "average":
            raise InputError(
                "keep: average is for trainings that are tested; pretraining "
                "keeps last or best"
            )

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.heard = self.hear(self.about)
        if not self.encoder.trainable:
            raise InputError(
                "method: frozen: pretraining trains an encoder; choose "
                "another method"
            )

    def objective_of(self, batch, hidden, time_mask, objective):
        """Call the objective."""
        raise NotImplementedError

    def on_stage_start(self, stage, epoch=None):
        """Mask the same frames of the valid clips in every epoch."""
        super().on_stage_start(stage, epoch)
        if stage != sb.Stage.TRAIN:
            torch.manual_seed(self.hparams.seed)

    def compute_forward(self, batch, stage):
        """Batch to what the objective measured of its masked frames."""
        wavs, lens = self.audio(batch)
        train = stage == sb.Stage.TRAIN
        # A valid clip that is too long is cut to its beginning.
        cut = self.fitting if train else self.encoder.lobe.beginning
        wavs, lens = cut(wavs, lens)
        modules = self.modules if train else self.unwrapped
        frames = self.encoder.lobe.valid_frames(wavs, lens)
        time_mask = self.on_device(self.hparams.mask.time(frames))
        hidden, _ = modules["encoder"](wavs, lens, time_mask)
        return self.objective_of(
            batch, hidden[-1], time_mask, modules["objective"]
        )

    @property
    def unwrapped(self):
        """Both modules, without DDP."""
        return {"encoder": self.encoder, "objective": self.head}

    def compute_objectives(self, predictions, batch, stage):
        """Mean over the masked frames of all processes."""
        if stage == sb.Stage.TRAIN:
            masked = predictions["masked"]
            return self.train_objective(predictions["loss"] * masked, masked)
        self.collected.append(
            {
                key: [part.tolist() for part in value]
                if isinstance(value, list)
                else torch.as_tensor(value).tolist()
                for key, value in predictions.items()
            }
        )
        return predictions["loss"]

    def measured(self):
        """Sums over all valid clips and processes, as tensors."""
        rows = self.gather(self.collected)
        weights = torch.tensor([float(row["masked"]) for row in rows])
        sums = {"masked": weights.sum()}
        for key in set(rows[0]) - {"masked", "counts"}:
            values = torch.tensor([row[key] for row in rows])
            if key not in ("correct", "chance"):  # means a frame
                values = values * weights
            sums[key] = values.sum(0)
        counts = zip(*(row["counts"] for row in rows), strict=True)
        sums["counts"] = [torch.tensor(part).sum(0) for part in counts]
        return sums

    def scores(self, sums):
        """Name -> measure of an epoch, from `measured`."""
        raise NotImplementedError

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """Log an epoch, save it, decide whether it was the last."""
        super().on_stage_end(stage, stage_loss, epoch)
        if stage == sb.Stage.TRAIN:
            return
        sums = self.measured()
        self.counts = sums["counts"]
        if stage == sb.Stage.TEST:
            return
        loss = float(sums["loss"] / sums["masked"].clamp(min=1))
        self.finish_epoch(
            epoch,
            -loss,
            {"loss": self.train_loss()},
            {"loss": loss, **self.scores(sums)},
        )

    def rank_of(self, past):
        """See `PeftBrain.rank_of`."""
        return rank(-past["valid_loss"], past["valid_loss"])

    def on_evaluate_start(self, max_key=None, min_key=None):
        """Load what is kept: best or last."""
        chosen = self.checkpointer.find_checkpoint(
            max_key=None if self.hparams.keep == "last" else "rank"
        )
        for name, module in self.unwrapped.items():
            module.load(chosen.paramfiles[name])
        self.kept_epoch = chosen.meta["epoch"]

    def example(self):
        """A clip for the report to picture, if there is anything to see."""
        return None

    def evaluate_kept(self):
        """Load the checkpoint to keep, and measure it on valid."""
        self.checkpointer.recover_if_possible()
        self.evaluate(self.eval_loader("valid"))

    def report(self, **more):
        """Write the encoder that was kept, and how it came about.

        Arguments
        ---------
        **more
            Further content of ``pretraining.json``.

        Returns
        -------
        dict
            ``pretraining.json``.
        """
        epoch = self.kept_epoch
        results = {
            "stage": self.stage,
            **{
                key: self.about[key]
                for key in ("corpus", "protocol", "protocol_sha", "fold")
            },
            "seed": self.hparams.seed,
            "backbone": self.encoder.lobe.source,
            "method": self.encoder.method_name,
            "trainable_parameters": {
                "adapter": self.encoder.num_adapter_parameters,
                "objective": sum(
                    p.numel() for p in self.head.parameters() if p.requires_grad
                ),
            },
            "kept_epoch": epoch,
            "kept": self.history[epoch - 1],
            **self.costs(),
            "heard": self.heard.record,
            "versions": versions(),
            "command": shlex.join(["python", *sys.argv]),
            **more,
        }
        if if_main_process():
            folder = Path(self.hparams.output_folder)
            with atomic_path(folder / "model") as tmp:
                tmp.mkdir()
                self.encoder.export(tmp / "adapter")
                self.head.save(tmp / "objective.safetensors")
                self.heard.write(tmp)
                encoders = identities({"encoder": self.encoder})
                seal(tmp, encoders, self.heard.origins)
            write_pretraining_report(
                folder, results, list(self.history), self.example(), self.counts
            )
            # Last: it says that everything is there.
            write_json(folder / "pretraining.json", results)
            print(f"pretrained; give --init_from={folder} to a training")
        return results


class TaptBrain(PretrainBrain):
    """Task-adaptive pretraining: wav2vec 2.0's own, on the task's speech.

    Its ``objective`` is a `ContrastiveObjective`. Paper: Chen and Rudnicky
    2023, arXiv 2110.06309.
    """

    stage = "tapt"

    def objective_of(self, batch, hidden, time_mask, objective):
        """See `ContrastiveObjective.forward`."""
        return objective(hidden, time_mask, self.optimizer_step)

    def scores(self, sums):
        """Accuracy among the negatives, and how the codebook is used."""
        masked = sums["masked"].clamp(min=1)
        return {
            "accuracy": float(sums["correct"] / masked),
            "chance": float(sums["chance"] / masked),
            "diversity": float(sums["diversity"] / masked),
            "perplexity": sum(map(perplexity, self.counts)),
        }
