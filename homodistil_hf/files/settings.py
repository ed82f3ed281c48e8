"""Settings: fields that hold their help and the values that they allow, checked; and their JSON object.

A field is a flag and a JSON key. Its type decides which values it takes, its `help` describes it. `flags.py` parses
the words of every command. `cli` holds the commands, `runs/config.py` the rules of `homodistil distill` alone.
"""

import json
import math
import re
import sys
import types
from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, Field, field, fields
from enum import Enum
from functools import reduce
from operator import or_
from textwrap import wrap
from types import MappingProxyType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from .messages import nearest_valid, short_repr, shortened
from .strict_json import is_int, is_number, read_json_object

ROW_LENGTH = 128
"""Tokens a row by default, in all settings of a length, where model and tokenizer have room for them."""
_SAYS_DEFAULT = re.compile(r"default(s to|:|\))|\(default")
_NO_LIMITS: Mapping[str, Mapping[str, Any]] = MappingProxyType({})
_NAMES = {str: "a string", int: "a whole number", float: "a number", bool: "true or false", type(None): "null"}
_Kind = TypeVar("_Kind")


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
    return field(**_default(default), metadata=_Metadata(help=help, limits=limits))


def _default(value: Any) -> Any:
    """How a dataclass field gets its default; of lists only an empty one."""
    return {"default_factory": list} if value == [] else {"default": value}


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
            recipes = getattr(type(settings), "recipes", {}).values()
            is_a_recipes = any(name in recipe and recipe[name] == value for recipe in recipes)
            back = f"; beside a recipe set {name}={entries[name].default!r}" if is_a_recipes else ""
            raise ValueError(f"{name}={short_repr(value)} has no part in {run}: {remedy}{back}")


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


# Settings from JSON and flags


def flag(text: str, default: Any = MISSING, **options: Any) -> Any:
    """Make the field of a command that no JSON file gives; one that is False by default is a switch without a value.

    Args:
        text: its help.
        default: its value where it isn't given; without one it has to be given.
        options: `metavar`, `nargs` of `add_argument`; `positional=True`: a word without `--`.
    """
    if default is False:
        options["action"] = "store_true"
    return field(**_default(default), metadata={"help": text, "metavar": None, **options})


def setting_types(*kinds: Any) -> dict[str, Any]:
    """Map every field of these dataclasses to its type; the first of two fields of one name counts.

    A field that [`setting`] made may take values of further types, its limit `also`.
    """
    found: dict[str, Any] = {}
    for kind in kinds:
        hints = get_type_hints(kind)
        for entry in (entry for entry in fields(kind) if entry.init and entry.name not in found):
            also = limits_of(entry).get("also", ())
            further = also if isinstance(also, tuple) else (also,)
            found[entry.name] = reduce(or_, further, hints[entry.name])
    return found


def differing(values: Mapping[str, Any], *kinds: Any) -> dict[str, Any]:
    """Pick the values that differ from the defaults of these dataclasses."""
    entries = [entry for kind in kinds for entry in fields(kind)]
    defaults = {
        entry.name: entry.default if entry.default_factory is MISSING else entry.default_factory() for entry in entries
    }
    return {name: value for name, value in values.items() if value != defaults.get(name, MISSING)}


def build(kind: type[_Kind], values: Mapping[str, Any]) -> _Kind:
    """Make a dataclass of those values that are its fields.

    Raises:
        ValueError: whatever the dataclass finds wrong with them.
    """
    names = [entry.name for entry in fields(kind) if entry.init]  # type: ignore[arg-type]
    try:
        return kind(**{name: values[name] for name in names if name in values})
    except (ArithmeticError, AttributeError, ImportError, LookupError, OSError, RuntimeError, TypeError) as error:
        # TrainingArguments fails in all these ways at values that it does not expect.
        raise ValueError(f"the settings can't be used ({type(error).__name__}: {shortened(str(error))})") from error
    except ValueError as error:
        raise ValueError(shortened(str(error))) from error


def split_config(words: Sequence[str]) -> tuple[dict[str, Any], list[str], str]:
    """Split `[CONFIG.json] [--key value …]` into the file's object, the flags, and a label of the file for messages.

    Raises:
        ValueError: the file is no JSON object.
        OSError: the file can't be read.
    """
    if not words or words[0].startswith("-"):
        return {}, list(words), "the settings"
    label = f"config={words[0]!r}"
    return read_json_object(words[0], label), list(words[1:]), label


def checked_values(values: Mapping[str, Any], hints: Mapping[str, Any], label: str) -> dict[str, Any]:
    """Check keys and types of a JSON object; one item may stand for a list of one.

    `label`, the user's name for the object, begins every message; `hints` are those of [`setting_types`].

    Raises:
        ValueError: an unknown key, with the nearest valid one, or a value of another type.

    Example:
    ```python
    >>> checked_values({"lengths": 8}, {"lengths": list[int]}, "config")
    {'lengths': [8]}
    >>> checked_values({"lenghts": 8}, {"lengths": list[int]}, "config")
    Traceback (most recent call last):
    ...
    ValueError: config has the unknown key 'lenghts' (value 8); nearest valid: 'lengths'

    ```
    """
    checked = {}
    for name, value in values.items():
        if name not in hints:
            raise ValueError(
                f"{label} has the unknown key {short_repr(name)} (value {_shown_value(name, value)}); "
                f"{nearest_valid(name, hints)}"
            )
        is_one = get_origin(hints[name]) in (list, tuple) and not isinstance(value, list | tuple)
        checked[name] = [value] if is_one else value
        if not _accepts(hints[name], checked[name]):
            raise ValueError(
                f"{label} has {name}={_shown_value(name, value, is_known=True)}; expected {_expected(hints[name])}"
            )
    return checked


# Types of JSON values


def _accepts(hint: Any, value: Any) -> bool:
    """Whether a JSON value is of a type; a whole number may stand for a fraction, a boolean for neither."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return any(_accepts(option, value) for option in options_of(hint))
    if origin is Literal:
        return value in get_args(hint)
    if origin in (list, tuple):
        return isinstance(value, list | tuple) and all(_accepts(get_args(hint)[0], item) for item in value)
    if origin is not None:
        return isinstance(value, origin)
    # before `isinstance`, as True is an int in Python
    if isinstance(value, bool):
        return hint in (bool, Any)
    if is_enum(hint):
        return value in [option.value for option in hint]
    return hint is Any or isinstance(value, (int, float) if hint is float else hint)


def options_of(hint: Any) -> tuple[Any, ...]:
    """The members of a union, else the type; `str` beside an enumeration is left out: it is how values are written."""
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return tuple(option for option in options if option is not str or not any(map(is_enum, options)))


def is_enum(hint: Any) -> bool:
    """Whether a type is an enumeration."""
    return isinstance(hint, type) and issubclass(hint, Enum)


def _expected(hint: Any) -> str:
    if len(options := options_of(hint)) > 1:
        return " or ".join(dict.fromkeys(map(_expected, options)))
    (hint,) = options
    if get_origin(hint) in (list, tuple):
        return f"a list, each item {_expected(get_args(hint)[0])}"
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(repr, get_args(hint)))}"
    if is_enum(hint):
        return f"one of {', '.join(repr(option.value) for option in hint)}"
    return _NAMES.get(hint) or ("a list" if hint is list else "an object")


def _shown_value(name: str, value: Any, *, is_known: bool = False) -> str:
    # A value meant for hub_token is a secret even if the key is misspelt or the value of another type.
    is_secret = name.endswith("token") if is_known else "tok" in name.lower() and name != "tokenizer"
    return "<token>" if is_secret else short_repr(value)
