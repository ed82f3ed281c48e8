"""How a model is fine-tuned for GLUE: one typed setting each, checked when they are made.

Light to import, because the command line shows these settings in its help. What is done with them stands in
`finetuning.py` and `glue.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar

from ..files.messages import nearest_name, shown

DTYPES = ("auto", "bfloat16", "float32")


_Settings = TypeVar("_Settings", bound="GlueSettings")


_SHOWN_ONLY = ("seeds", "data_dir", "learning_rate", "learning_rates")


@dataclass(frozen=True)
class GlueSettings:
    """Settings of GLUE fine-tuning, the same for every model of a comparison.

    Raises:
        ValueError: a value is out of range.

    Example:
    ```python
    >>> GlueSettings(learning_rates=[1e-4, 3e-4]).learning_rates
    (0.0001, 0.0003)
    >>> GlueSettings(batch_size=0)
    Traceback (most recent call last):
    ...
    ValueError: batch_size=0 is out of range; expected a whole number, 1 or more

    ```
    """

    data_dir: str | None = field(
        default=None, metadata={"help": "Folder with rte/ or rte_part/ …, squad_v2/ …; default: the Hub."}
    )
    seeds: tuple[int, ...] = field(default=(0, 1, 2), metadata={"help": "One fine-tuning each (default: 0 1 2)."})
    learning_rate: float = field(default=1e-4, metadata={"help": "Peak learning rate, > 0; then linear to zero."})
    learning_rates: tuple[float, ...] = field(
        default=(), metadata={"help": "Choose a task's among these, on held-out training rows."}
    )
    num_train_epochs: float = field(default=3.0, metadata={"help": "Passes over the training rows, > 0."})
    batch_size: int = field(default=32, metadata={"help": "Rows a step, ≥ 1."})
    max_length: int = field(default=128, metadata={"help": "Tokens a row, longer ones are cut; 8 … the positions."})
    warmup_fraction: float = field(default=0.1, metadata={"help": "Share of the steps that warm up, in [0, 1)."})
    weight_decay: float = field(default=0.01, metadata={"help": "AdamW's weight decay, ≥ 0."})
    dropout_fraction: float = field(
        default=0.1, metadata={"help": "Dropout of every model, whatever its config says, in [0, 1)."}
    )
    max_train_samples: int | None = field(
        default=None, metadata={"help": "Rows of a task to train on, ≥ 8; always the same."}
    )
    dtype: str = field(default="auto", metadata={"help": "Of the training: auto, bfloat16 or float32."})

    def __post_init__(self) -> None:
        for name in ("seeds", "learning_rates"):
            given = getattr(self, name)
            object.__setattr__(self, name, tuple(given) if isinstance(given, list | tuple) else (given,))
        for name, check, expected in _CHECKS:
            values = getattr(self, name)
            for value in values if isinstance(values, tuple) else (values,):
                if not check(value):
                    raise ValueError(f"{name}={shown(value)} is out of range; expected {expected}")
        if not self.seeds:
            raise ValueError("seeds=() names no seed; expected at least one, e.g. 0 1 2")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds={shown(self.seeds)} has one twice; expected different ones")
        if self.dtype not in DTYPES:
            raise ValueError(
                f"dtype={shown(self.dtype)} is unknown; nearest valid: {nearest_name(self.dtype, DTYPES)!r}"
            )

    @classmethod
    def from_values(cls: type[_Settings], values: _Settings | Mapping[str, Any] | None) -> _Settings:
        """Make settings of what a caller gave.

        Args:
            values: settings, some of them by name, or None for the defaults.

        Returns:
            The settings, of the class that was asked.

        Raises:
            ValueError: an unknown name, or a value out of range.
        """
        if isinstance(values, GlueSettings):
            if not isinstance(values, cls):
                raise ValueError(f"settings are {type(values).__name__}; expected {cls.__name__}, or values by name")
            return values
        check_names(values or {}, cls)
        return cls(**values or {})

    def compared(self) -> dict[str, Any]:
        """What must be equal for two results to be comparable, seeds, data and learning rate apart.

        Returns:
            `dict`: name → plain value.
        """
        return {name: value for name, value in asdict(self).items() if name not in _SHOWN_ONLY}


def check_names(values: Mapping[str, Any], settings: type) -> None:
    """Refuse names that a dataclass of settings does not have.

    Args:
        values: some of them by name.
        settings: the dataclass.

    Raises:
        ValueError: an unknown name; the message has the nearest valid one.
    """
    known = [entry.name for entry in fields(settings)]
    for name in values:
        if name not in known:
            raise ValueError(
                f"settings have the unknown name {shown(name)}; nearest valid: {nearest_name(name, known)!r}"
            )


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


_CHECKS: tuple[tuple[str, Any, str], ...] = (
    ("seeds", lambda value: _is_whole(value, 0) and value < 2**32, "a whole number, 0 … 2**32 - 1"),
    ("learning_rate", lambda value: _is_number(value) and value > 0, "a number above 0, e.g. 1e-4"),
    ("learning_rates", lambda value: _is_number(value) and value > 0, "numbers above 0, e.g. 5e-5 1e-4 3e-4"),
    ("num_train_epochs", lambda value: _is_number(value) and value > 0, "a number above 0, e.g. 3"),
    ("batch_size", lambda value: _is_whole(value, 1), "a whole number, 1 or more"),
    ("max_length", lambda value: _is_whole(value, 8), "a whole number, 8 or more"),
    ("warmup_fraction", lambda value: _is_number(value) and 0 <= value < 1, "a number in [0, 1)"),
    ("weight_decay", lambda value: _is_number(value) and value >= 0, "a number, 0 or more"),
    ("dropout_fraction", lambda value: _is_number(value) and 0 <= value < 1, "a number in [0, 1)"),
    ("max_train_samples", lambda value: value is None or _is_whole(value, 8), "a whole number, 8 or more"),
    ("data_dir", lambda value: value is None or (isinstance(value, str) and value), "a folder"),
)
