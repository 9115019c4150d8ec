"""Emotion recognition: the Brain, from first batch to report."""

import logging

import speechbrain as sb
import torch
from speechbrain.utils.distributed import run_on_main

from ser_peft.adapters.folder import find
from ser_peft.data import datasets, scale_of, values_of
from ser_peft.errors import InputError
from ser_peft.evaluation.fairness import group_columns
from ser_peft.evaluation.robustness import (
    talkers,
)
from ser_peft.heads.fusion import FUSIONS
from ser_peft.inference import EmotionModel, read_model
from ser_peft.lobes import lengths_in_samples
from ser_peft.training.frozen import rows_of
from ser_peft.training.history import rank
from ser_peft.training.labelled import LabelledBrain
from ser_peft.training.probe import (
    fit_probe,
    mean_states,
    pooled_states,
    some_clips,
)

__all__ = ["EmotionBrain"]

logger = logging.getLogger(__name__)


class EmotionBrain(LabelledBrain):
    """Trains an adapter and a head, keeps what valid says, tests it once.

    Arguments
    ---------
    *args, **kwargs
        See `CachingBrain`. ``robustness``: test also under babble and over
        the telephone. ``report_audio``: clips of the most confident mistakes
        in the report, see `ser_peft.data.manifests.shareable`.
        ``fairness_columns``: columns of the test manifest, besides
        ``gender``. ``drop_text``: share of the training clips whose text is
        hidden, for a model that can do without. The losses and their settings
        are those of `LabelledBrain`.
    """

    defaults = LabelledBrain.defaults | {
        "crop": 1.0,
        "start_from_probe": False,
        "robustness": False,
        "report_audio": "auto",
        "fairness_columns": (),
        "drop_text": 0.0,
    }
    datasets = staticmethod(datasets)

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        hparams, about, sets = self.hparams, self.about, self.sets
        if any(
            getattr(method, "peft_type", None) == "ADALORA"
            for encoder in self.encoders.values()
            for method in encoder.methods
        ):
            why = "does not go with AdaLoRA, whose ranks change"
            if hparams.keep == "average":
                raise InputError(f"keep: average {why}; use best or last")
            if hparams.ema_decay:
                logger.warning("ema_decay %s: weights are not averaged", why)
                hparams.ema_decay = 0.0
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
        classes, side = len(about["classes"]), len(about["side_classes"])
        scores = classes + side + len(names)
        if self.model.head.outputs != scores:
            raise InputError(
                f"head: gives {self.model.head.outputs} scores, the manifests "
                f"have {classes + side} classes and {len(names)} dimensions; "
                "give it classes: !ref <classes> and dimensions: "
                "!ref <dimensions>"
            )
        self.side_scores = classes, classes + side
        """First score of a side class, and the first one behind them."""
        self.chosen_by = "UA" if about["classes"] else "CCC"
        # Refuse now what the report could not be made with later.
        test = sets[self.scored_on].data
        self.groups = group_columns(test, hparams.fairness_columns)
        # It compares classes, not dimensions.
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
        self.log({"start": name, "epoch": 0}, valid_stats=valid)
        self.checkpointer.save_checkpoint(
            meta={
                "epoch": 0,
                "start": name,
                **valid,
                **self.confusion(),
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
            and not self.about["side_classes"]
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
        self.log(
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
        side = len(self.about["side_classes"])
        classes = len(self.about["classes"]) + side
        return fit_probe(*measured, classes, values, self.device, side)

    def compute_forward(self, batch, stage):
        """Batch to scores as of `EmotionModel`, [B, classes + dimensions]."""
        if stage != sb.Stage.TRAIN:
            scores = self.by_clip(self.head, batch)
            first, last = self.side_scores
            answers = torch.cat([scores[:, :first], scores[:, last:]], 1)
            return self.model.rescale(answers)
        wavs, lens = self.audio(batch)
        wavs = self.mixed(wavs, lens)
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
        """Scores of a training batch from the head."""
        states = self.encode_train(wavs, lens, texts, batch.id)
        return self.score(*states)[0]
