"""Masks → a smaller dense student, in place: same modules, same optimizer, new parameters.

Everything with one number a unit follows: parameters, Adam's moments, tied weights, LayerNorm sizes, configuration.
masks.py chooses the units; models/units.py finds their indices in every parameter.
"""

from collections.abc import Mapping
from typing import Any

import torch

from ..files.messages import join_some
from ..models.architectures.modeling_layerwise import LayerwiseModel
from ..models.resizing import optimizer_places, put_parameter, set_widths
from ..models.units import Group, Indices, UnitTensors, encoder_groups, head_group, kept_indices
from ..models.widths import WidthPlan, of_architecture, widths_of
from .scores import unit_sums

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
        new = put_parameter(model, name, selected(old, kept), places)
        # The optimizer finds its state by the parameter: hand the old one's on, cut at the same indices.
        if old in states:
            state = states[new] = states.pop(old)
            for key, value in state.items():
                if torch.is_tensor(value) and value.shape == old.shape:
                    state[key] = selected(value, kept)
    model.tie_weights()
    set_widths(model, plan)
    return units, indices


def selected(tensor: torch.Tensor, indices: Mapping[int, torch.Tensor | int]) -> torch.Tensor:
    """Return what a smaller model has of a parameter, with its gradient: a view where all kept indices come first.

    Args:
        tensor: a parameter, or a tensor of its shape.
        indices: dimension → int64 indices that are kept, or how many of the first ones.
    """
    for dim, kept in sorted(indices.items()):
        if isinstance(kept, int):
            tensor = tensor.narrow(dim, 0, kept)
        else:
            tensor = tensor.index_select(dim, kept.to(tensor.device))
    return tensor


@torch.no_grad()
def remove_padding(student: LayerwiseModel, plan: WidthPlan) -> None:
    """Cut off the padding of [`~models.conversion.to_stock`], in place; logits stay the same.

    The student has the uniform widths of `plan.padded()`.

    Raises:
        ValueError: the student has other widths, or a weight that was cut is not zero.
    """
    padded = widths_of(student.config)
    plan = of_architecture(plan, padded)
    if plan.padded() != padded:
        raise ValueError(
            f"plan={plan.to_json()} pads to {plan.padded().to_json()}, but the student has {padded.to_json()}"
        )
    groups, kinds = encoder_groups(student), padded.traits.rotary_kinds
    masks = {name: torch.ones(group.num_units, dtype=torch.bool) for name, group in groups.items()}
    shared = plan.traits.queries_per_key
    for index, (old, new) in enumerate(zip(padded.layers, plan.layers, strict=True)):
        num_heads = new.num_attention_heads // shared  # of keys and values, which their queries go with
        channels = torch.arange(old.attention_size // shared)
        in_front = channels % old.head_dim < new.head_dim
        is_kept = in_front & (channels // old.head_dim < num_heads)
        masks[head_group(groups, index)][num_heads:] = False
        masks[f"value_output.{index}"] = is_kept
        masks[f"ffn.{index}"][new.intermediate_size :] = False
        if not kinds:
            masks[f"query_key.{index}"] = is_kept
        else:
            # a padded head has zeros in the channels of pairs that were pruned; then pairs go from the last one on
            name = f"query_key.{kinds[index]}"
            masks[name] = torch.zeros_like(masks[name])
            masks[name][_in_use(student, groups[name])[: new.head_dim // 2]] = True
    before = _num_nonzero(student)
    compact(student, groups, masks, plan=plan)
    after = _num_nonzero(student)
    if lossy := [name for name, number in before.items() if after[name] != number]:
        raise ValueError(
            f"plan={plan.to_json()} would cut weights that are not zero in {join_some(lossy)}; keep the padded widths"
        )


def _num_nonzero(model: LayerwiseModel) -> dict[str, int]:
    return {name: int(parameter.count_nonzero()) for name, parameter in model.named_parameters()}


def _in_use(model: LayerwiseModel, group: Group) -> torch.Tensor:
    """Return the units of a group, those with any weight that is not 0 before the others."""
    weights = {name: (parameter, parameter) for name, parameter in model.named_parameters()}
    sums = unit_sums(weights, {group.name: group}, lambda values, _: [value != 0 for value in values])[group.name]
    return (sums > 0).int().argsort(descending=True, stable=True)
