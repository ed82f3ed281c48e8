"""Groups, units and slices of an encoder: which parts of its parameters live and die together.

pruning/scores.py scores the units, pruning/masks.py chooses among them.
"""

import functools
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch

from ..files.messages import first_of
from .architectures import architecture_of
from .architectures.architecture import (
    ATTENDED,
    EMBEDDING,
    GATE,
    HEAD,
    HEAD_CHANNEL,
    HIDDEN,
    KEY,
    NEURON,
    PROJECTIONS,
    QUERY,
    QUERY_KEY_VALUE,
    VALUE,
    Architecture,
)
from .architectures.modeling_layerwise import LayerwiseModel
from .widths import WidthPlan, widths_of

UnitTensors = dict[str, torch.Tensor]
"""The plain type between stages: one tensor a group, one element a unit. Scores are float32, masks are bool."""

Indices: TypeAlias = Mapping[str, Mapping[int, torch.Tensor]]
"""Parameter → dimension → int64 indices to keep."""

_Maps: TypeAlias = dict[str, dict[str, "UnitMap | None"]]
"""Meaning of a dimension → the groups that divide it, with their maps."""
_Pieces: TypeAlias = list[tuple[str, "UnitMap | None"]]  # groups that divide one dimension, and their maps

_PROJECTION: tuple[tuple[str, ...], int | None] = (("teacher", HIDDEN), None)


class UnitMap:
    """A map from each index of a dimension to a unit of a group; slices that divide alike share one.

    Args:
        unit_of_index: int64, as long as the dimension; −1 = no unit. All units have equally many indices.
    """

    def __init__(self, unit_of_index: torch.Tensor):
        self.unit_of_index = unit_of_index
        # indices unit by unit; those of no unit (−1) sort first and are cut off
        order = unit_of_index.argsort(stable=True)[int((unit_of_index < 0).sum()) :]
        # a dimension in this order already needs no gathering
        is_in_order = order.equal(torch.arange(len(unit_of_index)))
        self._order = None if is_in_order else order

    def by_unit(self, values: torch.Tensor, num_units: int) -> torch.Tensor:
        """`(…, indices)` → `(…, num_units, indices of a unit)`."""
        if self._order is not None:  # gathered, not added up in place: all ranks must find the same sums
            self._order = self._order.to(values.device)  # copied once, not at every step
            values = values.index_select(-1, self._order)
        return values.view(*values.shape[:-1], num_units, -1)

    def kept(self, mask: torch.Tensor) -> torch.Tensor:
        """Bool a unit → bool an index; an index of no unit is kept."""
        return mask[self.unit_of_index] | (self.unit_of_index < 0)


@dataclass(frozen=True)
class Slice:
    """The place of a group's units in one parameter.

    Args:
        parameter: name in `model.named_parameters()`.
        dim: dimension that the units divide.
        units: index of that dimension → unit; None: index and unit are the same.
    """

    parameter: str
    dim: int
    units: UnitMap | None = None


@dataclass(frozen=True)
class Group:
    """Units that compete with each other for one width.

    Args:
        name: `hidden`, `embedding`, `head.{l}` or `head`, `query_key.{l}` (of rotary positions: `query_key.{kind}`,
            pairs of channels of all layers of a kind), `value_output.{l}` or `ffn.{l}`. Where queries share keys and
            values, a unit of `head.{l}` is a key and a value head with its queries, and others are channels of these.
        num_units: units in the model as it is now, ≥ 1.
        slices: all places that lose a dropped unit at once.
    """

    name: str
    num_units: int
    slices: tuple[Slice, ...]


def encoder_groups(model: LayerwiseModel) -> dict[str, Group]:
    """Return all groups of a student, with or without projections, at its present widths.

    Returns:
        `hidden` first, `embedding` where it is a width of its own, then layer by layer `head.{l}` (one `head` where
        all layers share it), `query_key.{l}`, `value_output.{l}`, `ffn.{l}`.

    Raises:
        ValueError: the model has a parameter that the architecture's table lacks.
    """
    architecture, plan = architecture_of(model.config), widths_of(model.config)
    shapes = architecture.shapes(model)
    names = [name for name, _ in model.named_parameters()]
    if unknown := [name for name in names if name not in shapes and not name.startswith(f"{PROJECTIONS}.")]:
        raise ValueError(
            f"model parameters {first_of(unknown)} are unknown to the {architecture.model_type} table of units; "
            "remove them from the model, or add them to homodistil_hf.models.architectures"
        )
    # Groups and their sizes first: groups that span layers, then each layer's own.
    sizes, embedding = {"hidden": plan.hidden_size}, "hidden"
    # embeddings have the hidden size, unless a projection follows them
    if plan.embedding_size is not None:
        sizes["embedding"], embedding = plan.embedding_size, "embedding"
    # heads that all layers share have a table outside of these, and get their size with every layer
    outer: _Maps = {HIDDEN: {"hidden": None}, EMBEDDING: {embedding: None}, HEAD: {"head": None}}
    maps: dict[int | None, _Maps] = {None: outer}
    for layer in range(len(plan.layers)):
        sizes_of_layer, of_layer = _layer_units(plan, architecture, layer)
        sizes |= sizes_of_layer
        maps[layer] = outer | of_layer
    # Then the slices: the table names the meaning of every dimension of every parameter, the maps the groups that
    # divide a dimension of that meaning. Projections are no part of an architecture; they divide along `hidden`.
    slices: dict[str, list[Slice]] = {name: [] for name in sizes}
    # layers that are alike share their maps, so that their units are added up together
    shared: dict[bytes, UnitMap] = {}
    for name in names:
        dims, place = shapes.get(name, _PROJECTION)
        for dim, what in enumerate(dims):
            for group, units in maps[place].get(what, {}).items():
                same = units and shared.setdefault(units.unit_of_index.numpy().tobytes(), units)
                slices[group].append(Slice(name, dim, same))
    return {name: Group(name, number, tuple(slices[name])) for name, number in sizes.items()}


def _layer_units(plan: WidthPlan, architecture: Architecture, layer: int) -> tuple[dict[str, int], _Maps]:
    """Return the groups of one layer → number of units; and the groups that divide its dimensions."""
    widths, shared = plan.layers[layer], plan.traits.queries_per_key
    # layers of a kind share their rotary positions and lose the same pairs
    kind = plan.traits.rotary_kinds[layer] if plan.traits.rotary_kinds else None
    head_dim, num_groups = widths.head_dim, widths.num_attention_heads // shared
    num_channels = num_groups * head_dim
    head, query_key, value_output, ffn = (f"{kind}.{layer}" for kind in ("head", "query_key", "value_output", "ffn"))
    head = "head" if architecture.shares_heads else head
    query_key = query_key if kind is None else f"query_key.{kind}"
    # a channel is a unit; where channels turn, a pair of them is, the same one in every head
    sizes = {
        head: num_groups,
        query_key: num_channels if kind is None else head_dim // 2,
        value_output: num_channels,
        ffn: widths.intermediate_size,
    }
    # channels of keys and values, and for each channel of a query the one that it shares with its group
    channels, of_queries = torch.arange(num_channels), torch.arange(num_channels * shared)
    grouped = of_queries // (shared * head_dim) * head_dim + of_queries % head_dim
    # with rotary positions channel c of a head belongs to the pair of c and c + head_dim/2
    turned = channels if kind is None else channels % head_dim % (head_dim // 2)
    # a dropped head takes its queries, keys and values along
    of_head, of_query_head = UnitMap(channels // head_dim), UnitMap(grouped // head_dim)
    maps: _Maps = {
        QUERY: {head: of_query_head, query_key: UnitMap(turned[grouped]) if kind or shared > 1 else None},
        KEY: {head: of_head, query_key: UnitMap(turned)},
        VALUE: {head: of_head, value_output: None},
        ATTENDED: {head: of_query_head, value_output: UnitMap(grouped)},
        HEAD_CHANNEL: {} if kind is None else {query_key: UnitMap(turned[:head_dim])},
        NEURON: {ffn: None},
    }
    present = {what for dims in architecture.layer.values() for what in dims}
    if QUERY_KEY_VALUE in present:
        # One matrix of three blocks. Heads divide all of them, the channel groups their own blocks only.
        nothing = torch.full((num_channels,), -1)
        maps[QUERY_KEY_VALUE] = {
            head: UnitMap((channels // head_dim).repeat(3)),
            query_key: UnitMap(torch.cat([turned, turned, nothing])),
            value_output: UnitMap(torch.cat([nothing, nothing, channels])),
        }
    # gate and input of a neuron leave together
    if GATE in present:
        maps[GATE] = {ffn: UnitMap(torch.arange(sizes[ffn]).repeat(2))}
    return sizes, maps


def head_group(groups: Container[str], layer: int) -> str:
    """Return the name of the group of a layer's heads: its own, or the group that all layers share."""
    return "head" if "head" in groups else f"head.{layer}"


def sums_along(values: torch.Tensor, dim: int) -> torch.Tensor:
    """Sum a tensor over all dimensions but one, in float32."""
    other_dims = [other for other in range(values.dim()) if other != dim]
    return values.sum(other_dims, dtype=torch.float32) if other_dims else values.float()


def kept_indices(
    groups: Mapping[str, Group], masks: UnitTensors, *, device: torch.device | None = None
) -> tuple[UnitTensors, Indices]:
    """Turn masks into the units that are kept and the indices of every parameter that are kept with them.

    A dropped head must be dropped in its channel groups as well, so an index is kept where all groups that divide its
    dimension agree. Indices are found on the CPU and moved all at once, because finding them on a device would wait.

    Args:
        groups: groups of the model as it is now.
        masks: one bool a unit, for every group.
        device: of the returned indices; default: the CPU.

    Returns:
        `(units, indices)`, int64: group → the units it keeps; parameter name → dimension → the indices it keeps.
        Groups and dimensions that lose nothing are left out.
    """
    masks = {name: masks[name].cpu() for name in groups}
    smaller = {name for name, mask in masks.items() if not bool(mask.all())}
    # Dimension of a parameter → the groups that lose units and divide it, each with its map.
    divided: dict[tuple[str, int], _Pieces] = {}
    for name in (name for name in groups if name in smaller):
        for piece in groups[name].slices:
            divided.setdefault((piece.parameter, piece.dim), []).append((name, piece.units))
    # Many dimensions are divided alike, the hidden one in nearly every parameter. Each way is worked out once, under a
    # key of groups and identities of maps; so are the units of a group, as if it were divided by itself alone.
    kept: dict[tuple[tuple[str, int], ...], torch.Tensor] = {}

    def key_of(maps: _Pieces) -> tuple[tuple[str, int], ...]:
        key = tuple((name, id(units)) for name, units in maps)
        if key not in kept:
            agreed = (masks[name] if units is None else units.kept(masks[name]) for name, units in maps)
            kept[key] = functools.reduce(torch.logical_and, agreed).nonzero().flatten()
        return key

    of_units = {name: key_of([(name, None)]) for name in groups if name in smaller}
    of_places = {place: key_of(maps) for place, maps in divided.items()}
    # in one copy: every copy would wait for the device
    if device is not None and device.type != "cpu" and kept:
        sizes = [len(tensor) for tensor in kept.values()]
        kept = dict(zip(kept, torch.cat(list(kept.values())).to(device).split(sizes), strict=True))
    # Hand the results out to all dimensions that are divided alike.
    indices: dict[str, dict[int, torch.Tensor]] = {}
    for (parameter, dim), key in of_places.items():
        indices.setdefault(parameter, {})[dim] = kept[key]
    return {name: kept[key] for name, key in of_units.items()}, indices
