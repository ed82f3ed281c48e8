"""Change a model's sizes in place: its widths to a plan, fewer layers, other parameters in the place of its own."""

import copy
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn
from transformers import PreTrainedConfig

from .families import family_of
from .families.modeling_homobert import HomoBertPreTrainedModel, layer_config
from .units import modules_of
from .widths import WidthPlan, chosen, teacher_plan


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
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.out_features, module.in_features = module.weight.shape
        elif isinstance(module, nn.Embedding):
            module.embedding_dim = module.weight.shape[1]
        elif isinstance(module, nn.LayerNorm):
            module.normalized_shape = tuple(module.weight.shape)
    for index, attention in enumerate(modules_of(model, family_of(model.config).self_attention)):
        attention.set_widths(layer_config(model.config, index))


def write_plan(config: PreTrainedConfig, plan: WidthPlan) -> None:
    """Set the widths of a student's configuration: plain attributes when uniform, `per_layer_config` when not.

    Args:
        config: changed in place.
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


def keep_layers(model: HomoBertPreTrainedModel, layers: Sequence[int]) -> HomoBertPreTrainedModel:
    """Copy a model with some of its layers only.

    Args:
        model: a student or teacher; stays as it is.
        layers: rising indices.

    Returns:
        [`HomoBertPreTrainedModel`] of the same class, with weights of its own.
    """
    shallow = copy.deepcopy(model)
    plan = chosen(teacher_plan(model.config), layers)
    family = family_of(model.config)
    (encoder,) = modules_of(shallow, family.encoder_stack)
    encoder.layer = nn.ModuleList(encoder.layer[index] for index in layers)
    shallow.config.num_hidden_layers = len(layers)
    write_plan(shallow.config, plan)
    for position, attention in enumerate(modules_of(shallow, family.self_attention)):
        attention.layer_idx = position
    return shallow
