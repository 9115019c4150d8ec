"""Base class of the speech lobes: lengths, masks and the loop over layers."""

import torch

from ser_peft.errors import InputError
from ser_peft.io import SAMPLE_RATE
from ser_peft.lobes.lean import ATTENTION
from ser_peft.lobes.transformer import TransformerLobe

__all__ = ["SpeechLobe", "largest", "lengths_in_samples", "valid_mask"]


def largest(counts, bound):
    """Largest of the clips' counts, such as samples or frames.

    Arguments
    ---------
    counts : torch.Tensor
        One count a clip, [B].
    bound : int
        Count of the padded batch: no clip has more. A graph that is being
        exported takes this one, since its shapes may not depend on values.

    Returns
    -------
    int

    Example
    -------
    >>> largest(torch.tensor([3, 5]), 8)
    5
    """
    return bound if torch.compiler.is_exporting() else int(counts.max())


def lengths_in_samples(wav, wav_lens=None):
    """Turn SpeechBrain's relative lengths into samples.

    Arguments
    ---------
    wav : torch.Tensor
        Zero-padded waveforms, [B, T].
    wav_lens : torch.Tensor, optional
        Lengths relative to T, [B]; all of T where absent.

    Returns
    -------
    torch.Tensor
        Whole numbers of samples, [B], on the device of `wav_lens`; on the
        CPU where that is absent.

    Example
    -------
    >>> lengths_in_samples(torch.zeros(2, 400), torch.tensor([1.0, 0.5]))
    tensor([400, 200])
    """
    if wav_lens is None:
        return torch.full((len(wav),), wav.shape[1])
    return (wav_lens * wav.shape[1]).round().long()


def valid_mask(lengths, padded, dim=1):
    """Mask that is true inside each utterance and false in the padding.

    Arguments
    ---------
    lengths : torch.Tensor
        Valid lengths along `dim`, [B], on any device.
    padded : torch.Tensor
        Padded batch, [B, ...].
    dim : int
        Dimension of `padded` that is time.

    Returns
    -------
    torch.Tensor
        Bool, [B, T], on the device of `padded`.

    Example
    -------
    >>> valid_mask(torch.tensor([2, 1]), torch.zeros(2, 2))
    tensor([[ True,  True],
            [ True, False]])
    """
    # Not SpeechBrain's `length_to_mask`, which is for one size of batch in a
    # graph that is being exported.
    positions = torch.arange(padded.shape[dim], device=lengths.device)
    return (positions < lengths[:, None]).to(padded.device)


class SpeechLobe(TransformerLobe):
    """SpeechBrain's transformer lobe, made right for short, padded clips.

    The hidden states of a clip do not depend on the rest of its batch. No
    layer is skipped (LayerDrop) and nothing is masked at random, whatever the
    checkpoint's configuration says, and autograd keeps no graph below the
    lowest parameter that trains. Subclasses give `embed` and `frames`.

    Arguments
    ---------
    frame_stride : int
        Number of frames that are averaged into one before the first layer.
        Emotion changes slowly, and the layers need half the time for half the
        frames (as the time reduction of FitHuBERT, Lee et al. 2022, without
        parameters).
    source, save_path, **kwargs
        See `TransformerLobe`.

    Raises
    ------
    InputError
        If `frame_stride` is no positive whole number.
    """

    sample_rate = SAMPLE_RATE
    min_samples = 400
    """Shorter clips are padded with zeros to this length (25 ms)."""
    max_samples = 30 * SAMPLE_RATE
    """Longest window: longer clips are encoded in several, but in training."""
    limited = False
    """Whether `forward` refuses clips longer than `max_samples`."""

    frame_hop = 320
    """Samples from one frame of `embed` to the next (20 ms)."""
    window = 1
    """Samples that a frame of `embed` sees."""
    frame_stride = 1

    divisible = True
    not_needed = ("masked_spec_embed",)
    attention = ("attention.q_proj", "attention.k_proj", "attention.v_proj",
                 "attention.out_proj")  # fmt: skip
    ffn = ("feed_forward.intermediate_dense", "feed_forward.output_dense")
    ffn_input = "feed_forward"
    ffn_output = "feed_forward"
    ffn_norm = "final_layer_norm"
    """Layer norm in front of the feed-forward block."""
    post_norm = False
    """Whether a layer ends in a norm instead of beginning with one."""

    def __init__(self, source, save_path="", frame_stride=1, **kwargs):
        if not isinstance(frame_stride, int) or frame_stride < 1:
            raise InputError(
                f"frame_stride: {frame_stride}: give 1, 2 or more frames"
            )
        super().__init__(source, save_path, **kwargs)
        self.frame_stride = frame_stride
        self.model.config._attn_implementation = ATTENTION

    def frames(self, samples):
        """Count the valid frames of `embed` for numbers of samples."""
        raise NotImplementedError

    def frame_centres(self, count):
        """Centres of the first frames in samples, float, [count]."""
        stride = self.frame_stride
        centres = torch.arange(count) * stride + (stride - 1) / 2
        return centres * self.frame_hop + (self.window - 1) / 2

    @property
    def mask_channels(self):
        """Number of channels that a channel mask covers."""
        return getattr(self.config, "num_mel_bins", self.hidden_size)

    def embed(self, wav, lengths, frames, time_mask=None, channel_mask=None):
        """Compute the input of the first layer.

        Arguments
        ---------
        wav : torch.Tensor
            Waveforms, zero beyond each clip, [B, T].
        lengths, frames : torch.Tensor
            Valid samples and frames of each clip, [B], on the CPU.
        time_mask, channel_mask : torch.Tensor, optional
            See `forward`.

        Returns
        -------
        torch.Tensor
            [B, T', C].
        """
        raise NotImplementedError

    def layer_inputs(self, hidden):
        """Further keyword arguments of every layer, for hidden [B, T', C]."""
        return {}

    def run_layer(self, layer, hidden, **kwargs):
        """Apply one transformer layer, [B, T', C] to [B, T', C]."""
        return layer(hidden, **kwargs)

    def dummy(self, device):
        """Noise of 1 s and 0.6 s, as arguments of `forward`."""
        wav = 0.1 * torch.randn(2, self.sample_rate)
        return wav.to(device), torch.tensor([1.0, 0.6], device=device)

    def beginning(self, wav, wav_lens):
        """Cut clips [B, T] and relative lengths [B] to `max_samples`."""
        if wav.shape[1] <= self.max_samples:
            return wav, wav_lens
        lengths = lengths_in_samples(wav, wav_lens)
        lengths = lengths.clamp(max=self.max_samples)
        return wav[:, : self.max_samples], lengths / self.max_samples

    def valid_frames(self, wav, wav_lens=None):
        """Count the valid frames of clips [B, T] in `forward`, [B]."""
        lengths = lengths_in_samples(wav, wav_lens)
        frames = self.frames(lengths.clamp(min=self.min_samples))
        return self._strided(frames)

    def _strided(self, frames):
        return (frames + self.frame_stride - 1) // self.frame_stride

    def _average(self, hidden, frames):
        """Average each `frame_stride` neighbours, valid ones only."""
        stride = self.frame_stride
        pad = torch.nn.ConstantPad1d((0, -hidden.shape[1] % stride), 0)
        inside = valid_mask(frames, hidden)
        hidden = hidden.masked_fill(~inside[..., None], 0).transpose(1, 2)
        sums = pad(hidden).unflatten(2, (-1, stride)).sum(3).transpose(1, 2)
        counts = pad(inside).unflatten(1, (-1, stride)).sum(2)
        return sums / counts.clamp(min=1)[..., None]

    def forward(self, wav, wav_lens=None, time_mask=None, channel_mask=None):
        """Encode a batch of clips.

        Arguments
        ---------
        wav : torch.Tensor
            16 kHz mono waveforms, [B, T]. Samples beyond a clip's length
            are ignored, whatever they hold.
        wav_lens : torch.Tensor, optional
            Lengths relative to T, [B]. A GPU waits less for them where they
            are on the CPU.
        time_mask : torch.Tensor, optional
            Frames to be hidden, bool, [B, T'], from a `SpanMask`: they are
            replaced by the checkpoint's mask embedding; Whisper's and the
            CNN's mel frames are zeroed.
        channel_mask : torch.Tensor, optional
            Channels to be zeroed throughout a clip, bool, [B, C], or
            [B, mel bins]: see `mask_channels`.

        Returns
        -------
        hidden_states : torch.Tensor
            [L + 1, B, T', C]; index 0 is the input of the first layer, the
            last one is layer-normed where the model has a final norm.
        frames : torch.Tensor
            Valid frames of each clip, [B].

        Raises
        ------
        InputError
            If a clip is longer than `max_samples` and the encoder takes no
            more.
        """
        below = self.below(wav, wav_lens, 0, time_mask, channel_mask)
        return self.above(*below)

    def below(
        self, wav, wav_lens=None, layers=0, time_mask=None, channel_mask=None
    ):
        """Encode a batch of clips up to a layer.

        Arguments
        ---------
        layers : int
            Number of the lowest layers that are computed.
        wav, wav_lens, time_mask, channel_mask
            See `forward`.

        Returns
        -------
        hidden_states : torch.Tensor
            [layers + 1, B, T', C]; for all layers the same as from `forward`.
        frames : torch.Tensor
            Valid frames of each clip, [B], on the CPU.
        """
        # Lengths stay on the CPU: each look at one on a GPU would wait for
        # everything that is queued there.
        lengths = lengths_in_samples(wav, wav_lens).cpu()
        longest = largest(lengths, wav.shape[1])
        exporting = torch.compiler.is_exporting()
        if self.limited and not exporting and longest > self.max_samples:
            raise InputError(
                f"a clip of {longest / self.sample_rate:.1f} s is longer than "
                f"the {self.max_samples / self.sample_rate:.0f} s that "
                f"{self.source} takes; cut it (max_seconds in the yaml)"
            )
        wav = wav[:, :longest]
        wav = wav.masked_fill(~valid_mask(lengths, wav), 0.0)
        missing = torch.sym_max(0, self.min_samples - longest)
        wav = torch.nn.functional.pad(wav, (0, missing))
        lengths = lengths.clamp(min=self.min_samples)
        frames = self.frames(lengths)
        if time_mask is not None:
            time_mask = time_mask.repeat_interleave(self.frame_stride, 1)
            time_mask = time_mask[:, : int(frames.max())]
        hidden = self.embed(wav, lengths, frames, time_mask, channel_mask)
        if self.frame_stride > 1:
            hidden = self._average(hidden, frames)
            frames = self._strided(frames)
        return self._run(0, layers, hidden, frames), frames

    def above(self, states, frames):
        """Encode the rest, from the output of `below` to that of `forward`.

        Arguments
        ---------
        states : torch.Tensor
            [layers + 1, B, T', C].
        frames : torch.Tensor
            Valid frames of each clip, [B], on the CPU.

        Returns
        -------
        hidden_states, frames : torch.Tensor
            See `forward`.
        """
        done = len(states) - 1
        if done < self.num_layers:
            upper = self._run(done, self.num_layers, states[-1], frames)
            states = torch.cat([states[:-1], upper]) if done else upper
        return states, frames.to(states.device)

    def _run(self, first, end, hidden, frames):
        """Apply layers; all states between them, [n + 1, B, T', C]."""
        states, mask, extra = [hidden], None, {}
        if first < end:
            extra = self.layer_inputs(hidden)
        # Without padding no mask: the fused attention kernels are faster.
        if torch.compiler.is_exporting() or int(frames.min()) < hidden.shape[1]:
            mask = valid_mask(frames, hidden)[:, None, None]
        for layer in self.layers[first:end]:
            hidden = self.run_layer(layer, hidden, attention_mask=mask, **extra)
            states.append(hidden)
        # The closing norm goes with the upper layers.
        if self.closing and end == self.num_layers and self.depth is None:
            states[-1] = self.backbone.get_submodule(self.closing)(hidden)
        return torch.stack(states)
