"""A latency table: what the parts of an encoder take on one machine, by their widths; and what a plan takes in sum.

Between the widths that were measured the table is interpolated, beyond them it is flat. How it is measured and kept,
and the search for the plan that meets a budget, isn't here.
"""

import dataclasses
import functools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...models.widths import LayerWidths, WidthPlan

AXES = {
    "embeddings": ("hidden_size",),
    "attention": ("hidden_size", "num_attention_heads", "head_dim"),
    "ffn": ("hidden_size", "intermediate_size"),
}
"""Parts of an encoder, each with its residual connection and LayerNorm, and the widths that its cost depends on."""

_SHARES = {
    "hidden_size": (8, 4, 2, 1),
    "num_attention_heads": (2, 1),
    "head_dim": (4, 2, 1),
    "intermediate_size": (8, 4, 2, 1),
}


@dataclass(frozen=True)
class PartsGrid:
    """The widths at which parts are measured.

    Args:
        hidden_size: increasing.
        num_attention_heads: increasing.
        head_dim: increasing.
        intermediate_size: increasing.
    """

    hidden_size: tuple[int, ...]
    num_attention_heads: tuple[int, ...]
    head_dim: tuple[int, ...]
    intermediate_size: tuple[int, ...]

    @classmethod
    def below(cls, teacher: WidthPlan) -> "PartsGrid":
        """The grid for students of a teacher: halves, quarters and eighths of its widths.

        Args:
            teacher: its widths.

        Returns:
            [`PartsGrid`].

        Example:
        ```python
        >>> PartsGrid.below(WidthPlan.uniform(768, 12, LayerWidths(12, 64, 3072)))
        PartsGrid(hidden_size=(96, 192, 384, 768), num_attention_heads=(6, 12), head_dim=(16, 32, 64), \
intermediate_size=(384, 768, 1536, 3072))

        ```
        """
        layer = teacher.widest
        full = {"hidden_size": teacher.hidden_size, **dataclasses.asdict(layer)}
        return cls(
            **{
                name: tuple(sorted({max(1, full[name] // share) for share in shares}))
                for name, shares in _SHARES.items()
            }
        )

    def axes(self, part: str) -> tuple[tuple[int, ...], ...]:
        """The widths along each axis of one part.

        Args:
            part: a name of `AXES`.

        Returns:
            `tuple`, one entry an axis.
        """
        return tuple(getattr(self, name) for name in AXES[part])


@dataclass(frozen=True)
class LatencyTable:
    """Milliseconds of the parts of an encoder.

    Args:
        grid: the widths that were measured.
        milliseconds: part → array with one axis a width, in the order of `AXES`.
    """

    grid: PartsGrid
    milliseconds: Mapping[str, np.ndarray]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "LatencyTable":
        """Read what `to_dict` gave.

        Args:
            values: `grid` and `milliseconds`.

        Returns:
            [`LatencyTable`].
        """
        grid = PartsGrid(**{name: tuple(widths) for name, widths in values["grid"].items()})
        return cls(grid, {part: np.array(values["milliseconds"][part]) for part in AXES})

    def to_dict(self) -> dict[str, Any]:
        """The table as JSON values.

        Returns:
            `dict`: `grid` and `milliseconds`.
        """
        arrays = {part: array.tolist() for part, array in self.milliseconds.items()}
        return {"grid": dataclasses.asdict(self.grid), "milliseconds": arrays}

    def latency_ms(self, plan: WidthPlan) -> float:
        """Predict a forward pass of embeddings and encoder.

        Args:
            plan: widths; those outside the grid count like the nearest inside.

        Returns:
            `float`: milliseconds.
        """
        layers = Counter(plan.layers)
        encoder_ms = sum(count * self._layer_ms(plan.hidden_size, layer) for layer, count in layers.items())
        return self._part_ms("embeddings", plan.hidden_size) + encoder_ms

    def _layer_ms(self, hidden_size: int, layer: LayerWidths) -> float:
        attention_ms = self._part_ms("attention", hidden_size, layer.num_attention_heads, layer.head_dim)
        return attention_ms + self._part_ms("ffn", hidden_size, layer.intermediate_size)

    def _part_ms(self, part: str, *widths: int) -> float:
        values = self.milliseconds[part]
        for width, axis in zip(widths, self.grid.axes(part), strict=True):
            values = np.apply_along_axis(functools.partial(np.interp, width, axis), 0, values)
        return float(values)
