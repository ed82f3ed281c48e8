"""Nested students: units in the order of their scores, so that the first ones of every group are a smaller model.

`unit_orders` and `move_units` bring a student's units into this order, in place, with whatever follows them. A
`Member` is the smaller model: its weights are those of the student's first units, so both learn them.
pruner.py calls both on the way to the plans, training/nested.py trains the members.
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch

from ..models.architectures.architecture import PROJECTIONS
from ..models.architectures.modeling_layerwise import LayerwiseModel
from ..models.resizing import set_widths
from ..models.units import Group, UnitTensors, head_group, kept_indices
from ..models.widths import WidthPlan, widths_of
from .compaction import selected
from .masks import first_units

MEMBERS = "members"
"""Of a student's projections: those of its members, each as wide as the student's own."""


def unit_orders(scores: UnitTensors, *, within: WidthPlan, to: WidthPlan) -> UnitTensors:
    """Return, for each group that gets narrower, its units from the highest score to the lowest.

    Ties go to the lower index. Heads move whole, with their channels; so orders of channels are those behind the move,
    head by head.

    Args:
        scores: float32 importance a unit.
        within: only so many units, the first ones, are put in order; those behind them stay where they are.
        to: the widths to come.
    """
    orders: UnitTensors = {}

    def put(name: str, by_group: torch.Tensor, width: int, narrower: int) -> None:
        # what loses nothing stays in its order, as the hidden channels of plain students
        if narrower < width:
            orders[name] = _sorted(by_group, width)

    put("hidden", scores["hidden"], within.hidden_size, to.hidden_size)
    if within.embedding_size and to.embedding_size:
        put("embedding", scores["embedding"], within.embedding_size, to.embedding_size)
    shared = within.traits.queries_per_key
    for index, (now, then) in enumerate(zip(within.layers, to.layers, strict=True)):
        head, ffn = head_group(scores, index), f"ffn.{index}"
        put(head, scores[head], now.num_attention_heads // shared, then.num_attention_heads // shared)
        for name in (name for name in (f"query_key.{index}", f"value_output.{index}") if name in scores):
            by_head = scores[name].view(len(scores[head]), -1)
            put(
                name,
                by_head[orders[head].to(by_head.device)] if head in orders else by_head,
                now.head_dim,
                then.head_dim,
            )
            if name in orders:
                first = torch.arange(len(by_head))[:, None] * by_head.shape[1]
                orders[name] = (first + orders[name]).flatten()
        put(ffn, scores[ffn], now.intermediate_size, then.intermediate_size)
    for kind, now, then in zip(within.traits.rotary_kinds, within.layers, to.layers, strict=False):
        put(f"query_key.{kind}", scores[f"query_key.{kind}"], now.head_dim // 2, then.head_dim // 2)
    return orders


def _sorted(scores: torch.Tensor, num_sorted: int) -> torch.Tensor:
    """Indices along the last dimension, the first `num_sorted` by falling score; on the CPU."""
    comparable = scores.detach().float().cpu().nan_to_num(nan=torch.finfo(torch.float32).min)
    order = torch.arange(scores.shape[-1]).expand(scores.shape).clone()
    order[..., :num_sorted] = comparable[..., :num_sorted].sort(dim=-1, descending=True, stable=True).indices
    return order


@torch.no_grad()
def move_units(
    model: LayerwiseModel,
    groups: Mapping[str, Group],
    orders: UnitTensors,
    *,
    optimizer: torch.optim.Optimizer | None = None,
) -> None:
    """Bring the units of a student into another order, in place; outputs stay the same.

    Args:
        model: the student; parameters stay the same objects.
        groups: its groups.
        orders: of [`unit_orders`].
        optimizer: its state moves along.
    """
    states: Mapping[torch.Tensor, Any] = {} if optimizer is None else optimizer.state
    for name in sorted(orders, key=lambda name: not name.startswith("head")):  # heads first
        for piece in groups[name].slices:
            parameter = model.get_parameter(piece.parameter)
            index = orders[name]
            if piece.units is not None:
                # the k-th index of a unit gets what the k-th index of the unit in its place has
                index = torch.arange(parameter.shape[piece.dim])
                by_unit = piece.units.by_unit(index, groups[name].num_units)
                index = index.scatter(0, by_unit.flatten(), by_unit[orders[name]].flatten())
            moving = [parameter, *(state for state in states.get(parameter, {}).values() if torch.is_tensor(state))]
            for tensor in (tensor for tensor in moving if tensor.shape == parameter.shape):
                tensor.copy_(tensor.index_select(piece.dim, index.to(tensor.device)))
    # which rotary pairs a head's channels are
    model.note_units(orders)
    model.set_shared_widths()


def moved_scores(scores: UnitTensors, orders: UnitTensors) -> UnitTensors:
    """Return scores in the order of the units that `move_units` has moved."""
    moved = dict(scores)
    for name, values in scores.items():
        kind, _, layer = name.partition(".")
        if (
            kind in ("query_key", "value_output")
            and layer.isdigit()
            and (head := head_group(scores, int(layer))) in orders
        ):
            moved[name] = values.view(len(orders[head]), -1)[orders[head].to(values.device)].flatten()
        if name in orders:
            moved[name] = moved[name][orders[name].to(values.device)]
    return moved


class Member:
    """A smaller model inside a student: the first units of every group, with projections of its own.

    `model` is a module of the student's class without weights of its own: `take_weights` gives it those of the student
    as they are now, with their gradients.

    Args:
        student: the outer model, as it is before anything is removed.
        plan: the member's widths, nowhere above the student's at its end.
        name: for logs, files and users.
        number: of its projections among the student's `projections.members`.
    """

    def __init__(self, student: LayerwiseModel, plan: WidthPlan, *, name: str, number: int):
        self.student, self.plan, self.name = student, plan, name
        self.projections = student.get_submodule(f"{PROJECTIONS}.{MEMBERS}.{number}")
        self.is_apart = False
        # modules are copied, parameters are not
        shared = {id(parameter): parameter for parameter in student.parameters()}
        self.model: Any = copy.deepcopy(student, shared)
        self.model.add_module(PROJECTIONS, copy.deepcopy(self.projections, shared))
        names = {id(parameter): name for name, parameter in student.named_parameters()}
        # tied parameters have several places
        self._places = [
            (module, attribute, names[id(parameter)])
            for module in self.model.modules()
            for attribute, parameter in module._parameters.items()
            if parameter is not None
        ]
        self._indices: dict[str, dict[int, torch.Tensor | int]] = {}

    def narrow(self, groups: Mapping[str, Group], plan: WidthPlan) -> None:
        """Take the first units of the student's groups from now on, as many as a plan has."""
        units, indices = kept_indices(groups, first_units(groups, plan), device=self.student.device)
        self._indices = {
            name: {dim: len(kept) if int(kept[-1]) + 1 == len(kept) else kept for dim, kept in dims.items()}
            for name, dims in indices.items()
        }
        self.take_weights()
        for name in ("rotary_pairs", "rotary_head_dim"):
            if hasattr(self.model.config, name):
                setattr(self.model.config, name, copy.deepcopy(getattr(self.student.config, name)))
        self.model.note_units(units)
        set_widths(self.model, plan)
        self.is_apart = plan != widths_of(self.student.config)

    def take_weights(self) -> Any:
        """Return the model with the student's weights as they are now, in the same mode."""
        named = dict(self.student.named_parameters())
        found = {name: selected(named[name], self._indices.get(name, {})) for _, _, name in self._places}
        for module, attribute, name in self._places:
            module._parameters[attribute] = found[name]
        return self.model.train(self.student.training)
