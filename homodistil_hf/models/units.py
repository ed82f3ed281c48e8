"""Which parameters belong together: groups, units and slices of an encoder; which of them go is decided elsewhere."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import torch
from torch import nn
from transformers import PreTrainedConfig

from .families import HEADS, family_of
from .families.family import HIDDEN, NEURON, PROJECTIONS, QUERY, VALUE, EncoderFamily
from .families.modeling_layerwise import LayerwiseModel, layer_config, layer_head_dim

Module = TypeVar("Module", bound=nn.Module)

UnitTensors = dict[str, torch.Tensor]
"""What travels between stages: one tensor a group, one element a unit. Scores are float32, masks are bool."""

Indices: TypeAlias = Mapping[str, Mapping[int, torch.Tensor]]
"""Parameter → dimension → int64 indices that are kept."""

_Maps: TypeAlias = list[tuple[str, "UnitMap | None"]]  # groups that divide one dimension, and their maps
_Source: TypeAlias = tuple[tuple[str, int], ...]  # the same, each map by its identity
_SAME = id(None)
_PROJECTION: tuple[str, ...] = ("teacher", HIDDEN)


class UnitMap:
    """Which unit of a group each index of a dimension belongs to; slices of the same places share one.

    Args:
        unit_of_index: int64, as long as the dimension; −1 = of no unit. All units have as many indices.
    """

    def __init__(self, unit_of_index: torch.Tensor):
        self.unit_of_index = unit_of_index
        order = unit_of_index.argsort(stable=True)[int((unit_of_index < 0).sum()) :]
        is_in_order = order.equal(torch.arange(len(unit_of_index)))
        self._order = None if is_in_order else order

    def by_unit(self, values: torch.Tensor, num_units: int) -> torch.Tensor:
        """`(…, indices)` → `(…, num_units, indices of a unit)`."""
        if self._order is not None:  # gathered, not added up in place: all ranks must find the same sums
            values = values.index_select(-1, self._order.to(values.device))
        return values.view(*values.shape[:-1], num_units, -1)

    def kept(self, mask: torch.Tensor) -> torch.Tensor:
        """Bool a unit → bool an index; one that belongs to no unit is kept."""
        return mask[self.unit_of_index] | (self.unit_of_index < 0)


@dataclass(frozen=True)
class Slice:
    """Where the units of a group lie in one parameter.

    Args:
        parameter: name in `model.named_parameters()`.
        dim: dimension that the units divide.
        units: which unit each index of that dimension is; None: index and unit are the same.
    """

    parameter: str
    dim: int
    units: UnitMap | None = None


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


def encoder_groups(model: LayerwiseModel, family: EncoderFamily | None = None) -> dict[str, Group]:
    """All groups of a student, with or without projections, at its present widths.

    Args:
        model: the student.
        family: its architecture; default: that of its model type.

    Returns:
        `hidden` first, then layer by layer `head.{l}`, `query_key.{l}`, `value_output.{l}`, `ffn.{l}`.

    Raises:
        ValueError: the model has a parameter that no row of the table covers.
    """
    family = family or family_of(model.config)
    num_layers = model.config.num_hidden_layers
    shapes = family.shapes(num_layers, HEADS.get(type(model).__name__))
    groups: dict[str, tuple[str, int, list[Slice]]] = {"hidden": ("hidden", model.config.hidden_size, [])}
    maps = [_LayerUnits(layer_config(model.config, index), index) for index in range(num_layers)]
    for of_layer in maps:
        groups |= {name: (kind, number, []) for name, (kind, number) in of_layer.groups.items()}
    unknown = []
    for name, parameter in model.named_parameters():
        if name.startswith(f"{PROJECTIONS}."):
            dims, layer = _PROJECTION, None
        elif name in shapes:
            dims, layer = shapes[name]
        else:
            unknown.append(name)
            continue
        for dim, what in enumerate(dims[: parameter.dim()]):
            found = {"hidden": None} if what == HIDDEN else maps[layer].of(what) if layer is not None else {}
            for group, units in found.items():
                groups[group][2].append(Slice(name, dim, units))
    if unknown:
        raise ValueError(
            f"model parameters {', '.join(unknown)} are unknown to the {family.model_type} table of units; "
            "remove them from the model, or add them to homodistil_hf.models.families"
        )
    return {name: Group(name, kind, number, tuple(pieces)) for name, (kind, number, pieces) in groups.items()}


class _LayerUnits:
    """The groups of one layer, and which of their units each index of a dimension is."""

    def __init__(self, widths: PreTrainedConfig, layer: int):
        num_heads, head_dim = widths.num_attention_heads, layer_head_dim(widths)
        num_channels, num_neurons = num_heads * head_dim, family_of(widths).num_neurons(widths)
        head, query_key, value_output, ffn = (
            f"{kind}.{layer}" for kind in ("head", "query_key", "value_output", "ffn")
        )
        self.groups = {
            head: ("attention", num_heads),
            query_key: ("attention", num_channels),
            value_output: ("attention", num_channels),
            ffn: ("ffn", num_neurons),
        }
        head_of_channel = UnitMap(torch.arange(num_channels) // head_dim)
        self._maps: dict[str, dict[str, UnitMap | None]] = {
            QUERY: {head: head_of_channel, query_key: None},
            VALUE: {head: head_of_channel, value_output: None},
            NEURON: {ffn: None},
        }

    def of(self, what: str) -> dict[str, UnitMap | None]:
        """Group → its map, for what the indices of a dimension are."""
        return self._maps.get(what, {})


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
    divided: dict[tuple[str, int], _Maps] = {}
    for name in (name for name in groups if name in smaller):
        for piece in groups[name].slices:
            divided.setdefault((piece.parameter, piece.dim), []).append((name, piece.units))
    places = {place: tuple((name, id(units)) for name, units in sources) for place, sources in divided.items()}
    wanted: dict[_Source, _Maps] = {((name, _SAME),): [(name, None)] for name in smaller}
    wanted |= {places[place]: sources for place, sources in divided.items()}
    found = _moved({source: _kept_by_all(masks, wanted[source]) for source in wanted}, device)
    indices: dict[str, dict[int, torch.Tensor]] = {}
    for (parameter, dim), source in places.items():
        indices.setdefault(parameter, {})[dim] = found[source]
    return {name: found[((name, _SAME),)] for name in groups if name in smaller}, indices


def _kept_by_all(masks: UnitTensors, sources: _Maps) -> torch.Tensor:
    kept = (masks[name] if units is None else units.kept(masks[name]) for name, units in sources)
    return functools.reduce(torch.logical_and, kept).nonzero().flatten()


def _moved(tensors: dict[_Source, torch.Tensor], device: torch.device | None) -> dict[_Source, torch.Tensor]:
    if device is None or device.type == "cpu" or not tensors:
        return tensors
    sizes = [len(tensor) for tensor in tensors.values()]
    return dict(zip(tensors, torch.cat(list(tensors.values())).to(device).split(sizes), strict=True))


def modules_of(model: nn.Module, kind: type[Module]) -> list[Module]:
    """All submodules of one class or its subclasses, in order."""
    return [module for module in model.modules() if isinstance(module, kind)]
