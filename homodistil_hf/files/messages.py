"""Parts of error messages: a short value, the nearest valid name, some of many names, another error in one line."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Callable, Iterable
from typing import TypeAlias

Log: TypeAlias = "Callable[[str], None]"
"""Takes lines for the user."""

_LONGEST_LINE = 1000


_RENAMED = {
    "group_by_length": "train_sampling_strategy",
    "evaluation_strategy": "eval_strategy",
    "no_cuda": "use_cpu",
    "warmup_ratio": "warmup_steps",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
}
"""Settings of older versions of transformers → what they are called now."""


def nearest_name(name: object, valid: Iterable[str]) -> str:
    """Return the entry of `valid` that is spelled most like `name`, or that it is called now."""
    valid = list(valid)
    plain = str(name).lstrip("-").replace("-", "_")
    if (now := next((one for one in valid if one.lstrip("-") == _RENAMED.get(plain)), None)) is not None:
        return now
    # cut, as the comparison takes quadratic time; cutoff 0 always finds one
    return difflib.get_close_matches(str(name)[:200], list(valid), n=1, cutoff=0.0)[0]


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
    ordered = sorted(names)
    return ", ".join(ordered[:3]) + (f" and {len(ordered) - 3} more" if len(ordered) > 3 else "")
