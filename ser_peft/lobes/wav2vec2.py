"""wav2vec 2.0 and HuBERT encoders."""

from pathlib import Path

import torch
from speechbrain.dataio.dataio import length_to_mask
from torch.nn.functional import batch_norm
from transformers import Wav2Vec2FeatureExtractor

from ser_peft.errors import BAD_ARGUMENTS, InputError
from ser_peft.lobes.base import SpeechLobe

__all__ = ["Wav2Vec2Lobe"]


def masked_group_norm(norm, hidden, frames):
    """Group norm over each clip's own frames.

    The stock module averages over the padding too, so that a clip's
    features change with the length of its batch mates.

    Arguments
    ---------
    norm : torch.nn.GroupNorm
        The module.
    hidden : torch.Tensor
        [B, C, T].
    frames : torch.Tensor
        Valid frames, [B].

    Returns
    -------
    torch.Tensor
        [B, C, T], normalised; zero beyond each clip.
    """
    if hidden.device.type == "cpu":
        # A loop over the clips: five times as fast as masked sums.
        normed = torch.empty_like(hidden)
        for i, n in enumerate(frames.tolist()):
            normed[i, :, :n] = norm(hidden[i : i + 1, :, :n])[0]
            normed[i, :, n:] = 0.0
        return normed
    return _normed_by_sums(norm, hidden, frames.to(hidden.device))


def _normed_by_sums(norm, hidden, frames):
    """The same for all clips at once: no launch or wait for each of them."""
    with torch.autocast(hidden.device.type, enabled=False):
        groups = hidden.float().unflatten(1, (norm.num_groups, -1))
        inside = length_to_mask(frames, hidden.shape[2], torch.float)
        inside = inside[:, None, None]
        count = (groups.shape[2] * frames)[:, None, None, None]
        mean = (groups * inside).sum((2, 3), keepdim=True) / count
        centred = (groups - mean) * inside
        variance = centred.square().sum((2, 3), keepdim=True) / count
        normed = (centred * (variance + norm.eps).rsqrt()).flatten(1, 2)
        weight, bias = norm.weight[:, None], norm.bias[:, None]
        normed = (normed * weight + bias) * inside[:, 0]
    return normed.to(hidden.dtype)


class Wav2Vec2Lobe(SpeechLobe):
    """wav2vec 2.0 or HuBERT, base or large, padding-invariant.

    Waveforms are normalised clip by clip where the checkpoint wants it, the
    first convolution's group norm counts valid frames only, padding is
    masked in the attention and zeroed before the positional convolution,
    and the last state of pre-norm ("large") models is layer-normed.

    See `SpeechLobe` for the arguments. Papers: Baevski et al. 2020, "wav2vec
    2.0"; Hsu et al. 2021, "HuBERT".
    """

    front_end = ("feature_extractor", "feature_projection")

    def __init__(self, source, save_path="", **kwargs):
        super().__init__(source, save_path, **kwargs)
        try:
            extractor = Wav2Vec2FeatureExtractor.from_pretrained(
                source,
                cache_dir=str(save_path) or None,
                revision=self.commit,
                trust_remote_code=False,
            )
            self.normalize_wav = bool(extractor.do_normalize)
        except BAD_ARGUMENTS as error:
            path = Path(source, "preprocessor_config.json")
            if path.exists():
                raise InputError(
                    f"backbone {path}: cannot be read ({error}); copy it again"
                ) from error
            # A folder without: models with layer norm in the extractor were
            # pretrained on normalised waves.
            self.normalize_wav = self.config.feat_extract_norm == "layer"
        # Most trainings mask nothing, and nothing would ever reach this.
        if hasattr(self.model, "masked_spec_embed"):
            self.model.masked_spec_embed.requires_grad_(False)

    @property
    def extractor(self):
        """See `SpeechLobe`."""
        return Wav2Vec2FeatureExtractor(
            do_normalize=self.normalize_wav,
            return_attention_mask=self.config.feat_extract_norm == "layer",
        )

    @property
    def post_norm(self):
        """True of the base models, False of the large ones."""
        return not self.config.do_stable_layer_norm

    @property
    def closing(self):
        """The layer norm of the large models; the base models have it below."""
        return () if self.post_norm else ("encoder.layer_norm.",)

    @property
    def ffn_norm(self):
        """The layer norm in front of the feed-forward block."""
        return "layer_norm" if self.post_norm else "final_layer_norm"

    def frames(self, samples):
        """Frames of 20 ms whose receptive field (25 ms) lies in the clip."""
        return self._conv_frames(samples, len(self.config.conv_kernel))

    def _conv_frames(self, samples, layers):
        for kernel, stride in zip(
            self.config.conv_kernel[:layers],
            self.config.conv_stride[:layers],
            strict=True,
        ):
            samples = (samples - kernel) // stride + 1
        return samples

    def frame_centres(self, count):
        """See `SpeechLobe`: a frame's window is 25 ms long."""
        window = 1
        for kernel, stride in zip(
            reversed(self.config.conv_kernel),
            reversed(self.config.conv_stride),
            strict=True,
        ):
            window = (window - 1) * stride + kernel
        return super().frame_centres(count) + (window - 1) / 2

    def embed(self, wav, lengths, frames, time_mask=None, channel_mask=None):
        """CNN, projection and positional convolution, [B, T', C]."""
        model = self.backbone
        if self.normalize_wav:
            wav = normalize(wav, lengths.to(wav.device))
        hidden = wav[:, None].to(model.dtype)
        # Layer by layer: Hugging Face's own loop asks for gradients of the
        # waveform, so that autograd keeps the whole CNN even when frozen.
        for i, layer in enumerate(model.feature_extractor.conv_layers):
            if i == 0 and self.config.feat_extract_norm == "group":
                hidden = layer.conv(hidden)
                hidden = masked_group_norm(
                    layer.layer_norm, hidden, self._conv_frames(lengths, 1)
                )
                hidden = layer.activation(hidden)
            else:
                hidden = layer(hidden)
        hidden = model.feature_projection(hidden.transpose(1, 2))
        if isinstance(hidden, tuple):  # wav2vec 2.0 also gives the normed CNN
            hidden = hidden[0]
        if time_mask is not None:
            blank = getattr(model, "masked_spec_embed", torch.zeros(1))
            blank = blank.to(hidden.device, hidden.dtype)
            hidden = torch.where(time_mask[..., None], blank, hidden)
        if channel_mask is not None:
            hidden = hidden.masked_fill(channel_mask[:, None], 0.0)
        valid = length_to_mask(frames, hidden.shape[1], hidden.dtype)
        valid = valid.to(hidden.device)
        hidden = hidden * valid[..., None]

        encoder = model.encoder
        hidden = hidden + self.positions(hidden, valid)
        if not self.config.do_stable_layer_norm:
            hidden = encoder.layer_norm(hidden)
        return encoder.dropout(hidden)

    def positions(self, hidden, valid):
        """Positional convolution, [B, T', C] to [B, T', C].

        The batch norm that some HuBERTs have before it uses its running
        statistics in training too, and must not fill the padding.
        """
        embed = self.backbone.encoder.pos_conv_embed
        norm = getattr(embed, "batch_norm", None)
        if norm is None:
            return embed(hidden)
        hidden = batch_norm(
            hidden.transpose(1, 2), norm.running_mean, norm.running_var,
            norm.weight, norm.bias, eps=norm.eps,
        )  # fmt: skip
        hidden = embed.conv(hidden * valid[:, None])
        return embed.activation(embed.padding(hidden)).transpose(1, 2)

    def final_norm(self, hidden):
        """Pre-norm models end in a LayerNorm, post-norm ones do not."""
        if self.config.do_stable_layer_norm:
            return self.backbone.encoder.layer_norm(hidden)
        return hidden


def normalize(wav, lengths):
    """Zero mean and unit variance over each clip's own samples.

    Arguments
    ---------
    wav : torch.Tensor
        [B, T], zero beyond each clip.
    lengths : torch.Tensor
        Samples, [B].

    Returns
    -------
    torch.Tensor
        [B, T], zero beyond each clip.
    """
    inside = length_to_mask(lengths, wav.shape[1], wav.dtype)
    count = lengths[:, None]
    mean = wav.sum(1, keepdim=True) / count
    centred = (wav - mean) * inside
    variance = centred.square().sum(1, keepdim=True) / count
    return centred / torch.sqrt(variance + 1e-7)
