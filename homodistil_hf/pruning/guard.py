"""What holds pruning back while the student is too far from its teacher.

A small state machine of plain numbers; when masks are due otherwise isn't here.
"""

import math
from dataclasses import MISSING, asdict, dataclass, fields


@dataclass
class DiscrepancyGuard:
    """Pauses pruning while the student is too far from the teacher.

    The KL of training is smoothed; when it stands above `ratio` times its value before the last pruning step (and
    above a floor: near 0 any ratio is large), pruning waits until it has come back or `patience_steps` have gone. It
    then goes on where it stopped and catches up with the schedule little by little (`moment`): dropping at once what
    was held back would open the gap that the pause was meant to close. Everything here is plain numbers, so a
    checkpoint holds it exactly.

    Args:
        ratio: allowed rise, > 1.
        floor_nats: KL that never pauses, ≥ 0.
        patience_steps: longest pause, ≥ 1.
        smoothing: of the moving average, in [0, 1).

    Example:
    ```python
    >>> guard = DiscrepancyGuard(ratio=1.5, floor_nats=0.1, patience_steps=30, smoothing=0.0)
    >>> guard.observe(1.0)
    >>> guard.mark_pruned()
    >>> guard.observe(2.0)
    >>> guard.allows(10), guard.allows(40)
    (False, True)
    >>> [guard.moment(step, end_step=100, deadline_step=190) for step in (40, 70, 100)]
    [10.0, 55.0, 100]

    ```
    """

    ratio: float
    floor_nats: float
    patience_steps: int
    smoothing: float
    smoothed_kl: float | None = None
    reference_kl: float | None = None
    paused_at_step: int | None = None
    paused_at_moment: float = 0.0
    clock_set_at_step: int = 0
    clock_set_to: float = 0.0
    num_pauses: int = 0

    def observe(self, kl: float) -> None:
        """Take in the KL of one optimizer step.

        Args:
            kl: nats per predicted token, averaged over ranks; a non-finite value is passed over.
        """
        if not math.isfinite(kl):
            return
        self.smoothed_kl = (
            kl if self.smoothed_kl is None else self.smoothing * self.smoothed_kl + (1 - self.smoothing) * kl
        )

    def moment(self, step: int, *, end_step: float, deadline_step: int) -> float:
        """Where on the schedule pruning stands: on the step itself, or behind it after a pause.

        From the end of a pause it runs evenly to the schedule's end, or to as long after the pause as that had lasted
        if that is later, but not past the deadline.

        Args:
            step: completed optimizer steps.
            end_step: at which the schedule ends.
            deadline_step: from which on no pause counts.

        Returns:
            `float`: ≤ step.
        """
        start, behind = self.clock_set_at_step, self.clock_set_to
        end = min(max(end_step, 2 * start - behind), deadline_step)
        if step >= end:
            return step
        return behind + (step - start) * (end_step - behind) / (end - start)

    def set_clock(self, step: int, *, moment: float) -> None:
        """Let pruning go on at a moment of the schedule.

        Args:
            step: completed optimizer steps.
            moment: ≤ step.
        """
        self.clock_set_at_step, self.clock_set_to = step, moment

    def allows(self, step: int, *, moment: float | None = None) -> bool:
        """Whether masks may shrink now; remembers when a pause began, and sets the clock when it ends.

        Args:
            step: completed optimizer steps.
            moment: where on the schedule pruning stands; default: on the step.

        Returns:
            `bool`: False while paused.
        """
        is_too_high = self._stands_too_high()
        if self.paused_at_step is None:
            if is_too_high:
                self.paused_at_step, self.paused_at_moment = step, float(step if moment is None else moment)
                self.num_pauses += 1
            return not is_too_high
        if is_too_high and step - self.paused_at_step < self.patience_steps:
            return False
        self.paused_at_step = None
        self.set_clock(step, moment=self.paused_at_moment)
        return True

    def mark_pruned(self) -> None:
        """Remember the KL that the next rise is measured against; called just before units are dropped."""
        self.reference_kl = self.smoothed_kl

    def state_dict(self) -> dict[str, float | None]:
        """Everything that a checkpoint must hold.

        Returns:
            `dict` of plain numbers.
        """
        return {name: value for name, value in asdict(self).items() if name in STATE_NAMES}

    def load_state_dict(self, state: dict[str, float | None]) -> None:
        """Continue from a checkpoint.

        Args:
            state: what `state_dict` returned.
        """
        for name in STATE_NAMES:
            setattr(self, name, state[name])

    def _stands_too_high(self) -> bool:
        if self.smoothed_kl is None or self.reference_kl is None:
            return False
        return self.smoothed_kl > max(self.floor_nats, self.ratio * self.reference_kl)


STATE_NAMES = tuple(entry.name for entry in fields(DiscrepancyGuard) if entry.default is not MISSING)
"""What a run changes, the settings left out."""
NAMES_OF_NONE = tuple(entry.name for entry in fields(DiscrepancyGuard) if entry.default is None)
"""Those of them that may have no value yet."""
