"""VGGish: one vector for every 0.96 s of audio."""

import itertools

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.audio_utils import mel_filter_bank

from ser_peft.errors import InputError
from ser_peft.io import SAMPLE_RATE
from ser_peft.lobes.base import largest, valid_mask
from ser_peft.lobes.filterbank import HOP, N_FFT, WINDOW, FilterbankLobe

__all__ = [
    "VGGishConfig",
    "VGGishLobe",
    "VGGishModel",
]

MELS, LOWEST, HIGHEST = 64, 125.0, 7500.0
LOG_OFFSET = 0.01
PATCH = 96
"""Spectra in a patch."""


class VGGishConfig(PretrainedConfig):
    """Configuration of a VGGish; the defaults are the published ones.

    Arguments
    ---------
    conv_dim : tuple of tuple of int
        Widths of the 3x3 convolutions, in four stages that each end in a
        2x2 max-pooling.
    hidden_dim : tuple of int
        Widths of the dense layers in front of the last one.
    hidden_size : int
        Width of the last one, the embedding.
    final_relu : bool
        ReLU behind the last dense layer, as in torchvggish. Google's
        embedding, which AudioSet's PCA is made for, is the input of it.
    pca : bool
        AudioSet's post-processing without its rounding to 8 bits, whose
        gradient is zero: PCA with whitening, then limits of -2 and 2.

    Example
    -------
    >>> VGGishConfig(hidden_dim=[512]).hidden_size
    128
    """

    model_type = "vggish"

    conv_dim: tuple = ((64,), (128,), (256, 256), (512, 512))
    hidden_dim: tuple = (4096, 4096)
    hidden_size: int = 128
    final_relu: bool = True
    pca: bool = False


class VGGishModel(PreTrainedModel):
    """The network: patches of a log-mel spectrogram to embeddings.

    Six convolutions, four max-poolings and three dense layers, 72,141,184
    parameters with the published widths. Parameters are named as in
    torchvggish's state dict. Paper: Hershey et al. 2017, "CNN architectures
    for large-scale audio classification".

    Arguments
    ---------
    config : VGGishConfig
        Its shapes.
    """

    config_class = VGGishConfig
    main_input_name = "input_features"

    def __init__(self, config):
        super().__init__(config)
        stages, channels = [], 1
        for widths in config.conv_dim:
            for width in widths:
                stages += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
            stages.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*stages)
        shrunk = 2 ** len(config.conv_dim)
        inputs = channels * (PATCH // shrunk) * (MELS // shrunk)
        widths = [inputs, *config.hidden_dim, config.hidden_size]
        dense = []
        for pair in itertools.pairwise(widths):
            dense += [nn.Linear(*pair), nn.ReLU()]
        dense = dense if config.final_relu else dense[:-1]
        self.embeddings = nn.Sequential(*dense)
        if config.pca:
            self.register_buffer("pca_means", torch.zeros(widths[-1]))
            self.register_buffer("pca_eigen_vectors", torch.eye(widths[-1]))
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module):
        """He's, so that ReLU after ReLU the patches stay apart."""
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.zeros_(module.bias)
        elif module is self and self.config.pca:
            nn.init.zeros_(self.pca_means)
            nn.init.eye_(self.pca_eigen_vectors)

    def forward(self, input_features):
        """Embed patches.

        Arguments
        ---------
        input_features : torch.Tensor
            Log-mel spectra, [N, 96, 64].

        Returns
        -------
        torch.Tensor
            [N, hidden_size].
        """
        hidden = self.features(input_features[:, None])
        # Channels last, as the first dense layer got them from TensorFlow.
        hidden = self.embeddings(hidden.permute(0, 2, 3, 1).flatten(1))
        if self.config.pca:
            hidden = (hidden - self.pca_means) @ self.pca_eigen_vectors.T
            hidden = hidden.clamp(-2.0, 2.0)
        return hidden


class VGGishLobe(FilterbankLobe):
    """VGGish: one frame for every whole 0.96 s of a clip.

    What is left at a clip's end is dropped; clips of less than one frame
    (0.975 s with the window of the last spectrum) are padded to one with
    zeros. There are no layers, and so one hidden state, [1, B, P, 128].
    Methods of PEFT go into the dense layers with ``targets:
    embeddings\\.(0|2|4)``.

    See `SpeechLobe` for the arguments. ``recipes/IEMOCAP/convert_vggish.py``
    makes a folder of the published weights.
    Masks are not for patches and are refused.
    """

    min_samples = window = (PATCH - 1) * HOP + WINDOW
    frame_hop = PATCH * HOP
    layers = ()
    attention = ()
    ffn = ()
    ffn_input = None
    front_end = ("features",)

    def filters(self):
        """Triangles with straight sides in mel; no DC, [257, 64]."""
        weights = mel_filter_bank(
            N_FFT // 2 + 1, MELS, LOWEST, HIGHEST, SAMPLE_RATE,
            mel_scale="kaldi", triangularize_in_mel_space=True,
        )  # fmt: skip
        return torch.from_numpy(weights).float()

    def frames(self, samples):
        """Count the patches that fit into numbers of samples."""
        return (samples - self.min_samples) // self.frame_hop + 1

    @torch.no_grad()
    def log_mel(self, wav, patches):
        """Compute log-mel spectra in patches that do not overlap.

        Magnitudes, not powers, in 64 mel bands from 125 to 7500 Hz: 25 ms
        every 10 ms, to which log(x + 0.01) is applied.

        Arguments
        ---------
        wav : torch.Tensor
            Waveforms, [B, T].
        patches : int
            Number of patches of the longest clip, P.

        Returns
        -------
        torch.Tensor
            [B, P, 96, 64].
        """
        wav = wav[:, : (PATCH * patches - 1) * HOP + WINDOW]
        mel = self.mel_bands(wav, power=1)
        return (mel + LOG_OFFSET).log().unflatten(1, (patches, PATCH))

    def embed(self, wav, lengths, frames, time_mask=None, channel_mask=None):
        """Apply the whole network, see `SpeechLobe`; zero in the padding."""
        if time_mask is not None or channel_mask is not None:
            raise InputError(
                f"mask: {self.source} has patches of a second each, too few "
                "to hide some; leave the mask out"
            )
        with torch.autocast(wav.device.type, enabled=False):
            most = largest(frames, self.frames(wav.shape[1]))
            patches = self.log_mel(wav, most)
        # The patches of padding are not worth the time that they take.
        inside = valid_mask(frames, patches)
        if torch.compiler.is_exporting():  # whose shapes are no values
            embedded = self.model(patches.flatten(0, 1)).unflatten(
                0, inside.shape
            )
            return embedded * inside[..., None]
        embedded = self.model(patches[inside].to(self.model.dtype))
        hidden = embedded.new_zeros(*inside.shape, embedded.shape[-1])
        hidden[inside] = embedded
        return hidden


AutoConfig.register(VGGishConfig.model_type, VGGishConfig)
AutoModel.register(VGGishConfig, VGGishModel)
