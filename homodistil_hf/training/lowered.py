"""Matrices of a model in the type of its products, for one micro-batch at a time."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ..models.architectures.modeling_layerwise import ScaledLinear


class LoweredMatrices:
    """Copies of the weights of linear layers in a lower precision, in their places while gradients are computed.

    Autocast makes such a copy of every weight in each pass, and raises every gradient, one at a time: two small
    operations a weight. Here all weights are lowered by one operation, and all gradients raised by one. The numbers
    are the same to the last bit. Weights stay float32 for optimizer, clipping and scores.

    Args:
        model: without any wrapper.
        dtype: of the products under autocast.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype):
        self.model, self.dtype = model, dtype
        self._exact: list[torch.Tensor] = []
        self._lowered: list[torch.Tensor] = []

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within the block linear layers have the copies; behind it gradients are those of the exact weights."""
        places = self._places()
        exact: list[torch.Tensor] = [parameter for _, _, parameter in places]
        # pruning replaces parameters
        if len(exact) != len(self._exact) or any(map(_differ, exact, self._exact)):
            self._exact = exact
            self._lowered = [nn.Parameter(parameter.detach().to(self.dtype)) for parameter in exact]
        elif exact:  # an encoder of bits has none
            with torch.no_grad():
                torch._foreach_copy_(self._lowered, exact)
        for (module, name, _), lowered in zip(places, self._lowered, strict=True):
            module._parameters[name] = lowered  # type: ignore[assignment]
        try:
            yield
        finally:
            for module, name, parameter in places:
                module._parameters[name] = parameter
            self._raise_gradients()

    def _places(self) -> list[tuple[nn.Module, str, nn.Parameter]]:
        """Return module, name and parameter of what autocast would copy, trained and in one place alone.

        A parameter with hooks stays in its place, or they would never see its gradient.
        """
        tables = {id(module.weight) for module in self.model.modules() if isinstance(module, nn.Embedding)}
        return [
            (module, name, parameter)
            for module in self.model.modules()
            if type(module) in (nn.Linear, ScaledLinear)
            for name, parameter in module.named_parameters(recurse=False)
            if parameter.requires_grad and id(parameter) not in tables
            if not (parameter._backward_hooks or parameter._post_accumulate_grad_hooks)
        ]

    @torch.no_grad()
    def _raise_gradients(self) -> None:
        pairs = [
            (exact, low, low.grad)
            for exact, low in zip(self._exact, self._lowered, strict=True)
            if low.grad is not None
        ]
        raised = [torch.empty_like(exact) for exact, _, _ in pairs]
        if pairs:
            torch._foreach_copy_(raised, [gradient for _, _, gradient in pairs])
        for (exact, low, _), gradient in zip(pairs, raised, strict=True):
            # of further micro-batches of a step
            exact.grad = gradient if exact.grad is None else exact.grad.add_(gradient)
            low.grad = None


def _differ(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one is not other or one.shape != other.shape
