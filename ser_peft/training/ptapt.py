"""P-TAPT: an emotion of each frame, clusters of frames, masked prediction."""

from pathlib import Path

import speechbrain as sb
import torch
from hyperpyyaml import load_hyperpyyaml
from speechbrain.utils.distributed import if_main_process, run_on_main

from ser_peft.adapters import PeftLobe
from ser_peft.adapters.folder import find
from ser_peft.data import datasets, eval_batches
from ser_peft.data.provenance import Heard
from ser_peft.errors import InputError
from ser_peft.io import atomic_path, write_json
from ser_peft.lobes import SpeechLobe, load_lobe, shapes
from ser_peft.pretraining.clusters import cluster_frames, random_labels
from ser_peft.pretraining.pseudo_labels import (
    PseudoLabels,
    describe,
    perplexity,
)
from ser_peft.pretraining.states import frame_loss
from ser_peft.settings.building import brain_of
from ser_peft.settings.yamls import top_keys
from ser_peft.training.emotion import EmotionBrain
from ser_peft.training.pretraining import PretrainBrain
from ser_peft.training.run import Run

__all__ = ["PtaptBrain", "StateBrain", "check_start"]

LABELS = "labels.safetensors"
"""File of the pseudo-labels, in a run's folder."""

SHARED = (
    "corpus data_folder fold classes protocol dimensions corpora "
    "train_corpora test_corpora whole_targets seed backbone layer num_workers"
).split()
"""Keys of phase 3 that phase 1 takes over."""


class PtaptBrain(PretrainBrain):
    """Pseudo-label task-adaptive pretraining, phase 3: masked prediction.

    Its ``objective`` is a `MaskedPrediction`. Paper: Chen and Rudnicky 2023,
    arXiv 2110.06309.

    Arguments
    ---------
    *args, **kwargs
        See `PretrainBrain`. The pseudo-labels of all clips lie in the output
        folder: `prepare_labels` makes them.
    """

    defaults = PretrainBrain.defaults | {
        "states": None,
        "layer": None,
        "clusters": None,
        "labels": "clusters",
    }
    needed = (*PretrainBrain.needed, "states", "layer", "clusters")
    stage = "ptapt"

    @staticmethod
    def prepare_labels(run, train):
        """Phases 1 and 2: teach frames their emotion, cluster them.

        Arguments
        ---------
        run : ser_peft.training.Run
            This training. Its ``states`` names the yaml of phase 1, which
            lies beside its own and gets the keys of both that say which
            corpus, fold, seed, backbone and layer; without one, frames of
            the backbone as it is are clustered.
        train : callable
            Trains a yaml, from ``recipes/train.py``.
        """
        if (run.folder / LABELS).exists():
            return
        states = _states(run) if run.values["states"] else None
        check_start(run.values)
        run.save()
        if states:
            train(states.hparams_file, run.run_opts, states.overrides)
        run_on_main(_label, (run, states))

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        folder = Path(self.hparams.output_folder)
        self.labels = PseudoLabels.load(folder / LABELS)

    def objective_of(self, batch, hidden, time_mask, objective):
        """See `MaskedPrediction.forward`."""
        lobe, width = self.encoder.lobe, hidden.shape[1]
        centres = lobe.frame_centres(width)
        labels = torch.stack(
            [
                self.labels.crop(id_, start, centres)
                for id_, start in zip(
                    batch.id, torch.as_tensor(batch.start).tolist(), strict=True
                )
            ]
        )
        return objective(hidden, time_mask, self.on_device(labels))

    def scores(self, sums):
        """Accuracy a clustering, beside always naming the largest cluster."""
        masked = sums["masked"].clamp(min=1)
        scores = {}
        for size, correct, counts in zip(
            self.head.sizes, sums["correct"], self.counts, strict=True
        ):
            scores[f"accuracy_{size}"] = float(correct / masked)
            scores[f"largest_{size}"] = float(counts.max() / masked)
            scores[f"perplexity_{size}"] = perplexity(counts)
        return scores

    def report(self):
        """See `PretrainBrain.report`; with the classes in each cluster."""
        valid = self.sets["valid"].data
        classes = {k: e["emotion"] for k, e in valid.items() if "emotion" in e}
        more = {"clusters": describe(self.labels, classes)} if classes else {}
        return super().report(**more)

    def example(self):
        """The valid clip of median length."""
        dataset = self.sets["valid"]
        ids = sorted(
            dataset.data_ids, key=lambda i: dataset.data[i]["duration"]
        )
        id_ = ids[len(ids) // 2]
        labels = self.labels[id_].tolist()
        return {
            "id": id_,
            "emotion": dataset.data[id_].get("emotion", ""),
            "wave": dataset[dataset.data_ids.index(id_)]["sig"],
            "labels": dict(zip(self.labels.sizes, labels, strict=True)),
            "seconds_per_frame": self.labels.hop / SpeechLobe.sample_rate,
        }


class StateBrain(EmotionBrain):
    """P-TAPT, phase 1: teach frames the emotion of their utterance.

    Its ``head`` is a `StateHead`. Chosen by the valid speakers, never
    tested.
    """

    @staticmethod
    def check(settings):
        """See `PeftBrain.check`."""
        if settings.get("mixing"):
            raise InputError(
                "mixing: a frame is taught the emotion of one utterance here; "
                "set mixing: 0"
            )

    def compute_forward(self, batch, stage):
        """Scores of utterances, in training of frames as well."""
        if stage != sb.Stage.TRAIN:
            return super().compute_forward(batch, stage)
        wavs, lens = self.fitting(*self.audio(batch))
        hidden, frames = self.encode_train(wavs, lens, batch.text, batch.id)
        return *self.modules.head(hidden, frames, each_frame=True), frames

    def compute_objectives(self, predictions, batch, stage):
        """Weighted cross-entropy of the utterances plus that of the frames."""
        if stage != sb.Stage.TRAIN:
            return super().compute_objectives(predictions, batch, stage)
        scores, each, frames = predictions
        labels = self.on_device(batch.label)
        weights = torch.tensor([self.weight_of[id_] for id_ in batch.id])
        loss = torch.nn.functional.cross_entropy(
            scores.float(), labels, reduction="none"
        ) + frame_loss(each, frames, labels)
        loss = loss * self.on_device(weights)
        return self.train_objective(loss.sum(), len(loss))

    def evaluate_kept(self):
        """Load the checkpoint that valid chose."""
        self.checkpointer.recover_if_possible()
        self.load_kept()
        self.modules.eval()

    def report(self):
        """Write the encoder that was kept.

        Returns
        -------
        dict
            ``pretraining.json``.
        """
        epoch = self.kept_epochs[-1]
        results = {
            "stage": "states",
            "seed": self.hparams.seed,
            "kept_epoch": epoch,
            "kept": self.history[epoch - 1],
            "epochs": len(self.history),
        }
        if if_main_process():
            folder = Path(self.hparams.output_folder)
            with atomic_path(folder / "encoder.safetensors") as tmp:
                self.encoder.save(tmp)
            write_json(folder / "pretraining.json", results)
        return results


def check_start(values):
    """Refuse settings at once that only the third phase would trip over.

    Arguments
    ---------
    values : dict
        The yaml's values.

    Raises
    ------
    InputError
        If the backbone has no such layer, or the start has heard test
        speakers.
    """
    layers = shapes(values["backbone"]).num_layers
    if values["layer"] > layers:
        raise InputError(
            f"layer: {values['layer']}: {values['backbone']} has layers 1 "
            f"to {layers}"
        )
    if values["init_from"]:
        heard = Heard(
            *datasets(values["manifests_folder"]),
            values.get("trust_start", False),
        )
        heard.add("init_from", find(values["init_from"]))


def _states(run):
    """Phase 1 as a `Run`; refused if its yaml is another's."""
    path = Path(run.hparams_file).parent / run.values["states"]
    fault = InputError(
        f"states: {path}: is no yaml with a StateBrain; name one beside "
        f"{run.hparams_file}, as ptapt_states.yaml"
    )
    try:
        keys = top_keys(str(path))
    except InputError as error:
        raise fault from error
    overrides = {
        k: run.values[k] for k in keys if k in SHARED and k in run.values
    }
    overrides["output_folder"] = f"{run.folder}/states"
    overrides["manifests_folder"] = run.values["manifests_folder"]
    if "brain" not in keys or not issubclass(
        brain_of(str(path), overrides), StateBrain
    ):
        raise fault
    return Run(str(path), run.run_opts, overrides)


def _label(run, states):
    """Phase 2: cluster the frames of the estimator."""
    values = run.values
    about, sets = datasets(values["manifests_folder"])
    if states is None:
        lobe = load_lobe(
            values["backbone"], values["save_folder"], depth=values["layer"]
        )
        encoder = PeftLobe(lobe, "frozen")
    else:
        encoder = load_hyperpyyaml(states.yaml(about))["modules"]["encoder"]
        encoder.load(states.folder / "encoder.safetensors")
    encoder.eval().to(run.device)
    loaders = {
        split: torch.utils.data.DataLoader(
            sets[split],
            batch_sampler=eval_batches(sets[split], values["batch_seconds"]),
            collate_fn=sb.dataio.batch.PaddedBatch,
        )
        for split in ("train", "valid")
    }
    how = random_labels if values["labels"] == "random" else cluster_frames
    labels = how(
        *(encoder, loaders, run.folder, values["clusters"], values["seed"]),
        run.device,
    )
    labels.save(run.folder / LABELS)
