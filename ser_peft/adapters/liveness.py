"""Proof that every trainable tensor gets a gradient."""

from contextlib import contextmanager

import torch

__all__ = ["gradients", "reference_states"]

RETRIES = 32
"""Most tries: a unit is off with a probability of about 1/2 each time."""


@contextmanager
def _untouched(lobe, parameters=()):
    """Leave random state, modes, buffers and `parameters` as they were."""
    modes = {module: module.training for module in lobe.modules()}
    kept = [*parameters, *lobe.buffers()]
    copies = [tensor.detach().clone() for tensor in kept]
    device = next(lobe.model.parameters()).device
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(0)
            yield device
    finally:
        with torch.no_grad():
            for tensor, copy in zip(kept, copies, strict=True):
                tensor.copy_(copy)
        for module, mode in modes.items():
            module.training = mode


def _states(lobe, device):
    """Encode the lobe's dummy batch, in float32."""
    states, _ = lobe(*lobe.dummy(device))
    return states.float()


def gradients(lobe):
    """Compute the gradients of every trainable tensor on a dummy batch.

    This is done in train mode, with every trainable tensor moved a little at
    random: many methods start with a factor of zero, behind which nothing
    gets a gradient in the very first step. A gradient of zero may only mean
    that an activation is off for all of this batch, as all units of a narrow
    ReLU are for some seeds: such tensors are tried again, with random signs
    and another batch, until they get one or have failed every time.
    Everything is put back exactly as it was: parameters, buffers, train or
    eval mode, random state, ``.grad``.

    Arguments
    ---------
    lobe : TransformerLobe
        Lobe with adapters in it.

    Returns
    -------
    dict of str to (torch.Tensor or None)
        By name within ``lobe.model``; None where no path leads from the
        hidden states to the tensor.
    """
    named = {n: t for n, t in lobe.model.named_parameters() if t.requires_grad}
    with torch.enable_grad(), _untouched(lobe, named.values()) as device:
        lobe.train()
        with torch.no_grad():
            for tensor in named.values():
                tensor.add_(0.02 * torch.randn_like(tensor))
        found = _gradients_once(lobe, device, named)
        for _ in range(RETRIES):
            off = {
                name: named[name]
                for name, gradient in found.items()
                if gradient is not None and not gradient.any()
            }
            if not off:
                break
            with torch.no_grad():
                for tensor in off.values():
                    tensor.mul_(torch.randn_like(tensor).sign())
            found |= _gradients_once(lobe, device, off)
    return found


def _gradients_once(lobe, device, named):
    """Compute the gradients of tensors, None where no path leads to one."""
    states = _states(lobe, device)
    # Random weights: a plain sum is constant behind a layer norm.
    score = (states * torch.randn_like(states)).sum()
    if not score.requires_grad:
        return dict.fromkeys(named)
    found = torch.autograd.grad(score, list(named.values()), allow_unused=True)
    return dict(zip(named, found, strict=True))


def reference_states(lobe):
    """Encode the dummy batch in eval mode, and leave the lobe untouched.

    Arguments
    ---------
    lobe : TransformerLobe
        Lobe with or without adapters.

    Returns
    -------
    torch.Tensor
        [L + 1, 2, T', C].
    """
    with torch.no_grad(), _untouched(lobe) as device:
        lobe.eval()
        return _states(lobe, device)
