"""What every speech lobe shares: lengths, masks and the layer loop."""

import torch
from speechbrain.dataio.dataio import length_to_mask

from ser_peft.errors import InputError
from ser_peft.lobes.lean import ATTENTION
from ser_peft.lobes.transformer import TransformerLobe

__all__ = ["SpeechLobe", "lengths_in_samples"]

SAMPLE_RATE = 16000


def lengths_in_samples(wav, wav_lens=None):
    """Turn SpeechBrain's relative lengths into samples.

    Arguments
    ---------
    wav : torch.Tensor
        Zero-padded waveforms, [B, T].
    wav_lens : torch.Tensor, optional
        Lengths relative to T, [B]. All of T where absent.

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


class SpeechLobe(TransformerLobe):
    """SpeechBrain's transformer lobe, made right for short, padded clips.

    A clip's hidden states do not depend on its batch mates, whatever the
    checkpoint's configuration says no layer is skipped (LayerDrop) and
    nothing masked at random, and autograd keeps no graph below the lowest
    parameter that trains. Subclasses give `embed` and `frames`.

    Arguments
    ---------
    frame_stride : int
        Average so many frames into one before the first layer. Emotion
        changes slowly, and of half the frames the layers take half the time
        (as the time reduction of FitHuBERT, Lee et al. 2022, without
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
    """Shorter clips are padded to this with zeros (25 ms)."""
    max_samples = 30 * SAMPLE_RATE
    """Longest window: of longer clips, all but training takes several."""
    limited = False
    """Whether `forward` takes no more than that, in training neither."""

    frame_hop = 320
    """Samples from one frame to the next (20 ms), as `embed` gives them."""

    frame_stride = 1
    """Of these, how many make one frame for the layers."""

    divisible = True
    not_needed = ("masked_spec_embed",)
    """Tensors that the checkpoint may lack."""
    # Where the encoder keeps things, relative to `backbone`.
    layers_path = "encoder.layers"
    attention = ("attention.q_proj", "attention.k_proj", "attention.v_proj",
                 "attention.out_proj")  # fmt: skip
    ffn = ("feed_forward.intermediate_dense", "feed_forward.output_dense")
    ffn_input = "feed_forward"
    ffn_output = "feed_forward"
    ffn_norm = "final_layer_norm"
    """The layer norm in front of the feed-forward block."""
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
        """Number of valid frames that `embed` gives of so many samples."""
        raise NotImplementedError

    def frame_centres(self, count):
        """Where the first frames are: centres in samples, float, [count]."""
        stride = self.frame_stride
        return (
            torch.arange(count) * stride + (stride - 1) / 2
        ) * self.frame_hop

    @property
    def mask_channels(self):
        """Width of what a channel mask applies to."""
        return self.hidden_size

    def embed(self, wav, lengths, frames, time_mask=None, channel_mask=None):
        """Waveforms to what the first transformer layer takes, [B, T', C]."""
        raise NotImplementedError

    def layer_inputs(self, hidden):
        """Further keyword arguments of every layer."""
        return {}

    def run_layer(self, layer, hidden, **kwargs):
        """Apply one transformer layer."""
        return layer(hidden, **kwargs)

    def dummy(self, device):
        """Noises of 1 s and 0.6 s, as arguments of `forward`."""
        wav = 0.1 * torch.randn(2, self.sample_rate)
        return wav.to(device), torch.tensor([1.0, 0.6], device=device)

    def beginning(self, wav, wav_lens):
        """Clips [B, T] and relative lengths, cut to `max_samples`."""
        if wav.shape[1] <= self.max_samples:
            return wav, wav_lens
        lengths = lengths_in_samples(wav, wav_lens)
        lengths = lengths.clamp(max=self.max_samples)
        return wav[:, : self.max_samples], lengths / self.max_samples

    def valid_frames(self, wav, wav_lens=None):
        """Valid frames of each clip, [B], as `forward` gives them."""
        lengths = lengths_in_samples(wav, wav_lens)
        frames = self.frames(lengths.clamp(min=self.min_samples))
        return self._strided(frames)

    def _strided(self, frames):
        return -(-frames // self.frame_stride)

    def _average(self, hidden, frames):
        """Means of `frame_stride` neighbours, [B, T', C]; of valid ones."""
        stride = self.frame_stride
        pad = torch.nn.ConstantPad1d((0, -hidden.shape[1] % stride), 0)
        inside = length_to_mask(frames, hidden.shape[1], torch.bool)
        inside = inside.to(hidden.device)
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
            Lengths relative to T, [B]. On the CPU they cost a GPU no wait.
        time_mask : torch.Tensor, optional
            Frames to be hidden, bool, [B, T'], from a `SpanMask`: the
            checkpoint's mask embedding stands in for them; of Whisper their
            mel frames are zeroed.
        channel_mask : torch.Tensor, optional
            Channels to be zeroed throughout a clip, bool, [B, C] ([B, mel
            bins] of Whisper).

        Returns
        -------
        hidden_states : torch.Tensor
            [L + 1, B, T', C]; index 0 is what enters the first layer, the
            last one is layer-normed where the model has a final norm.
        frames : torch.Tensor
            Valid frames of each clip, [B].

        Raises
        ------
        InputError
            If a clip is longer than `max_samples`, of an encoder that takes
            no more.
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
            How many of the lowest layers are computed.
        wav, wav_lens, time_mask, channel_mask
            See `forward`.

        Returns
        -------
        hidden_states : torch.Tensor
            [layers + 1, B, T', C]; of all layers, as `forward` gives them.
        frames : torch.Tensor
            Valid frames of each clip, [B], on the CPU.
        """
        # Lengths stay on the CPU: each look at one on a GPU would wait for
        # everything that is queued there.
        lengths = lengths_in_samples(wav, wav_lens).cpu()
        longest = int(lengths.max())
        if self.limited and longest > self.max_samples:
            raise InputError(
                f"a clip of {longest / self.sample_rate:.1f} s is longer than "
                f"the {self.max_samples / self.sample_rate:.0f} s that "
                f"{self.source} takes; cut it (max_seconds in the yaml)"
            )
        wav = wav[:, :longest]
        inside = length_to_mask(lengths, wav.shape[1], torch.bool)
        wav = wav.masked_fill(~inside.to(wav.device), 0.0)
        if wav.shape[1] < self.min_samples:
            wav = torch.nn.functional.pad(
                wav, (0, self.min_samples - wav.shape[1])
            )
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
        """Go on from what `below` gives, to what `forward` gives."""
        done = len(states) - 1
        if done < self.num_layers:
            upper = self._run(done, self.num_layers, states[-1], frames)
            states = torch.cat([states[:-1], upper]) if done else upper
        return states, frames.to(states.device)

    def _run(self, first, end, hidden, frames):
        """States in front of, between and behind layers, [n + 1, B, T', C]."""
        states, mask, extra = [hidden], None, {}
        if first < end:
            extra = self.layer_inputs(hidden)
        # Without padding no mask: the fused attention kernels are faster.
        if int(frames.min()) < hidden.shape[1]:
            mask = length_to_mask(frames, hidden.shape[1], torch.bool)
            mask = mask.to(hidden.device)[:, None, None]
        for layer in self.layers[first:end]:
            hidden = self.run_layer(layer, hidden, attention_mask=mask, **extra)
            states.append(hidden)
        # The closing norm goes with the upper layers.
        if end == self.num_layers and self.depth is None:
            states[-1] = self.final_norm(hidden)
        return torch.stack(states)

    def final_norm(self, hidden):
        """Normalise the last hidden state where the model does."""
        return hidden
