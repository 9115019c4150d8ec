"""A small convolutional encoder of filterbanks, trained from scratch."""

import torch
from torch import nn
from torch.nn.functional import gelu
from torchaudio.functional import melscale_fbanks
from transformers import (
    AutoConfig,
    AutoModel,
    PretrainedConfig,
    PreTrainedModel,
)

from ser_peft.io import SAMPLE_RATE
from ser_peft.lobes.base import valid_mask
from ser_peft.lobes.filterbank import HOP, N_FFT, WINDOW, FilterbankLobe

__all__ = ["FilterbankCnnConfig", "FilterbankCnnLobe", "FilterbankCnnModel"]

LOWEST, HIGHEST = 50.0, 7600.0
FLOOR = 1e-7  # of a band's power: less is silence
MEL_MEAN, MEL_STD = -10.0, 5.0  # about those of RAVDESS
STEM_KERNEL, STEM_STRIDE, STEM_LAYERS = 5, 2, 2


class FilterbankCnnConfig(PretrainedConfig):
    """Configuration of a small CNN, by default of 0.3 million parameters.

    Arguments
    ---------
    num_mel_bins : int
        Number of bands of the filterbank.
    hidden_size : int
        Number of channels.
    intermediate_size : int
        Width between the two pointwise layers of a block.
    num_hidden_layers : int
        Number of blocks.
    kernel_size : int
        Kernel of a block's temporal convolution, odd, in frames of 40 ms.
    hidden_dropout : float
        Dropout probability behind a block's activation.

    Example
    -------
    >>> FilterbankCnnConfig(hidden_size=128).num_mel_bins
    64
    """

    model_type = "filterbank_cnn"

    num_mel_bins: int = 64
    hidden_size: int = 96
    intermediate_size: int = 192
    num_hidden_layers: int = 6
    kernel_size: int = 7
    hidden_dropout: float = 0.1


class Block(nn.Module):
    """Depthwise convolution over time, norm, and two pointwise layers.

    Arguments
    ---------
    config : FilterbankCnnConfig
        Shapes.
    """

    def __init__(self, config):
        super().__init__()
        width, kernel = config.hidden_size, config.kernel_size
        self.conv = nn.Conv1d(
            width, width, kernel, padding=kernel // 2, groups=width
        )
        self.layer_norm = nn.LayerNorm(width)
        self.intermediate_dense = nn.Linear(width, config.intermediate_size)
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.output_dense = nn.Linear(config.intermediate_size, width)

    def forward(self, hidden, attention_mask=None):
        """Apply the block, [B, T', C] to [B, T', C]; mask [B, 1, 1, T']."""
        inside = hidden
        if attention_mask is not None:
            inside = hidden * attention_mask[:, 0, 0, :, None]
        local = self.conv(inside.transpose(1, 2)).transpose(1, 2)
        inner = gelu(self.intermediate_dense(self.layer_norm(local)))
        return hidden + self.output_dense(self.dropout(inner))


class FilterbankCnnModel(PreTrainedModel):
    """The weights: a stem of two strided convolutions, blocks, a norm.

    The blocks are those of ConvNeXt (Liu et al. 2022, "A ConvNet for the
    2020s") over time instead of space. All norms are over the channels of a
    frame: there are no statistics of a batch, and none that padding enters.

    Arguments
    ---------
    config : FilterbankCnnConfig
        Shapes.
    """

    config_class = FilterbankCnnConfig
    main_input_name = "input_features"

    def __init__(self, config):
        super().__init__(config)
        width = config.hidden_size
        self.stem = nn.ModuleList(
            nn.Conv1d(
                channels, width, STEM_KERNEL, STEM_STRIDE, STEM_KERNEL // 2
            )
            for channels in (config.num_mel_bins, width)
        )
        self.layers = nn.ModuleList(
            Block(config) for _ in range(config.num_hidden_layers)
        )
        self.layer_norm = nn.LayerNorm(width)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module):
        if isinstance(module, nn.Conv1d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)


class FilterbankCnnLobe(FilterbankLobe):
    """A small CNN on log-mel filterbanks, one frame every 40 ms.

    Filterbanks (25 ms every 10 ms, 50 to 7600 Hz) are scaled by constants,
    not clip by clip: how loud someone speaks is a cue of emotion. Every
    convolution finds zeros beyond a clip, so that its states do not depend
    on its batch mates. Masks hide frames of 40 ms and mel bands, as
    SpecAugment does (Park et al. 2019).

    See `SpeechLobe` for the arguments.
    """

    frame_hop = STEM_STRIDE**STEM_LAYERS * HOP
    window = WINDOW
    layers_path = "layers"
    attention = ()
    ffn = ("intermediate_dense", "output_dense")
    ffn_input = "intermediate_dense"
    ffn_output = "output_dense"
    ffn_norm = "layer_norm"
    front_end = ("stem",)
    closing = "layer_norm"

    def filters(self):
        """Triangles with straight sides in Hz, [257, bands]."""
        bins, bands = N_FFT // 2 + 1, self.config.num_mel_bins
        return melscale_fbanks(bins, LOWEST, HIGHEST, bands, SAMPLE_RATE)

    def frames(self, samples):
        """Count frames of 40 ms; the last one may be incomplete."""
        frames = mel_frames(samples)
        for _ in range(STEM_LAYERS):
            frames = strided(frames)
        return frames

    @torch.no_grad()
    def log_mel(self, wav, lengths):
        """Compute a log-mel filterbank of about zero mean, unit variance.

        Arguments
        ---------
        wav : torch.Tensor
            Waveforms, [B, T].
        lengths : torch.Tensor
            Valid samples, [B].

        Returns
        -------
        torch.Tensor
            [B, mel frames, mel bins]; zero beyond each clip.
        """
        mel = self.mel_bands(wav, power=2).clamp(min=FLOOR).log()
        padding = ~valid_mask(mel_frames(lengths), mel)[..., None]
        return ((mel - MEL_MEAN) / MEL_STD).masked_fill(padding, 0.0)

    def embed(self, wav, lengths, frames, time_mask=None, channel_mask=None):
        """Apply filterbank and strided convolutions, see `SpeechLobe`."""
        with torch.autocast(wav.device.type, enabled=False):
            mel = self.log_mel(wav, lengths)
        if time_mask is not None:
            blank = time_mask.repeat_interleave(self.frame_hop // HOP, dim=1)
            mel = mel.masked_fill(blank[:, : mel.shape[1], None], 0.0)
        if channel_mask is not None:
            mel = mel.masked_fill(channel_mask[:, None], 0.0)
        hidden = mel.transpose(1, 2).to(self.backbone.dtype)
        frames = mel_frames(lengths)
        for conv in self.backbone.stem:
            hidden, frames = gelu(conv(hidden)), strided(frames)
            padding = ~valid_mask(frames, hidden, dim=2)[:, None]
            hidden = hidden.masked_fill(padding, 0.0)
        return hidden.transpose(1, 2)


def mel_frames(samples):
    """Count the windows that fit into numbers of samples."""
    return (samples - WINDOW) // HOP + 1


def strided(frames):
    """Count the frames behind a convolution of the stem."""
    return (frames + STEM_STRIDE - 1) // STEM_STRIDE


AutoConfig.register(FilterbankCnnConfig.model_type, FilterbankCnnConfig)
AutoModel.register(FilterbankCnnConfig, FilterbankCnnModel)
