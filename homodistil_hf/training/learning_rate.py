"""The learning rate of a run: its peak where none is given, and the curve tied to pruning.

The rule for the peak was fitted on sweeps of rates with two teachers (docs/results.md). pruning/schedule.py has the
curve and the share of the run for which the rate is held, homodistil_args.py the end of pruning.
"""

import itertools
import logging
import math
from collections.abc import Iterable, Mapping, Sized
from functools import partial
from statistics import fmean
from typing import Any

import torch

from ..pruning.schedule import LEARNING_RATE_HOLD_FRACTION, pruning_learning_rate
from ..training_args import DistillationArguments

logger = logging.getLogger(__name__)

USUAL_ROW_LENGTH = 128
"""Tokens of a row in the measurements."""
TASK_LEARNING_RATE = 6e-4
"""For a model that classifies or finds answers: the highest rate that fine-tunings choose among."""
_TOKENS, _HIDDEN_SIZE, _RATE = 16 * USUAL_ROW_LENGTH, 384, 2.2e-3
_ROWS_LOOKED_AT = 256
_NARROWEST = 128  # of the teachers that rates were measured with


def learning_rate_curve(
    args: DistillationArguments, total_steps: int, optimizer: torch.optim.Optimizer, *, plan_step: float
) -> torch.optim.lr_scheduler.LambdaLR:
    """The curve tied to pruning: warm up, hold, fall; see [`pruning_learning_rate`].

    Args:
        args: the run's settings.
        total_steps: of the run.
        optimizer: whose rate it is.
        plan_step: until which the student is pruned, ≥ 0.
    """
    held, warmup_steps = learning_rate_hold_step(total_steps, plan_step=plan_step), args.get_warmup_steps(total_steps)
    logger.info(
        "%s steps: the learning rate rises for %d, is held until step %d and falls to 0; adam_beta2=%g",
        f"{total_steps:,}",
        warmup_steps,
        held,
        args.adam_beta2,
    )
    curve = partial(pruning_learning_rate, warmup_steps=warmup_steps, end_step=held, total_steps=total_steps)
    return torch.optim.lr_scheduler.LambdaLR(optimizer, curve)


def learning_rate_hold_step(total_steps: int, *, plan_step: float) -> float:
    """Until when the rate is held: half of the run, or pruning's end where that is later."""
    return max(plan_step, LEARNING_RATE_HOLD_FRACTION * total_steps)


def measured_learning_rate(
    args: DistillationArguments, *, row_length: float, hidden_size: int, share: float = 1.0
) -> float:
    """The peak rate of the measured rule for so many tokens a step and a teacher; logs it.

    Args:
        args: the run's settings, for the rows of a step.
        row_length: tokens a row.
        hidden_size: the teacher's.
        share: of that rate, for students that need less.
    """
    tokens = args.rows_per_step * row_length
    rate = float(f"{share * default_learning_rate(tokens, hidden_size):.2g}")
    logger.info(
        "learning_rate=%g, as none is given: the measured rule for %s tokens a step and a teacher of %d channels",
        rate,
        f"{tokens:,.0f}",
        hidden_size,
    )
    return rate


def steps_of_task(num_rows: int, rows_per_step: int, *, least: int = 0, passes: float = 3.0) -> int:
    """Optimizer steps of a model of a task: those of the passes over its rows, but `least` on few rows.

    Example:
    ```python
    >>> steps_of_task(45, 8), steps_of_task(45, 8, least=600)
    (18, 600)

    ```
    """
    return max(least, math.ceil(passes * math.ceil(num_rows / rows_per_step)))


def default_task_rate(hidden_size: int) -> float:
    """The peak rate of a model that classifies, tags or answers, beside a teacher of `hidden_size` channels; logs it.

    It falls with the width behind the 384 channels that it was measured with.
    """
    rate = float(f"{min(TASK_LEARNING_RATE, rate_for_width(TASK_LEARNING_RATE, hidden_size)):.2g}")
    logger.info("learning_rate=%g by default; for long texts also try half of it", rate)
    return rate


def row_length_of(dataset: Any) -> int:
    """Tokens of a row of a data set, the mean of its first rows; the measurements' 128 where there are none."""
    rows: Iterable[Any] = () if dataset is None else itertools.islice(iter(dataset), _ROWS_LOOKED_AT)
    if isinstance(dataset, Sized) and hasattr(dataset, "__getitem__"):
        rows = (dataset[index] for index in range(min(len(dataset), _ROWS_LOOKED_AT)))
    found = [row.get("input_ids") for row in rows if isinstance(row, Mapping)]
    lengths = [len(tokens) for tokens in found if isinstance(tokens, Sized)]
    return round(fmean(lengths)) if lengths else USUAL_ROW_LENGTH


def default_learning_rate(tokens_per_step: float, hidden_size: int) -> float:
    """Return the peak learning rate of a student that starts from its teacher's weights.

    With Adam, a batch that averages more noise away allows a higher rate. So does a narrow model, because its outputs
    sum fewer weights, and every weight moves by the rate. Below 128 channels nothing was measured, and the rate rises
    no further.

    Args:
        tokens_per_step: tokens of the global batch, > 0.
        hidden_size: the teacher's, ≥ 1.

    Example:
    ```python
    >>> default_learning_rate(16 * 128, 384), default_learning_rate(4 * 128, 384), default_learning_rate(16 * 128, 768)
    (0.0022, 0.0011, 0.0011)

    ```
    """
    # rate ∝ √tokens / hidden_size
    return rate_for_width(_RATE * math.sqrt(tokens_per_step / _TOKENS), hidden_size)


def rate_for_width(rate: float, hidden_size: int) -> float:
    """Return the rate for a teacher of `hidden_size` ≥ 1 channels in place of one measured with 384.

    Example:
    ```python
    >>> rate_for_width(1e-3, 384), rate_for_width(1e-3, 768)
    (0.001, 0.0005)

    ```
    """
    return rate * _HIDDEN_SIZE / max(hidden_size, _NARROWEST)
