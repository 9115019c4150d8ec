"""Methods are put into a lobe, and the rest of it is frozen."""

import logging
from itertools import chain

from ser_peft.adapters.liveness import gradients, reference_states
from ser_peft.adapters.methods import is_of_peft, method_name
from ser_peft.adapters.prompts import PromptConfig
from ser_peft.errors import InputError

__all__ = [
    "check_layers",
    "check_liveness",
    "count_frozen_layers",
    "find_frozen_modules",
    "insert",
    "named_tensors",
    "warn_if_shifted",
]

logger = logging.getLogger(__name__)


def named_tensors(model):
    """All parameters and buffers of a model, by name."""
    return dict(chain(model.named_parameters(), model.named_buffers()))


def check_layers(lobe, methods, layers):
    """Refuse numbers of layers that the encoder does not have.

    Arguments
    ---------
    lobe : SpeechLobe or TextLobe
        Encoder with L layers.
    methods : list
        Output of `ser_peft.adapters.methods.as_methods`; ours may name
        layers.
    layers : list of int or None
        Layers for all methods.

    Raises
    ------
    InputError
        If a number is not one of 0 to L - 1, or a list is empty.
    """
    every = range(lobe.num_layers)
    for asked in (layers, *(getattr(m, "layers", None) for m in methods)):
        if asked is not None and not (asked and set(asked) <= set(every)):
            raise InputError(
                f"layers: {asked} must be some of the layers 0 to "
                f"{lobe.num_layers - 1} of {lobe.source}"
            )


def insert(lobe, methods, targets, layers, trainable):
    """Put methods into a lobe, and freeze the rest of it.

    Arguments
    ---------
    lobe : SpeechLobe or TextLobe
        Changed in place.
    methods : list
        Output of `ser_peft.adapters.methods.as_methods`.
    targets, layers
        See `PeftLobe`.
    trainable : bool
        Whether to warn if a method of PEFT changes the hidden states before
        any training.

    Raises
    ------
    InputError
        If a method or its targets cannot work on this encoder.
    """
    if methods in (["full"], ["transformer"]):
        parts = [lobe.model]
        if layers is not None:
            parts = [lobe.layers[i] for i in layers]
        kept = {parameter for part in parts for parameter in part.parameters()}
        skipped = lobe.front_end if methods == ["transformer"] else ()
        for name, parameter in lobe.model.named_parameters():
            if parameter not in kept or name.startswith(skipped):
                parameter.requires_grad_(False)
        return
    lobe.model.requires_grad_(False)
    # PEFT's method first, since it freezes all that it finds.
    for method in methods:
        if is_of_peft(method):
            from ser_peft.adapters.of_peft import inject, prepare

            config = prepare(lobe, method, targets, layers)
            before = reference_states(lobe) if trainable else None
            inject(lobe, config, method_name(methods))
            if trainable:
                when = f"{method_name(methods)}: before any training"
                warn_if_shifted(lobe, before, when)
    for method in methods:
        if hasattr(method, "attach"):
            attended = isinstance(method, PromptConfig)
            if not lobe.ffn_input or (attended and not lobe.attention):
                raise InputError(
                    f"method {method_name(methods)}: {lobe.source} has no "
                    "layers for it; use a method of peft"
                )
            chosen = method.layers or layers or range(lobe.num_layers)
            method.attach(lobe, [lobe.layers[i] for i in chosen])


def warn_if_shifted(lobe, before, when):
    """Warn if the hidden states of the dummy batch have changed.

    Arguments
    ---------
    lobe : SpeechLobe or TextLobe
        Encoder as it is now.
    before : torch.Tensor
        Its earlier `reference_states`, [L + 1, 2, T', C].
    when : str
        Beginning of the warning.
    """
    shift = (reference_states(lobe) - before).norm() / before.norm()
    if shift > 1e-4:
        logger.warning(
            "%s the encoder's hidden states move by %.2g %%", when, 100 * shift
        )


def count_frozen_layers(lobe, own):
    """Count the lowest layers that do not change in training.

    Arguments
    ---------
    lobe : SpeechLobe or TextLobe
        Lobe with the methods in it.
    own : set of torch.nn.Module
        The encoder's own modules.

    Returns
    -------
    int or None
        None where the input of the first layer changes in training too.
    """
    most = lobe.num_layers
    for name, parameter in lobe.backbone.named_parameters():
        if not parameter.requires_grad:
            continue
        if lobe.closing and name.startswith(f"{lobe.closing}."):
            most = lobe.num_layers - 1  # the last state is normed
        elif not (lobe.divisible and name.startswith(f"{lobe.layers_path}.")):
            return None
    for i, layer in enumerate(lobe.layers):
        # A method may change a layer without a parameter of its own.
        added = not own.issuperset(layer.modules())
        if added or any(p.requires_grad for p in layer.parameters()):
            return min(i, most)
    return most


def find_frozen_modules(lobe, own, base):
    """Find the modules of the encoder in blocks without a trained weight.

    Arguments
    ---------
    lobe : SpeechLobe or TextLobe
        Lobe with the methods in it.
    own : set of torch.nn.Module
        The encoder's own modules.
    base : set of torch.Tensor
        The encoder's own parameters and buffers.

    Returns
    -------
    list of torch.nn.Module
    """
    frozen = []

    def visit(module, trains):
        weights = [p for p in module.parameters() if p in base]
        if weights:  # a dropout has none: as the block that it is in
            trains = any(weight.requires_grad for weight in weights)
        # In train mode only, its activations are recomputed.
        recomputes = getattr(module, "gradient_checkpointing", False)
        if module in own and not (trains or recomputes):
            frozen.append(module)
        for part in module.children():
            visit(part, trains)

    visit(lobe.model, True)
    return frozen


def check_liveness(lobe, methods):
    """Check that every trainable tensor gets a gradient.

    With "full" and "transformer", tensors that no hidden state depends on are
    frozen instead.

    Arguments
    ---------
    lobe : SpeechLobe or TextLobe
        Lobe with the methods in it.
    methods : list
        Output of `ser_peft.adapters.methods.as_methods`.

    Raises
    ------
    InputError
        If one gets none, or there is none.
    """
    found = gradients(lobe)
    if isinstance(methods[0], str):
        for name in [n for n, gradient in found.items() if gradient is None]:
            lobe.model.get_parameter(name).requires_grad_(False)
            del found[name]
    dead = [n for n, g in found.items() if g is None or not g.any()]
    if dead or not found:
        raise InputError(
            f"method {method_name(methods)}: {len(dead)} of {len(found)} "
            f"trainable tensors get no gradient {dead[:3]}: the module "
            "they sit in is never called, or something in front of them "
            "blocks them; change targets"
        )
