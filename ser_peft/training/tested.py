"""Evaluation of a training: the checkpoint that valid chooses, tested once."""

import logging
import shlex
import sys
from pathlib import Path

import numpy as np
import speechbrain as sb
from speechbrain.utils.distributed import if_main_process

from ser_peft.corpora.transcripts import text_sources
from ser_peft.data import datasets
from ser_peft.data.manifests import shareable
from ser_peft.errors import InputError
from ser_peft.evaluation.results import (
    below_start,
    corpus_scores,
    headline,
    judge,
    run_results,
)
from ser_peft.evaluation.robustness import (
    disturbed,
    without_text,
)
from ser_peft.inference.card import write_card
from ser_peft.report.run_page import write_report
from ser_peft.storage.checkpoints import load_mean
from ser_peft.training.frozen import CachingBrain
from ser_peft.training.history import rank

__all__ = ["TestedBrain"]

logger = logging.getLogger(__name__)


class TestedBrain(CachingBrain):
    """Keeps the checkpoint that valid chooses, tests it once, reports.

    Its subclass `EmotionBrain` sets the model and collects its answers.
    """

    @property
    def scored_on(self):
        """Split of the scores: ``test``, or ``valid`` of inner folds."""
        return self.about.get("scored_on", "test")

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
        super().on_stage_end(stage, stage_loss, epoch)
        if stage == sb.Stage.TRAIN:
            return
        self.measured = self.outcome()
        if stage == sb.Stage.TEST:
            return
        measures = self.measures()
        self.finish_epoch(
            epoch,
            measures[self.chosen_by],
            {"loss": self.train_loss()},
            {"loss": self.measured["loss"], **measures},
        )

    def measures(self):
        """Name -> score of what was measured last, where it has any."""
        judged = self.measured["scores"]
        measures = {"UA": judged["ua"], "CCC": judged.get("ccc_mean")}
        return {k: v for k, v in measures.items() if v is not None}

    def rank_of(self, past):
        """Order of an epoch, or of the start, from its measures."""
        key = f"valid_{self.chosen_by.lower()}"
        return rank(past[key], past["valid_loss"])

    def on_evaluate_start(self, max_key=None, min_key=None):
        """Nothing: what is evaluated is there."""

    def load_kept(self):
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
        chosen.sort(key=lambda checkpoint: checkpoint.meta["epoch"])
        self.load(chosen)
        self.kept_epochs = [c.meta["epoch"] for c in chosen]

    def load(self, checkpoints):
        """Load the mean of checkpoints, and nothing but the model.

        The history stays that of all epochs.
        """
        for name in (*self.encoders, "head"):
            load_mean(
                getattr(self.model, name),
                [checkpoint.paramfiles[name] for checkpoint in checkpoints],
            )

    def test_start(self):
        """Test what training started from, if that was saved.

        Returns
        -------
        dict or None
            ``from`` (what it was), ``valid_loss``, ``valid_ua`` and ``ua``,
            ``valid_ccc`` and ``ccc_mean``.
        """
        saved = self.checkpointer.find_checkpoints(
            ckpt_predicate=lambda checkpoint: checkpoint.meta["epoch"] == 0
        )
        if not saved:
            return None
        self.load(saved)
        self.evaluate(self.eval_loader(self.scored_on))
        meta, scores = saved[0].meta, self.measured["scores"]
        found = {"from": meta["start"], "valid_loss": meta["loss"]}
        for name, key in (("UA", "ua"), ("CCC", "ccc_mean")):
            if name in meta:
                found |= {f"valid_{name.lower()}": meta[name]}
                found |= {key: scores[key]}
        return found

    def evaluate_kept(self):
        """Load the checkpoint that valid chose; test it once, and the start.

        Returns
        -------
        dict
            ``results.json``.
        """
        # The history of the last epoch, also after --test_only.
        self.checkpointer.recover_if_possible()
        start = self.test_start()
        self.load_kept()
        self.evaluate(self.eval_loader("valid"))
        valid = self.measured
        if self.scored_on == "test":
            self.evaluate(self.eval_loader("test"))
        self.tested = start, self.measured
        results = self.results = self.describe(start, valid, self.measured)
        if below := below_start(results):
            logger.warning("keep: %s: %s", self.hparams.keep, below)
        if self.robustness:
            whole = self.whole_clips()
            results["robustness"] = {}
            scored = whole[self.scored_on]
            views = disturbed(whole["train"], scored)
            if self.model.text_encoder:
                views = {"no text": without_text(scored), **views}
            for name, dataset in views.items():
                self.evaluate(self.eval_loader(name, {name: dataset}))
                results["robustness"][name] = self.measured["scores"]["ua"]
        if self.about["classes"]:
            found = results["calibration"]
            self.model.temperature = found["temperature"]
            self.model.unsure = found["unsure"]
        return results

    def report(self, command=None):
        """Write everything that a run leaves, from its `results`.

        Arguments
        ---------
        command : list of str, optional
            Command that made the run; ``sys.argv`` where absent.
        """
        results, (start, measured) = self.results, self.tested
        folder = Path(self.hparams.output_folder)
        if if_main_process():
            self.model.head.keep_scores(self.answers)
            self.model.save(folder / "model", self.heard)
            write_card(folder / "model", results)
            gender_of = self.groups.get("gender", {})
            write_report(
                folder,
                results,
                {**measured, "gender": [*map(gender_of.get, measured["id"])]},
                self.epochs(start),
                layer_weights=self.model.head.layer_weights.tolist(),
                command=shlex.join(command or ["python", *sys.argv]),
                recordings=shareable(
                    self.about,
                    self.sets[self.scored_on].data,
                    self.hparams.report_audio,
                ),
            )
        # Waits for all processes itself.
        self.log(
            {"kept": results["kept"]},
            **{
                f"{self.scored_on}_stats": {
                    key: results[key]
                    for key in ("ua", "wa", "macro_f1", "ccc_mean")
                    if results.get(key) is not None
                }
            },
        )
        if if_main_process():
            print(
                f"{self.scored_on} {headline(results)}; report in "
                f"{folder}/report.html"
            )

    def epochs(self, start):
        """Measures of the start, as epoch 0, and of every epoch."""
        return [*([{"epoch": 0, **start}] if start else []), *self.history]

    def describe(self, start, valid, measured):
        """Content of ``results.json``."""
        epochs = self.kept_epochs
        first = f"epoch {epochs[0]}" if epochs[0] else f"the {start['from']}"
        how = {
            "best": f"best valid {self.chosen_by}: {first}",
            "last": f"last epoch: {epochs[0]}",
            "average": f"mean of the {len(epochs)} best by valid "
            f"{self.chosen_by}: epochs {', '.join(map(str, epochs))}",
        }
        more, scored = {}, self.sets[self.scored_on].data
        if text := self.model.text_encoder:
            more["text"] = {
                "backbone": text.lobe.source,
                "method": text.method_name,
                "sources": text_sources(scored.values()),
            }
        best = max(self.epochs(start), key=self.rank_of)
        return run_results(
            self.about,
            valid,
            measured,
            self.groups,
            self.model,
            **corpus_scores(scored, measured, self.about["classes"]),
            seed=self.hparams.seed,
            best_epoch=best["epoch"],
            kept=how[self.hparams.keep],
            kept_epochs=epochs,
            start=start,
            device=self.device,
            heard=self.heard.record,
            **more,
            **self.costs(),
        )

    def whole_clips(self):
        """Datasets of whole clips, or of `first_seconds`; see `datasets`."""
        folder = self.hparams.manifests_folder
        return datasets(folder, first_seconds=self.hparams.first_seconds)[1]
