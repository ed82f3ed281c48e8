"""When to prune, and how much: progress over the steps, and the learning-rate curve tied to it.

Small pure functions of the step. masks.py turns progress into widths and masks, training/learning_rate.py uses the
curve.
"""

import math
from dataclasses import dataclass

LEARNING_RATE_HOLD_FRACTION = 0.5
"""Share of the run for which the learning rate is held, also where pruning ends earlier."""


def pruning_progress(step: float, start_step: float, end_step: float) -> float:
    """Return the progress of pruning, 0 until `start_step` and 1 from `end_step` on.

    p(t) = 1 − (1 − (t − t_i)/(t_f − t_i))³, the cubic of HomoDistil, section 3; a group's kept fraction is
    r(t) = 1 − (1 − r_f)·p(t) = r_f + (1 − r_f)·(1 − (t − t_i)/(t_f − t_i))³.

    Args:
        step: completed optimizer steps, ≥ 0.
        start_step: t_i.
        end_step: t_f ≥ t_i.

    Example:
    ```python
    >>> [pruning_progress(step, 0, 100) for step in (0, 50, 100)]
    [0.0, 0.875, 1.0]

    ```
    """
    if step >= end_step:
        return 1.0
    if step <= start_step:
        return 0.0
    return 1.0 - (1.0 - (step - start_step) / (end_step - start_step)) ** 3


def pruning_learning_rate(step: int, *, warmup_steps: int, end_step: float, total_steps: int) -> float:
    """Return the learning-rate factor in [0, 1]: warm up, hold until `end_step`, then fall linearly to zero.

    While widths fall, every cut opens a new gap to the teacher. Only a learning rate that has not decayed yet closes
    the gap (docs/method.md, Defaults).

    Args:
        step: completed optimizer steps, ≥ 0.
        warmup_steps: steps of linear warm-up, ≥ 0.
        end_step: last step at the full rate, the later of two: the step at `LEARNING_RATE_HOLD_FRACTION` of
            the run, and the step at which the plan is reached.
        total_steps: steps of the run, ≥ 1.

    Example:
    ```python
    >>> [pruning_learning_rate(s, warmup_steps=10, end_step=50, total_steps=100) for s in (0, 5, 10, 50, 75, 100)]
    [0.0, 0.5, 1.0, 1.0, 0.5, 0.0]

    ```
    """
    if step < warmup_steps:
        return step / max(1, warmup_steps)
    hold_until = max(end_step, warmup_steps)
    if step <= hold_until:
        return 1.0
    return max(0.0, (total_steps - step) / max(1.0, total_steps - hold_until))


DEADLINE_FRACTION = 0.95
"""Share of a run by which the plan is reached, whatever its window."""


@dataclass(frozen=True)
class PruningSchedule:
    """The moments at which masks are chosen in a run of known length, and the progress of pruning.

    Args:
        window: (start, end) as shares of all steps; an end above `DEADLINE_FRACTION` counts as that.
        interval_steps: steps between two choices of masks, ≥ 1.
        total_steps: T, ≥ 1.

    Example:
    ```python
    >>> schedule = PruningSchedule((0.0, 0.5), interval_steps=10, total_steps=100)
    >>> schedule.progress(25), [step for step in range(1, 60) if schedule.is_due(step)]
    (0.875, [10, 20, 30, 40, 50])

    ```
    """

    window: tuple[float, float]
    interval_steps: int
    total_steps: int

    @property
    def end_step(self) -> float:
        """Step at which the plan is reached: of a run of a single step at its end."""
        deadline_step = max(1, int(DEADLINE_FRACTION * self.total_steps))
        return min(deadline_step, self.window[1] * self.total_steps)

    def progress(self, step: float) -> float:
        """Return p(t) after `step` optimizer steps; 1 from the window's end on."""
        return pruning_progress(step, self.window[0] * self.total_steps, self.end_step)

    def is_due(self, step: int) -> bool:
        """Whether masks are chosen after `step` optimizer steps: every interval, and at the window's end."""
        # Minus a hair, as 0.55 · 100 is 55.00000000000001; a window shorter than that ends at step 1.
        end = math.ceil(self.end_step - 1e-9) or math.ceil(self.end_step)
        return step % self.interval_steps == 0 or step == end
