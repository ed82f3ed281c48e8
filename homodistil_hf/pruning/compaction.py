"""Masks → a smaller dense student, in place: same modules, same optimizer, new parameters.

Everything that holds one number a unit follows: parameters, Adam's moments, tied weights, LayerNorm sizes, the
configuration. Which units go was decided before.
"""

from collections.abc import Mapping

import torch

from ..models.architectures.modeling_layerwise import LayerwiseModel
from ..models.resizing import slice_parameters
from ..models.units import Group, Indices, UnitTensors, kept_indices
from ..models.widths import WidthPlan

Kept = tuple[UnitTensors, Indices]


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
        optimizer: moved to the new parameters with its state sliced alike; param groups and schedulers stay valid.

    Returns:
        What [`~models.units.kept_indices`] gives, on the model's device, for state that lives elsewhere (scores).

    Raises:
        ValueError: the optimizer keeps something that can't be sliced like its parameter.
    """
    kept = kept_indices(groups, masks, device=model.device)
    model.note_units(kept[0])
    slice_parameters(model, kept[1], plan=plan, optimizer=optimizer)
    return kept
