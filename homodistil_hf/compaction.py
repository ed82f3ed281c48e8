"""Masks → a smaller dense student, in place: same modules, same optimizer, new parameters.

Everything that holds one number a unit follows: parameters, Adam's moments, tied weights, LayerNorm sizes, the
configuration. Which units go was decided in `masks.py`; the trainer decides when, by [`is_worthwhile`] alone, which
sees only masks and a fixed cost model.
"""

from collections.abc import Callable, Mapping

import torch
from torch import nn

from .cost import encoder_macs
from .modeling import (
    HomoBertConfig,
    HomoBertLayerNorm,
    HomoBertPreTrainedModel,
    HomoBertSelfAttention,
    layer_config,
)
from .structure import Group, UnitTensors, kept_indices, modules_of
from .widths import WidthPlan

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


def replace_parameters(
    model: HomoBertPreTrainedModel,
    tensors: Mapping[str, torch.Tensor],
    *,
    plan: WidthPlan,
    optimizer: torch.optim.Optimizer | None = None,
    select: Callable[[str, torch.Tensor], torch.Tensor] | None = None,
) -> None:
    """Give a student new parameters, of other widths, without changing its module tree.

    Args:
        model: changed in place.
        tensors: parameter name → new values; parameters that are not named stay.
        plan: the widths of the new parameters.
        optimizer: follows to the new parameters. State tensors of a parameter's shape go through `select`.
        select: (name, tensor of the old shape) → tensor of the new shape. Without it, state is dropped.
    """
    replaced: dict[nn.Parameter, tuple[str, nn.Parameter]] = {}
    for name, old in list(model.named_parameters()):
        if name not in tensors:
            continue
        new = nn.Parameter(tensors[name].to(old.device, old.dtype), requires_grad=old.requires_grad)
        parent, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(parent), attribute, new)
        replaced[old] = (name, new)
    if optimizer is not None:
        _follow(optimizer, replaced, select)
    model.tie_weights()
    set_widths(model, plan)


def _follow(
    optimizer: torch.optim.Optimizer,
    replaced: Mapping[nn.Parameter, tuple[str, nn.Parameter]],
    select: Callable[[str, torch.Tensor], torch.Tensor] | None,
) -> None:
    for group in optimizer.param_groups:
        group["params"] = [replaced[old][1] if old in replaced else old for old in group["params"]]
    for old, (name, new) in replaced.items():
        state = optimizer.state.pop(old, None)
        if state is None or select is None:
            continue
        for key, value in state.items():
            if torch.is_tensor(value) and value.shape == old.shape:
                state[key] = select(name, value)
            elif torch.is_tensor(value) and value.numel() > 1:
                raise ValueError(
                    f"{type(optimizer).__name__} keeps {key!r} of shape {tuple(value.shape)} for {name} of shape "
                    f"{tuple(old.shape)}, which can't be pruned alike; use an optimizer whose state has the "
                    "parameter's shape, e.g. optim='adamw_torch'"
                )
        optimizer.state[new] = state


def set_widths(model: HomoBertPreTrainedModel, plan: WidthPlan) -> None:
    """Write widths into the configuration and into the attributes that modules derive from it.

    Args:
        model: its parameters already have these widths.
        plan: the widths.
    """
    write_plan(model.config, plan)
    model.config.dropped_hidden_channels = None
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.out_features, module.in_features = module.weight.shape
        elif isinstance(module, nn.Embedding):
            module.embedding_dim = module.weight.shape[1]
        elif isinstance(module, HomoBertLayerNorm):
            module.normalized_shape = tuple(module.weight.shape)
            module.set_dropped_channels(())
    for index, attention in enumerate(modules_of(model, HomoBertSelfAttention)):
        attention.set_widths(layer_config(model.config, index))


def write_plan(config: HomoBertConfig, plan: WidthPlan) -> None:
    """Set the widths of a `HomoBertConfig`: plain attributes when uniform, `per_layer_config` when not.

    Args:
        config ([`HomoBertConfig`]): changed in place.
        plan: the widths.
    """
    config.per_layer_config = None
    config.hidden_size = plan.hidden_size
    widths = [
        {
            "num_attention_heads": layer.num_attention_heads,
            "head_dim": layer.head_dim,
            "intermediate_size": layer.intermediate_size,
        }
        for layer in plan.layers
    ]
    for name, value in widths[0].items():
        setattr(config, name, value)
    if not plan.is_uniform:
        config.per_layer_config = dict(enumerate(widths))
