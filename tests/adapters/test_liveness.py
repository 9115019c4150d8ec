"""Proof of life: off for a batch is not the same as blocked."""

import peft
import pytest
import torch

from ser_peft.adapters import BottleneckConfig, PeftLobe
from ser_peft.adapters.liveness import gradients


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("name", ["wavlm", "whisper"])
def test_a_narrow_adapter_may_be_born_off(fresh_lobe, clips, name, parallel):
    """Its only ReLU is off for all frames with some of the seeds."""
    off = []
    for seed in range(8):
        torch.manual_seed(seed)
        config = BottleneckConfig(bottleneck=1, parallel=parallel)
        encoder = PeftLobe(fresh_lobe(name), config).eval()
        for layer in encoder.lobe.layers:
            layer.bottleneck_adapter.down.register_forward_hook(
                lambda module, args, output: off.append(output.max() <= 0)
            )
        encoder(*clips)
    assert any(off)


def test_what_is_off_is_tried_with_other_signs(fresh_lobe):
    """Three ReLUs in a row, and all is put back."""
    config = peft.PeanutConfig(r=1, depth=1)
    lobe = PeftLobe(fresh_lobe("hubert"), config).lobe
    tensors = [p for p in lobe.model.parameters() if p.requires_grad]
    with torch.no_grad():
        for tensor in tensors:
            tensor.copy_(-tensor.abs() - 0.1)
    before, random = [t.clone() for t in tensors], torch.get_rng_state()
    assert all(gradient.any() for gradient in gradients(lobe).values())
    assert all(map(torch.equal, tensors, before))
    assert torch.equal(torch.get_rng_state(), random)
