"""How many parameters a run trains at every step, on paper: widths follow from the schedule alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import BertConfig

from benchmarks.speed.whole_run import course
from homodistil_hf.models.cost import count_parameters
from homodistil_hf.models.widths import WidthPlan, teacher_plan
from homodistil_hf.pruning.schedule import PruningSchedule
from homodistil_hf.training_args import PRUNING_KINDS

COUNTS_BYTES, GUARD_BYTES = 32, 4  # 4 float64 and 1 float32


@dataclass(frozen=True)
class Step:
    """The student at one step: trained parameters, projections included; whether the step before compacted it."""

    num_parameters: int
    plan: WidthPlan
    compacted: bool


def steps_of_a_run(config: BertConfig, target: WidthPlan, settings: Mapping[str, Any]) -> list[Step]:
    """Follow the schedule without training, and without a discrepancy guard, which may delay pruning.

    Args:
        config: the teacher's.
        target: the plan.
        settings: `num_steps`, `interval_steps`, `start_fraction`, `end_fraction`, `multiple`, `compaction_threshold`.
    """
    window = (settings["start_fraction"], settings["end_fraction"])
    schedule = PruningSchedule(dict.fromkeys(PRUNING_KINDS, window), settings["interval_steps"], settings["num_steps"])
    rounding = {"multiple": settings["multiple"], "threshold": settings["compaction_threshold"]}
    stretches = course(teacher_plan(config), target, schedule, **rounding)
    steps: list[Step] = []
    for stretch in stretches:
        size = trained_parameters(config, stretch.present)
        is_narrower = bool(steps) and steps[-1].plan != stretch.present
        steps.append(Step(size, stretch.present, is_narrower))
        steps += [Step(size, stretch.present, False)] * (stretch.num_steps - 1)
    return steps


def trained_parameters(config: BertConfig, plan: WidthPlan) -> int:
    """Parameters of a masked-LM student and of its projections to the teacher's hidden size."""
    projections = (len(plan.layers) + 1) * plan.hidden_size * config.hidden_size
    return count_parameters(plan, config, head="masked_lm") + projections
