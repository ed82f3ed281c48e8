"""A sweep's JSON file → its cells, before anything is known of models or methods.

A file holds `base` (settings of `homodistil distill`), `cells` by name (a `method` and settings that differ from the
base) and `grid` (axes that multiply the cells).
"""

import itertools
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...files.messages import nearest_name, short_repr
from ...files.strict_json import read_json_object
from .cells import METRICS, TEACHER, Cell, Choice, Sweep

SWEEP_KEYS = ("description", "output_dir", "base", "grid", "cells", "choose", "evaluate")
SETTINGS_OF_THE_SWEEP = ("output_dir", "overwrite_output_dir", "resume_from_checkpoint")
"""Settings of a run that a sweep gives to each cell itself."""

_VARIANT_KEYS = ("method", "grid")
_CHOICE_KEYS = ("axis", "metric", "within")
_VARIANT_NAME = re.compile(r"[A-Za-z0-9][\w.+-]*")
_RESERVED_NAMES = (TEACHER, "results", "locks", "logs")
_LONGEST_NAME = 150  # of a file, with room for suffixes


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
        settings = {**frame.base, **own}
        for axis, value in place.items():
            entries = dict(value) if isinstance(value, dict) and axis not in frame.setting_names else {axis: value}
            settings |= entries
        cells.append(Cell(variant, place, content["method"], settings))
    return cells


def _check_variant(variant: str, content: Any, label: str) -> None:
    if not _VARIANT_NAME.fullmatch(variant) or variant in _RESERVED_NAMES:
        raise ValueError(f"{label} can't be a folder here; expected letters, digits and . _ + -, e.g. 'no_kl'")
    if not isinstance(content, dict):
        raise ValueError(f'{label}={short_repr(content)} is no object; expected such as {{"method": "homodistil"}}')
    if not isinstance(content.get("method"), str):
        raise ValueError(
            f"{label} has method={short_repr(content.get('method'))}; expected the name of a method, e.g. 'homodistil'"
        )


def _check_axis(axis: str, values: Any, setting_names: Collection[str], label: str) -> None:
    label = f"{label}: grid[{axis!r}]"
    if not isinstance(values, list) or not values:
        raise ValueError(f"{label}={short_repr(values)} has no values; expected a list, e.g. [0, 1, 2]")
    if axis in setting_names:
        _check_settings({axis: values[0]}, setting_names, label)
        return
    if plain := [value for value in values if not isinstance(value, dict) or not value]:
        raise ValueError(
            f"{label} is no setting, and its value {short_repr(plain[0])} is no object of settings; nearest valid: "
            f"{nearest_name(axis, setting_names)!r}"
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
                f"nearest valid: {nearest_name(name, valid)!r}"
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
    if axis not in axes:
        raise ValueError(f"{label} has axis={short_repr(axis)}; expected one of the grid's: {sorted(axes)}")
    if metric not in METRICS:
        raise ValueError(f"{label} has metric={short_repr(metric)}; expected one of {', '.join(METRICS)}")
    valid = {"method", "variant"} | axes | set(setting_names)
    for name in within if isinstance(within, list) else [within]:
        if name not in valid:
            raise ValueError(
                f"{label} has within={short_repr(name)}; expected a list of axes or settings; "
                f"nearest valid: {nearest_name(name, valid)!r}"
            )
    return Choice(axis, metric, tuple(within))
