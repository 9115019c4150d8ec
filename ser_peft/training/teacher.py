"""Outputs of a teacher, live or stored; features of a student."""

import hashlib
import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ser_peft.errors import InputError
from ser_peft.heads import masked_mean
from ser_peft.inference import (
    EnsembleModel,
    by_window,
    load_model,
    read_model,
)
from ser_peft.io import atomic_path
from ser_peft.lobes import lengths_in_samples
from ser_peft.storage.checkpoints import SafeModule
from ser_peft.storage.released import hashes

__all__ = ["Projector", "Teacher", "TeacherCache", "features_of"]


def features_of(kind, states, vectors):
    """Features of a model that distillation compares.

    Arguments
    ---------
    kind : str or None
        "text": the last hidden state of every token; "audio": the mean of
        the speech encoder's; "fused": the head's vector; None: nothing.
    states : tuple of torch.Tensor
        Hidden states and lengths of the audio, then of the text if any.
    vectors : torch.Tensor
        What the head scores, [B, D].

    Returns
    -------
    features : torch.Tensor
        [B, T, D]; T is 1 but for "text".
    lengths : torch.Tensor
        Valid ones, [B].
    """
    hidden, frames, *text = states
    if kind == "text":
        return text[0][-1], text[1]
    one = torch.ones_like(frames)
    if kind == "audio":
        return masked_mean(hidden[-1], frames)[:, None], one
    if kind is None:
        vectors = vectors[:, :0]
    return vectors[:, None], one


class Teacher:
    """A trained model that others learn of, and that learns nothing.

    Arguments
    ---------
    run : str or Path
        A finished run, its ``model/`` folder, an ensemble, or a released
        name.
    about : dict
        ``protocol.json`` of the student's manifests.
    device : str
        Where it runs.

    Raises
    ------
    InputError
        If there is no such model or its classes are others.
    """

    def __init__(self, run, about, device):
        if not run:
            raise InputError(
                "--teacher=... is needed: a finished run or its model/ "
                "folder; or set kd_weight and feature_weight to 0"
            )
        self.folder, described = read_model(run)
        if described["classes"] != about["classes"]:
            raise InputError(
                f"teacher {run}: tells {', '.join(described['classes'])} "
                f"apart, the student {', '.join(about['classes'])}; they must "
                "be the same, in the same order"
            )
        self.model = load_model(run, device=device)
        self.model.merge()

    @property
    def is_ensemble(self):
        """Whether it is several models, which have scores alone to teach."""
        return isinstance(self.model, EnsembleModel)

    @torch.no_grad()
    def __call__(self, wavs, wav_lens, texts, kind):
        """Teach a batch.

        Arguments
        ---------
        wavs : torch.Tensor
            [B, T].
        wav_lens : torch.Tensor
            Relative to T, [B].
        texts : list of str
            What is said, for a teacher that reads it.
        kind : str or None
            See `features_of`.

        Returns
        -------
        logits : torch.Tensor
            [B, classes]; of an ensemble the logarithms of its mean
            probabilities.
        features, lengths : torch.Tensor
            See `features_of`.
        """
        model, text = self.model, ()
        if self.is_ensemble:
            logits = model(wavs, lengths_in_samples(wavs, wav_lens), texts)
            logits = logits[:, : len(model.classes)]
            one = torch.ones(len(logits), dtype=torch.long, device=wavs.device)
            return logits, logits[:, None, :0], one
        if model.text_encoder:
            text = model.text_encoder(texts)

        def say(*states):
            scores, vectors = model.head(*states, with_vectors=True)
            own = None if kind == "text" else kind
            features, _ = features_of(own, states, vectors)
            return torch.cat([scores[:, : len(model.classes)],
                              features[:, 0].to(scores.dtype)], 1)  # fmt: skip

        wavs, samples = model.heard(wavs, lengths_in_samples(wavs, wav_lens))
        said = by_window(model.encoder, wavs, samples, say, text)
        logits, vectors = said.tensor_split([len(model.classes)], 1)
        if kind == "text":
            return logits, text[0][-1], text[1]
        one = torch.ones(len(logits), dtype=torch.long, device=logits.device)
        return logits, vectors[:, None], one


class TeacherCache:
    """Outputs of a teacher for every training clip, in one file.

    Arguments
    ---------
    path : str or Path
        From `save`. All of it is held on the CPU.
    device : str
        Where a batch of it is wanted.
    """

    def __init__(self, path, device):
        with safe_open(path, "pt") as file:
            ids = json.loads(file.metadata()["ids"])
            tensors = [
                file.get_tensor(k) for k in ("logits", "features", "lengths")
            ]
        self.device = torch.device(device)
        self.logits, features, self.lengths = tensors
        self.features = features.split(self.lengths.tolist())
        self.place = {id_: i for i, id_ in enumerate(ids)}

    @staticmethod
    def path(folder, teacher, *clips):
        """Path of the file; it differs for each teacher.

        Arguments
        ---------
        folder : str or Path
            Of the manifests.
        teacher : Teacher
            Whose they are.
        *clips : object
            What else decides what it says, as JSON can hold it.
        """
        key = json.dumps([hashes(teacher.folder), *clips])
        key = hashlib.sha256(key.encode()).hexdigest()[:12]
        return Path(folder) / f"teacher-{key}.safetensors"

    @staticmethod
    def save(path, said):
        """Write a teacher's outputs.

        Arguments
        ---------
        path : Path
            New file.
        said : list of tuple
            Of each batch its ids and what `Teacher` says.
        """
        ids, logits, features, lengths = zip(*said, strict=True)
        valid = [
            clip[:length]
            for batch, counts in zip(features, lengths, strict=True)
            for clip, length in zip(batch, counts.tolist(), strict=True)
        ]
        tensors = {
            "logits": torch.cat(logits),
            "features": torch.cat(valid),
            "lengths": torch.cat(lengths),
        }
        with atomic_path(path) as tmp:
            save_file(
                {name: tensor.cpu() for name, tensor in tensors.items()},
                tmp,
                metadata={"ids": json.dumps([i for part in ids for i in part])},
            )

    def __call__(self, ids):
        """Outputs of `Teacher` for these clips."""
        places = [self.place[id_] for id_ in ids]
        features = torch.nn.utils.rnn.pad_sequence(
            [self.features[i] for i in places], batch_first=True
        )
        given = self.logits[places], features, self.lengths[places]
        if self.device.type == "cuda":
            given = (tensor.pin_memory() for tensor in given)
        return tuple(
            tensor.to(self.device, non_blocking=True) for tensor in given
        )


class Projector(SafeModule):
    """Linear map from a student's features to its teacher's width.

    Arguments
    ---------
    width, teacher_width : int
        Of the two.
    """

    def __init__(self, width, teacher_width):
        super().__init__()
        self.linear = torch.nn.Linear(width, teacher_width)

    def forward(self, features):
        """[..., width] to [..., teacher_width]."""
        return self.linear(features)
