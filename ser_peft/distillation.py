"""What a teacher says of a clip, live or stored, and what a student has."""

import hashlib
import json
import logging
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ser_peft.checkpoints import SafeModule
from ser_peft.errors import InputError
from ser_peft.heads import masked_mean
from ser_peft.inference import load_model, read_model
from ser_peft.io import atomic_path
from ser_peft.released import hashes

__all__ = ["Lessons", "Projector", "Teacher", "features_of"]

logger = logging.getLogger(__name__)


def features_of(kind, states, vectors):
    """What of a model is compared with what of another.

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
    """A trained model that gives lessons, and learns nothing.

    Arguments
    ---------
    run : str or Path
        A finished run, its ``model/`` folder, or a released name.
    about : dict
        ``protocol.json`` of the student's manifests.
    device : str
        Where it runs.

    Raises
    ------
    InputError
        If there is no such model, its classes are others, or it was trained
        on another deal of the speakers.
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
        try:
            path = self.folder.parent / "results.json"
            deal = json.loads(path.read_text(encoding="utf-8"))["protocol_sha"]
        except (FileNotFoundError, KeyError):
            logger.warning(
                "teacher %s: has no results.json, so that nobody can tell "
                "whether it has heard those whom the student is tested on", run,
            )  # fmt: skip
        else:
            if deal != about["protocol_sha"]:
                raise InputError(
                    f"teacher {run}: was trained on another fold, protocol or "
                    "class set, and may have heard those whom the student is "
                    "tested on; train it on this one"
                )
        self.model = load_model(self.folder, device=device)

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
            [B, classes].
        features, lengths : torch.Tensor
            See `features_of`.
        """
        states = self.model.encoder(wavs, wav_lens)
        if self.model.text_encoder:
            states += self.model.text_encoder(texts)
        scores, vectors = self.model.head(*states, with_vectors=True)
        logits = scores[:, : len(self.model.classes)]
        return logits, *features_of(kind, states, vectors)


class Lessons:
    """What a teacher said of every training clip, in one file.

    Arguments
    ---------
    path : str or Path
        From `save`.
    device : str
        Where it is wanted.
    """

    def __init__(self, path, device):
        with safe_open(path, "pt") as file:
            ids = json.loads(file.metadata()["ids"])
            tensors = [
                file.get_tensor(k) for k in ("logits", "features", "lengths")
            ]
        self.logits, features, self.lengths = (t.to(device) for t in tensors)
        self.features = features.split(self.lengths.tolist())
        self.place = {id_: i for i, id_ in enumerate(ids)}

    @staticmethod
    def path(folder, teacher, *clips):
        """Where they are kept: another teacher has another file.

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
        """Write lessons.

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
        """What `Teacher` said of these clips."""
        places = [self.place[id_] for id_ in ids]
        features = torch.nn.utils.rnn.pad_sequence(
            [self.features[i] for i in places], batch_first=True
        )
        return self.logits[places], features, self.lengths[places]


class Projector(SafeModule):
    """From the width of a student's features to that of its teacher's.

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
