"""Attention, dropout and linear layers that keep and compute less."""

import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

__all__ = [
    "ATTENTION",
    "LeanDropout",
    "LeanLinear",
    "attention",
    "make_lean",
]

ATTENTION = "ser_peft"
"""Name under which transformers finds the attention of this module."""
SHORT = 512
"""Most frames of a clip whose attention scores stay in a CPU's cache."""


def attention(query, key, value, mask=None, bias=None, dropout=0.0, scale=None):
    """Scaled dot-product attention, a single operator of ONNX too.

    Arguments
    ---------
    query, key, value : torch.Tensor
        [B, H, T, D].
    mask : torch.Tensor, optional
        True at valid keys, [B, 1, 1, T].
    bias : torch.Tensor, optional
        Added to the products, [B, H, T, T].
    dropout : float
        Dropout probability of the weights.
    scale : float, optional
        Factor of the products, 1 / sqrt(D) by default.

    Returns
    -------
    torch.Tensor
        [B, H, T, D].
    """
    if torch.compiler.is_exporting():
        return _exported(query, key, value, mask, bias, scale)
    if bias is not None and mask is not None:
        mask = bias.masked_fill(~mask, float("-inf"))
    elif bias is not None:
        mask = bias
    return scaled_dot_product_attention(
        query, key, value, attn_mask=mask, dropout_p=dropout, scale=scale
    )


def _exported(query, key, value, mask, bias, scale):
    """onnxruntime's own operator: twice as fast as its five parts."""
    heads, scale = query.shape[1], scale or query.shape[3] ** -0.5
    inputs = [one.transpose(1, 2).flatten(2) for one in (query, key, value)]
    if mask is not None:
        mask = mask[:, 0, 0].to(torch.int32)
    output = torch.onnx.ops.symbolic(
        "com.microsoft::MultiHeadAttention",
        [*inputs, None, mask, bias],
        {"num_heads": heads, "scale": scale},
        dtype=query.dtype,
        shape=inputs[0].shape,
        version=1,
    )
    return output.unflatten(2, (heads, -1)).transpose(1, 2)


def _attend(module, query, key, value, mask, dropout=0.0, **kwargs):
    """Scaled dot-product attention, [B, H, T, D] to [B, T, H, D].

    With dropout torch has no fused kernel on CPU and would keep several
    tensors as large as the square of the frames: they are computed again in
    the backward pass.
    """
    if torch.compiler.is_exporting():
        output = attention(query, key, value, mask, scale=kwargs.get("scaling"))
        return output.transpose(1, 2), None
    inputs = (module, query, key, value, mask)
    trains = query.requires_grad or key.requires_grad or value.requires_grad
    short = (
        query.dtype is torch.bfloat16
        and query.device.type == "cpu"
        and query.shape[2] <= SHORT
        and not (dropout or torch.compiler.is_compiling())
    )
    if short:
        lengths = [query.shape[2]] * len(query)
        if mask is not None:
            lengths = mask[:, 0, -1].sum(-1).tolist()
        scale = kwargs.get("scaling") or query.shape[-1] ** -0.5
        output = _ShortAttention.apply(query * scale, key, value, lengths)
        return output.transpose(1, 2), None
    if dropout and query.device.type == "cpu" and trains:
        return checkpoint(
            sdpa_attention_forward, *inputs, dropout=dropout,
            use_reentrant=False, **kwargs,
        )  # fmt: skip
    return sdpa_attention_forward(*inputs, dropout=dropout, **kwargs)


class _ShortAttention(torch.autograd.Function):
    """Attention of short clips in bf16, one by one: see `_attend`.

    torch's fused kernel for CPUs multiplies in float32 there, and its
    backward pass takes a quarter of a training step. The scores of one clip
    stay in the cache, need no mask, and are computed again in the backward
    pass.
    """

    @staticmethod
    def forward(ctx, query, key, value, lengths):
        output = torch.zeros_like(query)
        for clip, n in enumerate(lengths):
            q, k, v = (part[clip, :, :n] for part in (query, key, value))
            output[clip, :, :n] = (q @ k.mT).softmax(-1) @ v
        ctx.save_for_backward(query, key, value, output)
        ctx.lengths = lengths
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        *inputs, output = ctx.saved_tensors
        of_query, of_key, of_value = found = [*map(torch.zeros_like, inputs)]
        for clip, n in enumerate(ctx.lengths):
            q, k, v, out, grad = (
                part[clip, :, :n] for part in (*inputs, output, gradient)
            )
            weights = (q @ k.mT).softmax(-1)
            of_value[clip, :, :n] = weights.mT @ grad
            mean = (grad.float() * out).sum(-1, keepdim=True)
            of_scores = (weights * (grad @ v.mT - mean)).to(q.dtype)
            of_query[clip, :, :n] = of_scores @ k
            of_key[clip, :, :n] = of_scores.mT @ q
        return *found, None


AttentionInterface.register(ATTENTION, _attend)


class LeanDropout(torch.nn.Dropout):
    """Dropout that on CPU too keeps one byte an element for the backward.

    torch keeps a mask of floats there, which it also draws slowly: here one
    draw of 64 bits serves four elements, so that the probability is a
    multiple of 2 ** -16.

    Example
    -------
    >>> LeanDropout(0.5).eval()(torch.ones(3))
    tensor([1., 1., 1.])
    """

    def forward(self, hidden):
        """Drop with probability `p` in training, [...] to [...]."""
        if not self.training or not self.p or hidden.device.type != "cpu":
            return super().forward(hidden)
        count, dropped = hidden.numel(), round(self.p * 2**16)
        bits = torch.empty(-(-count // 4), dtype=torch.int64)
        bits = bits.random_(-(2**63), None).view(torch.int16)[:count]
        kept = bits.view(hidden.shape) >= dropped - 2**15
        return (hidden * kept).mul_(2**16 / max(1, 2**16 - dropped))


class LeanLinear(torch.nn.Linear):
    """A linear layer that on CPU in float32 computes with oneDNN.

    torch takes Intel's MKL there, which leaves half of the speed of an AMD
    processor unused, and more where a matrix is as narrow as a LoRA's.

    Example
    -------
    >>> layer, x = torch.nn.Linear(8, 4), torch.rand(3, 8)
    >>> expected = layer(x)
    >>> layer.__class__ = LeanLinear
    >>> torch.allclose(layer(x), expected, atol=1e-6)
    True
    """

    def forward(self, hidden):
        """Apply the layer, [..., in] to [..., out]."""
        if (
            torch.compiler.is_compiling()  # which has no such operator
            or hidden.device.type != "cpu"
            or not hidden.dtype == self.weight.dtype == torch.float32
            or torch.is_autocast_enabled("cpu")
            or hidden.ndim < 2
            or not hidden.numel()
        ):
            return super().forward(hidden)
        rows = _OneDnnLinear.apply(
            hidden.flatten(0, -2), self.weight, self.bias
        )
        return rows.view(*hidden.shape[:-1], len(self.weight))


class _OneDnnLinear(torch.autograd.Function):
    """Matrix product and its gradients, all by oneDNN."""

    @staticmethod
    def forward(ctx, hidden, weight, bias):
        # A frozen weight needs no input in the backward pass.
        trains = ctx.needs_input_grad[1]
        ctx.save_for_backward(weight, hidden if trains else None)
        return one_dnn_linear(hidden, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        weight, hidden = ctx.saved_tensors
        of_hidden, of_weight, of_bias = ctx.needs_input_grad
        weight_gradient = None
        if of_weight:
            # The narrower one is copied in the order that oneDNN wants.
            if weight.shape[0] > weight.shape[1]:
                weight_gradient = one_dnn_linear(hidden.t(), gradient.t()).t()
            else:
                weight_gradient = one_dnn_linear(gradient.t(), hidden.t())
        return (
            one_dnn_linear(gradient, weight.t()) if of_hidden else None,
            weight_gradient,
            gradient.sum(0) if of_bias else None,
        )


def one_dnn_linear(hidden, weight, bias=None):
    """Multiply [N, in] to [N, out] on CPU; on AMD twice as fast as MKL."""
    return torch.ops.mkldnn._linear_pointwise(
        hidden.contiguous(), weight, bias, "none", [], ""
    )


LEAN = {torch.nn.Dropout: LeanDropout}
if torch.backends.mkldnn.is_available():
    LEAN[torch.nn.Linear] = LeanLinear


def make_lean(module):
    """Replace the class of every dropout and linear layer, in place."""
    for part in module.modules():
        lean = LEAN.get(type(part))
        if lean:
            part.__class__ = lean
