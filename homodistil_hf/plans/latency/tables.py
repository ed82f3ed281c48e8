"""A latency table: milliseconds of an encoder's parts on one machine, by their widths; and their sum for a plan.

The table is interpolated between measured widths and flat beyond them. parts.py measures and keeps it; budgets.py
searches for the plan that meets a budget.
"""

import dataclasses
import functools
from collections import Counter
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np

from ...models.widths import LayerWidths, WidthPlan

AXES = {
    "embeddings": ("hidden_size",),
    "attention": ("hidden_size", "num_attention_heads", "head_dim"),
    "ffn": ("hidden_size", "intermediate_size"),
}
"""Parts of an encoder, each with its residual connection and LayerNorm, and the widths that its cost depends on."""

Grid: TypeAlias = Mapping[str, list[int]]
"""Width → its measured values, increasing."""

_SHARES = {
    "hidden_size": (8, 4, 2, 1),
    "num_attention_heads": (2, 1),
    "head_dim": (4, 2, 1),
    "intermediate_size": (8, 4, 2, 1),
}


def grid_below(teacher: WidthPlan) -> Grid:
    """Return the grid for students of a teacher: halves, quarters and eighths of its widths.

    Example:
    ```python
    >>> grid = grid_below(WidthPlan.uniform(768, 12, LayerWidths(12, 64, 3072)))
    >>> grid["hidden_size"], grid["num_attention_heads"], grid["head_dim"], grid["intermediate_size"]
    ([96, 192, 384, 768], [6, 12], [16, 32, 64], [384, 768, 1536, 3072])

    ```
    """
    full = {"hidden_size": teacher.hidden_size, **dataclasses.asdict(teacher.widest)}
    return {name: sorted({max(1, full[name] // share) for share in shares}) for name, shares in _SHARES.items()}


@dataclasses.dataclass(frozen=True)
class LatencyTable:
    """Milliseconds of the parts of an encoder.

    Args:
        grid: the widths that were measured.
        milliseconds: part → array with one axis a width, in the order of `AXES`.
    """

    grid: Grid
    milliseconds: Mapping[str, np.ndarray]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "LatencyTable":
        """Read the result of `to_dict`."""
        return cls(values["grid"], {part: np.array(values["milliseconds"][part]) for part in AXES})

    def to_dict(self) -> dict[str, Any]:
        """The table as JSON values: `grid` and `milliseconds`."""
        arrays = {part: array.tolist() for part, array in self.milliseconds.items()}
        return {"grid": self.grid, "milliseconds": arrays}

    def latency_ms(self, plan: WidthPlan) -> float:
        """Predict a forward pass of embeddings and encoder; widths outside the grid count like the nearest inside."""
        layers = Counter(plan.layers)
        encoder_ms = sum(count * self._layer_ms(plan.hidden_size, layer) for layer, count in layers.items())
        return self._part_ms("embeddings", plan.hidden_size) + encoder_ms

    def _layer_ms(self, hidden_size: int, layer: LayerWidths) -> float:
        attention_ms = self._part_ms("attention", hidden_size, layer.num_attention_heads, layer.head_dim)
        return attention_ms + self._part_ms("ffn", hidden_size, layer.intermediate_size)

    def _part_ms(self, part: str, *widths: int) -> float:
        values = self.milliseconds[part]
        for name, width in zip(AXES[part], widths, strict=True):
            values = np.apply_along_axis(functools.partial(np.interp, width, self.grid[name]), 0, values)
        return float(values)
