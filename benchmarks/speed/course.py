"""The widths that a student passes on its way to a plan, and what a measured step time means for the whole way.

Under local allocation widths depend on nothing but the schedule, the target and the static cost model, so the whole
course is known without training: [`course`] repeats what `Pruner.step` decides, a pause of the guard left out.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from homodistil_hf.models.cost import encoder_macs
from homodistil_hf.models.widths import WidthPlan
from homodistil_hf.pruning.compaction import is_worthwhile
from homodistil_hf.pruning.masks import scheduled_plan
from homodistil_hf.pruning.schedule import PruningSchedule


@dataclass(frozen=True)
class Stretch:
    """Steps in a row that see the same widths.

    Args:
        num_steps: how many.
        present: widths of the parameters.
        kept: widths that the masks leave.
    """

    num_steps: int
    present: WidthPlan
    kept: WidthPlan


def course(
    full: WidthPlan, target: WidthPlan, schedule: PruningSchedule, *, multiple: int = 8, threshold: float = 0.1
) -> list[Stretch]:
    """The widths of every step of a run.

    Args:
        full: the teacher's widths.
        target: the plan.
        schedule: of the run.
        multiple: widths in between are rounded up to this.
        threshold: share of the encoder MACs whose masking asks for a compaction.

    Returns:
        `list[Stretch]`: in order; their steps add up to the run's.
    """
    stretches: list[Stretch] = []
    present = kept = full
    is_reached = full == target
    for step in range(1, schedule.total_steps + 1):
        if stretches and (stretches[-1].present, stretches[-1].kept) == (present, kept):
            stretches[-1] = replace(stretches[-1], num_steps=stretches[-1].num_steps + 1)
        else:
            stretches.append(Stretch(1, present, kept))
        if is_reached or not schedule.is_due(step):
            continue
        progress = schedule.progress(step)
        kept = scheduled_plan(full, target, progress=progress, present=kept, multiple=multiple)
        is_reached = all(value == 1 for value in progress.values())
        if is_worthwhile(present, kept, threshold=0.0 if is_reached else threshold):
            present = kept
    return stretches


def plateaus(stretches: Sequence[Stretch]) -> list[Stretch]:
    """Join the stretches between two compactions.

    Args:
        stretches: of a course.

    Returns:
        `list[Stretch]`: one for each width of the parameters; `kept` is what the masks leave in the middle of it.
    """
    joined: list[list[Stretch]] = []
    for stretch in stretches:
        if joined and joined[-1][0].present == stretch.present:
            joined[-1].append(stretch)
        else:
            joined.append([stretch])
    return [Stretch(_num_steps(parts), parts[0].present, _middle(parts).kept) for parts in joined]


def chosen_points(places: Sequence[Stretch], num_points: int) -> list[Stretch]:
    """Where to measure: the first plateau, the last, and some in between, evenly spaced.

    Args:
        places: plateaus.
        num_points: how many, ≥ 2.

    Returns:
        `list[Stretch]`: at most so many, in order.
    """
    last = len(places) - 1
    indices = sorted({round(i * last / (num_points - 1)) for i in range(num_points)})
    return [places[i] for i in indices]


def total_seconds(macs_and_steps: Sequence[tuple[int, int]], measured: Mapping[int, float]) -> float:
    """Add up a run's steps; what was not measured lies on a straight line between its neighbours in MACs.

    Args:
        macs_and_steps: MACs a token and number of steps, stretch by stretch.
        measured: MACs a token → seconds a step; outside its range the nearest counts.

    Returns:
        `float`: seconds.

    Example:
    ```python
    >>> total_seconds([(100, 2), (60, 10), (20, 1)], {100: 10.0, 20: 2.0})
    82.0

    ```
    """
    if not macs_and_steps:
        return 0.0
    macs, num_steps = zip(*macs_and_steps, strict=True)
    known = sorted(measured)
    return float(np.dot(num_steps, np.interp(macs, known, [measured[value] for value in known])))


def macs_and_steps(stretches: Sequence[Stretch], length: int, *, masked: bool = False) -> Iterator[tuple[int, int]]:
    """What `total_seconds` adds up.

    Args:
        stretches: of a course.
        length: tokens a sequence.
        masked: count what the masks leave instead of what the parameters have.

    Yields:
        encoder MACs a token and number of steps.
    """
    for stretch in stretches:
        yield encoder_macs(stretch.kept if masked else stretch.present, length), stretch.num_steps


def _num_steps(stretches: Sequence[Stretch]) -> int:
    return sum(stretch.num_steps for stretch in stretches)


def _middle(stretches: Sequence[Stretch]) -> Stretch:
    left = _num_steps(stretches) / 2
    for stretch in stretches:
        left -= stretch.num_steps
        if left <= 0:
            return stretch
    return stretches[-1]
