"""Masks → a smaller dense student, in place: same modules, same optimizer, new parameters.

Everything with one number a unit follows: parameters, Adam's moments, tied weights, LayerNorm sizes, configuration.
masks.py chooses the units; models/units.py finds their indices in every parameter.
"""

from collections.abc import Mapping
from typing import Any

import torch

from ..models.architectures.modeling_layerwise import LayerwiseModel
from ..models.resizing import optimizer_places, put_parameter, set_widths
from ..models.units import Group, Indices, UnitTensors, kept_indices
from ..models.widths import WidthPlan

Kept = tuple[UnitTensors, Indices]


@torch.no_grad()
def compact(
    model: LayerwiseModel,
    groups: Mapping[str, Group],
    masks: UnitTensors,
    *,
    plan: WidthPlan,
    optimizer: torch.optim.Optimizer | None = None,
) -> Kept:
    """Remove all dropped units from a student; a parameter that loses none stays as it is.

    Args:
        model: the student; changed in place, projections included.
        groups: its groups.
        masks: one bool a unit.
        plan: the widths that the masks leave.
        optimizer: moved to the new parameters, its state sliced like them; param groups and schedulers stay valid.

    Returns:
        The result of [`~models.units.kept_indices`], on the model's device, for state outside the model (scores).

    Raises:
        ValueError: the optimizer's state of a parameter has another shape; nothing has been changed then.
    """
    units, indices = kept_indices(groups, masks, device=model.device)
    states: dict[torch.Tensor, Any] = {} if optimizer is None else optimizer.state
    for name in indices:
        parameter = model.get_parameter(name)
        for key, value in states.get(parameter, {}).items():
            if torch.is_tensor(value) and value.shape != parameter.shape and value.numel() > 1:
                raise ValueError(
                    f"{type(optimizer).__name__} keeps {key!r} of shape {tuple(value.shape)} for {name} of shape "
                    f"{tuple(parameter.shape)}, which can't be pruned alike; use an optimizer whose state has the "
                    "parameter's shape, e.g. optim='adamw_torch'"
                )
    model.note_units(units)
    places = optimizer_places(optimizer)
    # One parameter after the other, so that there are never two students in memory.
    for name, kept in indices.items():
        old = model.get_parameter(name)
        new = put_parameter(model, name, _sliced(old, kept), places)
        # The optimizer finds its state by the parameter: hand the old one's on, cut at the same indices.
        if old in states:
            state = states[new] = states.pop(old)
            for key, value in state.items():
                if torch.is_tensor(value) and value.shape == old.shape:
                    state[key] = _sliced(value, kept)
    model.tie_weights()
    set_widths(model, plan)
    return units, indices


def _sliced(tensor: torch.Tensor, indices: Mapping[int, torch.Tensor]) -> torch.Tensor:
    for dim, kept in sorted(indices.items()):
        tensor = tensor.index_select(dim, kept.to(tensor.device))
    return tensor
