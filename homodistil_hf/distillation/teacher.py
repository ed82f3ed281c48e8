"""The frozen forward pass of the teacher, exact or fast.

The fast form keeps matrix weights in a lower type and runs under autocast. A student under the same autocast rounds
alike, so both start equal. Discrepancies are measured on the exact form.
"""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ..models.architectures.modeling_layerwise import LayerwiseModel


def resolve_teacher_dtype(name: str, device: torch.device, *, fp16: bool = False) -> torch.dtype:
    """Return the type of the teacher's matrix products.

    Args:
        name: `"float32"`, `"bfloat16"`, `"float16"`, or `"auto"`: float16 with `fp16`, else bfloat16 where the
            hardware multiplies it.
        device: where the teacher runs.
        fp16: whether the student is trained under float16 autocast.

    Example:
    ```python
    >>> resolve_teacher_dtype("float16", torch.device("cpu"))
    torch.float16

    ```
    """
    if name != "auto":
        dtype: torch.dtype = getattr(torch, name)
        return dtype
    if fp16:
        return torch.float16
    return torch.bfloat16 if multiplies_bfloat16(device) else torch.float32


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16 matrices natively; False for devices other than a CPU or CUDA."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()


class FrozenTeacher:
    """A teacher that never learns and is no submodule of anything.

    Args:
        model: same classes as the student's, full width; taken over, set to evaluation mode and frozen.
        dtype: type of the fast form's matrix products.
    """

    def __init__(self, model: LayerwiseModel, *, dtype: torch.dtype = torch.float32):
        self.exact = model.eval().requires_grad_(False)
        self._remembered: dict[bool, Any] | None = None
        self.dtype = dtype
        self.fast = self.exact
        if dtype == torch.float32:
            return
        # Only Linear weights change type: autocast would cast them on every call. Embeddings and norms stay exact, and
        # the tied decoder becomes a matrix of its own. What deepcopy's memo holds already is shared, not copied.
        self.fast = copy.deepcopy(self.exact, {id(parameter): parameter for parameter in self.exact.parameters()})
        for module in self.fast.modules():
            if isinstance(module, nn.Linear):
                module.weight = nn.Parameter(module.weight.to(dtype), requires_grad=False)
                if module.bias is not None:
                    module.bias = nn.Parameter(module.bias.to(dtype), requires_grad=False)

    def to(self, device: torch.device) -> "FrozenTeacher":
        """Move both forms to a device; return the teacher itself."""
        self.exact.to(device)
        self.fast.to(device)
        return self

    @contextmanager
    def remembering(self) -> Iterator[None]:
        """Within the block the first answer is given again: several students learn from one batch."""
        self._remembered = {}
        try:
            yield
        finally:
            self._remembered = None

    def __call__(self, *, exact: bool = False, **inputs: Any) -> Any:
        """Run the teacher in inference mode; a loss whose autograd saves an output must copy it.

        Args:
            exact: float32 instead of the fast type.
            inputs: arguments of the model's forward, without labels.

        Returns:
            The model's output; not upcast.
        """
        if self._remembered is None:
            return self._run(exact, inputs)
        if exact not in self._remembered:
            self._remembered[exact] = self._run(exact, inputs)
        return self._remembered[exact]

    @torch.inference_mode()
    def _run(self, exact: bool, inputs: Mapping[str, Any]) -> Any:
        if exact or self.dtype == torch.float32:
            with torch.autocast(self.exact.device.type, enabled=False):
                return self.exact(**inputs)
        with torch.autocast(self.fast.device.type, dtype=self.dtype):
            return self.fast(**inputs)
