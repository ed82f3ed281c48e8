"""Masks → a smaller dense student, in place: same modules, same optimizer, new parameters.

Everything that holds one number a unit follows: parameters, Adam's moments, tied weights, LayerNorm sizes, the
configuration. Which units go was decided before.
"""

from collections.abc import Mapping

import torch

from ..models.families.modeling_homobert import HomoBertPreTrainedModel
from ..models.resizing import replace_parameters
from ..models.units import Group, Indices, UnitTensors, kept_indices
from ..models.widths import WidthPlan

Kept = tuple[UnitTensors, Indices]


@torch.no_grad()
def compact(
    model: HomoBertPreTrainedModel,
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
    """
    units, indices = kept_indices(groups, masks, device=model.device)

    def select(name: str, tensor: torch.Tensor) -> torch.Tensor:
        return sliced(tensor, indices[name])

    tensors = {name: select(name, parameter) for name, parameter in model.named_parameters() if name in indices}
    replace_parameters(model, tensors, plan=plan, optimizer=optimizer, select=select)
    return units, indices


def sliced(tensor: torch.Tensor, indices: Mapping[int, torch.Tensor]) -> torch.Tensor:
    """Keep some indices of a tensor.

    Args:
        tensor: any shape.
        indices: dimension → int64 indices; others stay whole.

    Returns:
        `torch.Tensor`, contiguous, with memory of its own.
    """
    for dim, kept in sorted(indices.items()):
        tensor = tensor.index_select(dim, kept.to(tensor.device))
    return tensor
