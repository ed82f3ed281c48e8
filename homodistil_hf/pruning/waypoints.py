"""Where snapshots fall on a schedule: the step at which each of their widths is reached."""

import bisect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from ..models.cost import encoder_macs
from ..models.widths import WidthPlan
from ..plans.snapshots import Snapshot
from .masks import scheduled_plan
from .schedule import PruningSchedule, pruning_progress, stretched


def through_waypoints(
    schedule: PruningSchedule,
    costs: Sequence[float],
    *,
    cost_at: Callable[[Mapping[str, float]], float],
    recovery_steps: int,
) -> PruningSchedule:
    """Lead a schedule through waypoints: each at the step at which the cubic first costs no more than it does.

    Start, end and deadline of the schedule stay; rests are taken out of the time between, where the curve runs faster.

    Args:
        schedule: without waypoints.
        costs: of the waypoints, falling.
        cost_at: progress of each kind on the way to the plan → cost, never rising with progress.
        recovery_steps: how long pruning rests at each waypoint, ≥ 0.

    Returns:
        [`PruningSchedule`] with as many waypoints.

    Raises:
        ValueError: waypoints and rests don't fit between start and end of pruning.

    Example:
    ```python
    >>> schedule = PruningSchedule({"ffn": (0.0, 0.5)}, interval_steps=10, total_steps=100)
    >>> schedule = through_waypoints(schedule, [0.5], cost_at=lambda progress: 1 - progress["ffn"], recovery_steps=4)
    >>> schedule.waypoint_steps, schedule.progress(10, leg=0), schedule.progress(14, leg=1)["ffn"]
    ((10,), {'ffn': 1.0}, 0.0)

    ```
    """
    if not costs:
        return schedule
    period, num_rests = schedule._period, len(costs) * recovery_steps
    # Rests are left out of the count until the last line.
    first, last = math.floor(period[0]) + 1, math.ceil(schedule.end_step - 1e-9) - num_rests
    if last - first < len(costs):
        raise ValueError(_no_room(len(costs), recovery_steps, num_steps=last + num_rests - first))

    def saving(step: int) -> float:
        moment = stretched(step, period, num_rests)
        return -cost_at({kind: pruning_progress(moment, *window) for kind, window in schedule._window_steps.items()})

    steps: list[int] = []
    for index, cost in enumerate(costs):
        crossing = first + bisect.bisect_left(range(first, last), -cost, key=saving)
        after_the_one_before = max(crossing, steps[-1] + 1) if steps else crossing
        steps.append(min(after_the_one_before, last - len(costs) + index))
    waypoint_steps = tuple(step + index * recovery_steps for index, step in enumerate(steps))
    return replace(schedule, waypoint_steps=waypoint_steps, recovery_steps=recovery_steps)


def _no_room(num_snapshots: int, recovery_steps: int, *, num_steps: int) -> str:
    longest = num_steps // num_snapshots - 1
    if longest < 0:
        remedy = "drop some of snapshots, or train for more steps"
    else:
        remedy = f"nearest valid: snapshot_recovery_steps={longest}"
    return (
        f"snapshot_recovery_steps={recovery_steps} with {num_snapshots} snapshots doesn't fit between the start and "
        f"the end of pruning, which are {num_steps} steps apart; {remedy}"
    )


def schedule_through(
    schedule: PruningSchedule,
    snapshots: Sequence[Snapshot],
    *,
    full: WidthPlan,
    target: WidthPlan,
    recovery_steps: int,
) -> PruningSchedule:
    """Lead a schedule through snapshots; each comes when the way without them first costs no more than it does.

    Args:
        schedule: without waypoints.
        snapshots: from wide to narrow.
        full: the teacher's widths.
        target: the student's.
        recovery_steps: how long pruning rests at each snapshot, ≥ 0.

    Returns:
        [`PruningSchedule`] with a waypoint for each snapshot.

    Raises:
        ValueError: snapshots and rests don't fit between start and end of pruning.
    """

    def cost_at(progress: Mapping[str, float]) -> float:
        return encoder_macs(scheduled_plan(full, target, progress=progress, present=full, multiple=1))

    costs = [encoder_macs(snapshot.plan) for snapshot in snapshots]
    return through_waypoints(schedule, costs, cost_at=cost_at, recovery_steps=recovery_steps)
