"""Whisper's encoder on clips of their own length."""

import torch
from torch.nn.functional import dropout, gelu, pad
from transformers import WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from ser_peft.lobes.base import SpeechLobe, largest
from ser_peft.lobes.spectrum import PowerSpectrum

__all__ = ["WhisperLobe"]

N_FFT, HOP = 400, 160


class WhisperLobe(SpeechLobe):
    """The encoder of a Whisper checkpoint, without padding to 30 s.

    A clip costs what its own seconds cost: its log-mel spectrogram is as
    long as the clip, the first position embeddings are used, and a mask
    keeps the attention inside the clip. The convolutional stem sees exactly
    what it would see in the padded 30 s, so its valid frames equal those of
    Hugging Face's encoder; the layers above differ only by not attending to
    the silence. At 30 s the two are the same.

    See `SpeechLobe` for the arguments. Paper: Radford et al. 2023, "Robust
    speech recognition via large-scale weak supervision".
    """

    limited = True  # to its position embeddings
    # Not AutoModel, which takes time and three times the memory for a decoder.
    checkpoint_class = WhisperEncoder
    prefix = "encoder."
    layers_path = "layers"
    front_end = ("conv1", "conv2", "embed_positions")
    closing = "layer_norm"
    attention = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
                 "self_attn.out_proj")  # fmt: skip
    ffn = ("fc1", "fc2")
    ffn_input = "fc1"
    ffn_output = "fc2"

    def __init__(self, source, save_path="", **kwargs):
        super().__init__(source, save_path, **kwargs)
        self.max_samples = 2 * HOP * self.config.max_source_positions
        self.model.embed_positions.requires_grad_(False)
        filters = torch.tensor(self.extractor.mel_filters).float()
        self.register_buffer("mel_filters", filters, persistent=False)
        self.spectrum = PowerSpectrum(N_FFT, HOP, N_FFT, center=True)

    def encoder_of(self, model):
        """Take the encoder where there is a decoder too."""
        return model.get_encoder()

    @property
    def extractor(self):
        """Whisper's feature extractor."""
        return WhisperFeatureExtractor(self.config.num_mel_bins)

    def frames(self, samples):
        """Count frames of 20 ms; the last one may be incomplete."""
        return (samples + 2 * HOP - 1) // (2 * HOP)

    @torch.no_grad()
    def log_mel(self, wav, lengths):
        """Compute log-mel spectrograms as in Whisper's training.

        Equal to `transformers.WhisperFeatureExtractor` on every frame given
        back. The floor is 8 decades below each clip's own maximum.

        Arguments
        ---------
        wav : torch.Tensor
            Waveforms, zero beyond each clip, [B, T].
        lengths : torch.Tensor
            Valid samples, [B].

        Returns
        -------
        torch.Tensor
            [B, mel bins, 2 T' + 2] with T' frames in the longest clip: one
            more than the stem's receptive field needs, and all that a clip
            reaches into. Never more than the 3000 of 30 s.
        """
        frames = largest(self.frames(lengths), self.frames(wav.shape[1]))
        samples = torch.sym_min(2 * HOP * (frames + 1), self.max_samples)
        wav = pad(wav, (0, samples - wav.shape[1])).float()
        power = self.spectrum(wav)[..., :-1]
        mel = (self.mel_filters.float().T @ power).clamp(min=1e-10).log10()
        # Beyond a clip there are zeros, never the maximum.
        peak = mel.amax((1, 2), keepdim=True)
        return (torch.maximum(mel, peak - 8.0) + 4.0) / 4.0

    def embed(self, wav, lengths, frames, time_mask=None, channel_mask=None):
        """Apply log-mel, stem and positions, see `SpeechLobe`."""
        model = self.backbone
        with torch.autocast(wav.device.type, enabled=False):
            mel = self.log_mel(wav, lengths)
        if time_mask is not None:
            blank = time_mask.repeat_interleave(2, dim=1)
            blank = pad(blank, (0, mel.shape[2] - blank.shape[1]))
            mel = mel.masked_fill(blank[:, None], 0.0)
        if channel_mask is not None:
            mel = mel.masked_fill(channel_mask[..., None], 0.0)
        hidden = gelu(model.conv1(mel.to(model.conv1.weight.dtype)))
        hidden = gelu(model.conv2(hidden)).transpose(1, 2)
        hidden = hidden[:, : largest(frames, hidden.shape[1])]
        hidden = hidden + model.embed_positions.weight[: hidden.shape[1]]
        return dropout(hidden, model.dropout, model.training)
