"""Change a model's sizes: other parameters in the place of its own, widths in its configuration, fewer layers."""

import copy
import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import nn
from transformers import PreTrainedConfig

from .architectures import architecture_of
from .architectures.architecture import PROJECTIONS
from .architectures.modeling_layerwise import LayerwiseModel, encoder_layers, layer_config, write_widths
from .widths import EMBEDDING_KEY, WidthPlan, chosen, widths_of


def replace_parameters(
    model: LayerwiseModel,
    tensors: Mapping[str, torch.Tensor],
    *,
    plan: WidthPlan,
    optimizer: torch.optim.Optimizer | None = None,
) -> None:
    """Give a student new parameters, of other widths, in place and without changing its module tree.

    Parameters without new values stay. The optimizer is moved to the new ones; the state of the old ones is dropped.
    """
    places = optimizer_places(optimizer)
    # tied parameters come once, by their first name; tie_weights renews the others
    for name in [name for name, _ in model.named_parameters() if name in tensors]:
        old = model.get_parameter(name)
        put_parameter(model, name, tensors[name].to(old.device, old.dtype), places)
        if optimizer is not None:
            optimizer.state.pop(old, None)
    model.tie_weights()
    set_widths(model, plan)


def optimizer_places(optimizer: torch.optim.Optimizer | None) -> dict[int, tuple[list[nn.Parameter], int]]:
    """Return a parameter's id → its list in the optimizer's param groups and its index there."""
    groups = [] if optimizer is None else [group["params"] for group in optimizer.param_groups]
    return {id(old): (group, index) for group in groups for index, old in enumerate(group)}


def put_parameter(
    model: nn.Module, name: str, tensor: torch.Tensor, places: dict[int, tuple[list[nn.Parameter], int]]
) -> nn.Parameter:
    """Put a tensor in the place of a model's parameter, also in the optimizer's list of parameters."""
    parent, _, attribute = name.rpartition(".")
    module = model.get_submodule(parent)
    old = getattr(module, attribute)
    new = nn.Parameter(tensor, requires_grad=old.requires_grad)
    setattr(module, attribute, new)
    # the lists stay, and so do param groups; popped, as another parameter may get a freed one's id
    if id(old) in places:
        group, index = places.pop(id(old))
        group[index] = new
    return new


def set_widths(model: LayerwiseModel, plan: WidthPlan) -> None:
    """Write the widths of a model's parameters into its configuration and its modules' attributes."""
    write_plan(model.config, plan)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.out_features, module.in_features = module.weight.shape
        elif isinstance(module, nn.Embedding):
            module.embedding_dim = module.weight.shape[1]
        elif isinstance(module, nn.LayerNorm | nn.RMSNorm):
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
    """Return a copy of a student or teacher that has only some of its layers; arguments as [`remove_layers`]."""
    shallow = copy.deepcopy(model)
    remove_layers(shallow, layers)
    return shallow


def remove_layers(
    model: LayerwiseModel, layers: Sequence[int], *, optimizer: torch.optim.Optimizer | None = None
) -> None:
    """Remove all but some layers of a student or teacher, in place, with their projections of hidden states.

    Args:
        model: changed in place.
        layers: rising indices of the layers that stay.
        optimizer: loses the parameters of what is removed, with their state; param groups and schedulers stay valid.

    Raises:
        ValueError: layer 0 is left out where it is built unlike the others.
    """
    config, plan = model.config, chosen(widths_of(model.config), layers)
    if architecture_of(config).keeps_first_layer(config) and 0 not in layers:
        raise ValueError(f"layers={list(layers)} lack layer 0, which is built unlike the others: keep it")
    # all parameters: those that are missing at the end leave the optimizer as well
    before = set(model.parameters())
    stack = encoder_layers(model)
    kept = [stack[index] for index in layers]
    # a kept layer is compared with the state behind the removed ones, by that state's projection
    projections = getattr(model, PROJECTIONS, None)
    if projections is not None and len(projections.hidden):
        matched = matched_layers(layers, len(stack))
        projections.hidden = nn.ModuleList([projections.hidden[layer] for layer in matched])
    model.base_model.set_submodule(model.layers_path, nn.ModuleList(kept))
    config.num_hidden_layers = len(layers)
    if types := getattr(config, "layer_types", None):
        config.layer_types = [types[index] for index in layers]
    write_plan(config, plan)
    # Some modules keep the number of their layer.
    for position, layer in enumerate(kept):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                setattr(module, "layer_idx", position)  # noqa: B010 (some modules have it)
    removed = before - set(model.parameters())
    if optimizer is not None:
        for group in optimizer.param_groups:
            group["params"][:] = [parameter for parameter in group["params"] if parameter not in removed]
        for parameter in removed:
            optimizer.state.pop(parameter, None)


def spread_layers(num_kept: int, num_layers: int) -> tuple[int, ...]:
    """Spread the kept layers evenly over `num_layers`, the first and the last among them; rising indices.

    Of 12 layers 6 are (0, 2, 4, 7, 9, 11), the ones that DistilBERT's public script takes [from memory].

    Example:
    ```python
    >>> spread_layers(6, 12), spread_layers(3, 6), spread_layers(1, 6)
    ((0, 2, 4, 7, 9, 11), (0, 2, 5), (0,))

    ```
    """
    # k layers have k − 1 equal gaps between them; a single one has no gap and is the first
    gaps = max(1, num_kept - 1)
    return tuple(round(index * (num_layers - 1) / gaps) for index in range(num_kept))


def matched_layers(layers: Sequence[int], num_layers: int) -> tuple[int, ...]:
    """Return, for each layer of a shallow student, the teacher's layer whose hidden states it should match.

    A kept layer's weights expect the output of the teacher's layer before it. So the previous kept layer must also do
    the work of the layers that were dropped between the two, and match the last of them.

    Example:
    ```python
    >>> matched_layers((0, 1, 3, 5), num_layers=6), matched_layers((0, 1), num_layers=2)
    ((0, 2, 4, 5), (0, 1))

    ```
    """
    return (*(following - 1 for following in layers[1:]), num_layers - 1)


def evenly_matched(num_layers: int, num_teacher_layers: int) -> tuple[int, ...]:
    """Return the teacher's layer for each of a student's, spread evenly, the last for the last; rising indices.

    For a student whose layers stem from no known ones of the teacher.

    Example:
    ```python
    >>> evenly_matched(4, 6), evenly_matched(2, 2)
    ((0, 2, 3, 5), (0, 1))

    ```
    """
    return tuple((layer + 1) * num_teacher_layers // num_layers - 1 for layer in range(num_layers))
