"""The published estimator of P-TAPT's phase 1: wav2vec 1.0, at 50 Hz."""

import argparse
import logging
import os
import pickle

import torch
from speechbrain.dataio.dataio import length_to_mask
from torch import nn

from ser_peft.errors import InputError
from ser_peft.io import sha256
from ser_peft.lobes.base import SpeechLobe
from ser_peft.lobes.wav2vec2 import masked_group_norm

__all__ = ["Wav2Vec1Lobe"]

logger = logging.getLogger(__name__)

FEATURE_LAYERS = ((10, 5), (8, 4), (4, 2), (4, 2), (4, 2), (1, 1), (1, 1))
"""Kernel and stride: windows of 465 samples, every 160."""
AGGREGATOR_KERNELS = range(2, 14)
STRIDE_KERNEL, STRIDE = 4, 2

# What the weights' shapes do not tell of how they were trained.
TRAINED_WITH = {
    "activation": "relu",
    "agg_zero_pad": False,
    "aggregator": "cnn",
    "log_compression": True,
    "residual_scale": 0.5,
    "skip_connections_agg": True,
    "skip_connections_feat": False,
}


class Wav2Vec1Lobe(SpeechLobe):
    """wav2vec 1.0 "large" with a new convolution that halves its rate.

    A frozen convolutional extractor with log compression (100 Hz), a causal
    aggregator of twelve convolutions with residual connections, and, as in
    the published P-TAPT, one more of kernel 4 and stride 2, rectified
    (50 Hz), whose output is the only hidden state. The last two train: use
    it with ``PeftLobe(lobe, "full")``, whose checkpoints hold just these. A
    clip's states do not depend on its batch mates: group norms count its own
    frames.

    Papers: Schneider et al. 2019, "wav2vec: Unsupervised pre-training for
    speech recognition", arXiv 1904.05862 (configuration: README of fairseq's
    examples/wav2vec); Chen and Rudnicky 2023, arXiv 2110.06309.

    The layout of fairseq's file was taken from fairseq's source and from a
    printed `Wav2VecModel` of it, and with what predicted the future in
    pretraining it has the 32.54 million parameters that SUPERB (Yang et al.
    2021) counts. The file itself was never at hand, nor were fairseq's
    outputs to compare with.

    Arguments
    ---------
    weights : str or Path, optional
        fairseq's ``wav2vec_large.pt``. Nothing in it is executed. Where
        absent, everything starts at random, and the frozen extractor always
        at the same random weights, since no checkpoint holds it.
    width : int
        Channels; 512 as published.

    Raises
    ------
    InputError
        If the file cannot be read, lacks or adds a tensor, holds anything
        but tensors and settings, or says that it was trained otherwise.

    Example
    -------
    >>> lobe = Wav2Vec1Lobe(width=8)
    >>> states, frames = lobe(torch.rand(2, 16000), torch.tensor([1.0, 0.5]))
    >>> states.shape, frames
    (torch.Size([1, 2, 48, 8]), tensor([48, 23]))
    """

    min_samples = 945
    """One frame's window, without the aggregator's context (59 ms)."""
    front_end = ("feature_extractor",)
    layers = ()
    sha256 = None
    """Of the file with the weights."""

    def __init__(self, weights=None, width=512):
        # Not that of a transformers lobe, which would look for a checkpoint.
        nn.Module.__init__(self)
        self.width = width
        self.model = Wav2Vec1Model(width)
        if weights is None:
            self.source = "wav2vec 1.0 with random weights"
            logger.warning(
                "wav2vec 1.0 starts from random weights; give fairseq's "
                "wav2vec_large.pt (weights in the yaml) for the published ones"
            )
        else:
            self.source = os.path.abspath(weights)
            self.sha256 = _load(self.model, self.source)
            logger.info("%s: SHA-256 %s", self.source, self.sha256)
        self.model.feature_extractor.requires_grad_(False)

    @property
    def hidden_size(self):
        """Width of the hidden state."""
        return self.width

    def frames(self, samples):
        """Frames of 20 ms whose window (59 ms) lies in the clip."""
        for kernel, stride in (*FEATURE_LAYERS, (STRIDE_KERNEL, STRIDE)):
            samples = (samples - kernel) // stride + 1
        return samples

    def frame_centres(self, count):
        """See `SpeechLobe`; of the windows without the causal context."""
        return super().frame_centres(count) + (self.min_samples - 1) / 2

    def embed(self, wav, lengths, frames, time_mask=None, channel_mask=None):
        """All of it, [B, T', C]; zero beyond each clip."""
        model, counts = self.model, lengths
        hidden = wav[:, None]
        for block, (kernel, stride) in zip(
            model.feature_extractor, FEATURE_LAYERS, strict=True
        ):
            counts = (counts - kernel) // stride + 1
            hidden = block(hidden, counts)
        hidden = hidden.log1p()
        if time_mask is not None:
            # The middle two of the four that a frame of 50 Hz is made of.
            blank = time_mask.repeat_interleave(STRIDE, 1)
            rest = hidden.shape[2] - blank.shape[1] - 1
            blank = nn.functional.pad(blank, (1, rest))
            hidden = hidden.masked_fill(blank[:, None], 0.0)
        if channel_mask is not None:
            hidden = hidden.masked_fill(channel_mask[..., None], 0.0)
        for block in model.feature_aggregator:
            hidden = (hidden + block(hidden, counts)) * 0.5**0.5
        hidden = model.stride(hidden).relu().transpose(1, 2)
        valid = length_to_mask(frames, hidden.shape[1], hidden.dtype)
        return hidden * valid[..., None]


class Wav2Vec1Model(nn.Module):
    """The weights, in three parts."""

    def __init__(self, width):
        super().__init__()
        inputs = (1, *[width] * (len(FEATURE_LAYERS) - 1))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.feature_extractor = nn.ModuleList(
                _Block(channels, width, kernel, stride)
                for channels, (kernel, stride) in zip(
                    inputs, FEATURE_LAYERS, strict=True
                )
            )
        self.feature_aggregator = nn.ModuleList(
            _Block(width, width, kernel, causal=True)
            for kernel in AGGREGATOR_KERNELS
        )
        self.stride = nn.Conv1d(width, width, STRIDE_KERNEL, STRIDE)


class _Block(nn.Module):
    """Convolution, norm over all channels and valid frames, ReLU."""

    def __init__(self, channels, width, kernel, stride=1, causal=False):
        super().__init__()
        self.conv = nn.Conv1d(channels, width, kernel, stride, bias=causal)
        self.norm = nn.GroupNorm(1, width)
        self.context = kernel - 1 if causal else 0

    def forward(self, hidden, frames):
        # As fairseq: before a clip, its first frame goes on for ever.
        before = hidden[..., :1].expand(-1, -1, self.context)
        hidden = self.conv(torch.cat([before, hidden], 2))
        return masked_group_norm(self.norm, hidden, frames).relu()


# Where fairseq has the parts of a block: it counts dropout and padding too.
PLACES = {
    ("feature_extractor", "conv"): 0,
    ("feature_extractor", "norm"): 2,
    ("feature_aggregator", "conv"): 1,
    ("feature_aggregator", "norm"): 3,
}


def _published_name(name):
    part, layer, kind, what = name.split(".")
    return f"{part}.conv_layers.{layer}.{PLACES[part, kind]}.{what}"


def _load(model, path):
    """Copy a fairseq file's weights into the model; give its SHA-256."""
    try:
        with open(path, "rb") as file:
            digest = sha256(file)
            file.seek(0)
            # Tensors, containers, numbers and the settings; nothing is run.
            with torch.serialization.safe_globals([argparse.Namespace]):
                content = torch.load(file, "cpu", weights_only=True)
        found = {
            name: tensor
            for name, tensor in content["model"].items()
            # What predicted the future in pretraining.
            if not name.startswith("wav2vec_predictions.")
        }
        settings = vars(content.get("args", argparse.Namespace()))
    except Exception as error:  # a broken pickle may raise any
        reason = str(error)
        if isinstance(error, pickle.UnpicklingError):
            # torch's own advice is to execute what is in it.
            reason = "holds more than tensors and settings"
        raise InputError(
            f"{path}: cannot be read as fairseq's wav2vec_large.pt ({reason}); "
            "download it again"
        ) from error
    for key, value in TRAINED_WITH.items():
        if settings.get(key, value) != value:
            raise InputError(
                f"{path}: was trained with {key}={settings[key]}; give one "
                f"with {value}, as fairseq's wav2vec_large.pt"
            )
    own = {
        _published_name(name): tensor
        for name, tensor in model.state_dict().items()
        if not name.startswith("stride.")
    }
    wrong = sorted(
        name
        for name in own.keys() | found.keys()
        if name not in own
        or name not in found
        or own[name].shape != getattr(found[name], "shape", None)
    )
    if wrong:
        raise InputError(
            f"{path}: {len(wrong)} of {len(own)} tensors are missing, unknown "
            f"or of another shape ({', '.join(wrong[:2])}); give fairseq's "
            "wav2vec_large.pt"
        )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(found[name])
    return digest
