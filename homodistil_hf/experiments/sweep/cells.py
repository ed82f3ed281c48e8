"""The cells of a sweep: which runs there are, and how they are called. Whether they can work: `checks.py`."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from ...files.messages import nearest_name

TEACHER = "teacher"
"""Method and variant of the cell in which a sweep's evaluations are made of the teacher itself."""

METRICS = {"kl": False, "mlm_loss": False, "mlm_accuracy": True}
"""Held-out metric → whether more is better."""

_UNSAFE = re.compile(r"[^\w.+=-]+")


@dataclass(frozen=True)
class Cell:
    """One run of a sweep.

    Args:
        variant: its name in the file.
        axes: axis → this cell's value there.
        method: name of the method that trains it.
        settings: of `homodistil distill` with that method, without those that the sweep gives.
    """

    variant: str
    axes: Mapping[str, Any]
    method: str
    settings: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Unique in its sweep, and a file's name: variant and axes."""
        return ",".join([self.variant, *(_axis_label(axis, value) for axis, value in self.axes.items())])

    @property
    def digest(self) -> str:
        """Of all that decides what is trained."""
        text = json.dumps([self.method, self.settings], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def value(self, name: str) -> Any:
        """What a cell has under a name: `method`, `variant`, an axis or a setting; None where it is not set.

        Of an axis of objects it is the first value of the object.
        """
        if name in ("method", "variant"):
            return getattr(self, name)
        value = self.axes.get(name, self.settings.get(name))
        return next(iter(value.values())) if isinstance(value, dict) and name in self.axes else value


@dataclass(frozen=True)
class Choice:
    """The best value of an axis is searched for, apart in each group of cells.

    Args:
        axis: whose values compete, a learning rate for instance.
        metric: one of `METRICS`; the mean over a group's other axes counts.
        within: names whose values make the groups, see [`Cell.value`].
    """

    axis: str
    metric: str
    within: tuple[str, ...]


@dataclass(frozen=True)
class Sweep:
    """What a sweep's file says.

    Args:
        name: of the file, without its suffix.
        description: for the head of the table.
        output_dir: where the cells go.
        cells: in the order in which they are run: the first of every variant, the second of every variant, …
        choose: a search, or None.
        evaluate: further evaluations of every finished student: name → its settings.
    """

    name: str
    description: str
    output_dir: str
    cells: tuple[Cell, ...]
    choose: Choice | None = None
    evaluate: Mapping[str, Any] = field(default_factory=dict)


def select_cells(cells: Sequence[Cell], patterns: Iterable[str]) -> list[Cell]:
    """Pick cells by names of cells or variants, or patterns with `*` and `?`; none for all; in the sweep's order.

    Raises:
        ValueError: a pattern that no cell matches.

    Example:
    ```python
    >>> cells = [Cell(variant, {"seed": seed}, "homodistil", {}) for variant in ("a", "b") for seed in (0, 1)]
    >>> [cell.name for cell in select_cells(cells, ["a", "*,seed=1"])]
    ['a,seed=0', 'a,seed=1', 'b,seed=1']

    ```
    """
    patterns = list(patterns)
    for pattern in patterns:
        if not any(_matches(cell, pattern) for cell in cells):
            names = [name for cell in cells for name in (cell.variant, cell.name)]
            raise ValueError(f"only={pattern!r} matches no cell; nearest valid: {nearest_name(pattern, names)!r}")
    return [cell for cell in cells if not patterns or any(_matches(cell, pattern) for pattern in patterns)]


def _matches(cell: Cell, pattern: str) -> bool:
    return pattern in (cell.variant, cell.name) or fnmatchcase(cell.name, pattern)


def _axis_label(axis: str, value: Any) -> str:
    if isinstance(value, dict) and value and not isinstance(next(iter(value.values())), dict | list):
        axis, value = next(iter(value.items()))
    text = value if isinstance(value, str) else json.dumps(value)
    return _UNSAFE.sub("_", f"{axis}={text}".replace("macs=", ""))
