"""Fields of settings, which hold their help and the values that they allow; and the one check of these values."""

import json
import math
import re
import sys
from collections.abc import Collection, Mapping
from dataclasses import MISSING, Field, field, fields
from enum import Enum
from textwrap import wrap
from types import MappingProxyType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from .messages import short_repr
from .strict_json import is_int, is_number

ROW_LENGTH = 128
"""Tokens a row by default, in all settings of a length, where model and tokenizer have room for them."""
_Kind = TypeVar("_Kind")
_SAYS_DEFAULT = re.compile(r"default(s to|:|\))|\(default")
_NO_LIMITS: Mapping[str, Mapping[str, Any]] = MappingProxyType({})


def setting(default: Any, help: str, **limits: Any) -> Any:
    """Make a dataclass field that holds its help and its limits.

    Args:
        default: its default.
        help: one line for `--help`: unit, range and effect.
        limits: `range`: an interval of numbers such as `"[0, 1)"`; `least` and `most`: bounds of whole numbers;
            `unset`: a whole number outside them that stands for none; `choices`, which a `Literal` type hint lists as
            well; `text`: what a string that isn't empty names. They hold for each entry of a tuple. `None` is allowed
            where the hint has it; other names are notes.
    """
    return field(default=default, metadata=_Metadata(help=help, limits=limits))


class _Metadata(dict[str, Any]):
    """Help and limits of a field; a copy has the help alone: HfArgumentParser hands one to argparse."""

    def copy(self) -> dict[str, Any]:
        """As transformers 5.14 copies."""
        return {"help": self["help"]}

    def keys(self) -> Any:
        """As later ones do, by `dict(metadata)`."""
        return self.copy().keys()


def describe_settings(kind: type[_Kind], *, without: Collection[str] = ()) -> type[_Kind]:
    """Add the settings of a class to its docstring, as `Args:` before what it raises, from the help of their fields.

    Args:
        kind: a dataclass, or a class that will be one; a class without a docstring stays without.
        without: settings to leave out.

    Returns:
        The class, so that this decorates one.

    Example:
    ```python
    >>> @describe_settings
    ... class Settings:
    ...     "Settings of a run."
    ...     temperature: float = setting(2.0, "Divides both models' logits.", range="(0, inf)")
    >>> print(Settings.__doc__)
    Settings of a run.
    <BLANKLINE>
        Args:
            temperature: Divides both models' logits. Default: `2.0`.

    ```
    """
    if kind.__doc__ is None:
        return kind
    attributes: dict[str, Any] = {}
    # the nearest class wins; a dataclass, which this class need not be yet, keeps its fields apart from its attributes
    for base in kind.__mro__:
        attributes = {**vars(base), **vars(base).get("__dataclass_fields__", {}), **attributes}
    lines: list[str] = []
    # the class's own settings in their order, then the inherited ones
    for name in dict.fromkeys((*vars(kind), *attributes)):
        entry = attributes[name]
        if not isinstance(entry, Field) or "limits" not in entry.metadata or name in without:
            continue
        default = "" if entry.default is None else f" Default: `{entry.default!r}`."
        text = f"{name}: {help_of(entry)}{default}"
        lines += wrap(text, 119, initial_indent=" " * 8, subsequent_indent=" " * 12)
    before, heading, after = kind.__doc__.partition("\n    Raises:")
    kind.__doc__ = "\n".join([before.rstrip(), "", "    Args:", *lines]) + (f"\n{heading}{after}" if heading else "")
    return kind


def help_of(entry: Field[Any]) -> str:
    """The help of a field as a sentence."""
    text = str(entry.metadata.get("help") or "").strip()
    return text if text.endswith(".") or not text else f"{text}."


def help_and_default(entry: Field[Any]) -> str | None:
    """The help of a field for argparse, with its default as a flag has it where the help says none."""
    text = entry.metadata.get("help")
    default = entry.default.value if isinstance(entry.default, Enum) else entry.default
    is_switch = entry.metadata.get("action") == "store_true"
    if text is None or is_switch or default in (None, MISSING, "", ()) or _SAYS_DEFAULT.search(text):
        return text
    words = default if isinstance(default, tuple) else (default,)
    shown = " ".join(word if isinstance(word, str) else json.dumps(word) for word in words)
    return f"{text.strip()} (default: {shown.replace('%', '%%')})"


def limits_of(entry: Field) -> Mapping[str, Any]:
    """The limits of a field that [`setting`] made; none of another."""
    limits: Mapping[str, Any] = entry.metadata.get("limits", {})
    return limits


def make_tuples(settings: Any) -> None:
    """Replace lists and single values by tuples, in fields of a frozen dataclass whose default is a tuple."""
    for entry in fields(settings):
        value = getattr(settings, entry.name)
        if isinstance(entry.default, tuple):
            object.__setattr__(settings, entry.name, tuple(value) if isinstance(value, list | tuple) else (value,))


def refuse_without_part(settings: Any, remedies: Mapping[str, str], *, run: str = "this run") -> None:
    """Refuse the first setting that changes nothing, unless it has its default or is none of these settings.

    `remedies` says of each setting why it changes nothing in `run`, and what to do.

    Raises:
        ValueError: names the setting, its value and the remedy.
    """
    entries = type(settings).__dataclass_fields__
    for name, remedy in remedies.items():
        if name in entries and (value := getattr(settings, name)) != entries[name].default:
            raise ValueError(f"{name}={short_repr(value)} has no part in {run}: {remedy}")


def check_fields(settings: Any, inherited: Mapping[str, Mapping[str, Any]] = _NO_LIMITS) -> None:
    """Refuse the first value that its field doesn't allow.

    `inherited` holds limits of fields of a foreign parent class, by name.

    Raises:
        ValueError: names field, value, what is allowed, and the default.

    Example:
    ```python
    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Settings:
    ...     temperature: float = setting(2.0, "Divides both models' logits.", range="(0, inf)")
    >>> check_fields(Settings(0.0))
    Traceback (most recent call last):
    ValueError: temperature=0.0 is outside (0, inf); the default is 2.0

    ```
    """
    hints = get_type_hints(type(settings))  # not `entry.type`, which HfArgumentParser overwrites
    for entry in filter(lambda one: one.init, fields(settings)):
        value, hint = getattr(settings, entry.name), hints[entry.name]
        if value is None and type(None) in get_args(hint):
            continue
        choices = get_args(hint) if get_origin(hint) is Literal else ()
        remedy = f"the default is {entry.default}"
        if entry.default is None or entry.default is MISSING:
            remedy = "left out, it follows from the others"
        for item in value if isinstance(value, tuple) else (value,):
            # the field's own limits win over inherited ones, and these over the hint's choices
            limits = {"choices": choices, **inherited.get(entry.name, {}), **limits_of(entry)}
            if problem := _problem(item, limits, remedy):
                raise ValueError(f"{entry.name}={short_repr(item)} {problem}")


def _problem(value: Any, limits: Mapping[str, Any], remedy: str) -> str | None:
    if (choices := limits["choices"]) and value not in choices:
        return f"is not one of {', '.join(map(str, choices))}"
    if (interval := limits.get("range")) and not _is_inside(value, interval):
        return f"is outside {interval}; {remedy}"
    least, most, unset = limits.get("least"), limits.get("most", math.inf), limits.get("unset")
    if least is not None and not (is_int(value) and (least <= value <= most or value == unset)):
        bounds = f"of at least {least}" if most == math.inf else f"from {least} to {most}"
        bounds += "" if unset is None else f", or {unset}, which leaves it out"
        return f"is not a whole number {bounds}; {remedy}"
    if "text" in limits and not (isinstance(value, str) and value):
        return f"is not {limits['text']}; set it"
    return None


def _is_inside(value: Any, interval: str) -> bool:
    low, high = map(float, interval[1:-1].split(","))
    # Whole numbers beyond every float are compared by their size: `isfinite` can't take them.
    if not is_number(value) or abs(value) > sys.float_info.max or math.isnan(value) or not low <= value <= high:
        return False
    return not (value == low and interval[0] == "(") and not (value == high and interval[-1] == ")")
