"""Layers that leave little by little: a layer's output becomes x + g·(layer(x) − x), and g falls from 1 to 0.

At 0 the layer is the identity, so removing it changes nothing. pruner.py moves g along the schedule, and removes the
layers at its end.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..models.architectures.modeling_layerwise import LayerwiseModel, encoder_layers
from ..models.units import Group, UnitTensors

HALF = 0.5


class LayerGates:
    """The number g, one for all layers that leave, of a student that will have fewer layers than now.

    It is none of the student's parameters: no optimizer, clipping or checkpoint of weights sees it.

    Args:
        model: the student; its layers that leave get hooks.
        kept: the layers that stay, rising indices.
    """

    def __init__(self, model: LayerwiseModel, kept: Sequence[int]):
        layers = encoder_layers(model)
        self.kept = tuple(kept)
        self.num_layers = len(layers)
        self.value = 1.0
        self.are_removed = False
        # a tensor, so that a compiled student reads it anew at every step
        self._number = torch.ones((), device=model.device)
        # In front of the hooks with which transformers records hidden states.
        self._hooks = [
            layer.register_forward_hook(self._between, prepend=True, with_kwargs=True)
            for index, layer in enumerate(layers)
            if index not in self.kept
        ]

    @property
    def kept_fraction(self) -> float:
        """The share of layers that is left, where each that leaves counts as g."""
        return (len(self.kept) + self.value * (self.num_layers - len(self.kept))) / self.num_layers

    def move_to(self, value: float) -> None:
        """Set g, in [0, 1]."""
        self.value = value
        self._number.fill_(value)

    def remove(self) -> None:
        """The layers are gone, and count no more."""
        self.move_to(0.0)
        self.are_removed = True
        for hook in self._hooks:
            hook.remove()

    def nearest(self) -> tuple[int, ...]:
        """The layers of the nearest model without g: also those that leave, until they have lost half."""
        return self.kept if self.value < HALF else tuple(range(self.num_layers))

    def state_dict(self) -> dict[str, Any]:
        """JSON values for a checkpoint."""
        return {"kept": list(self.kept), "value": self.value}

    def _between(self, layer: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> Any:
        # states come in by position or by name, and go out alone or first in a tuple
        before, after = (args or (kwargs["hidden_states"],))[0], output[0] if isinstance(output, tuple) else output
        # torch's lerp is exact at both ends.
        states = torch.lerp(before.to(after.dtype), after, self._number.to(after.dtype))
        return (states, *output[1:]) if isinstance(output, tuple) else states


def renumbered(tensors: UnitTensors, groups: Mapping[str, Group], kept: Sequence[int]) -> UnitTensors:
    """Take over the tensors of groups when layers were removed.

    Args:
        tensors: one a group of the student before.
        groups: those of the student now.
        kept: the layers that stayed, by their index before.
    """

    def before(name: str) -> str:
        # `ffn.1` → `ffn.{kept[1]}`; groups that span layers keep their names
        kind, _, layer = name.partition(".")
        return f"{kind}.{kept[int(layer)]}" if layer.isdigit() else name

    return {name: tensors[before(name)] for name in groups}
