"""A sweep's JSON file → its cells: which runs there are, before anything is known of models or methods.

A file holds `base` (settings of `homodistil distill`), `cells` by name (a `method`, its `method_settings` and settings
that differ from the base) and `grid` (axes that multiply the cells). Whether the settings can work is checked in
`checks.py`, what a cell does in `training.py`.
"""

import hashlib
import itertools
import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ..json_files import read_json_object
from ..widths import nearest_name, shown

SWEEP_KEYS = ("description", "output_dir", "base", "grid", "cells", "choose", "evaluate")
SETTINGS_OF_THE_SWEEP = ("output_dir", "overwrite_output_dir", "resume_from_checkpoint")
"""Settings of a run that a sweep gives to each cell itself."""

METHOD_SETTINGS = "method_settings"
TEACHER = "teacher"
"""Method and arm of the cell in which a sweep's evaluations are made of the teacher itself."""

METRICS = {"kl": False, "mlm_loss": False, "mlm_accuracy": True}
"""Held-out metric → whether more is better."""

_ARM_KEYS = ("method", METHOD_SETTINGS, "grid")
_CHOICE_KEYS = ("axis", "metric", "within")
_ARM_NAME = re.compile(r"[A-Za-z0-9][\w.+-]*")
_RESERVED_NAMES = (TEACHER, "results", "locks", "logs")
_UNSAFE = re.compile(r"[^\w.+=-]+")
_LONGEST_NAME = 150  # of a file, with room for suffixes


@dataclass(frozen=True)
class Cell:
    """One run of a sweep.

    Args:
        arm: its name in the file.
        axes: axis → this cell's value there.
        method: name of the method that trains it.
        settings: of `homodistil distill`, without those that the sweep gives.
        method_settings: arguments of the method's own.
    """

    arm: str
    axes: Mapping[str, Any]
    method: str
    settings: Mapping[str, Any]
    method_settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Unique in its sweep, and a file's name: arm and axes."""
        return ",".join([self.arm, *(_axis_label(axis, value) for axis, value in self.axes.items())])

    @property
    def digest(self) -> str:
        """Of all that decides what is trained."""
        text = json.dumps([self.method, self.method_settings, self.settings], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def value(self, name: str) -> Any:
        """What a cell has under a name: `method`, `arm`, an axis or a setting; None where it is not set.

        Args:
            name: one of those.

        Returns:
            A JSON value; of an axis of objects the first value of the object.
        """
        if name in ("method", "arm"):
            return getattr(self, name)
        value = self.axes.get(name, self.settings.get(name, self.method_settings.get(name)))
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
        cells: in the order in which they are run: the first of every arm, the second of every arm, …
        choose: a search, or None.
        evaluate: further evaluations of every finished student: name → its settings.
    """

    name: str
    description: str
    output_dir: str
    cells: tuple[Cell, ...]
    choose: Choice | None = None
    evaluate: Mapping[str, Any] = field(default_factory=dict)


def read_sweep(path: str | Path, setting_names: Collection[str]) -> Sweep:
    """Read a sweep and lay out its cells.

    Args:
        path: JSON file.
        setting_names: of `homodistil distill`.

    Returns:
        [`Sweep`].

    Raises:
        ValueError: an unknown key or axis, a value of a wrong kind, two cells of one name.
        OSError: the file can't be read.
    """
    label = f"sweep={str(path)!r}"
    content = read_json_object(path, label)
    _check_keys(content, SWEEP_KEYS, label)
    base, grid = (_object(content, name, label) for name in ("base", "grid"))
    arms = _object(content, "cells", label)
    if not arms:
        raise ValueError(f'{label} has no cells; expected them by name: {{"mine": {{"method": "homodistil"}}}}')
    _check_settings(base, setting_names, f"{label}: base")
    by_arm = [_cells_of(name, arms[name], base, grid, (setting_names, label)) for name in arms]
    cells = tuple(cell for row in itertools.zip_longest(*by_arm) for cell in row if cell is not None)
    _refuse_repeats(cells, label)
    evaluate = _object(content, "evaluate", label)
    return Sweep(
        name=Path(path).stem,
        description=str(content.get("description", "")),
        output_dir=str(content.get("output_dir", f"runs/{Path(path).stem}")),
        cells=(*(_teacher_cells(cells) if evaluate else ()), *cells),
        choose=_choice(content.get("choose"), cells, setting_names, label),
        evaluate=evaluate,
    )


def select_cells(cells: Sequence[Cell], patterns: Iterable[str]) -> list[Cell]:
    """Pick cells by name.

    Args:
        cells: of a sweep.
        patterns: names of cells or arms, or patterns of such with `*` and `?`; none for all cells.

    Returns:
        `list`: in the sweep's order.

    Raises:
        ValueError: a pattern that no cell matches.

    Example:
    ```python
    >>> cells = [Cell(arm, {"seed": seed}, "homodistil", {}) for arm in ("a", "b") for seed in (0, 1)]
    >>> [cell.name for cell in select_cells(cells, ["a", "*,seed=1"])]
    ['a,seed=0', 'a,seed=1', 'b,seed=1']

    ```
    """
    patterns = list(patterns)
    for pattern in patterns:
        if not any(_matches(cell, pattern) for cell in cells):
            names = [name for cell in cells for name in (cell.arm, cell.name)]
            raise ValueError(f"only={pattern!r} matches no cell; nearest valid: {nearest_name(pattern, names)!r}")
    return [cell for cell in cells if not patterns or any(_matches(cell, pattern) for pattern in patterns)]


def _teacher_cells(cells: Sequence[Cell]) -> list[Cell]:
    names = dict.fromkeys(cell.settings.get(TEACHER) for cell in cells)
    axes: list[dict[str, Any]] = [{}] if len(names) == 1 else [{TEACHER: name} for name in names]
    return [Cell(TEACHER, axis, TEACHER, {TEACHER: name}) for name, axis in zip(names, axes, strict=True)]


def _matches(cell: Cell, pattern: str) -> bool:
    return pattern in (cell.arm, cell.name) or fnmatchcase(cell.name, pattern)


def _cells_of(
    arm: str, content: Any, base: Mapping[str, Any], grid: Mapping[str, Any], context: tuple[Collection[str], str]
) -> list[Cell]:
    setting_names, label = context
    label = f"{label}: cells[{arm!r}]"
    if not _ARM_NAME.fullmatch(arm) or arm in _RESERVED_NAMES:
        raise ValueError(f"{label} can't be a folder here; expected letters, digits and . _ + -, e.g. 'no_kl'")
    if not isinstance(content, dict):
        raise ValueError(f'{label}={shown(content)} is no object; expected such as {{"method": "homodistil"}}')
    method = content.get("method")
    if not isinstance(method, str):
        raise ValueError(f"{label} has method={shown(method)}; expected the name of a method, e.g. 'homodistil'")
    own = {name: value for name, value in content.items() if name not in _ARM_KEYS}
    _check_settings(own, setting_names, label, also=_ARM_KEYS)
    method_settings = _object(content, METHOD_SETTINGS, label)
    axes = dict(grid) | _object(content, "grid", label)
    for axis, values in axes.items():
        _check_axis(axis, values, setting_names, label)
        if clash := sorted(own.keys() & _settings_of_axis(axis, values)):
            raise ValueError(f"{label} has {clash[0]}={shown(own[clash[0]])}, which the axis {axis!r} sets; drop one")
    cells = []
    for values in itertools.product(*axes.values()):
        settings, of_method = {**base, **own}, dict(method_settings)
        for axis, value in zip(axes, values, strict=True):
            entries = dict(value) if isinstance(value, dict) and axis not in setting_names else {axis: value}
            of_method |= entries.pop(METHOD_SETTINGS, {})
            settings |= entries
        cells.append(Cell(arm, dict(zip(axes, values, strict=True)), method, settings, of_method))
    return cells


def _check_axis(axis: str, values: Any, setting_names: Collection[str], label: str) -> None:
    label = f"{label}: grid[{axis!r}]"
    if not isinstance(values, list) or not values:
        raise ValueError(f"{label}={shown(values)} has no values; expected a list, e.g. [0, 1, 2]")
    if axis in setting_names:
        _check_settings({axis: values[0]}, setting_names, label)
        return
    if plain := [value for value in values if not isinstance(value, dict) or not value]:
        raise ValueError(
            f"{label} is no setting, and its value {shown(plain[0])} is no object of settings; nearest valid: "
            f"{nearest_name(axis, setting_names)!r}"
        )
    for value in values:
        _check_settings(value, setting_names, label, also=(METHOD_SETTINGS,))


def _settings_of_axis(axis: str, values: Sequence[Any]) -> set[str]:
    return {axis}.union(*(value.keys() for value in values if isinstance(value, dict)))


def _check_settings(
    settings: Mapping[str, Any], valid: Collection[str], label: str, *, also: Collection[str] = ()
) -> None:
    for name, value in settings.items():
        if name in SETTINGS_OF_THE_SWEEP:
            raise ValueError(f"{label} has {name}={shown(value)}, which the sweep gives to each cell; leave it out")
        if name.endswith("token"):
            raise ValueError(f"{label} has {name}, a secret that records would hold; set HF_TOKEN instead")
        if name not in valid and name not in also:
            raise ValueError(
                f"{label} has the unknown key {shown(name)} (value {shown(value)}); "
                f"nearest valid: {nearest_name(name, (*valid, *also))!r}"
            )


def _check_keys(content: Mapping[str, Any], valid: Collection[str], label: str) -> None:
    for name, value in content.items():
        if name not in valid:
            raise ValueError(
                f"{label} has the unknown key {shown(name)} (value {shown(value)}); "
                f"nearest valid: {nearest_name(name, valid)!r}"
            )


def _object(content: Mapping[str, Any], name: str, label: str) -> dict[str, Any]:
    value = content.get(name, {})
    if not isinstance(value, dict):
        raise ValueError(f"{label} has {name}={shown(value)}; expected a JSON object")
    return value


def _refuse_repeats(cells: Sequence[Cell], label: str) -> None:
    seen: dict[str, Cell] = {}
    for cell in cells:
        if cell.name in seen:
            raise ValueError(f"{label} has two cells of the name {cell.name!r}; give their axes values that differ")
        if len(cell.name) > _LONGEST_NAME:
            raise ValueError(f"{label} has a cell whose name has {len(cell.name)} letters; use fewer axes")
        seen[cell.name] = cell


def _choice(content: Any, cells: Sequence[Cell], setting_names: Collection[str], label: str) -> Choice | None:
    if content is None:
        return None
    label = f"{label}: choose"
    if not isinstance(content, dict):
        raise ValueError(f"{label}={shown(content)} is no object; expected axis, metric and within")
    _check_keys(content, _CHOICE_KEYS, label)
    axis = content.get("axis")
    metric = str(content.get("metric", "kl")).removeprefix("eval_")
    within = content.get("within", ["arm"])
    axes = {name for cell in cells for name in cell.axes}
    if axis not in axes:
        raise ValueError(f"{label} has axis={shown(axis)}; expected one of the grid's: {sorted(axes)}")
    if metric not in METRICS:
        raise ValueError(f"{label} has metric={shown(metric)}; expected one of {', '.join(METRICS)}")
    valid = {"method", "arm"} | axes | set(setting_names)
    for name in within if isinstance(within, list) else [within]:
        if name not in valid:
            raise ValueError(
                f"{label} has within={shown(name)}; expected a list of axes or settings; "
                f"nearest valid: {nearest_name(name, valid)!r}"
            )
    return Choice(axis, metric, tuple(within))


def _axis_label(axis: str, value: Any) -> str:
    if isinstance(value, dict) and value and not isinstance(next(iter(value.values())), dict | list):
        axis, value = next(iter(value.items()))
    text = value if isinstance(value, str) else json.dumps(value)
    return _UNSAFE.sub("_", f"{axis}={text}".replace("macs=", ""))
