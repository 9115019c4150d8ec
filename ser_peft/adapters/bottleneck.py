"""Bottleneck adapters, sequential and parallel, which PEFT does not have."""

import math
from dataclasses import dataclass

import torch

from ser_peft.errors import InputError

__all__ = ["Bottleneck", "BottleneckConfig"]


@dataclass
class BottleneckConfig:
    """A small MLP beside or behind the feed-forward block of each layer.

    Sequential (Houlsby et al. 2019, "Parameter-efficient transfer learning
    for NLP", after the feed-forward block only): the block's output h
    becomes h + scale * Up(ReLU(Down(h))), before the residual connection.
    Parallel (He et al. 2022, "Towards a unified view of parameter-efficient
    transfer learning"): scale * Up(ReLU(Down(x))) is added to h, x being
    the block's input. Both are the identity before training. At width H,
    bottleneck D and L layers they have L * (2 * D * H + D + H) parameters.

    With `residual` and a scale of 0.1 they are those of the code of Feng and
    Narayanan 2023, "PEFT-SER": the adapter's output includes its own input,
    A(z) = z + scale * Up(ReLU(Down(z))), so that it is not the identity
    before training. Parallel ("adapter" there): A(x) is added to h, x being
    the residual stream in front of the block's layer norm. Sequential
    ("adapter_l" there): h becomes h + A(h), where h is the block's output,
    in post-norm encoders (the base models) with its residual connection.

    Arguments
    ---------
    bottleneck : int
        Width D of the hidden layer.
    scale : float
        Factor on the adapter's output.
    dropout : float
        Dropout probability behind the ReLU.
    parallel : bool
        Place it beside the feed-forward block instead of behind it.
    layers : list of int, optional
        Transformer layers that get one; all where absent.
    residual : bool
        Add the input to the output, as PEFT-SER's code does, see above.

    Raises
    ------
    InputError
        If a value is out of its range.

    Example
    -------
    >>> BottleneckConfig(bottleneck=64, parallel=True).method_name
    'parallel_adapter'
    """

    bottleneck: int = 128
    scale: float = 1.0
    dropout: float = 0.1
    parallel: bool = False
    layers: list | None = None
    residual: bool = False

    peft_type = "BOTTLENECK"
    attribute = "bottleneck_adapter"

    def __post_init__(self):
        if self.bottleneck < 1 or not 0 <= self.dropout < 1:
            raise InputError(
                "BottleneckConfig: bottleneck must be at least 1 and dropout "
                f"in [0, 1), not {self.bottleneck} and {self.dropout}"
            )

    @property
    def method_name(self):
        """Method name in results.json."""
        return "parallel_adapter" if self.parallel else "adapter"

    def attach(self, lobe, layers):
        """Give transformer layers their adapters.

        Arguments
        ---------
        lobe : SpeechLobe
            Lobe that names the modules of a feed-forward block.
        layers : list of torch.nn.Module
            Some of `lobe.layers`.
        """
        for layer in layers:
            adapter = Bottleneck(lobe.hidden_size, self)
            adapter.to(next(layer.parameters()).device)
            layer.add_module(self.attribute, adapter)
            # Bound methods: a deep copy of the lobe gets hooks that run the
            # copied adapter.
            before = layer.get_submodule(
                lobe.ffn_norm if self.residual else lobe.ffn_input
            )
            behind = layer.get_submodule(lobe.ffn_output)
            if self.parallel:
                before.register_forward_pre_hook(adapter.keep_input)
            if self.residual and not self.parallel and lobe.post_norm:
                # Block and residual are summed in front of the closing norm.
                closing = layer.final_layer_norm
                closing.register_forward_pre_hook(adapter.add_to_input)
            else:
                behind.register_forward_hook(adapter.add_to_output)


class Bottleneck(torch.nn.Module):
    """Down-projection, ReLU, dropout, up-projection that starts at zero.

    Always in float32, whatever the precision of the encoder around it.

    Arguments
    ---------
    width : int
        Width of the encoder's hidden states.
    config : BottleneckConfig
        Configuration of the other properties.
    """

    def __init__(self, width, config):
        super().__init__()
        self.scale = config.scale
        self.parallel = config.parallel
        self.residual = config.residual
        self.down = torch.nn.Linear(width, config.bottleneck)
        self.dropout = torch.nn.Dropout(config.dropout)
        self.up = torch.nn.Linear(config.bottleneck, width)
        torch.nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            torch.nn.init.zeros_(zero)
        self._input = None

    def forward(self, hidden):
        """Compute the adapter's output, [..., H] to [..., H]."""
        inner = self.down(hidden.to(self.down.weight.dtype)).relu()
        added = (self.scale * self.up(self.dropout(inner))).to(hidden.dtype)
        return hidden + added if self.residual else added

    def keep_input(self, module, args):
        """Hook in front of the block or its norm; keeps its input [B, T, H]."""
        self._input = args[0]

    def add_to_output(self, module, args, output):
        """Hook behind the feed-forward block, [B, T, H] to [B, T, H]."""
        hidden = self._input if self.parallel else output
        self._input = None
        return output + self(hidden)

    def add_to_input(self, module, args):
        """Hook in front of the closing norm, [B, T, H] to [B, T, H]."""
        return (args[0] + self(args[0]),)

    def __getstate__(self):
        """Copy without the activation that is in flight."""
        return {**self.__dict__, "_input": None}
