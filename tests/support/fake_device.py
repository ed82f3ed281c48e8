"""A device without values in the role of a GPU: how often the host waits for it, and types that it may not know."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

DEVICE = torch.device("meta")
_READS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select"}
_INDEXING = {"aten::index", "aten::index_put", "aten::index_put_"}
_COPIES = {"aten::_to_copy", "aten::copy_"}


@contextmanager
def fake_device(*, has_float64: bool = True) -> Iterator[list[str]]:
    """Every wait of the host for what is on `DEVICE`, as it comes; whatever is read back is empty or 0.

    With `has_float64=False` the device refuses that type, as Apple's do.
    """
    with ExitStack() as stack:
        # Autocast knows no such device.
        for name, value in (("autocast", nullcontext()), ("is_autocast_enabled", False), ("get_autocast_dtype", None)):
            stack.enter_context(mock.patch(f"torch.{name}", lambda *_, value=value, **__: value))
        yield stack.enter_context(_Watch(has_float64)).waits


class _Watch(TorchDispatchMode):
    def __init__(self, has_float64: bool):
        super().__init__()
        self.has_float64 = has_float64
        self.waits: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = func._schema.name, kwargs or {}
        with self:  # in inference mode some arrive whole, as `item` does
            parts = func.decompose(*args, **kwargs)
        if parts is not NotImplemented:
            return parts
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        is_here = any(_is_on(tensor) for tensor in tensors)
        by_mask = name in _INDEXING and any(tensor.dtype == torch.bool for tensor in tensors[1:])
        if is_here and (name in _READS or by_mask):
            self.waits.append(name)
            return _nothing(name, tensors[0], args)
        if is_here and name == "aten::_to_copy" and kwargs.get("device") == torch.device("cpu"):
            self.waits.append(name)
            return torch.zeros(tensors[0].shape, dtype=kwargs.get("dtype") or tensors[0].dtype)
        result = func(*args, **kwargs)
        # The host's memory is not pinned here: unless told otherwise it waits until it is copied.
        copies = name in _COPIES and _is_on(result) and not all(_is_on(tensor) for tensor in tensors)
        if (copies or (name == "aten::lift_fresh" and _is_on(result))) and not kwargs.get("non_blocking"):
            self.waits.append(name)
        if not self.has_float64:
            _refuse_float64(name, result)
        return result


def _is_on(tensor: torch.Tensor) -> bool:
    return tensor.device.type == DEVICE.type


def _nothing(name: str, tensor: torch.Tensor, args: Any) -> Any:
    if name == "aten::_local_scalar_dense":
        return torch.zeros((), dtype=tensor.dtype).item()
    if name == "aten::nonzero":
        return torch.empty(0, tensor.dim(), dtype=torch.int64, device=DEVICE)
    if name == "aten::index":
        return tensor.new_empty(0, *tensor.shape[args[1][0].dim() :])
    return tensor if name.startswith("aten::index_put") else tensor.new_empty(0)


def _refuse_float64(name: str, result: Any) -> None:
    for tensor in tree_leaves(result):
        if isinstance(tensor, torch.Tensor) and _is_on(tensor) and tensor.dtype == torch.float64:
            raise TypeError(f"{name} makes float64, which the device doesn't have")
