"""Two LoRAs beside each other in one lobe, behind learned gates.

All of it is PEFT's: an encoder may have several active adapters, and
`add_weighted_adapter` writes a weighted sum of LoRAs as one LoRA. Only the
weights are learned here.
"""

import torch
from torch.nn.utils import parametrize

from ser_peft.adapters.of_peft import NEW, START, inject, prepare
from ser_peft.errors import InputError

__all__ = ["add_gates", "add_start", "gates_of", "save"]


class Gate(torch.nn.Module):
    """A learned factor of a tensor, one at first."""

    def __init__(self):
        super().__init__()
        self.gate = torch.nn.Parameter(torch.ones(()))

    def forward(self, tensor):
        """Scale a tensor."""
        return self.gate * tensor


def add_start(lobe, config):
    """Put a second LoRA beside the one in a lobe, for a trained one's tensors.

    Arguments
    ---------
    lobe : SpeechLobe or TextLobe
        Lobe with a new LoRA in it, changed in place.
    config : peft.LoraConfig
        Configuration of the trained one.

    Raises
    ------
    InputError
        If PEFT refuses, or could not write the two as one.
    """
    for one in (config, lobe.model.peft_config[NEW]):
        if one.lora_bias or one.bias != "none":
            raise InputError(
                "init_parallel: a LoRA with biases cannot be joined with "
                "another; use init_merged, or train without lora_bias and bias"
            )
    inject(lobe, prepare(lobe, config, None, None), "of init_parallel")
    lobe.model.base_model.set_adapter([START, NEW])


def add_gates(lobe, trains):
    """Put the two LoRAs of a lobe behind learned gates.

    What an adapted module gives becomes ``W x + g1 s1 B1 A1 x + g2 s2 B2 A2
    x``: a weighted sum of the two updates, whose weights g1 and g2, one pair
    a module, are learned. They are 1 at first, when the new B2 is 0, so that
    the training begins with the encoder that the start had become.

    Arguments
    ---------
    lobe : SpeechLobe or TextLobe
        Lobe after `add_start`, changed in place.
    trains : bool
        Whether the start goes on to train, or only its gates.
    """
    for layer in _lora_layers(lobe):
        for name, up in layer.lora_B.items():
            if name == START and not trains:
                layer.lora_A[name].requires_grad_(False)
                up.requires_grad_(False)
                if not up.weight.any():
                    continue  # the kept epoch was before any training
            parametrize.register_parametrization(up, "weight", Gate())


def _lora_layers(lobe):
    """Modules that LoRA adapts."""
    return [m for m in lobe.model.modules() if hasattr(m, "lora_B")]


def gates_of(lobe):
    """Gates of a lobe's two LoRAs, see `add_gates`; a single method has none.

    Arguments
    ---------
    lobe : SpeechLobe or TextLobe
        Lobe with a method of PEFT in it.

    Returns
    -------
    dict of str to list of torch.Tensor
        ``start`` and ``default``, the new one -> gate of each module.
    """
    found = {}
    for layer in _lora_layers(lobe):
        for name, up in layer.lora_B.items():
            if parametrize.is_parametrized(up):
                gate = up.parametrizations.weight[0].gate
                found.setdefault(name, []).append(gate)
    return found


def save(lobe, folder):
    """Write a lobe's method in PEFT's layout.

    Two gated LoRAs are written as what they are: one LoRA, whose rank is the
    sum of theirs, and in whose tensors the gates are.

    Arguments
    ---------
    lobe : SpeechLobe or TextLobe
        Lobe with a method of PEFT in it.
    folder : Path
        Folder that gets the files.
    """
    name = NEW
    if START in lobe.model.peft_config:
        name = "joined"
        trained = [p.requires_grad for p in lobe.model.parameters()]
        lobe.model.add_weighted_adapter([START, NEW], [1.0, 1.0], name, "cat")
        configs = lobe.model.peft_config
        if configs[START].target_modules == configs[NEW].target_modules:
            configs[name].target_modules = configs[NEW].target_modules
    lobe.model.peft_config[name].base_model_name_or_path = lobe.source
    lobe.model.save_pretrained(
        folder, selected_adapters=[name], save_embedding_layers=False
    )
    (folder / "README.md").unlink(missing_ok=True)
    if name != NEW:
        lobe.model.delete_adapter(name)
        for p, trains in zip(lobe.model.parameters(), trained, strict=True):
            p.requires_grad_(trains)
        for path in (folder / name).iterdir():
            path.rename(folder / path.name)
        (folder / name).rmdir()
