"""Distillation: a student learns from labels and from a teacher."""

import math

from speechbrain.utils.distributed import if_main_process, run_on_main
from tqdm import tqdm

from ser_peft.errors import InputError
from ser_peft.training.emotion import EmotionBrain
from ser_peft.training.objectives import distillation_losses, feature_losses
from ser_peft.training.teacher import (
    Projector,
    Teacher,
    TeacherCache,
    features_of,
)

__all__ = ["DistillBrain"]


class DistillBrain(EmotionBrain):
    """Trains a student on labels, a teacher's scores and its features.

    The loss of a clip is ``(1 - kd_weight)`` of the cross-entropy,
    ``kd_weight`` of the divergence from the teacher's scores at
    ``temperature``, and ``feature_weight`` of the mean squared difference
    of the features; DistilSER has 0.5, 2 and 1.0 of the text's tokens.
    Papers: Hinton et al. 2015, "Distilling the knowledge in a neural
    network"; DistilSER, doi 10.1109/ICTC62082.2024.10826904.

    Arguments
    ---------
    *args, **kwargs
        See `EmotionBrain`. ``teacher``: a finished run, its ``model/``
        folder, or an ensemble. ``features``: see
        `ser_peft.training.teacher.features_of`.
        ``cache_teacher``: the teacher's outputs for the training clips are
        stored beside the manifests and read from there; the clips must
        never change (``augment: False``).

    Raises
    ------
    InputError
        If the teacher does not fit the student or the task, or may have
        heard those whom the student is tested on.
    """

    defaults = EmotionBrain.defaults | {
        "kd_weight": 0.5,
        "temperature": 2.0,
        "feature_weight": 0.0,
        "features": "audio",
        "cache_teacher": False,
        "teacher": None,
    }

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        hparams = self.hparams
        self.teacher = self.cache = self.kind = None
        if not (hparams.kd_weight or hparams.feature_weight):
            return  # the same student without a teacher
        if not self.about["classes"]:
            raise InputError(
                "classes: 0: distillation wants classes, whose scores are to "
                "be told"
            )
        if self.about["side_classes"]:
            raise InputError(
                "train_classes: a teacher has no scores of side classes; leave "
                "it out, or set kd_weight: 0"
            )
        self.teacher = Teacher(hparams.teacher, self.about, self.device)
        self.heard.add("teacher", self.teacher.folder)
        if hparams.cache_teacher:
            self._check_clips()
        if hparams.feature_weight:
            if self.teacher.is_ensemble:
                raise InputError(
                    f"feature_weight: {hparams.feature_weight}: teacher "
                    f"{hparams.teacher} is an ensemble, whose members have "
                    "features of their own; set feature_weight: 0"
                )
            self.kind = hparams.features
            widths = self._widths()
            if widths[0] != widths[1]:
                projector = Projector(*widths).to(self.device)
                self.modules["projector"] = projector
                self.checkpointer.add_recoverable("projector", projector)

    def _check_clips(self):
        limit = self.hparams.max_seconds
        longest = max(e["duration"] for e in self.sets["train"].data.values())
        longest = math.ceil(min(longest, self.hparams.first_seconds or longest))
        if self.hparams.augment or (limit and longest > limit):
            raise InputError(
                "cache_teacher: wants training clips that never change; set "
                f"augment: False and max_seconds to at least {longest}, "
                "or cache_teacher: False"
            )

    def _widths(self):
        """Widths of the student's and the teacher's features."""
        models = self.model, self.teacher.model
        if self.kind == "audio":
            return [model.encoder.hidden_size for model in models]
        if self.kind == "fused":
            return [model.head.vector_size for model in models]
        encoders = [model.text_encoder for model in models]
        if None in encoders:
            raise InputError(
                "features: text: teacher and student need a text encoder; "
                "choose audio or fused"
            )
        if self.hparams.drop_text:
            raise InputError(
                "features: text: a text that drop_text hides has other tokens "
                "than the teacher's; set drop_text: 0, or choose audio or fused"
            )
        student, teacher = (
            (e.lobe.extractor.get_vocab(), e.lobe.max_tokens) for e in encoders
        )
        if student != teacher:
            raise InputError(
                "features: text: teacher and student cut texts into other "
                "tokens; choose audio or fused"
            )
        return [encoder.hidden_size for encoder in encoders]

    def head_modules(self):
        """See `PeftBrain.head_modules`."""
        names = ("head", "projector")
        return [self.modules[name] for name in names if name in self.modules]

    # ------------------------------------------------------------ training

    def on_fit_start(self):
        """Store the teacher's outputs first, with ``cache_teacher``."""
        if self.teacher and self.hparams.cache_teacher:
            self.cache = self._cache()
            self.teacher.model = None  # has given all that it will
        super().on_fit_start()

    def _cache(self):
        texts = {k: e["text"] for k, e in self.sets["train"].data.items()}
        path = TeacherCache.path(
            self.hparams.manifests_folder,
            self.teacher,
            self.about["protocol_sha"],
            self.hparams.first_seconds,
            texts if self.teacher.model.reads_text else None,
            self.kind,
            self.precision,
        )
        if not path.exists():
            outputs = []
            for batch in tqdm(
                self.eval_loader("train"),
                desc="teacher",
                disable=not if_main_process(),
            ):
                wavs, lens = self.audio(batch)
                with self.training_ctx:  # as a live one
                    given = self.teacher(wavs, lens, batch.text, self.kind)
                # Copies: a view would keep all layers' states alive.
                given = (part.cpu().clone() for part in given)
                outputs.append((batch.id, *given))
            run_on_main(TeacherCache.save, (path, self.gather(outputs)))
        return TeacherCache(path, self.device)

    @property
    def steady(self):
        """See `CachingBrain.steady`; a live teacher needs the clips."""
        return super().steady and not (self.teacher and self.cache is None)

    def train_scores(self, wavs, lens, texts, batch):
        """See `EmotionBrain.train_scores`; the teacher scores them as well."""
        if not self.teacher:
            return super().train_scores(wavs, lens, texts, batch)
        states = self.encode_train(wavs, lens, texts, batch.id)
        scores, vectors = self.modules.head(*states, with_vectors=True)
        self.features, _ = features_of(self.kind, states, vectors)
        if "projector" in self.modules:
            self.features = self.modules.projector(self.features)
        if self.cache:
            self.taught = self.cache(batch.id)
        else:
            # The very clips that the student hears, with all that is said.
            texts = batch.text * (len(wavs) // len(batch.text))
            self.taught = self.teacher(wavs, lens, texts, self.kind)
        return scores

    def clip_losses(self, loss, logits):
        """See `EmotionBrain.clip_losses`."""
        if not self.teacher:
            return super().clip_losses(loss, logits)
        logits_taught, features, lengths = self.taught
        share = self.hparams.kd_weight
        loss = (1 - share) * loss + share * distillation_losses(
            logits, logits_taught, self.hparams.temperature
        )
        if self.kind:
            loss = loss + self.hparams.feature_weight * feature_losses(
                self.features, features, lengths
            )
        return loss.sum()

    # ---------------------------------------------------------- evaluation

    def describe(self, *outcomes):
        """See `EmotionBrain.describe`; with the teacher and the weights."""
        results = super().describe(*outcomes)
        if self.teacher:
            results["distillation"] = {
                "teacher": str(self.teacher.folder.resolve()),
                "kd_weight": self.hparams.kd_weight,
                "temperature": self.hparams.temperature,
                "feature_weight": self.hparams.feature_weight,
                "features": self.kind,
                "cached": self.cache is not None,
            }
        return results
