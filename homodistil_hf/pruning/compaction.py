"""Masks → a smaller dense student, in place: same modules, same optimizer, new parameters.

Everything that holds one number a unit follows: parameters, Adam's moments, tied weights, LayerNorm sizes, the
configuration. Which units go was decided before; when is decided by [`is_worthwhile`] alone, which sees only masks and
a fixed cost model.
"""

from collections.abc import Mapping

import torch

from ..models.cost import encoder_macs
from ..models.families.modeling_homobert import HomoBertPreTrainedModel
from ..models.resizing import replace_parameters
from ..models.units import Group, UnitTensors, kept_indices
from ..models.widths import WidthPlan

Kept = Mapping[str, Mapping[int, torch.Tensor]]


def is_worthwhile(present: WidthPlan, kept: WidthPlan, *, threshold: float) -> bool:
    """Whether enough is masked to remove it physically.

    Args:
        present: widths of the parameters.
        kept: widths that the masks leave.
        threshold: share of the present encoder MACs that must have become removable, in [0, 1].

    Returns:
        `bool`.
    """
    if kept == present:
        return False
    return encoder_macs(kept) <= (1 - threshold) * encoder_macs(present)


def compact(
    model: HomoBertPreTrainedModel,
    groups: Mapping[str, Group],
    masks: UnitTensors,
    *,
    plan: WidthPlan,
    optimizer: torch.optim.Optimizer | None = None,
) -> Kept:
    """Remove all dropped units from a student.

    Args:
        model: the student, masked; changed in place, projections included.
        groups: its groups.
        masks: one bool a unit.
        plan: the widths that the masks leave.
        optimizer: moved to the new parameters with its state sliced alike; param groups and schedulers stay valid.

    Returns:
        `dict`: parameter → dimension → bool of what was kept, for state that lives elsewhere (scores).
    """
    kept = kept_indices(dict(groups), masks)

    def select(name: str, tensor: torch.Tensor) -> torch.Tensor:
        for dim, mask in kept.get(name, {}).items():
            tensor = tensor.index_select(dim, mask.to(tensor.device).nonzero().flatten())
        return tensor.contiguous()

    tensors = {name: select(name, parameter.detach()) for name, parameter in model.named_parameters() if name in kept}
    replace_parameters(model, tensors, plan=plan, optimizer=optimizer, select=select)
    return kept
