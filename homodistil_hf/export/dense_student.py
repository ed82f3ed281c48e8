"""The dense student of a run, finished or not; `export_folder.py` writes it to a folder."""

import copy
from typing import Any

from transformers.utils import CONFIG_NAME

from ..files.checkpoints import SCORES_FILE, VerifiedCheckpoint
from ..files.strict_json import read_json_object
from ..files.tensors import load_tensors
from ..models.architectures import HEADS
from ..models.architectures.modeling_layerwise import LayerwiseModel
from ..models.loading import load_encoder
from ..models.saved_student import read_state, weights_without_projections
from ..models.units import encoder_groups
from ..models.widths import WidthPlan, nearest_paddable, widths_of
from ..pruning.compaction import compact
from ..pruning.masks import choose_masks, full_masks
from ..pruning.pruner import Pruner, PruningSettings


def dense_copy(model: LayerwiseModel) -> LayerwiseModel:
    """A copy of a student in evaluation mode, on the CPU, without projections."""
    student = type(model)(copy.deepcopy(model.config))
    student.load_state_dict(weights_without_projections(model))
    return student.eval()


def narrowed_copy(pruner: Pruner, *, format: str) -> LayerwiseModel:
    """A copy of a student that has not reached its plan, at the nearest possible widths; else as [`dense_copy`].

    Args:
        pruner: of the run; not changed.
        format: `"compact"`: of its present widths; `"standard"`: of widths that a stock class can hold.
    """
    student, kept = dense_copy(pruner.model), pruner.kept
    plan = kept if format == "compact" else nearest_paddable(kept)
    if plan != kept:
        groups = encoder_groups(student)
        compact(student, groups, choose_masks(pruner.unit_scores(), full_masks(groups), plan=plan), plan=plan)
    return student


def check_finished(is_finished: bool, *, kept: WidthPlan, target: WidthPlan, allow_partial: bool) -> None:
    """Refuse a student that has not reached its plan, unless `allow_partial`."""
    if not is_finished and not allow_partial:
        raise ValueError(
            f"the student has not reached its plan yet ({kept.to_json()}, not {target.to_json()}); "
            "resume the run, or pass allow_partial=True (--allow_partial) to take it as it is"
        )


def checkpoint_student(
    checkpoint: VerifiedCheckpoint, *, format: str, allow_partial: bool
) -> tuple[LayerwiseModel, dict[str, Any]]:
    """The student of a checkpoint, without a trainer.

    Args:
        checkpoint: `checkpoint-N`, its files compared with its manifest.
        format: `"standard"` or `"compact"`; decides on possible widths before the plan is reached.
        allow_partial: also take a student that has not reached the plan, at the nearest possible widths.

    Returns:
        A student in evaluation mode, without projections, and the state of [`read_state`].

    Raises:
        ValueError: no checkpoint of a run, or unfinished and `allow_partial` is False.
    """
    folder = checkpoint.folder
    label = f"checkpoint {str(folder)!r}"
    state = read_state(folder)
    classes = read_json_object(folder / CONFIG_NAME, f"{label}: {CONFIG_NAME}").get("architectures")
    if isinstance(classes, list) and not HEADS.keys() & set(map(str, classes)):
        raise ValueError(
            f"{label} is of an encoder without a head: resume the run, which exports its student at its end"
        )
    student = load_encoder(str(folder), argument="folder")
    kept, num_layers = widths_of(student.config), student.config.num_hidden_layers
    target, full = (WidthPlan.from_dict(state[name], num_layers) for name in ("plan", "full"))
    check_finished(state["is_finished"], kept=kept, target=target, allow_partial=allow_partial)
    if format == "compact" or nearest_paddable(kept) == kept or "pruner" not in state:
        return student.eval(), state
    try:
        pruner = Pruner(student, target, settings=PruningSettings(**state["pruner"]["settings"]), full=full)
        pruner.load_state(state["pruner"], load_tensors(folder / SCORES_FILE))
    except (LookupError, TypeError) as error:
        raise ValueError(
            f"{label} has a pruning state that can't be used ({type(error).__name__}: {error}); take another one"
        ) from error
    return narrowed_copy(pruner, format=format), state
