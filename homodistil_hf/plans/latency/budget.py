"""The plan that meets a latency budget on this machine: `"latency_ms=5"`, with the conditions that differ behind it.

It ties the measured table of parts.py to the search of budgets.py. A run asks once and stores the plan: a measured
time never steers a resumed run.
"""

import dataclasses
import functools
import math
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig

from ...files.messages import nearest_name, short_repr
from ...models.architectures import architecture_of
from ...models.widths import WidthPlan, widths_of
from ..budgets import LATENCY_BUDGET, plan_for_latency
from .backends import FirstOutput, make_runner, model_inputs
from .parts import Conditions, embedding_shape, latency_table
from .timing import figures, time_in_turns

_TYPES = {"batch_size": int, "length": int, "backend": str}
_EXAMPLE = "latency_ms=5,batch_size=1,length=128,backend=torch"


@dataclass(frozen=True)
class LatencyBudget:
    """Largest milliseconds, > 0, of one forward pass of a student's embeddings and encoder, and its conditions."""

    limit_ms: float
    conditions: Conditions = field(default_factory=Conditions)

    @classmethod
    def parse(cls, text: str) -> "LatencyBudget":
        """Read `latency_ms=…`, then any of `batch_size=…`, `length=…`, `backend=…`, separated by commas.

        Raises:
            ValueError: an unknown or repeated name, or an impossible value.

        Example:
        ```python
        >>> LatencyBudget.parse("latency_ms=2.5,length=64")
        LatencyBudget(limit_ms=2.5, conditions=Conditions(batch_size=1, length=64, backend='torch'))

        ```
        """
        pairs = [part.partition("=") for part in text.replace(" ", "").split(",")]
        values = {name: value for name, _, value in pairs}
        if len(values) < len(pairs):
            raise ValueError(f"student={short_repr(text)} says something twice; expected for example {_EXAMPLE!r}")
        limit_ms = _number(text, values.pop(LATENCY_BUDGET, ""), float)
        if not (math.isfinite(limit_ms) and limit_ms > 0):
            raise ValueError(f"student={short_repr(text)} is no positive time; expected for example {_EXAMPLE!r}")
        for name in values:
            if name not in _TYPES:
                nearest = nearest_name(name, _TYPES)
                raise ValueError(
                    f"student={short_repr(text)} has the unknown condition {name!r}; nearest valid: {nearest!r}"
                )
        conditions: dict[str, Any] = {name: _number(text, value, _TYPES[name]) for name, value in values.items()}
        return cls(limit_ms, Conditions(**conditions))


@dataclass(frozen=True)
class LatencyPlan:
    """A plan, its predicted milliseconds and its teacher's; heads × head size is the hidden size."""

    plan: WidthPlan
    latency_ms: float
    teacher_latency_ms: float

    def facts(self, budget: LatencyBudget) -> dict[str, Any]:
        """Return the budget and the predictions as JSON values."""
        conditions = dataclasses.asdict(budget.conditions)
        predicted = {"student": self.latency_ms, "teacher": self.teacher_latency_ms}
        return {"limit_ms": budget.limit_ms, "conditions": conditions, "predicted_ms": predicted}


def plan_within(budget: LatencyBudget, config: PreTrainedConfig, *, multiple: int = 8) -> LatencyPlan:
    """Find the largest plan for a teacher's configuration that is predicted to stay within a budget on this machine.

    Raises:
        ValueError: a budget out of reach, the message names the range; or a length above the teacher's positions.
    """
    architecture = architecture_of(config)
    if not architecture.is_timed:
        raise ValueError(
            f"student='latency_ms={budget.limit_ms:g}' is met with measured blocks of BERT, which a "
            f"{architecture.model_type} is not made of; nearest valid: a share of the MACs, such as 'macs=0.25'"
        )
    table = latency_table(config, budget.conditions)
    plan = plan_for_latency(budget.limit_ms, config, predict=table.latency_ms, multiple=multiple)
    return LatencyPlan(plan, table.latency_ms(plan), table.latency_ms(widths_of(config)))


@torch.no_grad()
def measure_plan(plan: WidthPlan, config: PreTrainedConfig, conditions: Conditions) -> dict[str, Any]:
    """Time an encoder of the plan and one of its teacher's widths in turns, both of random weights.

    Returns:
        JSON values: `latency` of `teacher` and `student` and `speed_up` of the student, see `figures`.
    """
    architecture, layer = architecture_of(config), plan.layers[0]
    student = architecture.stock_config(
        hidden_size=plan.hidden_size,
        num_hidden_layers=len(plan.layers),
        num_attention_heads=layer.num_attention_heads,
        intermediate_size=layer.intermediate_size,
        **embedding_shape(config),
    )
    passes = {}
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]):
        for name, shape in (("teacher", config), ("student", student)):
            encoder = (
                architecture.student_encoder
                if isinstance(shape, architecture.student_config)
                else architecture.stock_encoder
            )
            inputs = model_inputs(shape, conditions.batch_size, conditions.length)
            module = FirstOutput(encoder(shape, add_pooling_layer=False).eval())
            passes[name] = functools.partial(make_runner(module, conditions.backend, inputs, Path(folder)), *inputs)
        found = figures(time_in_turns(passes))
    return {"latency": found["latency"], "speed_up": found["speed_up"]["student"]}


def _number(text: str, value: str, kind: type) -> Any:
    try:
        return kind(value)
    except ValueError as error:
        raise ValueError(
            f"student={short_repr(text)} is no latency budget; expected for example {_EXAMPLE!r}"
        ) from error
