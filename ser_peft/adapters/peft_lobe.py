"""A lobe with a parameter-efficient method plugged into it."""

from operator import attrgetter

import torch

from ser_peft.adapters.adalora import RankAllocation
from ser_peft.adapters.insertion import (
    check_layers,
    check_liveness,
    count_frozen_layers,
    find_frozen_modules,
    insert,
    named_tensors,
)
from ser_peft.adapters.methods import as_methods, is_of_peft, method_name
from ser_peft.adapters.stored import StoredAdapter
from ser_peft.errors import InputError

__all__ = ["PeftLobe", "load_adapter"]


class PeftLobe(RankAllocation, StoredAdapter, torch.nn.Module):
    """A lobe whose encoder is frozen except for a few trained parameters.

    When it is built, a dummy batch proves that every trainable tensor gets a
    gradient. Checkpoints hold only the tensors that training changes.

    Arguments
    ---------
    lobe : SpeechLobe or TextLobe
        Output of `ser_peft.lobes.load_lobe` or `load_text`; changed in
        place.
    method : peft.PeftConfig, BottleneckConfig, PromptConfig, str or list
        Method of training: one of PEFT (``!new:peft.LoraConfig {r: 16}``),
        one of ours, "frozen" (nothing trains), "full" (everything that can),
        "transformer" (everything but the convolutional front end), or a list
        of methods used together, with at most one of PEFT's.
    targets : str
        Modules that a method of PEFT adapts: "attention", "ffn",
        "attention+ffn", "norm", or a regex that matches full module names
        within the encoder (names, groups, alternatives, sets and a few
        repetitions: see `check_pattern`). A `target_modules` in the
        configuration goes first.
    layers : list of int, optional
        Transformer layers that are adapted, counted from 0 at the bottom;
        all where absent. With "full": the layers that train, nothing else.
    mask : SpanMask, optional
        Spans of frames and channels to hide in training, as SpecAugment does.
    frozen_dropout : bool
        Keep the dropout of the encoder's frozen modules on in training. It
        costs a fifth of a step on CPU and regularises only frozen weights; a
        method's own dropout (``lora_dropout``) is always on.
    init_from : str or Path, optional
        Run, its ``model/`` folder, or exported adapter, to start from. One of
        the same method is carried on; any other is folded into the encoder's
        weights, and the method starts anew on top of that.
    init_merged : bool
        Fold in an adapter of the same method too.
    init_parallel : str, optional
        Keep the LoRA of `init_from` beside a new one, both behind learned
        gates: "frozen", only its gates train; "trained", it trains as well.
        See `ser_peft.adapters.parallel.add_gates`.
    trainable : bool
        False for inference: nothing trains, eval mode whatever `train` is
        called with, and no check.

    Raises
    ------
    InputError
        If the method or its targets cannot work on this encoder, or a
        trainable tensor gets no gradient.

    Example
    -------
    >>> import peft
    >>> from ser_peft.lobes import load_lobe
    >>> lobe = load_lobe("microsoft/wavlm-base-plus")  # doctest: +SKIP
    >>> config = peft.LoraConfig(r=16, lora_alpha=32)
    >>> encoder = PeftLobe(lobe, config)  # doctest: +SKIP
    >>> states, frames = encoder(torch.rand(2, 16000))  # doctest: +SKIP
    >>> states.shape  # doctest: +SKIP
    torch.Size([13, 2, 49, 768])
    """

    def __init__(
        self,
        lobe,
        method,
        targets="attention+ffn",
        layers=None,
        mask=None,
        frozen_dropout=False,
        init_from=None,
        init_merged=False,
        init_parallel=None,
        trainable=True,
    ):
        super().__init__()
        self.lobe = lobe
        self.methods = as_methods(method)
        self.method_name = method_name(self.methods)
        self.layers = layers
        self.mask = mask
        self.trainable = trainable and self.methods != ["frozen"]
        check_layers(lobe, self.methods, layers)
        if trainable and lobe.random and self.methods != ["full"]:
            raise InputError(
                f"method {self.method_name}: {lobe.source} starts from "
                "scratch, so that all of it must train; use 'full'"
            )
        start = self._start(init_from)
        beside = self._beside(start, init_merged, init_parallel)
        carried = self._fold_in(start, init_merged, beside)
        # The encoder's own, to tell them from what the methods add.
        base = {*lobe.model.parameters(), *lobe.model.buffers()}
        own = {*lobe.model.modules()}
        insert(lobe, self.methods, targets, layers, self.trainable)
        if beside:
            self._put_beside(start, init_parallel == "trained")
        persistent = lobe.model.state_dict(keep_vars=True).keys()
        self._saved = [
            name
            for name, tensor in named_tensors(lobe.model).items()
            if tensor.requires_grad
            or (tensor not in base and name in persistent)
        ]
        self.frozen_layers, self._quiet = self.num_layers, []
        if self.trainable:
            self.frozen_layers = count_frozen_layers(lobe, own)
            if not frozen_dropout:
                self._quiet = find_frozen_modules(lobe, own, base)
            check_liveness(lobe, self.methods)
        trained = [p for p in lobe.parameters() if p.requires_grad]
        self.num_adapter_parameters = sum(p.numel() for p in trained)
        if not self.trainable:
            lobe.requires_grad_(False)
        if carried:
            self._carry_on(carried)
        self.train(lobe.training)

    @property
    def quiet(self):
        """Whether training draws nothing at random in its frozen layers."""
        return not self.mask and bool(self._quiet or not self.trainable)

    hidden_size = property(
        attrgetter("lobe.hidden_size"), doc="Width of the hidden states."
    )
    num_layers = property(
        attrgetter("lobe.num_layers"),
        doc="Number of transformer layers; there is one hidden state more.",
    )
    sample_rate = property(attrgetter("lobe.sample_rate"), doc="Hz.")
    max_samples = property(
        attrgetter("lobe.max_samples"), doc="Longest window in samples."
    )

    @property
    def num_saved_bytes(self):
        """Size of the tensors that `export` writes."""
        return sum(
            tensor.nbytes
            for name, tensor in self._live().items()
            if not name.endswith(".gate")  # in other tensors there
        )

    @property
    def gates(self):
        """Name -> mean gate of two LoRAs, see `init_parallel`; else empty."""
        if not any(map(is_of_peft, self.methods)):
            return {}
        from ser_peft.adapters.parallel import gates_of

        return {
            name: torch.stack(gates).mean().item()
            for name, gates in gates_of(self.lobe).items()
        }

    def train(self, mode=True):
        """Set train mode where something trains, see `frozen_dropout`."""
        super().train(mode and self.trainable)
        if self.training:
            for module in self._quiet:
                module.training = False
        return self

    @torch.no_grad()
    def below(self, inputs, wav_lens=None, layers=None):
        """Encode a batch of clips up to a layer.

        Arguments
        ---------
        inputs, wav_lens
            See `forward`.
        layers : int, optional
            Number of the lowest layers; all where absent.

        Returns
        -------
        hidden_states : torch.Tensor
            [layers + 1, B, T', C]; for all layers the same as from `forward`.
        frames : torch.Tensor
            Valid frames of each clip, [B], on the CPU.
        """
        layers = self.num_layers if layers is None else layers
        return self.lobe.below(inputs, wav_lens, layers)

    def forward(self, inputs, wav_lens=None, time_mask=None, below=None):
        """Encode a batch of clips.

        Arguments
        ---------
        inputs : torch.Tensor or list of str
            16 kHz mono waveforms, [B, T]; for a text encoder transcripts.
        wav_lens : torch.Tensor, optional
            Lengths relative to T, [B].
        time_mask : torch.Tensor, optional
            Frames to be hidden, bool, [B, T'], instead of those of `mask`.
        below : tuple of torch.Tensor, optional
            Output of `below` for this batch, to go on from; inputs, lengths
            and masks are ignored then.

        Returns
        -------
        hidden_states : torch.Tensor
            [L + 1, B, T', C].
        frames : torch.Tensor
            Valid frames of each clip (tokens of each text), [B].
        """
        masks = {} if time_mask is None else {"time_mask": time_mask}
        with torch.set_grad_enabled(self.trainable and torch.is_grad_enabled()):
            if below is not None:
                return self.lobe.above(*below)
            if self.mask and self.training and time_mask is None:
                frames = self.lobe.valid_frames(inputs, wav_lens)
                width = self.lobe.mask_channels
                masks = {
                    "time_mask": self.mask.time(frames),
                    "channel_mask": self.mask.channels(
                        len(inputs), width, inputs.device
                    ),
                }
            lengths = () if wav_lens is None else (wav_lens,)
            return self.lobe(inputs, *lengths, **masks)


load_adapter = PeftLobe.restore
