"""Scores: how much the loss would miss each unit.

One class a metric, all with the same three methods: `update` after a backward pass, `scores` when masks are chosen,
`keep` when units are physically removed. What belongs to a unit and who survives isn't here.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from ..models.chunks import row_slices
from ..models.units import Group, Slice, UnitTensors, sums_along, units_of

Parameters = Mapping[str, torch.Tensor]
Groups = Mapping[str, Group]
Kept = Mapping[str, Mapping[int, torch.Tensor]]
Importance = Callable[[torch.Tensor, slice], torch.Tensor | None]
CPU_CHUNK_ELEMENTS = 1 << 18
"""Weights of a matrix that are scored at a time on a CPU."""


class SensitivityScores:
    """Smoothed first-order sensitivity, the paper's metric.

    S_j = |θ_j · ∂L/∂θ_j|, a unit's score is the sum of S_j over all its slices (HomoDistil, section 3: the column's
    l1 norm, extended over coupled matrices), smoothed by Ī ← β1·Ī + (1 − β1)·S.

    Args:
        groups: the student's groups.
        sensitivity_smoothing: β1 in [0, 1).
        uncertainty_smoothing: unused here; PLATON's β2.
    """

    def __init__(self, groups: Groups, *, sensitivity_smoothing: float = 0.85, uncertainty_smoothing: float = 0.95):
        self.sensitivity_smoothing = sensitivity_smoothing
        self.uncertainty_smoothing = uncertainty_smoothing
        self.state: UnitTensors = {name: torch.zeros(group.num_units) for name, group in groups.items()}

    def update(self, parameters: Parameters, groups: Groups, *, gradient_scale: float = 1.0) -> None:
        """Take in the gradients of one optimizer step.

        Args:
            parameters: name → parameter with `.grad` complete, averaged over ranks and not clipped. Parameters without
                a gradient count as 0.
            groups: the student's groups.
            gradient_scale: what a gradient scaler multiplied the gradients by; divided out again.
        """
        for name, values in unit_sums(parameters, groups, _sensitivity).items():
            before = self.state[name].to(values.device)
            self.state[name] = torch.lerp(values / gradient_scale, before, self.sensitivity_smoothing)

    def scores(self, parameters: Parameters, groups: Groups) -> UnitTensors:
        """The importance of every unit.

        Args:
            parameters: name → parameter.
            groups: the student's groups.

        Returns:
            `dict[str, torch.Tensor]`: float32, one a unit, higher = more important.
        """
        return dict(self.state)

    def keep(self, masks: UnitTensors, kept: Kept) -> None:
        """Drop the state of units that compaction removes.

        Args:
            masks: one bool a unit, for every group.
            kept: parameter → dimension → bool, as [`~models.units.kept_indices`] gives them.
        """
        self.state = {name: values[masks[name].to(values.device)] for name, values in self.state.items()}

    def parameter_averages(self) -> list[dict[str, torch.Tensor]]:
        """Averages that are kept for every weight, so that those of dropped weights can be zeroed like the weights.

        Returns:
            `list` of name → tensor of the parameter's shape; empty for metrics that keep one number a unit.
        """
        return []


class MovementScores(SensitivityScores):
    """Accumulated movement −Σ_t θ_j·∂L/∂θ_j: high for weights that grow away from zero.

    Kept for the ablation; the paper reports that HomoDistil diverges with it.
    """

    def update(self, parameters: Parameters, groups: Groups, *, gradient_scale: float = 1.0) -> None:
        """Add the movement of one optimizer step; arguments as [`SensitivityScores.update`]."""
        for name, values in unit_sums(parameters, groups, _movement).items():
            self.state[name] = self.state[name].to(values.device) + values / gradient_scale


class MagnitudeScores(SensitivityScores):
    """The l1 norm Σ|θ_j| of a unit's slices; needs no gradient. The paper: worse than sensitivity."""

    def update(self, parameters: Parameters, groups: Groups, *, gradient_scale: float = 1.0) -> None:
        """Nothing to take in: magnitudes are read when scores are asked for."""

    def scores(self, parameters: Parameters, groups: Groups) -> UnitTensors:
        """Current magnitudes; arguments and return as [`SensitivityScores.scores`]."""
        return unit_sums(parameters, groups, _magnitude)


class PlatonScores(SensitivityScores):
    """PLATON: smoothed sensitivity × smoothed uncertainty, kept for every parameter (Zhang et al. 2022, eq. 6–9).

    Ī ← β1·Ī + (1 − β1)·S,   Ū ← β2·Ū + (1 − β2)·|S − Ī|,   score of a weight Ī·Ū, of a unit the sum over its slices.
    The uncertainty is taken against the updated Ī.
    """

    def __init__(self, groups: Groups, *, sensitivity_smoothing: float = 0.85, uncertainty_smoothing: float = 0.95):
        super().__init__(
            groups, sensitivity_smoothing=sensitivity_smoothing, uncertainty_smoothing=uncertainty_smoothing
        )
        self.state = {}

    def update(self, parameters: Parameters, groups: Groups, *, gradient_scale: float = 1.0) -> None:
        """Take in one step for every parameter that has a unit; arguments as [`SensitivityScores.update`]."""
        for name in {piece.parameter for group in groups.values() for piece in group.slices}:
            self._take_in(name, parameters[name], gradient_scale)

    def _take_in(self, name: str, parameter: torch.Tensor, gradient_scale: float) -> None:
        if parameter.grad is None:
            return
        mean, uncertainty = (self._average(f"{kind}.{name}", parameter) for kind in ("sensitivity", "uncertainty"))
        # In place, as these are as large as the student itself.
        for rows in row_slices(parameter, CPU_CHUNK_ELEMENTS):
            sensitivity = _product(parameter, rows).abs_().div_(gradient_scale)
            mean[rows].lerp_(sensitivity, 1 - self.sensitivity_smoothing)
            uncertainty[rows].lerp_(sensitivity.sub_(mean[rows]).abs_(), 1 - self.uncertainty_smoothing)

    def _average(self, key: str, parameter: torch.Tensor) -> torch.Tensor:
        if key not in self.state:
            self.state[key] = torch.zeros_like(parameter, dtype=torch.float32, requires_grad=False)
        return self.state[key]

    def scores(self, parameters: Parameters, groups: Groups) -> UnitTensors:
        """Ī·Ū summed over each unit's slices; arguments and return as [`SensitivityScores.scores`]."""
        products = {
            name: self.state[f"sensitivity.{name}"] * self.state[f"uncertainty.{name}"]
            for name in parameters
            if f"sensitivity.{name}" in self.state
        }
        return unit_sums(products, groups, _as_it_is)

    def keep(self, masks: UnitTensors, kept: Kept) -> None:
        """Slice every parameter's averages; arguments as [`SensitivityScores.keep`]."""
        for key, values in self.state.items():
            for dim, mask in kept.get(key.partition(".")[2], {}).items():
                values = values.index_select(dim, mask.to(values.device).nonzero().flatten())
            self.state[key] = values

    def parameter_averages(self) -> list[dict[str, torch.Tensor]]:
        """Ī and Ū; return as [`SensitivityScores.parameter_averages`]."""
        prefixes = ("sensitivity.", "uncertainty.")
        return [{k.removeprefix(p): values for k, values in self.state.items() if k.startswith(p)} for p in prefixes]


METRICS: dict[str, type[SensitivityScores]] = {
    "sensitivity": SensitivityScores,
    "platon": PlatonScores,
    "magnitude": MagnitudeScores,
    "movement": MovementScores,
}


def unit_sums(parameters: Parameters, groups: Groups, importance: Importance) -> UnitTensors:
    """Sum a per-weight importance over every unit's slices; each parameter is visited once.

    Args:
        parameters: name → parameter (or a tensor of its shape).
        groups: the student's groups.
        importance: parameter and rows → tensor of those rows' shape, float32, or None where there is nothing to count.

    Returns:
        `dict[str, torch.Tensor]`: float32, one a unit, for every group.
    """
    places: dict[str, list[tuple[str, Slice]]] = {}
    for name, group in groups.items():
        for piece in group.slices:
            places.setdefault(piece.parameter, []).append((name, piece))
    device = next((tensor.device for tensor in parameters.values()), None)
    sums = {name: torch.zeros(group.num_units, device=device) for name, group in groups.items()}
    for parameter_name, pieces in places.items():
        if parameter_name not in parameters:
            continue
        by_dim = _sums_by_dim(parameters[parameter_name], {piece.dim for _, piece in pieces}, importance)
        for name, piece in pieces:
            if piece.dim in by_dim:
                sums[name] += units_of(by_dim[piece.dim], piece)
    return sums


def _sums_by_dim(parameter: torch.Tensor, dims: set[int], importance: Importance) -> dict[int, torch.Tensor]:
    """Dimension → sum of the importance over all others; empty where there is nothing to count."""
    parts: dict[int, list[torch.Tensor]] = {dim: [] for dim in dims}
    for rows in row_slices(parameter, CPU_CHUNK_ELEMENTS):
        values = importance(parameter, rows)
        if values is None:
            return {}
        for dim, sums in parts.items():
            sums.append(sums_along(values, dim))
    # Rows follow each other along dimension 0; along the others every chunk has a share.
    return {dim: torch.cat(sums) if dim == 0 else torch.stack(sums).sum(0) for dim, sums in parts.items()}


def _sensitivity(parameter: torch.Tensor, rows: slice) -> torch.Tensor | None:
    return None if parameter.grad is None else _product(parameter, rows).abs_()


def _movement(parameter: torch.Tensor, rows: slice) -> torch.Tensor | None:
    return None if parameter.grad is None else _product(parameter, rows).neg_()


def _magnitude(parameter: torch.Tensor, rows: slice) -> torch.Tensor:
    return parameter.detach()[rows].abs()


def _as_it_is(values: torch.Tensor, rows: slice) -> torch.Tensor:
    return values[rows]


def _product(parameter: torch.Tensor, rows: slice) -> torch.Tensor:
    gradient: Any = parameter.grad
    return (parameter.detach()[rows] * gradient[rows]).float()
