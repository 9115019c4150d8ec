"""wav2vec 2.0 and HuBERT encoders."""

from itertools import islice
from pathlib import Path

import torch
from torch.nn.functional import batch_norm
from transformers import Wav2Vec2FeatureExtractor

from ser_peft.errors import BAD_ARGUMENTS, InputError
from ser_peft.lobes.base import SpeechLobe, valid_mask

__all__ = ["Wav2Vec2Lobe"]


def masked_group_norm(norm, hidden, frames):
    """Apply a group norm over each clip's own frames.

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
    if hidden.device.type == "cpu" and not torch.compiler.is_exporting():
        # A loop over the clips: five times as fast as masked sums.
        normed = torch.empty_like(hidden)
        for i, n in enumerate(frames.tolist()):
            normed[i, :, :n] = norm(hidden[i : i + 1, :, :n])[0]
            normed[i, :, n:] = 0.0
        return normed
    return _normed_by_sums(norm, hidden, frames.to(hidden.device))


def _normed_by_sums(norm, hidden, frames):
    """Do it for all clips at once: no launch or wait for each of them."""
    with torch.autocast(hidden.device.type, enabled=False):
        groups = hidden.float().unflatten(1, (norm.num_groups, -1))
        inside = valid_mask(frames, hidden, dim=2)[:, None, None].float()
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
        # Models with layer norm in the extractor were pretrained on
        # normalised waves.
        self.normalize_wav = self.config.feat_extract_norm == "layer"
        if kwargs.get("weights", True):
            self._read_preprocessor(source, save_path)
        # Most trainings mask nothing, and nothing would ever reach this.
        if hasattr(self.model, "masked_spec_embed"):
            self.model.masked_spec_embed.requires_grad_(False)

    def _read_preprocessor(self, source, save_path):
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

    @property
    def extractor(self):
        """wav2vec 2.0's feature extractor."""
        return Wav2Vec2FeatureExtractor(
            do_normalize=self.normalize_wav,
            return_attention_mask=self.config.feat_extract_norm == "layer",
        )

    @property
    def post_norm(self):
        """Whether a layer ends in a norm: base models yes, large ones no."""
        return not self.config.do_stable_layer_norm

    @property
    def closing(self):
        """Layer norm of the large models; the base models have it below."""
        return None if self.post_norm else "encoder.layer_norm"

    @property
    def ffn_norm(self):
        """Layer norm in front of the feed-forward block."""
        return "layer_norm" if self.post_norm else "final_layer_norm"

    def frames(self, samples):
        """Count the frames of 20 ms whose window (25 ms) lies in the clip."""
        return self._conv_frames(samples, len(self.config.conv_kernel))

    def _conv_frames(self, samples, layers):
        config = self.config
        convs = zip(config.conv_kernel, config.conv_stride, strict=True)
        for kernel, stride in islice(convs, layers):
            samples = (samples - kernel) // stride + 1
        return samples

    @property
    def window(self):
        """Samples that a frame sees: 400 (25 ms) with the usual kernels."""
        window, hop, config = 1, 1, self.config
        for k, s in zip(config.conv_kernel, config.conv_stride, strict=True):
            window, hop = window + (k - 1) * hop, hop * s
        return window

    def embed(self, wav, lengths, frames, time_mask=None, channel_mask=None):
        """Apply CNN, projection and positions, see `SpeechLobe`."""
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
        valid = valid_mask(frames, hidden).to(hidden.dtype)
        hidden = hidden * valid[..., None]

        encoder = model.encoder
        hidden = hidden + self.positions(hidden, valid)
        if not self.config.do_stable_layer_norm:
            hidden = encoder.layer_norm(hidden)
        return encoder.dropout(hidden)

    def positions(self, hidden, valid):
        """Apply the positional convolution, [B, T', C] to [B, T', C].

        The batch norm that some HuBERTs have before it uses its running
        statistics in training too, and must not fill the padding.

        Arguments
        ---------
        hidden : torch.Tensor
            [B, T', C], zero in the padding.
        valid : torch.Tensor
            One inside each clip, zero in the padding, [B, T'].
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


def normalize(wav, lengths):
    """Normalise to zero mean and unit variance over each clip's own samples.

    Arguments
    ---------
    wav : torch.Tensor
        Waveforms, zero beyond each clip, [B, T].
    lengths : torch.Tensor
        Valid samples, [B].

    Returns
    -------
    torch.Tensor
        [B, T], zero beyond each clip.
    """
    inside = valid_mask(lengths, wav).to(wav.dtype)
    count = lengths[:, None]
    mean = wav.sum(1, keepdim=True) / count
    centred = (wav - mean) * inside
    variance = centred.square().sum(1, keepdim=True) / count
    return centred / torch.sqrt(variance + 1e-7)
