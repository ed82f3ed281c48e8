"""Scores: how much the loss would miss each unit.

One class a metric, all with the same three methods: `update` after a backward pass, `scores` when masks are chosen,
`keep` when units are physically removed. models/units.py defines the units, masks.py chooses among them.

An accelerator waits for launches, a CPU for memory. So an accelerator takes all weights in one operation. A CPU takes
a few rows at a time, so their importances stay in the cache.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from ..models.chunks import row_slices
from ..models.units import Group, Indices, UnitMap, UnitTensors, sums_along

Parameters = Mapping[str, torch.Tensor]
Groups = Mapping[str, Group]
Pairs = Mapping[str, tuple[torch.Tensor, torch.Tensor]]
Dims = Mapping[str, set[int]]
Importance = Callable[[list[torch.Tensor], list[torch.Tensor]], list[torch.Tensor]]
_LEAST_MEAN = 1e-30
CPU_CHUNK_ELEMENTS = 1 << 18
"""Weights of a matrix that are scored at a time on a CPU."""


class SensitivityScores:
    """Smoothed first-order sensitivity, the paper's metric.

    S_j = |θ_j · ∂L/∂θ_j|, a unit's score is the sum of S_j over all its slices (HomoDistil, section 3: the column's
    l1 norm, extended over coupled matrices), as a multiple of the mean of its group S̄, smoothed by
    Ī ← β1·Ī + (1 − β1)·S/S̄. The paper smooths S itself. But once units are missing, the loss and its gradients are a
    thousand times as large as on the intact teacher, so a single step would outweigh all scores before it.

    Args:
        groups: the student's groups.
        sensitivity_smoothing: β1 in [0, 1).
    """

    needs_gradients = True

    def __init__(self, groups: Groups, *, sensitivity_smoothing: float = 0.999):
        self.sensitivity_smoothing = sensitivity_smoothing
        self.state: UnitTensors = {name: torch.zeros(group.num_units) for name, group in groups.items()}

    def update(
        self, parameters: Parameters, groups: Groups, *, gradient_scale: float = 1.0, smoothing: float | None = None
    ) -> None:
        """Take in the gradients of one optimizer step.

        Args:
            parameters: name → parameter with `.grad` complete, averaged over ranks and not clipped. Parameters without
                a gradient count as 0.
            groups: the student's groups.
            gradient_scale: a gradient scaler's factor; the gradients are divided by it.
            smoothing: in place of β1; n / (n + 1) after n updates gives their mean.
        """
        sums = sensitivities(parameters, groups)
        # Sums over a unit's slices are linear in gradients, so the scale is divided out of them, not of all weights.
        now = list(torch._foreach_div([sums[name] for name in self.state], gradient_scale))
        before = [values.to(new.device) for values, new in zip(self.state.values(), now, strict=True)]
        # S / S̄, S̄ the mean of the group
        means = torch._foreach_div(torch._foreach_norm(now, 1), [float(values.numel()) for values in now])
        torch._foreach_div_(now, torch._foreach_clamp_min(means, _LEAST_MEAN))
        # Ī ← β1·Ī + (1 − β1)·S/S̄
        share = self.sensitivity_smoothing if smoothing is None else smoothing
        smoothed = torch._foreach_lerp(now, before, share)
        self.state = dict(zip(self.state, smoothed, strict=True))

    def scores(self, parameters: Parameters, groups: Groups) -> UnitTensors:
        """Return the importance of every unit of the student's `groups`, float32, higher = more important."""
        return dict(self.state)

    def keep(self, units: UnitTensors, indices: Indices) -> None:
        """Drop the state of units that compaction removes; the arguments are the result of [`kept_indices`]."""
        for name, kept in units.items():
            self.state[name] = self.state[name].index_select(0, kept.to(self.state[name].device))


class MagnitudeScores(SensitivityScores):
    """The l1 norm Σ|θ_j| of a unit's slices, without updates. The paper: worse than sensitivity."""

    needs_gradients = False

    def scores(self, parameters: Parameters, groups: Groups) -> UnitTensors:
        """Magnitudes of the weights as they are; arguments and return as [`SensitivityScores.scores`]."""
        pairs = {name: (p.detach(), p.detach()) for name, p in parameters.items()}
        return unit_sums(pairs, groups, lambda weights, _: list(torch._foreach_abs(weights)))


METRICS: dict[str, type[SensitivityScores]] = {"sensitivity": SensitivityScores, "magnitude": MagnitudeScores}


def sensitivities(parameters: Parameters, groups: Groups) -> UnitTensors:
    """Sum |θ_j · ∂L/∂θ_j| over every unit's slices, float32: to first order, a bound on the change of the loss.

    Arguments as [`SensitivityScores.update`].
    """
    pairs = {name: (p.detach(), p.grad) for name, p in parameters.items() if p.grad is not None}
    return unit_sums(pairs, groups, _sensitivity)


def unit_sums(
    pairs: Pairs, groups: Groups, importance: Importance, *, chunk_elements: int | None = None
) -> UnitTensors:
    """Sum a per-weight importance over every unit's slices, float32; each parameter is visited once.

    Args:
        pairs: parameter name → two tensors of its shape that its importance is made of; names may be missing.
        groups: the student's groups.
        importance: lists of the first and of the second tensors → list of importances, each of its weight's shape.
        chunk_elements: weights of one parameter at a time; 0: all weights of all parameters at once. Default: 0 on an
            accelerator, `CPU_CHUNK_ELEMENTS` on a CPU.
    """
    # A parameter may be divided along both dimensions, and by several groups along one: sum once for each dimension,
    # then let every group gather the sums of its slices.
    dims: dict[str, set[int]] = {}
    for group in groups.values():
        for piece in group.slices:
            dims.setdefault(piece.parameter, set()).add(piece.dim)
    named = {name: pairs[name] for name in dims if name in pairs}
    if chunk_elements is None:
        is_on_cpu = all(first.device.type == "cpu" for first, _ in named.values())
        chunk_elements = CPU_CHUNK_ELEMENTS if is_on_cpu else 0
    if chunk_elements:
        sums = _sums_in_chunks(named, dims, importance, chunk_elements)
    else:
        sums = _sums_at_once(named, dims, importance)
    return _sums_of_units(groups, sums)


def _sums_in_chunks(
    pairs: Pairs, dims: Dims, importance: Importance, chunk_elements: int
) -> dict[tuple[str, int], torch.Tensor]:
    """Sum importances along each dimension, a few rows of one parameter at a time."""
    by_chunk: dict[tuple[str, int], list[torch.Tensor]] = {}
    for name, pair in pairs.items():
        for rows in row_slices(pair[0], chunk_elements):
            (value,) = importance([pair[0][rows]], [pair[1][rows]])
            for dim in dims[name]:
                by_chunk.setdefault((name, dim), []).append(sums_along(value, dim))
    # Rows follow each other along dimension 0; along the others every chunk has a share.
    return {
        (name, dim): chunks[0] if len(chunks) == 1 else torch.cat(chunks) if dim == 0 else torch.stack(chunks).sum(0)
        for (name, dim), chunks in by_chunk.items()
    }


def _sums_at_once(pairs: Pairs, dims: Dims, importance: Importance) -> dict[tuple[str, int], torch.Tensor]:
    """The same of all parameters at once: those of one shape, as in all layers, are summed by one operation."""
    firsts, seconds = (list(side) for side in zip(*pairs.values(), strict=True)) if pairs else ([], [])
    alike: dict[Any, dict[str, torch.Tensor]] = {}
    for name, value in zip(pairs, importance(firsts, seconds), strict=True):
        alike.setdefault((value.shape, tuple(sorted(dims[name]))), {})[name] = value
    sums: dict[tuple[str, int], torch.Tensor] = {}
    for (_, of_shape), values in alike.items():
        # (parameters, …) → (parameters, indices of the dimension)
        stacked = torch.stack(list(values.values()))
        for dim in of_shape:
            others = [other for other in range(1, stacked.dim()) if other != dim + 1]
            rows = stacked.sum(others, dtype=torch.float32) if others else stacked.float()
            sums |= {(name, dim): row for name, row in zip(values, rows.unbind(), strict=True)}
    return sums


def _sums_of_units(groups: Groups, sums: Mapping[tuple[str, int], torch.Tensor]) -> UnitTensors:
    """Add up what lies in all slices of each group; groups of like slices, as in all layers, are added up together."""
    device = next((of_dim.device for of_dim in sums.values()), None)
    # number of units, and map from index to unit → how many slices have it
    alike: dict[Any, dict[str, dict[UnitMap | None, list[torch.Tensor]]]] = {}
    for name, group in groups.items():
        by_map: dict[UnitMap | None, list[torch.Tensor]] = {}
        for piece in group.slices:
            if (piece.parameter, piece.dim) in sums:
                by_map.setdefault(piece.units, []).append(sums[piece.parameter, piece.dim])
        shape = tuple((units, len(rows)) for units, rows in by_map.items())
        alike.setdefault((group.num_units, shape), {})[name] = by_map
    found: UnitTensors = {}
    for (num_units, shape), members in alike.items():
        total = torch.zeros(len(members), num_units, device=device)
        for units, num_slices in shape:
            # (groups · slices, indices) → (groups, slices, units, indices of a unit) → (groups, units)
            rows = torch.stack([row for by_map in members.values() for row in by_map[units]])
            by_unit = rows[:, :, None] if units is None else units.by_unit(rows, num_units)
            total += by_unit.view(len(members), num_slices, num_units, -1).sum((1, 3))
        found |= dict(zip(members, total.unbind(), strict=True))
    return {name: found[name] for name in groups}


def _sensitivity(weights: list[torch.Tensor], gradients: list[torch.Tensor]) -> list[torch.Tensor]:
    products = list(torch._foreach_mul(weights, gradients))
    torch._foreach_abs_(products)
    return products
