"""The cells of a sweep: the runs that its JSON file asks for, and their names. `training.py` checks them.

A file holds `base` (settings of `homodistil distill`), `cells` by name (a `method`, by default that of `homodistil
distill`, and settings that differ from the base) and `grid` (axes that multiply the cells). Nothing here knows models
or trainers.
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

from homodistil_hf.files.messages import nearest_valid, short_repr
from homodistil_hf.files.strict_json import read_json_object
from homodistil_hf.runs.settings import RunArguments

TEACHER = "teacher"
"""Method and variant of the cell in which a sweep's evaluations are made of the teacher itself."""

METRICS = {"kl": False, "mlm_loss": False, "mlm_accuracy": True}
"""Held-out metric → whether more is better."""

_UNSAFE = re.compile(r"[^\w.+=-]+")

SWEEP_KEYS = ("description", "output_dir", "base", "grid", "cells", "choose", "evaluate")
SETTINGS_OF_THE_SWEEP = ("output_dir", "overwrite_output_dir", "resume_from_checkpoint")
"""Settings of a run that a sweep gives to each cell itself."""

_VARIANT_KEYS = ("method", "grid")
_CHOICE_KEYS = ("axis", "metric", "within")
_VARIANT_NAME = re.compile(r"[A-Za-z0-9][\w.+-]*")
_RESERVED_NAMES = (TEACHER, "results", "locks", "logs")
_LONGEST_NAME = 150  # of a file, with room for suffixes


@dataclass(frozen=True)
class Cell:
    """One run of a sweep.

    Args:
        variant: its name in the file.
        axes: axis → this cell's value there.
        method: name of the method that trains it.
        settings: settings of `homodistil distill` with this method, without the settings that the sweep gives.
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
    """The content of a sweep's file.

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
            raise ValueError(f"only={pattern!r} matches no cell; {nearest_valid(pattern, names)}")
    return [cell for cell in cells if not patterns or any(_matches(cell, pattern) for pattern in patterns)]


def _matches(cell: Cell, pattern: str) -> bool:
    return pattern in (cell.variant, cell.name) or fnmatchcase(cell.name, pattern)


def _axis_label(axis: str, value: Any) -> str:
    if isinstance(value, dict) and value and not isinstance(next(iter(value.values())), dict | list):
        axis, value = next(iter(value.items()))
    text = value if isinstance(value, str) else json.dumps(value)
    return _UNSAFE.sub("_", f"{axis}={text}".replace("macs=", ""))


def read_sweep(path: str | Path, setting_names: Collection[str]) -> Sweep:
    """Read a sweep and lay out its cells.

    Args:
        path: JSON file.
        setting_names: of `homodistil distill`.

    Raises:
        ValueError: an unknown key or axis, a value of a wrong kind, two cells of one name.
        OSError: the file can't be read.
    """
    label = f"sweep={str(path)!r}"
    content = read_json_object(path, label)
    _check_keys(content, SWEEP_KEYS, label)
    base, grid = (_object(content, name, label) for name in ("base", "grid"))
    variants = _object(content, "cells", label)
    if not variants:
        raise ValueError(f'{label} has no cells; expected them by name: {{"mine": {{"method": "homodistil"}}}}')
    _check_settings(base, setting_names, f"{label}: base")
    frame = _Frame(base, grid, setting_names, label)
    by_variant = [_cells_of(name, content, frame) for name, content in variants.items()]
    # column by column: the first cell of every variant, then the second of every variant
    cells = tuple(cell for row in itertools.zip_longest(*by_variant) for cell in row if cell is not None)
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


def _teacher_cells(cells: Sequence[Cell]) -> list[Cell]:
    names = dict.fromkeys(cell.settings.get(TEACHER) for cell in cells)
    # a single teacher needs no axis
    axes: list[dict[str, Any]] = [{}] if len(names) == 1 else [{TEACHER: name} for name in names]
    return [Cell(TEACHER, axis, TEACHER, {TEACHER: name}) for name, axis in zip(names, axes, strict=True)]


@dataclass(frozen=True)
class _Frame:
    """What all variants of a file share."""

    base: Mapping[str, Any]
    grid: Mapping[str, Any]
    setting_names: Collection[str]
    label: str


def _cells_of(variant: str, content: Any, frame: _Frame) -> list[Cell]:
    label = f"{frame.label}: cells[{variant!r}]"
    _check_variant(variant, content, label)
    own = {name: value for name, value in content.items() if name not in _VARIANT_KEYS}
    _check_settings(own, frame.setting_names, label, also=_VARIANT_KEYS)
    axes = {**frame.grid, **_object(content, "grid", label)}
    for axis, values in axes.items():
        _check_axis(axis, values, frame.setting_names, label)
        if clash := sorted(own.keys() & _settings_of_axis(axis, values)):
            raise ValueError(
                f"{label} has {clash[0]}={short_repr(own[clash[0]])}, which the axis {axis!r} sets; drop one"
            )
    cells = []
    for values in itertools.product(*axes.values()):
        place = dict(zip(axes, values, strict=True))
        # later ones win: the base, the variant's own, then the axes
        settings = {**frame.base, **own}
        for axis, value in place.items():
            # an axis that is no setting itself has objects of settings as its values
            entries = dict(value) if isinstance(value, dict) and axis not in frame.setting_names else {axis: value}
            settings |= entries
        cells.append(Cell(variant, place, _method_of(content), settings))
    return cells


def _check_variant(variant: str, content: Any, label: str) -> None:
    if not _VARIANT_NAME.fullmatch(variant) or variant in _RESERVED_NAMES:
        raise ValueError(f"{label} can't be a folder here; expected letters, digits and . _ + -, e.g. 'no_kl'")
    if not isinstance(content, dict):
        raise ValueError(f'{label}={short_repr(content)} is no object; expected such as {{"method": "homodistil"}}')
    if not isinstance(method := _method_of(content), str):
        raise ValueError(
            f"{label} has method={short_repr(method)}; expected the name of a method, e.g. {RunArguments.method!r}"
        )


def _method_of(content: Mapping[str, Any]) -> Any:
    return content.get("method", RunArguments.method)


def _check_axis(axis: str, values: Any, setting_names: Collection[str], label: str) -> None:
    label = f"{label}: grid[{axis!r}]"
    if not isinstance(values, list) or not values:
        raise ValueError(f"{label}={short_repr(values)} has no values; expected a list, e.g. [0, 1, 2]")
    if axis in setting_names:
        _check_settings({axis: values[0]}, setting_names, label)
        return
    if plain := [value for value in values if not isinstance(value, dict) or not value]:
        raise ValueError(
            f"{label} is no setting, and its value {short_repr(plain[0])} is no object of settings; "
            f"{nearest_valid(axis, setting_names)}"
        )
    for value in values:
        _check_settings(value, setting_names, label)


def _settings_of_axis(axis: str, values: Sequence[Any]) -> set[str]:
    return {axis}.union(*(value.keys() for value in values if isinstance(value, dict)))


def _check_settings(
    settings: Mapping[str, Any], valid: Collection[str], label: str, *, also: Collection[str] = ()
) -> None:
    for name, value in settings.items():
        if name in SETTINGS_OF_THE_SWEEP:
            raise ValueError(
                f"{label} has {name}={short_repr(value)}, which the sweep gives to each cell; leave it out"
            )
        if name.endswith("token"):
            raise ValueError(f"{label} has {name}, a secret that records would hold; set HF_TOKEN instead")
    _check_keys(settings, (*valid, *also), label)


def _check_keys(content: Mapping[str, Any], valid: Collection[str], label: str) -> None:
    for name, value in content.items():
        if name not in valid:
            raise ValueError(
                f"{label} has the unknown key {short_repr(name)} (value {short_repr(value)}); "
                f"{nearest_valid(name, valid)}"
            )


def _object(content: Mapping[str, Any], name: str, label: str) -> dict[str, Any]:
    value = content.get(name, {})
    if not isinstance(value, dict):
        raise ValueError(f"{label} has {name}={short_repr(value)}; expected a JSON object")
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
        raise ValueError(f"{label}={short_repr(content)} is no object; expected axis, metric and within")
    _check_keys(content, _CHOICE_KEYS, label)
    axis = content.get("axis")
    metric = str(content.get("metric", "kl")).removeprefix("eval_")
    within = content.get("within", ["variant"])
    axes = {name for cell in cells for name in cell.axes}
    if not isinstance(axis, str) or axis not in axes:
        raise ValueError(f"{label} has axis={short_repr(axis)}; expected one of the grid's: {sorted(axes)}")
    if metric not in METRICS:
        raise ValueError(f"{label} has metric={short_repr(metric)}; expected one of {', '.join(METRICS)}")
    valid = {"method", "variant"} | axes | set(setting_names)
    for name in within if isinstance(within, list) else [within]:
        if not isinstance(name, str) or name not in valid:
            raise ValueError(
                f"{label} has within={short_repr(name)}; expected a list of axes or settings; "
                f"{nearest_valid(name, valid)}"
            )
    return Choice(axis, metric, tuple(within))
