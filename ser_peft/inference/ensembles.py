"""Ensembles: several trained models that answer as one."""

import hashlib
import json
import math
from collections import Counter, defaultdict
from pathlib import Path

import torch
from torch import nn

from ser_peft.errors import InputError
from ser_peft.inference.model import TorchModel

__all__ = ["EnsembleModel", "models_in", "refuse_one_place", "share_weights"]


class EnsembleModel(TorchModel):
    """Mean of the calibrated probabilities of several models.

    Deep ensembles (Lakshminarayanan et al., NeurIPS 2017), of models that
    were calibrated first. Members that were trained in the same frozen encoder
    hold its weights once.

    Arguments
    ---------
    members : iterable of EmotionModel
        Models of the same classes and dimensions.

    Raises
    ------
    InputError
        If they have other classes or dimensions than the first.
    """

    def __init__(self, members):
        super().__init__()
        self.members, kept = nn.ModuleList(), defaultdict(list)
        for member in members:
            # One by one, so that no more than two encoders are ever held.
            share_weights(member, kept)
            self.members.append(member)
        first = self.members[0]
        self.classes, self.dimensions = first.classes, first.dimensions
        for number, one in enumerate(self.members, 1):
            told = [*one.classes, *one.dimensions]
            if told != [*self.classes, *self.dimensions]:
                raise InputError(
                    f"member {number}: tells {', '.join(told)}; the first "
                    f"{', '.join([*self.classes, *self.dimensions])}: members "
                    "must have the same, in the same order"
                )
        seconds = [one.first_seconds for one in self.members]
        if None not in seconds:
            self.first_seconds = max(seconds)
        self.origins = []  # see `ser_peft.storage.closed.origins_of`

    layer_weights = None
    """Nothing: every member has its own."""

    @property
    def encoders(self):
        """``<number>.encoder`` and so on -> PeftLobe, of every member."""
        return {
            f"{number}.{name}": one
            for number, member in enumerate(self.members, 1)
            for name, one in member.encoders.items()
        }

    @property
    def max_samples(self):
        """Samples of the longest window that all members take."""
        return min(one.max_samples for one in self.members)

    @property
    def reads_text(self):
        """Whether any member has a text encoder."""
        return any(one.reads_text for one in self.members)

    def forward(self, wavs, lengths=None, texts=None):
        """Score clips.

        Arguments
        ---------
        wavs, lengths, texts
            See `EmotionModel.forward`.

        Returns
        -------
        torch.Tensor
            [B, classes + dimensions]: logarithms of the mean of the members'
            calibrated probabilities, whose softmax is that mean; then the
            mean of the dimensions, on the scale of the corpus.
        """
        logits, values = [], []
        for one in self.members:
            scores = one(wavs, lengths, texts).float()
            own, dimensions = scores.tensor_split([len(self.classes)], 1)
            logits.append((own / one.temperature).log_softmax(-1))
            values.append(dimensions)
        mean = torch.stack(logits).logsumexp(0) - math.log(len(logits))
        return torch.cat([mean, torch.stack(values).mean(0)], 1)

    def embed(self, wavs, lengths, texts=None):
        """Vectors that the members' heads score, side by side, [B, D]."""
        return torch.cat(
            [one.embed(wavs, lengths, texts) for one in self.members], 1
        )

    def merge(self):
        """Nothing: an adapter in shared weights would be in all members.

        Returns
        -------
        bool
            False, since the adapters stay as they are.
        """
        return False

    def describe(self):
        """See `EmotionModel.describe`; a shared weight is counted once."""
        found = [one.describe() for one in self.members]
        told = {
            key: [*dict.fromkeys(one[key] for one in found)]
            for key in ("backbone", "method", "head")
        }
        if len(told["backbone"]) > 1:
            told["backbone"] = [Path(name).name for name in told["backbone"]]
        told = {key: " + ".join(names) for key, names in told.items()}
        trained = [one["trainable_parameters"] for one in found]
        return {
            **told,
            "method": f"ensemble of {len(found)} ({told['method']})",
            "trainable_parameters": {
                key: sum(one[key] for one in trained) for key in trained[0]
            },
            "total_parameters": sum(p.numel() for p in self.parameters()),
        }


def share_weights(model, kept):
    """Let a model take frozen weights that others have from them.

    Modules hold the same parameters then, and keep doing so when they are
    moved to another device or precision.

    Arguments
    ---------
    model : torch.nn.Module
        Changed in place.
    kept : collections.defaultdict of list
        Weights of the models before, by content; gets those of this one too.
    """
    seen = Counter()
    for module in model.modules():
        for name, own in module._parameters.items():
            if own is None or own.requires_grad:
                continue
            content = own.detach().cpu().contiguous().flatten()
            content = content.view(torch.uint8).numpy()
            key = own.dtype, own.shape, hashlib.sha256(content).digest()
            # The second of two equal ones is that of another model's second.
            if seen[key] == len(kept[key]):
                kept[key].append(own)
            module._parameters[name] = kept[key][seen[key]]
            seen[key] += 1


def models_in(folder, about):
    """Folders of all models of a model folder, itself or its members.

    Arguments
    ---------
    folder, about
        From `ser_peft.inference.read_model`.

    Returns
    -------
    dict of Path to dict
        Folder of one model -> its description.
    """
    members = about.get("members", {"": about})
    return {folder / name: one for name, one in members.items()}


def refuse_one_place(models, **places):
    """Refuse one place for encoders of members that are not the same.

    Arguments
    ---------
    models : dict of Path to dict
        From `models_in`.
    **places : str or None
        Key of an encoder, as "backbone" -> place that was given.

    Raises
    ------
    InputError
        If one was given, and the models were trained in different ones.
    """
    for key, given in places.items():
        # Older models do not say what they were trained in.
        found = {
            _weights(one, key)
            for one in models.values()
            if key in one and one["encoders"] is not None
        }
        if given and len(found) > 1:
            raise InputError(
                f"--{key} {given}: the members were trained in {len(found)} "
                f"different encoders; export each with its own --{key}, and "
                "make the ensemble of these"
            )


def _weights(about, key):
    """What tells an encoder from others, wherever it lies."""
    identity = about["encoders"].get(key, {})
    known = identity.get("sha256") or identity.get("commit") or about[key]
    return json.dumps(known, sort_keys=True)
