"""A device that there is not: it refuses operands of the CPU, counts waits.

Its tensors are CPU tensors in a wrapper that says "meta", a device that every
torch knows and whose own operations are never reached. What a GPU does not
do either is an error: an operation on tensors of both devices.
"""

import contextlib
from collections import Counter
from unittest.mock import patch

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from transformers import AutoModel

__all__ = ["DEVICE", "pretend"]

DEVICE = "meta"
WAITS = Counter()
aten = torch.ops.aten


class Pretended(torch.Tensor):
    """A tensor of the device, around one of the CPU."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.size(), strides=inner.stride(),
            storage_offset=inner.storage_offset(), dtype=inner.dtype,
            device=DEVICE, requires_grad=inner.requires_grad,
        )  # fmt: skip

    def __init__(self, inner):
        self.inner = inner.detach()

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return compute(function, args, kwargs or {})

    def tolist(self):
        WAITS["tolist"] += 1
        return self.inner.tolist()


class Intercept(TorchDispatchMode):
    """Also what makes a tensor on the device, or moves one there."""

    loading = False

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if self.loading:
            return function(*args, **kwargs or {})
        return compute(function, args, kwargs or {})


def compute(function, args, kwargs):
    """Do on the CPU what is asked of the device, if that could do it."""
    tensors = [
        leaf
        for leaf in tree_leaves((args, kwargs))
        if isinstance(leaf, torch.Tensor)
    ]
    ours = [tensor for tensor in tensors if isinstance(tensor, Pretended)]
    inner, inner_kwargs = tree_map(
        lambda leaf: leaf.inner if isinstance(leaf, Pretended) else leaf,
        (args, kwargs),
    )
    there = bool(ours)
    if (asked := inner_kwargs.get("device")) is not None:
        there = torch.device(asked).type == DEVICE
        inner_kwargs["device"] = "cpu"
    if function is aten._to_copy.default:
        # To the device only if told not to wait.
        if bool(ours) != there and not kwargs.get("non_blocking"):
            WAITS["copy"] += 1
    elif function is aten._local_scalar_dense.default:
        WAITS["item"] += bool(ours)
        there = False
    elif function is not aten.copy_.default and ours:
        mixed = [t for t in tensors if t.dim() and not isinstance(t, Pretended)]
        # Indices may be the CPU's.
        if mixed and not str(function).startswith("aten.index"):
            raise RuntimeError(f"{function}: operands on two devices")
    found = function(*inner, **inner_kwargs)
    if function._schema.name.endswith("_"):  # in place
        return found if found is None else args[0]
    if not there:
        return found
    return tree_map(
        lambda x: Pretended(x) if isinstance(x, torch.Tensor) else x, found
    )


class Make(TorchFunctionMode):
    """`torch.tensor` on the device, which no dispatch sees."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if function is not torch.tensor or Intercept.loading:
            return function(*args, **kwargs)
        device = kwargs.pop("device", None) or "cpu"
        return function(*args, **kwargs).to(device, non_blocking=True)


@contextlib.contextmanager
def pretend():
    """There is a device called `DEVICE`; the block gets a Counter of waits."""
    autocast, apply = torch.autocast, torch.nn.Module._apply
    from_pretrained = AutoModel.from_pretrained

    def no_autocast(device, *args, **kwargs):
        if device == DEVICE:
            return contextlib.nullcontext()
        return autocast(device, *args, **kwargs)

    def move(module, *args):
        # Parameters become of another class.
        swap = torch.__future__.set_swap_module_params_on_conversion
        swap(True)
        module = apply(module, *args)
        swap(False)
        return module

    def load(*args, **kwargs):
        # transformers means "meta" when it says so.
        Intercept.loading = True
        try:
            return from_pretrained(*args, **kwargs)
        finally:
            Intercept.loading = False

    WAITS.clear()
    with (
        patch("torch.autocast", no_autocast),
        patch("torch.nn.Module._apply", move),
        patch.object(AutoModel, "from_pretrained", load),
        Make(),
        Intercept(),
    ):
        yield WAITS
