"""Emotion recognition: the Brain, from first batch to report."""

import logging
import shlex
import sys
from pathlib import Path

import numpy as np
import speechbrain as sb
import torch
from speechbrain.utils.distributed import if_main_process, run_on_main
from torch.nn.functional import cross_entropy

from ser_peft.adapters.folder import find
from ser_peft.corpora.transcripts import text_sources
from ser_peft.data import datasets, scale_of, values_of
from ser_peft.errors import InputError
from ser_peft.evaluation.fairness import group_columns
from ser_peft.evaluation.results import (
    below_start,
    corpus_scores,
    headline,
    judge,
    run_results,
)
from ser_peft.evaluation.robustness import (
    disturbed,
    talkers,
    without_text,
)
from ser_peft.heads.fusion import FUSIONS
from ser_peft.inference import EmotionModel, read_model
from ser_peft.lobes import lengths_in_samples
from ser_peft.report.run_page import write_report
from ser_peft.storage.checkpoints import load_mean
from ser_peft.training.base import rank
from ser_peft.training.frozen import CachingBrain, rows_of
from ser_peft.training.objectives import clip_weights, concordance_loss
from ser_peft.training.probe import (
    fit_probe,
    mean_states,
    pooled_states,
    some_clips,
)

__all__ = ["EmotionBrain"]

logger = logging.getLogger(__name__)


class EmotionBrain(CachingBrain):
    """Trains an adapter and a head, keeps what valid says, tests it once.

    Arguments
    ---------
    *args, **kwargs
        See `CachingBrain`. ``robustness``: test also under babble and over
        the telephone. ``fairness_columns``: columns of the test manifest,
        besides ``gender``. ``balance``: columns of the manifests; the
        training clips of each combination of their values weigh the same in
        all; ``[emotion]`` where None. ``dimension_weight``: weight of the
        concordance loss beside the cross-entropy. ``drop_text``: share of the
        training clips whose text is hidden, for a model that can do without.
    """

    defaults = CachingBrain.defaults | {
        "label_smoothing": 0.0,
        "crop": 1.0,
        "start_from_probe": False,
        "robustness": False,
        "fairness_columns": (),
        "balance": None,
        "dimension_weight": 1.0,
        "drop_text": 0.0,
    }
    datasets = staticmethod(datasets)

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        hparams, about, sets = self.hparams, self.about, self.sets
        if hparams.keep == "average" and any(
            getattr(method, "peft_type", None) == "ADALORA"
            for encoder in self.encoders.values()
            for method in encoder.methods
        ):
            raise InputError(
                "keep: average does not go with AdaLoRA, whose checkpoints "
                "have different ranks; use best or last"
            )
        if ("text_encoder" in self.encoders) != (
            type(self.head) in FUSIONS.values()
        ):
            raise InputError(
                f"head: {type(self.head).__name__}: a text_encoder in modules "
                f"and a head that fuses ({', '.join(FUSIONS)}) go together; "
                "give both or none"
            )
        names = about["dimensions"]
        train = sets["train"].data
        self.model = EmotionModel(
            self.encoder,
            self.head,
            about["classes"],
            dimensions=scale_of(values_of(train.values(), names), names),
            text_encoder=self.encoders.get("text_encoder"),
            first_seconds=hparams.first_seconds,
        )
        scores = len(about["classes"]) + len(names)
        if self.model.head.outputs != scores:
            raise InputError(
                f"head: gives {self.model.head.outputs} scores, the manifests "
                f"have {len(about['classes'])} classes and {len(names)} "
                "dimensions; give it classes: !ref <classes> and dimensions: "
                "!ref <dimensions>"
            )
        self.dimension_weight = hparams.dimension_weight
        self.chosen_by = "UA" if about["classes"] else "CCC"
        # What the report could not be made with is known before training.
        test = sets["test"].data
        self.groups = group_columns(test, hparams.fairness_columns)
        # Of classes only.
        self.robustness = about["classes"] and hparams.robustness
        if self.robustness and about.get("shares_speakers"):
            logger.warning(
                "robustness: left out, since training hears test speakers, "
                "whose babble would be of the same voices"
            )
            self.robustness = False
        if self.robustness:
            talkers(train, test)
        if hparams.augment and hparams.wav_augment is None:
            raise InputError(
                "augment: True: wav_augment is empty; set augment: False, or "
                "write a wav_augment as other recipes have"
            )
        self.heard = self.hear(about)
        balance = hparams.balance
        if balance is None:
            balance = ["emotion"] if about["classes"] else []
        self.weight_of = clip_weights(
            {split: dataset.data for split, dataset in sets.items()}, balance
        )

    # ------------------------------------------------------------ training

    def on_fit_start(self):
        """Start from another model and the probe, if a checkpoint is not."""
        start = None
        if self.checkpointer.find_checkpoint() is None:
            if self.hparams.init_from:
                start = self.start_from_head(self.hparams.init_from)
            if self.hparams.start_from_probe:
                start = self.start_from_probe()
        super().on_fit_start()
        if start:
            self.save_start(start)

    def save_start(self, name):
        """Measure what training starts from, and save it as epoch 0.

        Arguments
        ---------
        name : str
            What it is.
        """
        self.keep_states(sb.Stage.VALID)
        self.evaluate(self.eval_loader("valid"))
        valid = {"loss": self.measured["loss"], **self.measures()}
        self.hparams.train_logger.log_stats(
            {"start": name, "epoch": 0}, valid_stats=valid
        )
        self.checkpointer.save_checkpoint(
            meta={
                "epoch": 0,
                "start": name,
                **valid,
                "rank": rank(valid[self.chosen_by], valid["loss"]),
            },
            verbosity=logging.DEBUG,
        )

    def start_from_head(self, run):
        """Go on from a trained head, of these classes and dimensions or not.

        Arguments
        ---------
        run : str or Path
            A finished run or its ``model/`` folder, with the same kind of
            head: with other classes or dimensions the layers that give the
            scores start anew. A pretrained encoder has none, and a fusion
            takes none but a fusion's.

        Returns
        -------
        str or None
            What the model starts as, where its scores mean something yet.
        """
        if not (find(run).parent / "head.safetensors").exists():
            return None
        folder, about = read_model(run)
        kinds = {about["head"], type(self.head)}
        if len(kinds) > 1 and kinds & {*FUSIONS.values()}:
            return None
        same_scores = (
            about["classes"] == self.model.classes
            and [*about["dimensions"]] == self.about["dimensions"]
        )
        self.head.start_from_head(folder / "head.safetensors", same_scores)
        return "init_from run" if same_scores else None

    def start_from_probe(self):
        """Fit the linear probe on the encoder as it is now.

        Returns
        -------
        str
            What the model starts as.

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
        whole = self.whole_clips()
        parts = {}
        self.model.eval()
        for split in ("train", "valid"):
            self.lend_states(split, whole[split])
            some = some_clips(whole[split], self.hparams.seed)
            loader = self.eval_loader(split, {split: some})
            parts[split] = self.gather_on_main(pooled_states(loader, self.pool))
            if len(some) < len(whole[split]):
                logger.info(
                    "start_from_probe: %d of the %d clips of %s, drawn by "
                    "class", len(some), len(whole[split]), split,
                )  # fmt: skip
        self.hear_all()
        probe = run_on_main(self._fit_probe, (parts,))
        self.model.head.start_from(probe)
        scores = {"UA": probe.valid_ua, "CCC": probe.valid_ccc}
        self.hparams.train_logger.log_stats(
            {"linear probe": probe.choice},
            valid_stats={k: v for k, v in scores.items() if v is not None},
        )
        return "linear probe"

    def lend_states(self, split, whole):
        """Spare the probe clips whose states training will need as well."""
        if split == "valid":
            self.keep_states(sb.Stage.VALID)
        elif not self.versions and self.precision == self.eval_precision:
            self.keep_states(sb.Stage.TRAIN)
        whole.progress.kept = self.sets[split].progress.kept

    def pool(self, batch):
        """Mean hidden states of the clips of a batch, [B, L + 1, C]."""
        return self.by_clip(
            lambda hidden, frames, *text: mean_states(hidden, frames), batch
        )

    def whole_clips(self):
        """Datasets of whole clips, or of `first_seconds`; see `datasets`."""
        folder = self.hparams.manifests_folder
        return datasets(folder, first_seconds=self.hparams.first_seconds)[1]

    def _fit_probe(self, parts):
        """Fit the probe on what all processes found of train and valid."""
        measured, values = [], []
        for split, found in parts.items():
            clips = [clip for _, part in found for clip in part]
            order = sorted(range(len(clips)), key=clips.__getitem__)
            entries = (self.sets[split].data[clips[i][0]] for i in order)
            values.append(values_of(entries, self.about["dimensions"]))
            measured.append(
                (
                    torch.cat([states for states, _ in found])[order],
                    [clips[i][2] for i in order],
                )
            )
        classes = len(self.about["classes"])
        return fit_probe(*measured, classes, values, self.device)

    def compute_forward(self, batch, stage):
        """Batch to scores as of `EmotionModel`, [B, classes + dimensions]."""
        if stage != sb.Stage.TRAIN:
            return self.model.rescale(self.by_clip(self.head, batch))
        wavs, lens = self.audio(batch)
        texts = self.some_texts(batch.text)
        if self.versions:
            wavs, lens = self.this_version(wavs, lens, batch.id)
        elif self.hparams.augment:
            count = len(wavs)
            wavs, lens = self.hparams.wav_augment(wavs, self.on_device(lens))
            texts = texts * (len(wavs) // count)
        wavs, lens = self.fitting(wavs, lens)
        return self.model.rescale(self.train_scores(wavs, lens, texts, batch))

    def by_clip(self, score, batch):
        """Score whole clips: of some the states are kept, others are heard.

        Arguments
        ---------
        score : callable
            As of `ser_peft.inference.by_window`.
        batch : PaddedBatch
            Of valid or test.

        Returns
        -------
        torch.Tensor
            [B, ...].
        """
        unheard = [one.progress.kept for one in self.sets.values()]
        kept = [any(id_ in ids for ids in unheard) for id_ in batch.id]
        wavs, lens = self.audio(batch)
        samples = lengths_in_samples(wavs, lens)
        scores = {}
        for whether in {*kept}:
            rows = [i for i, is_kept in enumerate(kept) if is_kept == whether]
            texts = rows_of(batch.text, rows)
            if whether:
                keys = [(batch.id[i], None) for i in rows]
                some = score(
                    *self.encode(None, None, texts, keys, self.encoders)
                )
            else:
                some = self.model.by_clip(
                    score, rows_of(wavs, rows), rows_of(samples, rows), texts
                )
            scores |= zip(rows, some, strict=True)
        return torch.stack([scores[i] for i in range(len(kept))])

    def some_texts(self, texts):
        """Hide the texts of a random share of the training clips."""
        share = self.hparams.drop_text
        if not share:
            return texts  # and nothing drawn
        hidden = torch.rand(len(texts)) < share
        pairs = zip(texts, hidden.tolist(), strict=True)
        return ["" if hide else text for text, hide in pairs]

    def train_scores(self, wavs, lens, texts, batch):
        """What the head says of a training batch."""
        states = self.encode_train(wavs, lens, texts, batch.id)
        return self.modules.head(*states)

    def compute_objectives(self, predictions, batch, stage):
        """Weighted cross-entropy and concordance, over the global batch."""
        train = stage == sb.Stage.TRAIN
        classes, dimensions = self.about["classes"], self.about["dimensions"]
        truth = torch.zeros(len(batch.id), 0)
        if dimensions:
            truth = torch.tensor(batch.values)
        weights = torch.tensor([self.weight_of[id_] for id_ in batch.id])
        labels, truth, weights = map(
            self.on_device, (batch.label, truth, weights)
        )
        if train and self.hparams.augment and not self.versions:
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
            rest = (logits.softmax(-1), truth, values, loss[:, None])
            sizes = [part.shape[1] for part in rest]
            rest = torch.cat(rest, 1).cpu().split(sizes, 1)
            chances, truth, values, losses = (part.tolist() for part in rest)
            self.collected.extend(
                zip(
                    *(batch.id, batch.speaker, batch.label.tolist()),
                    *(chances, truth, values, [loss for (loss,) in losses]),
                    strict=True,
                )
            )
            return loss.mean()
        if dimensions:
            ccc_loss = concordance_loss(values, truth)
            loss = loss + self.dimension_weight * ccc_loss
        return self.train_objective(self.clip_losses(loss, logits), len(loss))

    def clip_losses(self, loss, logits):
        """Sum of what is to be minimised over a training batch.

        Arguments
        ---------
        loss : torch.Tensor
            By the labels, [B].
        logits : torch.Tensor
            [B, classes].
        """
        return loss.sum()

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
        """Order of an epoch, or of the start, from what it measured."""
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
        self.evaluate(self.eval_loader("test"))
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
        self.evaluate(self.eval_loader("test"))
        self.tested = start, self.measured
        results = self.results = self.describe(start, valid, self.measured)
        if below := below_start(results):
            logger.warning("keep: %s: %s", self.hparams.keep, below)
        if self.robustness:
            whole = self.whole_clips()
            results["robustness"] = {}
            views = disturbed(whole["train"], whole["test"])
            if self.model.text_encoder:
                views = {"no text": without_text(whole["test"]), **views}
            for name, dataset in views.items():
                self.evaluate(self.eval_loader("test", {"test": dataset}))
                results["robustness"][name] = self.measured["scores"]["ua"]
        if self.about["classes"]:
            self.model.temperature = results["calibration"]["temperature"]
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
            self.model.save(folder / "model", self.heard)
            gender_of = self.groups.get("gender", {})
            write_report(
                folder,
                results,
                {**measured, "gender": [*map(gender_of.get, measured["id"])]},
                self.epochs(start),
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
        if if_main_process():
            print(f"test {headline(results)}; report in {folder}/report.html")

    def epochs(self, start):
        """What the start, as epoch 0, and every epoch measured."""
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
        more = {}
        if text := self.model.text_encoder:
            more["text"] = {
                "backbone": text.lobe.source,
                "method": text.method_name,
                "sources": text_sources(self.sets["test"].data.values()),
            }
        best = max(self.epochs(start), key=self.rank_of)
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
            start=start,
            device=self.device,
            heard=self.heard.record,
            **more,
            **self.costs(),
        )
