"""A small convolutional encoder of filterbanks, to be trained from scratch."""

import torch
from speechbrain.dataio.dataio import length_to_mask
from torch import nn
from torch.nn.functional import gelu
from torchaudio.functional import melscale_fbanks
from transformers import (
    AutoConfig,
    AutoModel,
    PretrainedConfig,
    PreTrainedModel,
)

from ser_peft.lobes.base import SAMPLE_RATE
from ser_peft.lobes.filterbank import HOP, N_FFT, WINDOW, FilterbankLobe

__all__ = ["FilterbankCnnConfig", "FilterbankCnnLobe", "FilterbankCnnModel"]

LOWEST, HIGHEST = 50.0, 7600.0
FLOOR = 1e-7  # of a band's power: less is silence
MEL_MEAN, MEL_STD = -10.0, 5.0  # about those of RAVDESS
STEM_KERNEL, STEM_STRIDE, STEM_LAYERS = 5, 2, 2


class FilterbankCnnConfig(PretrainedConfig):
    """Shapes of a small CNN; by default it has 0.3 million parameters.

    Arguments
    ---------
    num_mel_bins : int
        Bands of the filterbank.
    hidden_size : int
        Channels.
    intermediate_size : int
        Width between the two pointwise layers of a block.
    num_hidden_layers : int
        Blocks.
    kernel_size : int
        Of a block's temporal convolution, odd, in frames of 40 ms.
    hidden_dropout : float
        Dropout behind a block's activation.

    Example
    -------
    >>> FilterbankCnnConfig(hidden_size=128).num_mel_bins
    64
    """

    model_type = "filterbank_cnn"

    def __init__(
        self,
        num_mel_bins=64,
        hidden_size=96,
        intermediate_size=192,
        num_hidden_layers=6,
        kernel_size=7,
        hidden_dropout=0.1,
        **kwargs,
    ):
        self.num_mel_bins = num_mel_bins
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_hidden_layers = num_hidden_layers
        self.kernel_size = kernel_size
        self.hidden_dropout = hidden_dropout
        super().__init__(**kwargs)


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
        """[B, T', C] to [B, T', C]; the mask is [B, 1, 1, T'], or None."""
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
    layers_path = "layers"
    attention = ()
    ffn = ("intermediate_dense", "output_dense")
    ffn_input = "intermediate_dense"
    ffn_output = "output_dense"
    ffn_norm = "layer_norm"
    front_end = ("stem",)
    closing = ("layer_norm.",)

    def filters(self):
        """See `FilterbankLobe`: triangles with straight sides in Hz."""
        bands = self.config.num_mel_bins
        return melscale_fbanks(
            N_FFT // 2 + 1, LOWEST, HIGHEST, bands, SAMPLE_RATE
        )

    def frames(self, samples):
        """Frames of 40 ms, the last one possibly begun only."""
        frames = mel_frames(samples)
        for _ in range(STEM_LAYERS):
            frames = strided(frames)
        return frames

    def frame_centres(self, count):
        """See `SpeechLobe`: the middle of the 25 ms it is centred on."""
        return super().frame_centres(count) + (WINDOW - 1) / 2

    @torch.no_grad()
    def log_mel(self, wav, lengths):
        """Log-mel filterbank, scaled to about zero mean and unit variance.

        Arguments
        ---------
        wav : torch.Tensor
            [B, T].
        lengths : torch.Tensor
            Samples, [B].

        Returns
        -------
        torch.Tensor
            [B, mel frames, mel bins]; zero beyond each clip.
        """
        power = self.magnitudes(wav).square()
        mel = (power @ self.mel_filters.float()).clamp(min=FLOOR).log()
        inside = length_to_mask(mel_frames(lengths), mel.shape[1], torch.bool)
        inside = inside.to(mel.device)
        return ((mel - MEL_MEAN) / MEL_STD).masked_fill(~inside[..., None], 0.0)

    @property
    def mask_channels(self):
        """Mel bins."""
        return self.config.num_mel_bins

    def embed(self, wav, lengths, frames, time_mask=None, channel_mask=None):
        """Filterbank and strided convolutions, [B, T', C]."""
        with torch.autocast(wav.device.type, enabled=False):
            mel = self.log_mel(wav, lengths)
        if time_mask is not None:
            stride = STEM_STRIDE**STEM_LAYERS
            blank = time_mask.repeat_interleave(stride, dim=1)
            blank = blank[:, : mel.shape[1], None]
            mel = mel.masked_fill(blank, 0.0)
        if channel_mask is not None:
            mel = mel.masked_fill(channel_mask[:, None], 0.0)
        hidden = mel.transpose(1, 2).to(self.backbone.dtype)
        frames = mel_frames(lengths)
        for conv in self.backbone.stem:
            hidden, frames = gelu(conv(hidden)), strided(frames)
            inside = length_to_mask(frames, hidden.shape[2], torch.bool)
            inside = inside[:, None].to(hidden.device)
            hidden = hidden.masked_fill(~inside, 0.0)
        return hidden.transpose(1, 2)

    def final_norm(self, hidden):
        """The closing LayerNorm."""
        return self.backbone.layer_norm(hidden)


def mel_frames(samples):
    """Number of windows that lie in so many samples."""
    return (samples - WINDOW) // HOP + 1


def strided(frames):
    """What a convolution of the stem leaves of so many frames."""
    return -(-frames // STEM_STRIDE)


AutoConfig.register(FilterbankCnnConfig.model_type, FilterbankCnnConfig)
AutoModel.register(FilterbankCnnConfig, FilterbankCnnModel)
