"""Is the pruning state of a checkpoint one that a run has written? Names, types, sizes, before it is used.

Reading the files, and what the values do, is told elsewhere.
"""

import sys
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch

from ..files.messages import shown
from ..models.units import Group
from ..models.widths import WidthPlan
from .guard import NAMES_OF_NONE, STATE_NAMES
from .pruner import PruningSettings
from .scores import METRICS

_FRACTIONS = ("compaction_threshold", "sensitivity_smoothing", "uncertainty_smoothing")
_AVERAGES = ("sensitivity.", "uncertainty.")


def check_pruner_values(state: Mapping[str, Any], label: str) -> None:
    """Check the JSON part of a pruning state.

    Args:
        state: content of the state file.
        label: first words of every message.

    Raises:
        ValueError: a part is missing or of a wrong type.
    """
    pruner = state.get("pruner")
    if not isinstance(pruner, dict) or not isinstance(state.get("trainer"), dict):
        raise ValueError(f"{label} has {shown(sorted(state))}; expected the objects pruner and trainer")
    for name in ("full", "target", "settings"):
        if not isinstance(pruner.get(name), dict):
            raise ValueError(f"{label} has {name}={shown(pruner.get(name))}; expected an object")
    count = pruner.get("num_compactions", -1)
    if not isinstance(pruner.get("plan_reached"), bool) or not _is_whole(count) or count < 0:
        raise ValueError(
            f"{label} has plan_reached={shown(pruner.get('plan_reached'))}, num_compactions={shown(count)}; expected "
            "true or false, and a whole number"
        )
    _check_way(pruner, label)
    _check_guard(pruner.get("guard"), label)
    _check_settings(pruner["settings"], label)


def check_pruner_tensors(
    tensors: Mapping[str, torch.Tensor],
    groups: Mapping[str, Group],
    parameters: Mapping[str, torch.Tensor],
    *,
    full: WidthPlan,
    label: str,
) -> None:
    """Check masks, scores and head numbers.

    Args:
        tensors: `mask.{group}`, `score.{name}` and `heads.{layer}`.
        groups: of the student with the checkpoint's widths.
        parameters: of that student.
        full: the widths that kept fractions refer to.
        label: first words of every message.

    Raises:
        ValueError: a tensor is missing, too many, or of a wrong type, size or content.
    """
    sizes = {name: group.num_units for name, group in groups.items()}
    layers = range(len(full.layers))
    expected = {f"mask.{name}" for name in groups} | {f"heads.{layer}" for layer in layers}
    if missing := sorted(expected - tensors.keys()):
        raise ValueError(f"{label} lacks {shown(missing)}")
    for name, tensor in tensors.items():
        kind, _, rest = name.partition(".")
        shape, dtype = _expected(kind, rest, sizes, parameters)
        if (name not in expected and kind != "score") or tuple(tensor.shape) != shape or tensor.dtype is not dtype:
            raise ValueError(
                f"{label} has {shown(name)} of shape {tuple(tensor.shape)}, {tensor.dtype}; expected masks, scores "
                f"and heads of the student's widths (masks don't fit: {shown(sizes)})"
            )
        if kind == "mask" and not bool(tensor.any()):
            raise ValueError(f"{label} has {shown(name)} that keeps no unit; expected at least one")
    for name in tensors:
        one, other = (f"score.{prefix}" for prefix in _AVERAGES)
        if (name.startswith(one) and name.replace(one, other, 1) not in tensors) or (
            name.startswith(other) and name.replace(other, one, 1) not in tensors
        ):
            raise ValueError(f"{label} has {shown(name)} without its other average; expected both")
    for layer in layers:
        _check_heads(tensors, layer, full.layers[layer].num_attention_heads, label)


def _check_way(pruner: Mapping[str, Any], label: str) -> None:
    waypoints = pruner.get("waypoints")
    if not isinstance(waypoints, list) or not all(isinstance(plan, dict) for plan in waypoints):
        raise ValueError(f"{label} has waypoints={shown(waypoints)}; expected a list of plans")
    for name, most in (("num_waypoints_reached", len(waypoints)), ("rests_until_step", sys.maxsize)):
        count: Any = pruner.get(name)
        if not _is_whole(count) or not 0 <= count <= most:
            raise ValueError(f"{label} has {name}={shown(count)}; expected a whole number of at most {most}")


def _check_guard(guard: Any, label: str) -> None:
    if guard is None:
        return
    if not isinstance(guard, dict):
        raise ValueError(f"{label} has guard={shown(guard)}; expected an object or null")
    if different := sorted(guard.keys() ^ set(STATE_NAMES)):
        raise ValueError(
            f"{label} has guard={shown(guard)}; {shown(different[0])} is unknown or missing, which no run of this "
            "version has written"
        )
    for name, value in guard.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number and not (value is None and name in NAMES_OF_NONE):
            allowed = "a number or null" if name in NAMES_OF_NONE else "a number"
            raise ValueError(f"{label} has guard {name}={shown(value)}; expected {allowed}")


def _check_settings(settings: Mapping[str, Any], label: str) -> None:
    valid = {
        "metric": isinstance(settings.get("metric"), str) and settings["metric"] in METRICS,
        "width_allocation": settings.get("width_allocation") in ("local", "global"),
        "multiple": _is_whole(settings.get("multiple")) and settings["multiple"] >= 1,
        **{name: _is_fraction(settings.get(name)) for name in _FRACTIONS},
    }
    if wrong := [name for name, is_valid in valid.items() if not is_valid]:
        raise ValueError(f"{label} has settings {wrong[0]}={shown(settings.get(wrong[0]))}, which no run has written")
    known = {entry.name for entry in fields(PruningSettings)}
    if different := sorted(settings.keys() ^ known):
        raise ValueError(
            f"{label} has settings {shown(sorted(settings))}; {shown(different[0])} is unknown or missing"
        )


def _expected(
    kind: str, rest: str, sizes: Mapping[str, int], parameters: Mapping[str, torch.Tensor]
) -> tuple[tuple[int, ...], torch.dtype]:
    if kind == "heads":
        return (sizes.get(f"head.{rest}", -1),), torch.int64
    if kind == "mask":
        return (sizes.get(rest, -1),), torch.bool
    prefix, _, parameter = rest.partition(".")
    if f"{prefix}." in _AVERAGES and parameter in parameters:
        return tuple(parameters[parameter].shape), torch.float32
    return (sizes.get(rest, -1),), torch.float32


def _check_heads(tensors: Mapping[str, torch.Tensor], layer: int, num_full: int, label: str) -> None:
    numbers, kept = tensors[f"heads.{layer}"], tensors[f"mask.head.{layer}"]
    rising = bool((numbers.diff() > 0).all())
    if not rising or int(numbers[0]) < 0 or int(numbers[-1]) >= num_full:
        raise ValueError(
            f"{label} has heads.{layer}={shown(numbers.tolist())}; expected rising numbers below {num_full}"
        )
    widths = [
        tensors[f"mask.{kind}.{layer}"].view(len(kept), -1)[kept].sum(1).tolist()
        for kind in ("query_key", "value_output")
    ]
    if len({*widths[0], *widths[1]}) != 1 or widths[0][0] == 0:
        raise ValueError(f"{label} keeps {shown(widths)} channels of the heads in layer {layer}; expected one number")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_fraction(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
