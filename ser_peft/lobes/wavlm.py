"""WavLM encoders, with an attention that adapters can reach."""

import torch
from torch.utils.checkpoint import checkpoint
from transformers.models.wavlm import modeling_wavlm

from ser_peft.lobes.lean import attention
from ser_peft.lobes.wav2vec2 import Wav2Vec2Lobe

__all__ = ["WavLMAttention", "WavLMLobe"]


class WavLMAttention(modeling_wavlm.WavLMAttention):
    """Gated relative position attention that calls its projections.

    transformers hands the raw weights of the four projections to
    `F.multi_head_attention_forward`; PEFT's wrappers around them would never
    run and get no gradient. Here the modules are called, and the
    gated position bias is the mask of the fused kernel. Same parameters,
    same function. Paper: Chen et al. 2022, "WavLM".
    """

    def forward(
        self,
        hidden_states,
        attention_mask=None,
        position_bias=None,
        index=0,
        **kwargs,
    ):
        """Attend.

        Arguments
        ---------
        hidden_states : torch.Tensor
            [B, T, C].
        attention_mask : torch.Tensor, optional
            True at valid keys, [B, 1, 1, T].
        position_bias : torch.Tensor
            [H, T, T], from the first layer's `compute_bias`.
        index, **kwargs
            Unused, for the callers of the stock class.

        Returns
        -------
        tuple
            Output [B, T, C], no weights, `position_bias`.
        """
        batch, time, _ = hidden_states.shape
        heads = (batch, time, self.num_heads, self.head_dim)
        query, key, value = (
            project(hidden_states).view(heads).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        # [B, H, T, 8] -> two gates, [B, H, T, 1] each.
        gates = self.gru_rel_pos_linear(hidden_states.view(heads))
        gates = gates.transpose(1, 2).unflatten(-1, (2, 4)).sum(-1).sigmoid()
        update, reset = gates.chunk(2, dim=-1)
        gate = update * (reset * self.gru_rel_pos_const - 1.0) + 2.0
        inputs = (query, key, value, gate, position_bias, attention_mask)
        if torch.is_grad_enabled() and any(t.requires_grad for t in inputs[:4]):
            # Recomputed in the backward pass: the fused kernels take no mask
            # that needs a gradient, and without them all that is as large
            # as the square of the frames would be kept.
            output = checkpoint(self.attend, *inputs, use_reentrant=False)
        else:
            output = self.attend(*inputs)
        output = output.transpose(1, 2).reshape(batch, time, -1)
        return self.out_proj(output), None, position_bias

    def attend(self, query, key, value, gate, position_bias, mask):
        """Attention of all heads, [B, H, T, D] to [B, H, T, D]."""
        bias = (gate * position_bias).to(query.dtype)
        dropout = self.dropout if self.training else 0.0
        return attention(query, key, value, mask, bias, dropout)


class WavLMLobe(Wav2Vec2Lobe):
    """WavLM, base or large: `Wav2Vec2Lobe` with its relative positions."""

    def __init__(self, source, save_path="", **kwargs):
        super().__init__(source, save_path, **kwargs)
        for layer in self.layers:
            layer.attention.__class__ = WavLMAttention

    def layer_inputs(self, hidden):
        """Position bias [H, T', T'], the same for all layers and clips."""
        time = hidden.shape[1]
        bias = self.layers[0].attention.compute_bias(time, time)
        return {"position_bias": bias}

    def run_layer(self, layer, hidden, **kwargs):
        """Apply a layer and drop the position bias that it also returns."""
        return layer(hidden, **kwargs)[0]
