"""Attention that keeps and computes less."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from ser_peft.lobes import lean
from ser_peft.lobes.lean import _attend


@pytest.mark.parametrize("masked", [True, False])
def test_short_clips_in_bf16_train_as_in_float32(masked, monkeypatch):
    """Outputs and gradients, as near as torch's own kernel in bf16."""
    torch.manual_seed(0)
    inputs = [torch.randn(3, 2, 40, 16) for _ in "qkv"]
    weights = torch.randn(3, 40, 2, 16)
    lengths, mask, valid = [40, 1, 23], None, torch.ones(3, 40, dtype=bool)
    if masked:
        valid = torch.arange(40) < torch.tensor(lengths)[:, None]
        mask = valid[:, None, None].expand(-1, -1, 40, -1)
    weights *= valid[:, :, None, None]  # nobody asks what padding gives

    def gradients(attend, dtype):
        leaves = [x.to(dtype, copy=True).requires_grad_() for x in inputs]
        output = attend(*leaves)
        (output.float() * weights).sum().backward()
        output = output.detach().float() * valid[:, :, None, None]
        return [output, *(leaf.grad.float() for leaf in leaves)]

    def fused(*qkv):
        output = scaled_dot_product_attention(*qkv, attn_mask=mask)
        return output.transpose(1, 2)

    def ours(*qkv):
        module = SimpleNamespace(is_causal=False, training=True)
        return _attend(module, *qkv, mask)[0]

    def error(found):
        pairs = zip(found, expected, strict=True)
        return max(((a - b).norm() / b.norm()).item() for a, b in pairs)

    expected = gradients(fused, torch.float32)
    assert error(gradients(ours, torch.float32)) < 1e-5
    monkeypatch.setattr(
        lean, "sdpa_attention_forward", None
    )  # that of long clips
    assert error(gradients(ours, torch.bfloat16)) < max(
        0.01, 1.5 * error(gradients(fused, torch.bfloat16))
    )
