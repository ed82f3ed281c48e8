"""When to prune, and how much: kept fractions over the steps, and the learning-rate curve tied to them.

Small pure functions of the step; no masks, and nothing that holds pruning back.
"""

import math
from dataclasses import dataclass

LEARNING_RATE_HOLD_FRACTION = 0.5
"""Share of the run for which the learning rate is held by default, also where pruning ends earlier."""


def pruning_progress(step: float, start_step: float, end_step: float) -> float:
    """How far pruning has come, 0 before `start_step` and 1 from `end_step` on.

    p(t) = 1 − (1 − (t − t_i)/(t_f − t_i))³, the cubic of HomoDistil, section 3; a group's kept fraction is
    r(t) = 1 − (1 − r_f)·p(t) = r_f + (1 − r_f)·(1 − (t − t_i)/(t_f − t_i))³.

    Args:
        step: completed optimizer steps, ≥ 0.
        start_step: t_i.
        end_step: t_f > t_i.

    Returns:
        `float` in [0, 1].

    Example:
    ```python
    >>> [pruning_progress(step, 0, 100) for step in (0, 50, 100)]
    [0.0, 0.875, 1.0]

    ```
    """
    if step <= start_step:
        return 0.0
    if step >= end_step:
        return 1.0
    return 1.0 - (1.0 - (step - start_step) / (end_step - start_step)) ** 3


def kept_fraction(progress: float, final_fraction: float) -> float:
    """Share of a group's units that is kept.

    Args:
        progress: p(t) in [0, 1].
        final_fraction: r_f in (0, 1].

    Returns:
        `float` in [r_f, 1].

    Example:
    ```python
    >>> kept_fraction(0.5, final_fraction=0.25)
    0.625

    ```
    """
    return 1.0 - (1.0 - final_fraction) * progress


def pruning_learning_rate(step: int, *, warmup_steps: int, end_step: float, total_steps: int) -> float:
    """Learning-rate factor tied to pruning: warm up, hold until `end_step`, then linear to zero.

    While widths still fall the student keeps meeting new gaps, which takes a learning rate that has not decayed yet
    (docs/method.md, Defaults).

    Args:
        step: completed optimizer steps, ≥ 0.
        warmup_steps: steps of linear warm-up, ≥ 0.
        end_step: last step at the full rate; by default that of `LEARNING_RATE_HOLD_FRACTION`, or if later the one at
            which the last kind of group reaches the plan.
        total_steps: steps of the run, ≥ 1.

    Returns:
        `float` in [0, 1].

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
"""Share of a run by which the plan is reached, whatever the guard says."""


@dataclass(frozen=True)
class PruningSchedule:
    """When masks are chosen in a run of known length, and how far each kind of group has come.

    On its way to the plan a run may pass through waypoints, and rest at each of them; see [`through_waypoints`]. A leg
    leads from one to the next: without waypoints there is one, from the teacher to the plan.

    Args:
        windows: kind → (start, end) as shares of all steps.
        interval_steps: steps between two choices of masks, ≥ 1.
        total_steps: T, ≥ 1.
        waypoint_steps: when each waypoint is reached unless the guard delays it, ascending.
        recovery_steps: how long pruning rests at each waypoint, ≥ 0.

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
    waypoint_steps: tuple[int, ...] = ()
    recovery_steps: int = 0

    @property
    def deadline_step(self) -> int:
        """Last step at which the plan must be reached: 0.95·T, at least 1."""
        return max(1, int(DEADLINE_FRACTION * self.total_steps))

    @property
    def end_step(self) -> float:
        """Step at which the last kind of group reaches the plan."""
        return min(self.deadline_step, self._period[1])

    def deadline_of_leg(self, leg: int) -> int:
        """Last step at which a leg must end, so that those after it can end in time too.

        Args:
            leg: 0 … number of waypoints.

        Returns:
            `int`: for the last leg `deadline_step`.
        """
        return self.deadline_step - (len(self.waypoint_steps) - leg) * (self.recovery_steps + 1)

    def end_of_leg(self, leg: int) -> float:
        """Step at which a leg ends unless the guard delays it.

        Args:
            leg: 0 … number of waypoints.

        Returns:
            `float`: for the last leg `end_step`.
        """
        return self.waypoint_steps[leg] if leg < len(self.waypoint_steps) else self.end_step

    def progress(self, step: float, *, leg: int = 0) -> dict[str, float]:
        """How far each kind has come on a leg; without waypoints that is p(t).

        On a leg from p₀ to p₁ it is (p(t) − p₀)/(p₁ − p₀). A kind whose own window is closed all that time goes
        evenly, so that a waypoint is reached in all its widths at once.

        Args:
            step: completed optimizer steps, or the moment that they stand for after a pause.
            leg: 0 … number of waypoints.

        Returns:
            `dict[str, float]` in [0, 1]; all 1 from the leg's end or its deadline on.
        """
        if step >= self.deadline_of_leg(leg):
            return dict.fromkeys(self.windows, 1.0)
        start, now, end = self._leg_start(leg), self._on_curve(step), self._leg_end(leg)
        evenly = _share(now, start, end, otherwise=1.0)
        return {
            kind: _share(*(pruning_progress(moment, *window) for moment in (now, start, end)), otherwise=evenly)
            for kind, window in self._window_steps.items()
        }

    def is_due(self, step: int) -> bool:
        """Whether masks are chosen after this step: every interval, at each window's end, waypoint and deadline.

        Args:
            step: completed optimizer steps.

        Returns:
            `bool`.
        """
        # A hair is taken off: 0.55 · 100 is 55.00000000000001.
        moments = {math.ceil(end - 1e-9) for _, end in self._window_steps.values()}.union(self.waypoint_steps)
        moments |= {self.deadline_of_leg(leg) for leg in range(len(self.waypoint_steps) + 1)}
        return step % self.interval_steps == 0 or step in moments

    @property
    def _window_steps(self) -> dict[str, tuple[float, float]]:
        return {
            kind: (start * self.total_steps, end * self.total_steps) for kind, (start, end) in self.windows.items()
        }

    @property
    def _period(self) -> tuple[float, float]:
        starts, ends = zip(*self._window_steps.values(), strict=True)
        return min(starts), max(ends)

    def _leg_start(self, leg: int) -> float:
        return self._on_curve(self.waypoint_steps[leg - 1]) if leg else self._period[0]

    def _leg_end(self, leg: int) -> float:
        return self._on_curve(self.waypoint_steps[leg]) if leg < len(self.waypoint_steps) else self._period[1]

    def _on_curve(self, step: float) -> float:
        """The moment of a run without rests at which the curve is where it is now."""
        num_rested = sum(min(max(step - reached, 0), self.recovery_steps) for reached in self.waypoint_steps)
        return stretched(step - num_rested, self._period, len(self.waypoint_steps) * self.recovery_steps)


def stretched(step: float, period: tuple[float, float], num_rests: int) -> float:
    """Map the period less its rests to the whole period."""
    if num_rests == 0:
        return step
    start, end = period
    return start + (step - start) * (end - start) / (end - start - num_rests)


def _share(value: float, low: float, high: float, *, otherwise: float) -> float:
    """How far a value has come from low to high, in [0, 1]."""
    if low >= high:
        return otherwise
    return min(1.0, max(0.0, (value - low) / (high - low)))
