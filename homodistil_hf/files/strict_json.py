"""JSON files: written as a whole; read strictly, because anybody may have written them."""

import json
import math
import stat
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

from .folders import write_text
from .messages import short_repr


def read_json(path: str | Path, label: str) -> Any:
    """Read a JSON file: finite numbers, no key twice.

    `label`, argument and value, begins every message.

    Raises:
        ValueError: no regular file, no UTF-8, or other JSON.
        OSError: the file can't be read.
    """
    return parse_json(_read_text(Path(path), label), label)


def read_json_object(path: str | Path, label: str) -> dict[str, Any]:
    """Read a JSON file that holds an object; arguments and errors as [`read_json`]."""
    values = read_json(path, label)
    if not isinstance(values, dict):
        raise ValueError(f'{label} holds {short_repr(values)}; expected a JSON object such as {{"name": "value"}}')
    return values


def read_json_rows(path: str | Path, label: str) -> list[dict[str, Any]]:
    """Read the rows of a JSON file: an object a line, a list of objects, or an object with one, `data`.

    Arguments and errors are those of [`read_json`].
    """
    text = _read_text(Path(path), label)
    try:
        values = parse_json(text, label) if text.strip() else []
    except ValueError as error:
        # the decoder's words for a second value behind the first: the file has an object a line
        if getattr(error.__cause__, "msg", None) != "Extra data":
            raise
        lines = enumerate(text.split("\n"), 1)
        values = [parse_json(line, f"{label}: line {number}") for number, line in lines if line.strip()]
    if isinstance(values, dict):
        # a single line of .jsonl is a row itself
        rows = [values] if Path(path).suffix.lower() == ".jsonl" else values.get("data")
    else:
        rows = values
    for place, row in enumerate(rows if isinstance(rows, list) else (), 1):
        if not isinstance(row, dict):
            raise ValueError(f"{label}: row {place:,} is {short_repr(row)}; expected an object a row")
    if not isinstance(rows, list) or not rows:
        raise ValueError(
            f"{label} holds {short_repr(values)}; expected a list of rows, or an object with such a list, data"
        )
    return rows


def parse_json(text: str, label: str) -> Any:
    """Read JSON text, as strictly as [`read_json`].

    Example:
    ```python
    >>> parse_json('{"hidden_size": 16}', "plan")
    {'hidden_size': 16}
    >>> parse_json('{"hidden_size": NaN}', "plan")
    Traceback (most recent call last):
    ...
    ValueError: plan holds NaN, which is no JSON or beyond every float; expected a finite number

    ```
    """
    try:
        return json.loads(
            text,
            object_pairs_hook=lambda pairs: _without_repeats(pairs, label),
            parse_constant=lambda text: _finite(text, float, label),
            parse_int=lambda text: _finite(text, int, label),
            parse_float=lambda text: _finite(text, float, label),
        )
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{label} is no JSON: {error.msg} in line {error.lineno}, column {error.colno}; mend that line"
        ) from error
    except RecursionError as error:
        raise ValueError(f"{label} is nested too deeply (recursion); expected a flat JSON object") from error


def is_int(value: object) -> TypeGuard[int]:
    """Whether a value of JSON is a whole number; true and false are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value of JSON is a number; true and false are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def fits(value: Any, shape: Any) -> bool:
    """Whether a JSON value is of a type, a list whose entries fit, or an object whose values fit.

    `...` stands for all names of an object, `"name?"` for one that may be missing. True and false fit `bool` only: no
    number is a boolean in JSON.

    Example:
    ```python
    >>> fits({"a": [1, 2]}, {"a": [int], "b?": int}), fits({"a": "x", "b": 1}, {...: str}), fits([True], [int])
    (True, False, False)

    ```
    """
    if isinstance(shape, list):
        return isinstance(value, list) and all(fits(entry, shape[0]) for entry in value)
    if not isinstance(shape, dict):
        return shape is bool if isinstance(value, bool) else isinstance(value, shape)
    if not isinstance(value, dict):
        return False
    if ... in shape:
        return all(fits(entry, shape[...]) for entry in value.values())
    return all(
        fits(value[key], part) if (key := name.removesuffix("?")) in value else name.endswith("?")
        for name, part in shape.items()
    )


def write_json(path: Path, values: Any, *, sort_keys: bool = False) -> None:
    """Write plain values as JSON: afterwards the file is whole, or as it was before.

    null stands for numbers that are not finite, which no JSON holds and [`read_json`] refuses.
    """
    text = json.dumps(_or_null(values), indent=2, sort_keys=sort_keys, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def _or_null(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _or_null(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_or_null(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _read_text(path: Path, label: str) -> str:
    try:
        if "\0" in str(path):
            raise ValueError(f"{label} has a NUL in its path; name a JSON file")
        # a pipe would be waited for
        if not stat.S_ISREG(path.stat().st_mode):
            raise ValueError(f"{label} is a folder or device; name a JSON file")
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise type(error)(f"{label} can't be read ({error.strerror}); name a JSON file") from error
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        raise ValueError(f"{label} is no UTF-8 text ({error.reason}); expected a JSON file") from error


def _without_repeats(pairs: list[tuple[str, Any]], label: str) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        repeated = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"{label} has the key {short_repr(repeated)} more than once; keep one of them")
    return values


def _finite(text: str, kind: type[float], label: str) -> float:
    if not math.isfinite(float(text)):  # a whole number that no float holds would also take quadratic time
        raise ValueError(
            f"{label} holds {text[:40]}, which is no JSON or beyond every float; expected a finite number"
        )
    return kind(text)
