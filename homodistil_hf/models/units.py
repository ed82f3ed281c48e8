"""Which parameters belong together: groups, units and slices of an encoder; which of them go is decided elsewhere."""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import torch
from torch import nn

from .families import family_of
from .families.family import EncoderFamily
from .families.modeling_homobert import HomoBertPreTrainedModel, layer_config, layer_head_dim

Module = TypeVar("Module", bound=nn.Module)

UnitTensors = dict[str, torch.Tensor]
"""What travels between stages: one tensor a group, one element a unit. Scores are float32, masks are bool."""

Indices: TypeAlias = Mapping[str, Mapping[int, torch.Tensor]]
"""Parameter → dimension → int64 indices that are kept."""

_Source: TypeAlias = tuple[tuple[str, int], ...]  # groups that divide one dimension, and their blocks


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
        slices: all places that a unit dies in at once, with one block.
    """

    name: str
    kind: str
    num_units: int
    slices: tuple[Slice, ...]


def encoder_groups(model: HomoBertPreTrainedModel, family: EncoderFamily | None = None) -> dict[str, Group]:
    """All groups of a student, with or without projections, at its present widths.

    Args:
        model: the student.
        family: parameter paths of its architecture; default: those of its model type.

    Returns:
        `hidden` first, then layer by layer `head.{l}`, `query_key.{l}`, `value_output.{l}`, `ffn.{l}`.

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
    """Sum a tensor over all dimensions but one, in float32."""
    other_dims = [other for other in range(values.dim()) if other != dim]
    return values.sum(other_dims, dtype=torch.float32) if other_dims else values.float()


def kept_indices(
    groups: Mapping[str, Group], masks: UnitTensors, *, device: torch.device | None = None
) -> tuple[UnitTensors, Indices]:
    """Which units are kept, and which indices of every parameter with them.

    A head that is dropped must be dropped in its channel groups as well, so an index is kept where all groups that
    divide it agree. Indices are found on the CPU and moved all at once: asking a device for them would wait for it.

    Args:
        groups: groups of the model as it stands.
        masks: one bool a unit, for every group.
        device: where the indices are wanted; default: the CPU.

    Returns:
        `(units, indices)`, int64: group → the units it keeps; parameter name → dimension → the indices it keeps.
        Groups and dimensions that lose nothing are left out.
    """
    masks = {name: masks[name].cpu() for name in groups}
    smaller = {name for name, mask in masks.items() if not bool(mask.all())}
    divided: dict[tuple[str, int], list[tuple[str, int]]] = {}
    for name in (name for name in groups if name in smaller):
        for piece in groups[name].slices:
            divided.setdefault((piece.parameter, piece.dim), []).append((name, piece.block))
    sources = {((name, 1),) for name in smaller}.union(map(tuple, divided.values()))
    found = _moved({source: _kept_by_all(masks, source) for source in sorted(sources)}, device)
    indices: dict[str, dict[int, torch.Tensor]] = {}
    for (parameter, dim), source in divided.items():
        indices.setdefault(parameter, {})[dim] = found[tuple(source)]
    return {name: found[((name, 1),)] for name in groups if name in smaller}, indices


def _kept_by_all(masks: UnitTensors, source: _Source) -> torch.Tensor:
    expanded = (masks[name].repeat_interleave(block) for name, block in source)
    return functools.reduce(torch.logical_and, expanded).nonzero().flatten()


def _moved(tensors: dict[_Source, torch.Tensor], device: torch.device | None) -> dict[_Source, torch.Tensor]:
    if device is None or device.type == "cpu" or not tensors:
        return tensors
    sizes = [len(tensor) for tensor in tensors.values()]
    return dict(zip(tensors, torch.cat(list(tensors.values())).to(device).split(sizes), strict=True))


def modules_of(model: nn.Module, kind: type[Module]) -> list[Module]:
    """All submodules of one class or its subclasses, in order."""
    return [module for module in model.modules() if isinstance(module, kind)]
