"""Which parameters belong together: groups, units and slices of an encoder; which of them go is decided elsewhere."""

import re
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from .families import family_of
from .families.family import EncoderFamily
from .families.modeling_homobert import HomoBertPreTrainedModel, layer_config, layer_head_dim

Module = TypeVar("Module", bound=nn.Module)

UnitTensors = dict[str, torch.Tensor]
"""What travels between stages: one tensor a group, one element a unit. Scores are float32, masks are bool."""


@dataclass(frozen=True)
class Slice:
    """Where the units of a group lie in one parameter.

    Args:
        parameter: name in `model.named_parameters()`.
        dim: dimension that the units divide.
        block: consecutive indices of that dimension that belong to one unit, ≥ 1.
    """

    parameter: str
    dim: int
    block: int = 1


@dataclass(frozen=True)
class Group:
    """Units that compete with each other for one width.

    Args:
        name: `hidden`, `head.{l}`, `query_key.{l}`, `value_output.{l}` or `ffn.{l}`.
        kind: `hidden`, `attention` or `ffn`: what shares one pruning window.
        num_units: units in the model as it stands, ≥ 1.
        slices: all places that a unit dies in at once.
    """

    name: str
    kind: str
    num_units: int
    slices: tuple[Slice, ...]


def encoder_groups(model: HomoBertPreTrainedModel, family: EncoderFamily | None = None) -> dict[str, Group]:
    """All groups of a student at its present widths.

    Args:
        model: a student, with or without projections.
        family: parameter paths of its architecture; default: those of its model type.

    Returns:
        `dict[str, Group]`: `hidden` first, then layer by layer `head.{l}`, `query_key.{l}`, `value_output.{l}`,
        `ffn.{l}`.

    Raises:
        ValueError: the model has a parameter that no row of the table covers.
    """
    names, family = [name for name, _ in model.named_parameters()], family or family_of(model.config)
    hidden = tuple(Slice(name, dim) for name in names for pattern, dim in family.hidden if re.fullmatch(pattern, name))
    groups = [Group("hidden", "hidden", model.config.hidden_size, hidden)]
    for layer in range(model.config.num_hidden_layers):
        groups.extend(_layer_groups(model, layer, family))
    _check_coverage(names, groups, family)
    return {group.name: group for group in groups}


def _layer_groups(model: HomoBertPreTrainedModel, layer: int, family: EncoderFamily) -> list[Group]:
    widths = layer_config(model.config, layer)
    num_heads, head_dim = widths.num_attention_heads, layer_head_dim(widths)

    query_key = family.query + family.key

    def slices(templates: tuple[str, ...], dim: int, block: int = 1) -> tuple[Slice, ...]:
        return tuple(Slice(template.format(l=layer), dim, block) for template in templates)

    def attention(templates: tuple[str, ...], block: int) -> tuple[Slice, ...]:
        return slices(templates, 0, block)

    head = attention(query_key + family.value, head_dim) + slices(family.attention_output, 1, head_dim)
    value_output = attention(family.value, 1) + slices(family.attention_output, 1)
    ffn = slices(family.ffn_rows, 0) + slices(family.ffn_columns, 1)
    num_channels = num_heads * head_dim
    return [
        Group(f"head.{layer}", "attention", num_heads, head),
        Group(f"query_key.{layer}", "attention", num_channels, attention(query_key, 1)),
        Group(f"value_output.{layer}", "attention", num_channels, value_output),
        Group(f"ffn.{layer}", "ffn", widths.intermediate_size, ffn),
    ]


def _check_coverage(names: list[str], groups: list[Group], family: EncoderFamily) -> None:
    covered = {piece.parameter for group in groups for piece in group.slices}
    unknown = [
        name
        for name in names
        if name not in covered and not any(re.fullmatch(pattern, name) for pattern in family.unpruned)
    ]
    if unknown:
        raise ValueError(
            f"model parameters {', '.join(unknown)} are unknown to the {family.model_type} table of units; "
            "remove them from the model, or add them to homodistil_hf.models.families"
        )


def sums_along(values: torch.Tensor, dim: int) -> torch.Tensor:
    """Sum a tensor over all dimensions but one.

    Args:
        values: any shape.
        dim: the dimension that stays.

    Returns:
        `torch.FloatTensor` as long as that dimension, float32.
    """
    other_dims = [other for other in range(values.dim()) if other != dim]
    return values.sum(other_dims, dtype=torch.float32) if other_dims else values.float()


def units_of(sums: torch.Tensor, piece: Slice) -> torch.Tensor:
    """Sums of single indices → sums of units.

    Args:
        sums: one number for each index of the slice's dimension.
        piece: how many indices a unit has.

    Returns:
        `torch.Tensor` of shape `(num_units,)`.

    Example:
    ```python
    >>> weight = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]])
    >>> units_of(sums_along(weight, 0), Slice("query.weight", 0, block=2)).tolist()  # two heads of two channels
    [10.0, 26.0]

    ```
    """
    return sums.view(-1, piece.block).sum(1) if piece.block > 1 else sums


def kept_indices(groups: dict[str, Group], masks: UnitTensors) -> dict[str, dict[int, torch.Tensor]]:
    """Which indices of every parameter are kept in every dimension.

    A head that is dropped must be dropped in its channel groups as well, so an index is kept
    where all groups that divide it agree.

    Args:
        groups: groups of the model as it stands.
        masks: one bool a unit, for every group.

    Returns:
        `dict`: parameter name → dimension → bool tensor as long as that dimension. Dimensions that lose nothing are
        left out.
    """
    kept: dict[str, dict[int, torch.Tensor]] = {}
    for name, group in groups.items():
        if bool(masks[name].all()):
            continue
        for piece in group.slices:
            expanded = masks[name].repeat_interleave(piece.block) if piece.block > 1 else masks[name]
            dims = kept.setdefault(piece.parameter, {})
            dims[piece.dim] = dims[piece.dim] & expanded if piece.dim in dims else expanded
    return kept


def modules_of(model: nn.Module, kind: type[Module]) -> list[Module]:
    """All submodules of one class, in order.

    Args:
        model: any module.
        kind: the class, subclasses included.

    Returns:
        `list` of modules of that class.
    """
    return [module for module in model.modules() if isinstance(module, kind)]
