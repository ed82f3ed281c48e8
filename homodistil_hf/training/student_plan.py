"""The target widths of a run: resolved when it starts, read from its checkpoint when it is resumed.

Most plans follow from the settings alone. The plan of a latency budget is measured, and a second measurement could
differ, so every checkpoint holds it and a resumed run takes it from there.
"""

import logging
from pathlib import Path

from accelerate.utils import broadcast_object_list
from transformers import PreTrainedConfig

from ..files.checkpoints import STATE_FILE, sorted_checkpoints
from ..models.saved_student import read_state
from ..models.widths import WidthPlan, widths_of
from ..plans.latency.budget import LatencyBudget, plan_within
from ..plans.resolve import resolve_plan
from ..training_args import DistillationArguments
from .ranks import on_every_rank

logger = logging.getLogger(__name__)


def resolve_student(
    args: DistillationArguments, config: PreTrainedConfig, *, has_all_layers: bool = True
) -> WidthPlan:
    """Turn the setting `student` into widths, the same on all ranks. Collective for a latency budget.

    Args:
        args: the run's settings.
        config: configuration of the model that the student starts as.
        has_all_layers: whether the student has as many layers as the plan; a latency budget is measured on all.

    Raises:
        ValueError: see [`resolve_plan`]; also a latency budget without `has_all_layers`.
    """
    if args.student is None:
        raise ValueError("student=None names no widths; name a preset (homobert-tiny), a budget (macs=0.25) or a plan")

    def of_the_first_rank(budget: LatencyBudget) -> WidthPlan | None:
        if args.process_index != 0:
            return None
        return recorded_plan(args, config) or plan_within(budget, config, multiple=args.width_multiple).plan

    def measure(budget: LatencyBudget) -> WidthPlan:
        if not has_all_layers:
            raise ValueError(
                f"student={args.student!r} is measured with all of the teacher's layers, but this student has fewer "
                "and wider ones; ask for a share of the encoder MACs, such as macs=0.5"
            )
        plans = [on_every_rank(lambda: of_the_first_rank(budget))]
        return broadcast_object_list(plans)[0]

    return resolve_plan(args.student, config, multiple=args.width_multiple, measure=measure)


def recorded_plan(args: DistillationArguments, config: PreTrainedConfig) -> WidthPlan | None:
    """The plan that a checkpoint holds for the same `student` and the same start widths, or None."""
    requested = args.resume_from_checkpoint
    named = requested if isinstance(requested, str) and requested != "last" else None
    for folder in map(Path, [named] if named else sorted_checkpoints(args.output_dir)):
        if not (folder / STATE_FILE).is_file():
            continue
        state = read_state(folder)
        if state["student"] == args.student and state["full"] == widths_of(config).to_dict():
            logger.info("student=%r: the widths of %s are taken, nothing is measured", args.student, folder)
            return WidthPlan.from_dict(state["plan"], config.num_hidden_layers)
    return None
