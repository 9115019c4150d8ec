"""Proof that what shall be trained can be trained."""

from contextlib import contextmanager

import torch

__all__ = ["gradients", "reference_states"]


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
    """Hidden states of the lobe's dummy batch, in float32."""
    states, _ = lobe(*lobe.dummy(device))
    return states.float()


def gradients(lobe):
    """Gradients of every trainable tensor on a dummy batch.

    In train mode, and with every trainable tensor moved a little at random:
    many methods start with a factor of zero, behind which nothing gets a
    gradient in the very first step. All is put back exactly as it was:
    parameters, buffers, train or eval mode, random state, ``.grad``.

    Arguments
    ---------
    lobe : TransformerLobe
        With adapters in it.

    Returns
    -------
    dict of str to (torch.Tensor or None)
        By name within ``lobe.model``; None where no path leads from the
        hidden states to the tensor.
    """
    names, tensors = [], []
    for name, tensor in lobe.model.named_parameters():
        if tensor.requires_grad:
            names.append(name)
            tensors.append(tensor)
    with torch.enable_grad(), _untouched(lobe, tensors) as device:
        lobe.train()
        with torch.no_grad():
            for tensor in tensors:
                tensor.add_(0.02 * torch.randn_like(tensor))
        states = _states(lobe, device)
        # Random weights: a plain sum is constant behind a layer norm.
        score = (states * torch.randn_like(states)).sum()
        if not score.requires_grad:
            return dict.fromkeys(names)
        found = torch.autograd.grad(score, tensors, allow_unused=True)
    return dict(zip(names, found, strict=True))


def reference_states(lobe):
    """Hidden states of the dummy batch in eval mode, all else untouched.

    Arguments
    ---------
    lobe : TransformerLobe
        With or without adapters.

    Returns
    -------
    torch.Tensor
        [L + 1, 2, T', C].
    """
    with torch.no_grad(), _untouched(lobe) as device:
        lobe.eval()
        return _states(lobe, device)
