"""Fields of settings: default, help and limits beside each other, and one check of all limits."""

import math
from collections.abc import Mapping
from dataclasses import field, fields
from typing import Any

from .messages import nearest_name, short_repr
from .strict_json import is_int, is_number


def setting(default: Any, help: str, **limits: Any) -> Any:
    """A field of a dataclass of settings.

    Args:
        default: None: the value may stay unset.
        help: one line with unit, range and effect.
        limits: `least` (and `most`) of a whole number; `range` of a number, such as `"[0, 1)"`; `choices`, a tuple;
            `text`, what a string that isn't empty names. Of a tuple they hold for each entry.
    """
    return field(default=default, metadata={"help": help, **limits})


def check_fields(settings: Any) -> None:
    """Check every field against its limits, as [`setting`] documents them.

    Raises:
        ValueError: a value is beyond its limits; the message has name, value and what is expected.
    """
    for entry in fields(settings):
        given = getattr(settings, entry.name)
        for value in given if isinstance(given, tuple) else (given,):
            is_unset = value is None and entry.default is None
            if not is_unset and (problem := _problem(value, entry.metadata)):
                raise ValueError(f"{entry.name}={short_repr(value)} {problem}")


def _problem(value: Any, limits: Mapping[str, Any]) -> str | None:
    if choices := limits.get("choices"):
        return None if value in choices else f"is unknown; nearest valid: {nearest_name(value, choices)!r}"
    is_right, expected = True, ""
    if "least" in limits:
        least, most = limits["least"], limits.get("most", math.inf)
        is_right = is_int(value) and least <= value <= most
        expected = f"a whole number, {least} or more" if most == math.inf else f"a whole number, {least} … {most}"
    elif "range" in limits:
        is_right, expected = _is_inside(value, limits["range"]), f"a number in {limits['range']}"
        expected = {"(0, inf)": "a number above 0", "[0, inf)": "a number, 0 or more"}.get(limits["range"], expected)
    elif "text" in limits:
        is_right, expected = isinstance(value, str) and value != "", f"{limits['text']}; set it"
    return None if is_right else f"is out of range; expected {expected}"


def _is_inside(value: Any, interval: str) -> bool:
    """Whether a value is a finite number in an interval such as `"(0, 1]"`."""
    low, high = map(float, interval[1:-1].split(","))
    if not is_number(value) or not math.isfinite(value):
        return False
    return (value > low or (value == low and interval[0] == "[")) and (
        value < high or (value == high and interval[-1] == "]")
    )
