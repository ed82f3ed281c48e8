"""The dense student of a run, finished or not, ready to be exported; it writes no folder."""

import copy
from collections.abc import Mapping
from pathlib import Path

import torch

from ..files.checkpoints import check_manifest
from ..files.tensors import load_tensors
from ..models.families.modeling_homobert import HomoBertPreTrainedModel
from ..models.loading import load_teacher
from ..models.units import encoder_groups
from ..models.widths import WidthPlan, narrowest, nearest_paddable, teacher_plan
from ..plans.resolve import check_plan
from ..pruning.compaction import compact
from ..pruning.masks import apply_masks, choose_masks
from ..pruning.pruner import Pruner, PruningSettings
from ..pruning.saved_state import (
    STATE_TENSORS_FILE,
    load_pruner_state,
    read_state_file,
    weights_without_projections,
)


def compacted_copy(
    pruner: Pruner, *, format: str = "standard", allow_partial: bool = False
) -> HomoBertPreTrainedModel:
    """A student of its own, dense, at the plan, without projections.

    Args:
        pruner: of the run; left as it is.
        format: `"standard"` or `"compact"`: which widths are possible before the plan is reached.
        allow_partial: take a student that has not reached the plan at the nearest possible widths.

    Returns:
        A student in evaluation mode, on the CPU.

    Raises:
        ValueError: the plan has not been reached and `allow_partial` is False.
    """
    check_finished(pruner, allow_partial=allow_partial)
    plan = pruner.kept if format == "compact" else nearest_paddable(pruner.kept)
    student = type(pruner.model)(copy.deepcopy(pruner.model.config))
    student.load_state_dict(weights_without_projections(pruner.model))
    groups = encoder_groups(student)
    masks = choose_masks(pruner.unit_scores(), pruner.masks, plan=plan)
    apply_masks(student, groups, masks)
    compact(student, groups, masks, plan=plan)
    return student.eval()


def check_finished(pruner: Pruner, *, allow_partial: bool) -> None:
    """Refuse a student that is still on its way.

    Args:
        pruner: of the run.
        allow_partial: whether that is fine.

    Raises:
        ValueError: the plan has not been reached and `allow_partial` is False.
    """
    if not pruner.plan_reached and not allow_partial:
        raise ValueError(
            f"the student has not reached its plan yet ({pruner.kept.to_json()}, not {pruner.target.to_json()}); "
            "resume the run, or pass allow_partial=True (--allow_partial) to take it as it is"
        )


def checkpoint_pruner(folder: str | Path) -> Pruner:
    """Rebuild the student and the pruning state of a checkpoint, without a trainer.

    Args:
        folder: `checkpoint-N`.

    Returns:
        [`Pruner`] of a student that carries no projections.

    Raises:
        ValueError: damaged, or no checkpoint of a pruning run.
    """
    folder = Path(folder)
    label = f"checkpoint {str(folder)!r}"
    state = read_state_file(folder)["pruner"]
    check_manifest(folder)
    student = _load_student(folder, label)
    num_layers = student.config.num_hidden_layers
    target, full = (WidthPlan.from_dict(state[name], num_layers) for name in ("target", "full"))
    check_plan(target, full)
    _check_widths(teacher_plan(student.config), full, label)
    waypoints = [WidthPlan.from_dict(plan, num_layers) for plan in state.get("waypoints", ())]
    settings = PruningSettings(**state["settings"])
    pruner = Pruner(student, target, settings=settings, full=full, waypoints=waypoints)
    load_pruner_state(pruner, state, _without_projections(load_tensors(folder / STATE_TENSORS_FILE)), label=label)
    return pruner


def _load_student(folder: Path, label: str) -> HomoBertPreTrainedModel:
    try:
        student = load_teacher(str(folder), called="folder")
    except ValueError as error:
        raise ValueError(f"{label} can't be loaded, take another checkpoint: {error}") from error
    if not isinstance(student, HomoBertPreTrainedModel):
        raise ValueError(f"{label} holds a {type(student).__name__}, which is no student; export it as it is")
    return student


def _check_widths(present: WidthPlan, full: WidthPlan, label: str) -> None:
    fits = all(narrowest(*pair) == pair[0] for pair in zip(present.layers, full.layers, strict=True))
    if not fits or present.hidden_size > full.hidden_size:
        raise ValueError(
            f"{label} has the widths {present.to_json()}, more than those it began with, {full.to_json()}"
        )


def _without_projections(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    # PLATON keeps averages for every parameter; those of the projections belong to no parameter of this student.
    return {name: tensor for name, tensor in tensors.items() if ".projections." not in name}
