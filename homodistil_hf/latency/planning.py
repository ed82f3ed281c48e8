"""The plan that meets a latency budget on this machine: `"latency_ms=5"`, with conditions behind it where they differ.

It ties the measured table (`parts.py`) to the search (`budgets.py`). A run asks once and writes the answer down, see
`resolution.py`: a measured time never steers a run that goes on.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedConfig

from ..budgets import plan_for_latency
from ..widths import WidthPlan, nearest_name, shown, teacher_plan
from .parts import Conditions, latency_table

LATENCY_BUDGET = "latency_ms"
_TYPES = {"batch_size": int, "length": int, "backend": str}
_EXAMPLE = "latency_ms=5,batch_size=1,length=128,backend=torch"


@dataclass(frozen=True)
class LatencyBudget:
    """What a student may take.

    Args:
        limit_ms: milliseconds of one forward pass of embeddings and encoder, > 0.
        conditions: what is run, and how.
    """

    limit_ms: float
    conditions: Conditions = field(default_factory=Conditions)

    @classmethod
    def parse(cls, text: str) -> "LatencyBudget":
        """Read a budget.

        Args:
            text: `latency_ms=…`, then any of `batch_size=…`, `length=…`, `backend=…`, separated by commas.

        Returns:
            [`LatencyBudget`].

        Raises:
            ValueError: an unknown or repeated name, or a value that can't be.

        Example:
        ```python
        >>> LatencyBudget.parse("latency_ms=2.5,length=64")
        LatencyBudget(limit_ms=2.5, conditions=Conditions(batch_size=1, length=64, backend='torch'))

        ```
        """
        pairs = [part.partition("=") for part in text.replace(" ", "").split(",")]
        values = {name: value for name, _, value in pairs}
        if len(values) < len(pairs):
            raise ValueError(f"student={shown(text)} says something twice; expected for example {_EXAMPLE!r}")
        limit_ms = _number(text, values.pop(LATENCY_BUDGET, ""), float)
        if not (math.isfinite(limit_ms) and limit_ms > 0):
            raise ValueError(f"student={shown(text)} is no positive time; expected for example {_EXAMPLE!r}")
        for name in values:
            if name not in _TYPES:
                nearest = nearest_name(name, _TYPES)
                raise ValueError(
                    f"student={shown(text)} has the unknown condition {name!r}; nearest valid: {nearest!r}"
                )
        conditions: dict[str, Any] = {name: _number(text, value, _TYPES[name]) for name, value in values.items()}
        return cls(limit_ms, Conditions(**conditions))


@dataclass(frozen=True)
class LatencyPlan:
    """A plan and what it is predicted to take.

    Args:
        plan: the widths.
        latency_ms: predicted, of the plan.
        teacher_latency_ms: predicted, of its teacher.
    """

    plan: WidthPlan
    latency_ms: float
    teacher_latency_ms: float


def is_latency_budget(student: str | Mapping[str, Any] | None) -> bool:
    """Whether what the user calls the student is a latency budget.

    Args:
        student: preset, budget, file, plan.

    Returns:
        `bool`.
    """
    return isinstance(student, str) and student.partition("=")[0].strip() == LATENCY_BUDGET and "=" in student


def plan_within(budget: LatencyBudget, config: PreTrainedConfig, *, multiple: int = 8) -> LatencyPlan:
    """Find the largest plan that is predicted to stay within a budget on this machine.

    Args:
        budget: what the student may take.
        config: the teacher's.
        multiple: hidden size and FFN size are multiples of it.

    Returns:
        [`LatencyPlan`].

    Raises:
        ValueError: out of reach, the message names the range; or a length above the teacher's positions.
    """
    table = latency_table(config, budget.conditions)
    plan = plan_for_latency(budget.limit_ms, config, predict=table.latency_ms, multiple=multiple)
    return LatencyPlan(plan, table.latency_ms(plan), table.latency_ms(teacher_plan(config)))


def _number(text: str, value: str, kind: type) -> Any:
    try:
        return kind(value)
    except ValueError as error:
        raise ValueError(f"student={shown(text)} is no latency budget; expected for example {_EXAMPLE!r}") from error
