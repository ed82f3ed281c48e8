"""When to prune, and how much: progress over the steps, and the learning-rate curve tied to it.

Small pure functions of the step. masks.py turns progress into widths and masks, training/learning_rate.py uses the
curve.
"""

import math
from dataclasses import dataclass

LEARNING_RATE_HOLD_FRACTION = 0.5
"""Share of the run for which the learning rate is held by default, also where pruning ends earlier."""


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
        end_step: last step at the full rate. By default the later of two: the step at `LEARNING_RATE_HOLD_FRACTION` of
            the run, and the step at which the last kind of group reaches the plan.
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
"""Share of a run by which the plan is reached, whatever the windows."""


@dataclass(frozen=True)
class PruningSchedule:
    """The moments at which masks are chosen in a run of known length, and each kind of group's progress.

    Args:
        windows: kind → (start, end) as shares of all steps.
        interval_steps: steps between two choices of masks, ≥ 1.
        total_steps: T, ≥ 1.

    Example:
    ```python
    >>> schedule = PruningSchedule({"ffn": (0.0, 0.5)}, interval_steps=10, total_steps=100)
    >>> schedule.progress(25), [step for step in range(1, 60) if schedule.is_due(step)]
    ({'ffn': 0.875}, [10, 20, 30, 40, 50])

    ```
    """

    windows: dict[str, tuple[float, float]]
    interval_steps: int
    total_steps: int

    @property
    def deadline_step(self) -> int:
        """Completed steps by which the plan must be reached: 0.95·T, at least 1."""
        return max(1, int(DEADLINE_FRACTION * self.total_steps))

    @property
    def end_step(self) -> float:
        """Step at which the last kind of group reaches the plan."""
        return min(self.deadline_step, max(end for _, end in self._window_steps.values()))

    def progress(self, step: float) -> dict[str, float]:
        """Return each kind's progress after `step` optimizer steps: p(t) of its window; 1 from the deadline on."""
        if step >= self.deadline_step:
            return dict.fromkeys(self.windows, 1.0)
        return {kind: pruning_progress(step, *window) for kind, window in self._window_steps.items()}

    def is_due(self, step: int) -> bool:
        """Whether masks are chosen after `step` optimizer steps: every interval, at windows' ends, at the deadline."""
        # Minus a hair, as 0.55 · 100 is 55.00000000000001.
        ends = {math.ceil(end - 1e-9) for _, end in self._window_steps.values()}
        return step % self.interval_steps == 0 or step in ends or step == self.deadline_step

    @property
    def _window_steps(self) -> dict[str, tuple[float, float]]:
        return {
            kind: (start * self.total_steps, end * self.total_steps) for kind, (start, end) in self.windows.items()
        }
