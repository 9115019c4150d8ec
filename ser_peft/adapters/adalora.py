"""AdaLoRA's state and loss, which PEFT keeps outside of its modules."""

import torch

from ser_peft.errors import InputError

__all__ = ["RankAllocation", "allocator_of", "importance"]


def allocator_of(lobe):
    """Rank allocator of a lobe with AdaLoRA, None for every other method."""
    tuner = getattr(lobe.model, "base_model", None)
    return getattr(tuner, "rankallocator", None)


def importance(lobe):
    """Running averages of AdaLoRA, so that a restored run goes on alike.

    Arguments
    ---------
    lobe : SpeechLobe or TextLobe
        Lobe with any method in it.

    Returns
    -------
    dict of str to torch.Tensor
        Live tensors by name, made where there are none yet; empty for every
        other method.
    """
    allocator, averages = allocator_of(lobe), {}
    for kind in ("ipt", "exp_avg_ipt", "exp_avg_unc") if allocator else ():
        kept = getattr(allocator, kind)
        for name, parameter in lobe.backbone.named_parameters():
            if "lora_" in name:
                kept.setdefault(name, torch.zeros_like(parameter))
                averages[f"{kind}.{name}"] = kept[name]
    return averages


class RankAllocation:
    """The part of `PeftLobe` that a training calls for AdaLoRA's sake."""

    def set_total_steps(self, steps):
        """Tell AdaLoRA how many optimiser steps there will be.

        Arguments
        ---------
        steps : int
            Number of steps of the whole training. Ignored by every other
            method.

        Raises
        ------
        InputError
            If its first and last phases leave no step between them.
        """
        if allocator_of(self.lobe) is None:
            return
        config = self._config
        if config.tinit + config.tfinal >= steps:
            raise InputError(
                f"method adalora: tinit={config.tinit} and tfinal="
                f"{config.tfinal} leave nothing of {steps} steps; lower them "
                "or train longer"
            )
        allocator_of(self.lobe).set_total_step(steps)

    def on_step(self, step):
        """Let methods that allocate ranks (AdaLoRA, AdaMSS) do so.

        It needs the gradients: call it behind the optimiser's step, before
        ``zero_grad``. It does nothing for every other method.

        Arguments
        ---------
        step : int
            Number of this optimiser step, counted from 1.
        """
        tuner = getattr(self.lobe.model, "base_model", None)
        if hasattr(tuner, "update_and_allocate"):
            tuner.update_and_allocate(step)

    def regularization(self):
        """Compute AdaLoRA's orthogonality loss, 0 for every other method.

        Returns
        -------
        torch.Tensor or float
            A scalar to be added to the loss. Paper: Zhang et al. 2023,
            "AdaLoRA", equation 4.
        """
        if allocator_of(self.lobe) is None:
            return 0.0
        factors = [
            p if "lora_A" in name else p.T
            for name, p in self.lobe.backbone.named_parameters()
            if "lora_A" in name or "lora_B" in name
        ]
        gaps = [f @ f.T - torch.eye(len(f), device=f.device) for f in factors]
        norms = torch.stack([gap.norm() for gap in gaps])
        return self._config.orth_reg_weight * norms.mean()
