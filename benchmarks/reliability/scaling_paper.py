"""How many parameters a run trains at every step, on paper: widths follow from the schedule alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import BertConfig

from benchmarks.speed.whole_run import course
from homodistil_hf.models.cost import count_parameters
from homodistil_hf.models.widths import WidthPlan, widths_of
from homodistil_hf.pruning.schedule import PruningSchedule
from homodistil_hf.training_args import PRUNING_KINDS

COUNTS_BYTES = 32  # 4 int64


@dataclass(frozen=True)
class Step:
    """The student at one step: trained parameters, projections included; whether the step before sliced it."""

    num_parameters: int
    plan: WidthPlan
    sliced: bool


def steps_of_a_run(config: BertConfig, target: WidthPlan, settings: Mapping[str, Any]) -> list[Step]:
    """Follow the schedule without training.

    Args:
        config: the teacher's.
        target: the plan.
        settings: `num_steps`, `interval_steps`, `start_fraction`, `end_fraction`, `multiple`.
    """
    window = (settings["start_fraction"], settings["end_fraction"])
    schedule = PruningSchedule(dict.fromkeys(PRUNING_KINDS, window), settings["interval_steps"], settings["num_steps"])
    stretches = course(widths_of(config), target, schedule, multiple=settings["multiple"])
    steps: list[Step] = []
    for stretch in stretches:
        size = trained_parameters(config, stretch.plan)
        steps.append(Step(size, stretch.plan, sliced=bool(steps)))
        steps += [Step(size, stretch.plan, sliced=False)] * (stretch.num_steps - 1)
    return steps


def trained_parameters(config: BertConfig, plan: WidthPlan) -> int:
    """Parameters of a masked-LM student and of its projections to the teacher's hidden size."""
    projections = (len(plan.layers) + 1) * plan.hidden_size * config.hidden_size
    return count_parameters(plan, config, head="masked_lm") + projections
