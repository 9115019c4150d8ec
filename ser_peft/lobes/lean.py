"""Attention, dropout and linear layers that keep and compute less."""

import torch
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

__all__ = ["ATTENTION", "LeanDropout", "LeanLinear", "make_lean"]

ATTENTION = "ser_peft"
"""Under which transformers finds the attention of this module."""


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
            torch.compiler.is_compiling()  # which has no such operator
            or hidden.device.type != "cpu"
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


def make_lean(module):
    """Make leaner every dropout and linear layer within, in place."""
    for part in module.modules():
        lean = LEAN.get(type(part))
        if lean:
            part.__class__ = lean
