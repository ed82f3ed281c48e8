"""Change a model's sizes in place: its widths to a plan, fewer layers, other parameters in the place of its own."""

import copy
import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import nn
from transformers import PreTrainedConfig

from .architectures import architecture_of
from .architectures.modeling_layerwise import LayerwiseModel, encoder_layers, layer_config, write_widths
from .units import Indices
from .widths import EMBEDDING_KEY, WidthPlan, chosen, widths_of


def replace_parameters(
    model: LayerwiseModel,
    tensors: Mapping[str, torch.Tensor],
    *,
    plan: WidthPlan,
    optimizer: torch.optim.Optimizer | None = None,
) -> None:
    """Give a student new parameters, of other widths, without changing its module tree.

    Args:
        model: changed in place.
        tensors: parameter name → new values; parameters that are not named stay.
        plan: the widths of the new parameters.
        optimizer: follows to the new parameters, without the state of the old ones.
    """
    places = _places(optimizer)
    for name in [name for name, _ in model.named_parameters() if name in tensors]:
        old = model.get_parameter(name)
        _put(model, name, tensors[name].to(old.device, old.dtype), places)
        if optimizer is not None:
            optimizer.state.pop(old, None)
    model.tie_weights()
    set_widths(model, plan)


@torch.no_grad()
def slice_parameters(
    model: LayerwiseModel,
    indices: Indices,
    *,
    plan: WidthPlan,
    optimizer: torch.optim.Optimizer | None = None,
) -> None:
    """Keep some indices of a student's parameters, without changing its module tree.

    One parameter after the other, so that there are never two students in memory.

    Args:
        model: changed in place.
        indices: parameter name → dimension → int64 indices; parameters that are not named stay.
        plan: the widths that are left.
        optimizer: follows to the new parameters; its state is sliced alike.

    Raises:
        ValueError: the optimizer keeps something of another shape; nothing has been changed then.
    """
    if optimizer is not None:
        _check_state(optimizer, {name: model.get_parameter(name) for name in indices})
    places = _places(optimizer)
    for name, kept in indices.items():
        old = model.get_parameter(name)
        new = _put(model, name, _sliced(old, kept), places)
        if optimizer is not None and old in optimizer.state:
            state = optimizer.state[new] = optimizer.state.pop(old)
            for key, value in state.items():
                if torch.is_tensor(value) and value.shape == old.shape:
                    state[key] = _sliced(value, kept)
    model.tie_weights()
    set_widths(model, plan)


def _sliced(tensor: torch.Tensor, indices: Mapping[int, torch.Tensor]) -> torch.Tensor:
    for dim, kept in sorted(indices.items()):
        tensor = tensor.index_select(dim, kept.to(tensor.device))
    return tensor


def _places(optimizer: torch.optim.Optimizer | None) -> dict[int, tuple[list[nn.Parameter], int]]:
    """Parameter's id → where it stands in the optimizer."""
    groups = [] if optimizer is None else [group["params"] for group in optimizer.param_groups]
    return {id(old): (group, index) for group in groups for index, old in enumerate(group)}


def _put(
    model: nn.Module, name: str, tensor: torch.Tensor, places: dict[int, tuple[list[nn.Parameter], int]]
) -> nn.Parameter:
    parent, _, attribute = name.rpartition(".")
    module = model.get_submodule(parent)
    old = getattr(module, attribute)
    new = nn.Parameter(tensor, requires_grad=old.requires_grad)
    setattr(module, attribute, new)
    if id(old) in places:
        group, index = places.pop(id(old))
        group[index] = new
    return new


def _check_state(optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]) -> None:
    for name, parameter in parameters.items():
        for key, value in optimizer.state.get(parameter, {}).items():
            if torch.is_tensor(value) and value.shape != parameter.shape and value.numel() > 1:
                raise ValueError(
                    f"{type(optimizer).__name__} keeps {key!r} of shape {tuple(value.shape)} for {name} of shape "
                    f"{tuple(parameter.shape)}, which can't be pruned alike; use an optimizer whose state has the "
                    "parameter's shape, e.g. optim='adamw_torch'"
                )


def set_widths(model: LayerwiseModel, plan: WidthPlan) -> None:
    """Write widths that its parameters already have into a model's configuration and its modules' attributes."""
    write_plan(model.config, plan)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.out_features, module.in_features = module.weight.shape
        elif isinstance(module, nn.Embedding):
            module.embedding_dim = module.weight.shape[1]
        elif isinstance(module, nn.LayerNorm):
            module.normalized_shape = tuple(module.weight.shape)
    for index, layer in enumerate(encoder_layers(model)):
        model.set_layer_widths(layer, layer_config(model.config, index))
    model.set_shared_widths()


def write_plan(config: PreTrainedConfig, plan: WidthPlan) -> None:
    """Set the widths of a student's configuration."""
    write_widths(config, plan.hidden_size, [dataclasses.asdict(layer) for layer in plan.layers])
    if hasattr(config, EMBEDDING_KEY):
        setattr(config, EMBEDDING_KEY, plan.embedding_size or plan.hidden_size)


def keep_layers(model: LayerwiseModel, layers: Sequence[int]) -> LayerwiseModel:
    """Copy a student or teacher with some of its layers, rising indices, only."""
    shallow = copy.deepcopy(model)
    plan = chosen(widths_of(model.config), layers)
    if architecture_of(model.config).is_pre_norm and 0 not in layers:
        raise ValueError(f"layers={list(layers)} lack layer 0, which has no LayerNorm in front of it: keep it")
    stack = encoder_layers(shallow)
    kept = [stack[index] for index in layers]
    shallow.base_model.set_submodule(shallow.layers_path, nn.ModuleList(kept))
    shallow.config.num_hidden_layers = len(layers)
    if types := getattr(model.config, "layer_types", None):
        shallow.config.layer_types = [types[index] for index in layers]
    write_plan(shallow.config, plan)
    for position, layer in enumerate(kept):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                setattr(module, "layer_idx", position)  # noqa: B010 (some modules have it)
    return shallow
