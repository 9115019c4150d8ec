"""What every lobe shares: loading, lengths, masks and the layer loop."""

import os
import warnings
from contextlib import contextmanager

import torch
from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.utils import enable_progress_bars
from safetensors import SafetensorError
from safetensors.torch import save_file
from speechbrain.dataio.dataio import length_to_mask
from speechbrain.integrations.huggingface.huggingface import (
    HFTransformersInterface,
)
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, AutoModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.utils import logging

from ser_peft.errors import InputError

__all__ = ["SpeechLobe", "lengths_in_samples"]

SAMPLE_RATE = 16000
ATTENTION = "ser_peft"


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
        Whole numbers of samples, [B].

    Example
    -------
    >>> lengths_in_samples(torch.zeros(2, 400), torch.tensor([1.0, 0.5]))
    tensor([400, 200])
    """
    if wav_lens is None:
        return torch.full((len(wav),), wav.shape[1], device=wav.device)
    return (wav_lens.to(wav.device) * wav.shape[1]).round().long()


class SpeechLobe(HFTransformersInterface):
    """SpeechBrain's transformer lobe, made right for short, padded clips.

    A clip's hidden states do not depend on its batch mates, whatever the
    checkpoint's configuration says no layer is skipped (LayerDrop) and
    nothing masked at random, and autograd keeps no graph below the lowest
    parameter that trains. Subclasses give `embed` and `frames`.

    Arguments
    ---------
    source : str
        Hugging Face id or local folder (safetensors weights).
    save_path : str
        Where downloads are kept.
    dtype : str
        Precision of the weights. Checkpoints stored in float16 are loaded in
        float32 unless asked otherwise: mixed precision is the Brain's
        business (``--precision=bf16``).
    gradient_checkpointing : bool
        Recompute each layer in the backward pass: less memory, about a
        third more time. Non-reentrant, so that adapters get gradients.
    weights : bool
        False: the encoder's shapes only, on torch's meta device, which takes
        neither a checkpoint's weights nor memory.
    """

    sample_rate = SAMPLE_RATE
    min_samples = 400
    """Shorter clips are padded to this with zeros (25 ms)."""
    max_samples = None
    """Longest input in samples; None where the encoder has no limit."""

    frame_hop = 320
    """Samples from one frame to the next (20 ms)."""

    not_needed = ("masked_spec_embed",)
    """Tensors that the checkpoint may lack."""
    prefix = ""
    """Of the encoder's tensors in the checkpoint."""

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
    front_end = ()
    """What is below the transformer: convolutions and their projection."""

    def __init__(
        self,
        source,
        save_path="",
        dtype="float32",
        gradient_checkpointing=False,
        weights=True,
    ):
        source = str(source)
        with quiet():
            super().__init__(
                source,
                save_path=str(save_path or HF_HUB_CACHE),
                dtype=getattr(torch, dtype),
                weights=weights,
            )
            if gradient_checkpointing:
                self.model.gradient_checkpointing_enable(
                    gradient_checkpointing_kwargs={"use_reentrant": False}
                )
        self.model.config._attn_implementation = ATTENTION
        # Absolute, so that a saved model finds its backbone from anywhere.
        local = os.path.isdir(source)
        self.source = os.path.abspath(source) if local else source

    def _from_pretrained(
        self, source, save_path, cache_dir, device, dtype, weights
    ):
        """Load safetensors, all of them, and unpickle nothing.

        Replaces SpeechBrain's, which would unpickle its own checkpoints and
        leave at random whatever the file lacks.
        """
        if not weights:
            with torch.device("meta"):
                self.model = AutoModel.from_config(self.config, dtype=dtype)
            return
        try:
            self.model, report = AutoModel.from_pretrained(
                source,
                config=self.config,
                cache_dir=save_path,
                dtype=dtype,
                use_safetensors=True,
                output_loading_info=True,
            )
        except (OSError, RuntimeError, SafetensorError) as error:
            raise InputError(
                f"backbone {source}: model.safetensors is missing or damaged "
                f"({error}); where there is a pytorch_model.bin only, convert "
                "it once with transformers.AutoModel.from_pretrained(THIS)"
                ".save_pretrained(FOLDER) and give that folder"
            ) from error
        missing = sorted(report["missing_keys"])
        for name in missing:
            if name == "masked_spec_embed":
                # A random one would be another in every run.
                self.model.masked_spec_embed.data.zero_()
        missing = [
            name for name in missing if not name.startswith(self.not_needed)
        ]
        if missing:
            raise InputError(
                f"backbone {source}: model.safetensors lacks {len(missing)} "
                f"of the encoder's tensors ({missing[0]}, ...); give the "
                "checkpoint of a whole encoder"
            )

    @property
    def extractor(self):
        """What prepares waveforms for the stock encoder, for its users."""
        raise NotImplementedError

    def save_pretrained(self, folder):
        """Write the encoder as Hugging Face does, without any adapter.

        Arguments
        ---------
        folder : str or Path
            Created. `load_lobe` takes it, and so does transformers'
            `AutoModel.from_pretrained`.
        """
        self.config.save_pretrained(folder)
        self.extractor.save_pretrained(folder)
        tensors = {
            self.prefix + name: tensor.detach().cpu().clone().contiguous()
            for name, tensor in self.backbone.state_dict().items()
        }
        path = os.path.join(folder, "model.safetensors")
        save_file(tensors, path, metadata={"format": "pt"})

    def train(self, mode=True):
        """As always; also makes leaner what PEFT brought or wrapped."""
        for module in self.modules():
            lean = LEAN.get(type(module))
            if lean:
                module.__class__ = lean
        return super().train(mode)

    @property
    def backbone(self):
        """The transformers encoder, below whatever PEFT has put around it."""
        base = getattr(self.model, "get_base_model", None)
        return base() if base else self.model

    @property
    def layers(self):
        """The transformer layers, bottom first (ModuleList)."""
        return self.backbone.get_submodule(self.layers_path)

    def truncate(self, depth):
        """Keep the first layers only, whose hidden states stay as they were.

        Arguments
        ---------
        depth : int
            How many.

        Raises
        ------
        InputError
            If there are not so many.
        """
        if not 1 <= depth <= self.num_layers:
            raise InputError(
                f"depth: {depth}: {self.source} has 1 to {self.num_layers} "
                "layers"
            )
        self.truncated = depth < self.num_layers
        del self.layers[depth:]

    truncated = False
    """Whether layers were cut off, and with them the closing norm."""

    @property
    def num_layers(self):
        """Number of transformer layers; there is one hidden state more."""
        return len(self.layers)

    @property
    def hidden_size(self):
        """Width of the hidden states."""
        return self.config.hidden_size

    def frames(self, samples):
        """Number of valid encoder frames of clips of so many samples."""
        raise NotImplementedError

    def frame_centres(self, count):
        """Where the first frames are: centres in samples, float, [count]."""
        return torch.arange(count) * float(self.frame_hop)

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

    def valid_frames(self, wav, wav_lens=None):
        """Valid frames of each clip, [B], as `forward` gives them."""
        lengths = lengths_in_samples(wav, wav_lens)
        return self.frames(lengths.clamp(min=self.min_samples))

    def forward(self, wav, wav_lens=None, time_mask=None, channel_mask=None):
        """Encode a batch of clips.

        Arguments
        ---------
        wav : torch.Tensor
            16 kHz mono waveforms, [B, T]. Samples beyond a clip's length
            are ignored, whatever they hold.
        wav_lens : torch.Tensor, optional
            Lengths relative to T, [B].
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
            If a clip is longer than `max_samples`.
        """
        lengths = lengths_in_samples(wav, wav_lens)
        longest = int(lengths.max())
        if self.max_samples is not None and longest > self.max_samples:
            raise InputError(
                f"a clip of {longest / self.sample_rate:.1f} s is longer than "
                f"the {self.max_samples / self.sample_rate:.0f} s that "
                f"{self.source} takes; cut it (max_seconds in the yaml)"
            )
        wav = wav[:, :longest]
        inside = length_to_mask(lengths, wav.shape[1], torch.bool)
        wav = wav.masked_fill(~inside, 0.0)
        if wav.shape[1] < self.min_samples:
            wav = torch.nn.functional.pad(
                wav, (0, self.min_samples - wav.shape[1])
            )
        lengths = lengths.clamp(min=self.min_samples)
        frames = self.frames(lengths)
        hidden = self.embed(wav, lengths, frames, time_mask, channel_mask)

        valid = length_to_mask(frames, hidden.shape[1], torch.bool)
        # Without padding no mask: the fused attention kernels are faster.
        mask = None if bool(valid.all()) else valid[:, None, None]
        extra = self.layer_inputs(hidden)
        states = [hidden]
        for layer in self.layers:
            hidden = self.run_layer(layer, hidden, attention_mask=mask, **extra)
            states.append(hidden)
        if not self.truncated:
            states[-1] = self.final_norm(hidden)
        return torch.stack(states), frames

    def final_norm(self, hidden):
        """Normalise the last hidden state where the model does."""
        return hidden


def _attend(module, query, key, value, mask, dropout=0.0, **kwargs):
    """Scaled dot-product attention, [B, H, T, D] to [B, T, H, D].

    With dropout torch has no fused kernel on CPU and would keep several
    tensors as large as the square of the frames: they are computed again in
    the backward pass.
    """
    inputs = (module, query, key, value, mask)
    trains = query.requires_grad or key.requires_grad or value.requires_grad
    if dropout and query.device.type == "cpu" and trains:
        return checkpoint(
            sdpa_attention_forward, *inputs, dropout=dropout,
            use_reentrant=False, **kwargs,
        )  # fmt: skip
    return sdpa_attention_forward(*inputs, dropout=dropout, **kwargs)


AttentionInterface.register(ATTENTION, _attend)


class LeanDropout(torch.nn.Dropout):
    """Dropout that on CPU too keeps one byte an element for the backward.

    torch keeps a mask of floats there, for which it also takes twice as
    long to draw.

    Example
    -------
    >>> LeanDropout(0.5).eval()(torch.ones(3))
    tensor([1., 1., 1.])
    """

    def forward(self, hidden):
        """Drop with probability `p` in training, [...] to [...]."""
        if not self.training or not self.p or hidden.device.type != "cpu":
            return super().forward(hidden)
        kept = torch.rand(hidden.shape) >= self.p
        return (hidden * kept).mul_(1 / (1 - self.p))


class LeanLinear(torch.nn.Linear):
    """A linear layer that on CPU in float32 computes with oneDNN.

    torch takes Intel's MKL there, which leaves half of the speed of an AMD
    processor unused. A weight that trains goes torch's way.

    Example
    -------
    >>> layer, x = torch.nn.Linear(8, 4).requires_grad_(False), torch.rand(3, 8)
    >>> expected = layer(x)
    >>> layer.__class__ = LeanLinear
    >>> torch.allclose(layer(x), expected, atol=1e-6)
    True
    """

    def forward(self, hidden):
        """[..., in] to [..., out]."""
        if (
            hidden.device.type != "cpu"
            or not hidden.dtype == self.weight.dtype == torch.float32
            or torch.is_autocast_enabled("cpu")
            or (torch.is_grad_enabled() and self.weight.requires_grad)
        ):
            return super().forward(hidden)
        rows = _OneDnnLinear.apply(
            hidden.flatten(0, -2), self.weight, self.bias
        )
        return rows.view(*hidden.shape[:-1], len(self.weight))


class _OneDnnLinear(torch.autograd.Function):
    """Of a frozen weight: gradients for the input only."""

    @staticmethod
    def forward(ctx, hidden, weight, bias):
        ctx.save_for_backward(weight)
        return one_dnn_linear(hidden, weight, bias)

    @staticmethod
    def backward(ctx, gradient):
        (weight,) = ctx.saved_tensors
        return one_dnn_linear(gradient, weight.t(), None), None, None


def one_dnn_linear(hidden, weight, bias):
    """[N, in] to [N, out] on CPU; on AMD twice as fast as torch's MKL."""
    return torch.ops.mkldnn._linear_pointwise(
        hidden, weight, bias, "none", [], ""
    )


LEAN = {torch.nn.Dropout: LeanDropout}
if torch.backends.mkldnn.is_available():
    LEAN[torch.nn.Linear] = LeanLinear


@contextmanager
def quiet():
    """Load without the noise of transformers; downloads keep their bar.

    What its report of the weights says that matters is an error of ours,
    and SpeechBrain calls a method that will be renamed in version 6.
    """
    shown, verbosity = (
        logging.is_progress_bar_enabled(),
        logging.get_verbosity(),
    )
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if shown:
        enable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*deprecated", FutureWarning)
            yield
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()
