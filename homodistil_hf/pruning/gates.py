"""Layers that leave little by little: a layer's output becomes x + g·(layer(x) − x), and g falls from 1 to 0.

At 0 the layer is the identity, so removing it changes nothing. scores.py scores the numbers g like any other unit,
|g · ∂L/∂g|; pruner.py moves them along the schedule, and removes the layers at its end.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from ..models.architectures import architecture_of
from ..models.architectures.modeling_layerwise import LayerwiseModel, encoder_layers
from ..models.units import Group, Slice, UnitTensors
from .masks import best_units

LAYERS = "layers"
"""Name of the group whose units are whole layers."""
_PARAMETER = "layer_gates"
HALF = 0.5


class LayerGates:
    """One number g a layer, of a student that will have fewer layers than now.

    Once it is known which layers stay, the others have one g in common, `value`. The numbers are none of the student's
    parameters: no optimizer, clipping or checkpoint of weights sees them.

    Args:
        model: the student; its layers get hooks.
        num_kept: layers that stay, fewer than it has; see `choose`.
    """

    def __init__(self, model: LayerwiseModel, num_kept: int):
        layers = encoder_layers(model)
        self.num_kept = num_kept
        self.bound = (0,) if architecture_of(model.config).keeps_first_layer(model.config) else ()
        self.kept: tuple[int, ...] | None = None
        self.value = 1.0
        self.are_removed = False
        self.numbers = torch.ones(len(layers), device=model.device, requires_grad=True)
        # In front of the hooks with which transformers records hidden states.
        self._hooks = [
            layer.register_forward_hook(partial(self._between, index), prepend=True, with_kwargs=True)
            for index, layer in enumerate(layers)
        ]

    @property
    def kept_fraction(self) -> float:
        """The share of layers that is left, where each that leaves counts as g."""
        num_leaving = len(self.numbers) - self.num_kept
        return (self.num_kept + self.value * num_leaving) / len(self.numbers)

    @property
    def leaving(self) -> tuple[int, ...]:
        """The layers that leave, once they are known."""
        return () if self.kept is None else tuple(i for i in range(len(self.numbers)) if i not in self.kept)

    @property
    def scored(self) -> tuple[dict[str, torch.Tensor], dict[str, Group]]:
        """Parameters and groups to be scored beside the student's; none once the layers are chosen."""
        if self.kept is not None:
            return {}, {}
        group = Group(LAYERS, len(self.numbers), (Slice(_PARAMETER, 0),))
        return {_PARAMETER: self.numbers}, {LAYERS: group}

    def choose(self, scores_L: torch.Tensor) -> tuple[int, ...]:
        """Keep the layers with the best scores, ties to the lower index; return them."""
        # layers that must stay win every comparison
        bound = torch.zeros(len(scores_L), dtype=torch.bool)
        bound[list(self.bound)] = True
        scores = scores_L.detach().cpu().masked_fill(bound, torch.inf)
        kept = tuple(best_units(scores, torch.ones_like(bound), self.num_kept).nonzero().flatten().tolist())
        self.take(kept)
        return kept

    def take(self, kept: Sequence[int], value: float = 1.0) -> None:
        """Take over which layers stay, and g of the others."""
        self.kept = tuple(kept)
        # layers that are chosen are scored no more
        self.numbers.requires_grad_(False)
        self.numbers.grad = None
        self.move_to(value)

    def move_to(self, value: float) -> None:
        """Set g of the layers that leave, in [0, 1]."""
        self.value = value
        self.numbers[list(self.leaving)] = value

    def remove(self) -> None:
        """The layers are gone: take the hooks off those that stay."""
        self.are_removed = True
        for hook in self._hooks:
            hook.remove()

    def nearest(self) -> tuple[int, ...]:
        """The layers of the nearest model without numbers: also those that have lost less than half."""
        kept = self.kept if self.kept is not None and self.value < HALF else range(len(self.numbers))
        return tuple(kept)

    def state_dict(self) -> dict[str, Any]:
        """JSON values for a checkpoint."""
        return {"kept": None if self.kept is None else list(self.kept), "value": self.value}

    def _between(
        self, index: int, layer: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any
    ) -> Any:
        if self.kept is not None and index in self.kept:
            return output
        # states come in by position or by name, and go out alone or first in a tuple
        before, after = (args or (kwargs["hidden_states"],))[0], output[0] if isinstance(output, tuple) else output
        # torch's lerp is exact at both ends.
        states = torch.lerp(before.to(after.dtype), after, self.numbers[index].to(after.dtype))
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
