"""The plan that meets a latency budget on this machine, such as `"latency_ms=5"` or `"latency_ms=5,batch_size=8"`.

plans/budgets.py halves the range of plans some ten times; here an encoder of each is built, of random weights, and
timed. A run measures once and stores the plan, so that no measured time steers a resumed run.
"""

import dataclasses
import functools
import logging
import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import PreTrainedConfig

from ...files.field_checks import ROW_LENGTH
from ...files.messages import nearest_valid, short_repr
from ...models.architectures import architecture_of
from ...models.conversion import stock_config
from ...models.tokenizers import fitted_length
from ...models.widths import WidthPlan, widths_of
from ..budgets import LATENCY_BUDGET, plan_for_latency
from .timing import FirstOutput, figures, make_runner, missing_reason, model_inputs, time_in_turns

logger = logging.getLogger(__name__)

_CONDITIONS: dict[str, Any] = {"batch_size": int, "length": int, "backend": str}
_BACKENDS = ("torch", "onnxruntime")  # torch would have to compile every plan that is timed
_EXAMPLE = "latency_ms=5,batch_size=1,length=128,backend=torch"


@dataclass(frozen=True)
class LatencyBudget:
    """Largest milliseconds of one forward pass of a student's embeddings and encoder, and conditions of the pass.

    Args:
        limit_ms: > 0.
        batch_size: sequences a forward pass, ≥ 1.
        length: tokens a sequence, ≥ 2; default: 128, or the positions of the teacher, see [`LatencyBudget.on`].
        backend: `"torch"` or `"onnxruntime"`, float32 on the CPU; installed.
    """

    limit_ms: float
    batch_size: int = 1
    length: int | None = None
    backend: str = "torch"

    def __post_init__(self) -> None:
        for name, minimum in (("batch_size", 1), ("length", 2)):
            if (value := getattr(self, name)) is not None and value < minimum:
                raise ValueError(f"{name}={value} is too small; nearest valid: {minimum}")
        if self.backend not in _BACKENDS:
            raise ValueError(f"backend={self.backend!r} can't time plans; {nearest_valid(self.backend, _BACKENDS)}")
        if reason := missing_reason(self.backend):
            raise ValueError(f"backend={self.backend!r} can't be used here: {reason}")

    @classmethod
    def parse(cls, text: str) -> "LatencyBudget":
        """Read `latency_ms=…`, then any of `batch_size=…`, `length=…`, `backend=…`, separated by commas.

        Raises:
            ValueError: an unknown name, or an impossible value.

        Example:
        ```python
        >>> LatencyBudget.parse("latency_ms=2.5,length=64")
        LatencyBudget(limit_ms=2.5, batch_size=1, length=64, backend='torch')

        ```
        """
        label = f"student={short_repr(text)}"
        values: dict[str, Any] = {}
        for part in text.replace(" ", "").split(","):
            name, _, value = part.partition("=")
            kind = float if name == LATENCY_BUDGET else _CONDITIONS.get(name)
            if kind is None:
                raise ValueError(f"{label} has the unknown condition {name!r}; {nearest_valid(name, _CONDITIONS)}")
            try:
                values[name] = kind(value)
            except ValueError as error:
                raise ValueError(f"{label} is no latency budget; expected for example {_EXAMPLE!r}") from error
        limit_ms = values.pop(LATENCY_BUDGET, 0.0)
        if not (math.isfinite(limit_ms) and limit_ms > 0):
            raise ValueError(f"{label} is no positive time; expected for example {_EXAMPLE!r}")
        return cls(limit_ms, **values)

    def on(self, config: PreTrainedConfig) -> "LatencyBudget":
        """The budget with the length of sequences that a teacher reads; see [`fitted_length`]."""
        length = self.length or fitted_length(None, config, argument="length", owner="teacher")
        return dataclasses.replace(self, length=length)


def plan_within(
    budget: LatencyBudget, config: PreTrainedConfig, *, multiple: int = 8, plain: bool = False
) -> tuple[WidthPlan, dict[str, Any]]:
    """Find the largest plan for a teacher's configuration that stays within a budget on this machine.

    Returns:
        The plan, whose heads × head size is the hidden size; and as JSON values the budget and the milliseconds of
        student and teacher as the search found them.

    Raises:
        ValueError: a budget out of reach, the message names the range; or a length above the teacher's positions.
    """
    budget, teacher = budget.on(config), widths_of(config)

    @functools.cache
    def measure(plan: WidthPlan) -> float:
        shape = config if plan == teacher else stock_config(config, plan)
        return statistics.median(encoder_times({"plan": shape}, budget, num_rounds=11, num_warmup=1)["plan"])

    logger.info("timing some ten encoders for student='latency_ms=%g', a minute or two", budget.limit_ms)
    plan = plan_for_latency(budget.limit_ms, config, measure=measure, multiple=multiple, plain=plain)
    conditions = dataclasses.asdict(budget)
    limit_ms = conditions.pop("limit_ms")
    predicted_ms = {"student": measure(plan), "teacher": measure(teacher)}
    return plan, {"limit_ms": limit_ms, "conditions": conditions, "predicted_ms": predicted_ms}


def measure_plan(plan: WidthPlan, config: PreTrainedConfig, budget: LatencyBudget) -> dict[str, Any]:
    """Time an encoder of the plan and one of its teacher's widths in turns, both of random weights.

    Returns:
        JSON values: `latency` of `teacher` and `student` and `speed_up` of the student, see `figures`.
    """
    shapes = {"teacher": config, "student": stock_config(config, plan)}
    found = figures(encoder_times(shapes, budget))
    return {"latency": found["latency"], "speed_up": found["speed_up"]["student"]}


@torch.no_grad()
def encoder_times(
    shapes: Mapping[str, PreTrainedConfig], budget: LatencyBudget, **rounds: int
) -> dict[str, list[float]]:
    """Time encoders of random weights in turns; the random state stays.

    Args:
        shapes: name → configuration of a teacher or student.
        budget: has the conditions of every forward pass.
        rounds: settings of [`time_in_turns`].

    Returns:
        Name → milliseconds of every round.
    """
    passes = {}
    with TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]):
        for name, shape in shapes.items():
            architecture = architecture_of(shape)
            is_student = isinstance(shape, architecture.student_config)
            encoder = architecture.student_encoder if is_student else architecture.stock_encoder
            inputs = model_inputs(shape, budget.batch_size, budget.length or ROW_LENGTH)
            module = FirstOutput(encoder(shape, **{"add_pooling_layer": False} if architecture.pooler else {}).eval())
            passes[name] = functools.partial(make_runner(module, budget.backend, inputs, Path(folder)), *inputs)
        return time_in_turns(passes, **rounds)
