"""Parts of error messages: a short value, the nearest valid name, some of many names, another error in one line."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Callable, Iterable
from typing import TypeAlias

Log: TypeAlias = "Callable[[str], None]"
"""Takes lines for the user."""

_LONGEST_LINE, _LONGEST_NAME = 1000, 120
_MOST_NAMES = 12
_RENAMED = {
    "group_by_length": ("train_sampling_strategy",),
    "evaluation_strategy": ("eval_strategy",),
    "no_cuda": ("use_cpu",),
    "warmup_ratio": ("warmup_steps",),
    "per_gpu_train_batch_size": ("per_device_train_batch_size",),
    "per_gpu_eval_batch_size": ("per_device_eval_batch_size",),
    "batch_size": ("per_device_train_batch_size",),
    "lr": ("learning_rate",),
    "epochs": ("num_train_epochs",),
    "num_epochs": ("num_train_epochs",),
    "steps": ("max_steps", "max_train_steps"),
    "model_name_or_path": ("teacher", "model"),
    "max_length": ("max_seq_length",),
    **dict.fromkeys(("macs", "compact_macs", "params", "latency_ms", "layers", "num_layers"), ("student",)),
}
"""Names of settings elsewhere, in older versions of transformers, and of budgets → what they are called here."""


def near_name(name: object, valid: Iterable[str]) -> str | None:
    """Return the entry of `valid` that is called `name` elsewhere, or is spelled nearly so; None where there is none.

    Example:
    ```python
    >>> near_name("--lr", ["--start", "--learning_rate"]), near_name("--layers", ["--verbose", "--student"])
    ('--learning_rate', '--student')
    >>> near_name("distil", ["distill", "plan"])
    'distill'

    ```
    """
    valid = list(valid)
    renamed = _RENAMED.get(str(name).lstrip("-").replace("-", "_"), ())
    if (now := next((one for one in valid if one.lstrip("-") in renamed), None)) is not None:
        return now
    # cut, as the comparison takes quadratic time
    by_lower = {one.lower(): one for one in reversed(valid)}
    return next(map(by_lower.get, difflib.get_close_matches(str(name)[:200].lower(), by_lower, n=1, cutoff=0.5)), None)


def nearest_valid(name: object, valid: Iterable[str]) -> str:
    """Say which entry of `valid` is nearest to `name`; where none is near, which there are, or the first of many."""
    valid = list(valid)
    if (near := near_name(name, valid)) is not None:
        return f"nearest valid: {short_repr(near)}"
    more = f" and {len(valid) - _MOST_NAMES} more" if len(valid) > _MOST_NAMES else ""
    return f"expected one of {', '.join(map(short_repr, valid[:_MOST_NAMES]))}{more}"


def short_repr(value: object) -> str:
    """Return a short form of a user's `value` for an error message, however large the value is."""
    if isinstance(value, int) and abs(value) > 10**40:
        return "an integer of more than 40 digits"
    return reprlib.repr(value)


def shortened(message: str) -> str:
    """Cut a `message` that repeats a very long value of the user's; its end stays."""
    if len(message) <= _LONGEST_LINE:
        return message
    return f"{message[: _LONGEST_LINE // 2]} … {message[-_LONGEST_LINE // 2 :]}"


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, shortened, or its type if the message is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:_LONGEST_LINE]


def join_some(names: Iterable[str]) -> str:
    """Return at most three of the sorted `names` for an error message, and the number of the others."""
    return first_of(sorted(names))


def first_of(names: Iterable[str]) -> str:
    """Return at most three of the `names`, long ones cut, in their order, and the number of the others.

    Example:
    ```python
    >>> first_of(["d", "c", "b", "a"]), first_of([])
    ('d, c, b and 1 more', '')

    ```
    """
    given = list(names)
    more = f" and {len(given) - 3} more" if len(given) > 3 else ""
    return ", ".join(name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}…" for name in given[:3]) + more
