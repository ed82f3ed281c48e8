"""The student in a folder or a run: finds export, checkpoint or model, makes the student dense, and exports it.

export_folder.py writes the export.
"""

import copy
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from transformers.utils import CONFIG_NAME

from ..files.checkpoints import SCORES_FILE, STATE_FILE, check_manifest, last_checkpoint
from ..files.inside import refuse_link_out
from ..files.run_names import SETTINGS_FILE, STUDENT_FOLDER
from ..files.strict_json import read_json_object
from ..files.tensors import load_tensors
from ..models.architectures import HEADS
from ..models.architectures.modeling_layerwise import LayerwiseModel
from ..models.loading import load_encoder, load_encoder_config
from ..models.resizing import remove_layers
from ..models.saved_student import plan_in, read_state, weights_without_projections
from ..models.tokenizers import stored_tokenizer
from ..models.units import encoder_groups
from ..models.widths import WidthPlan, kept_fractions, nearest_paddable, widths_of
from ..pruning.compaction import compact
from ..pruning.gates import renumbered
from ..pruning.masks import choose_masks, full_masks
from ..pruning.pruner import Pruner
from .export_folder import convert_export, export_student
from .facts import CARD_SECTION, FACTS_FILE, read_facts, section_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StudentIn:
    """The model in a folder.

    Args:
        kind: `export`, of either format; `checkpoint`, of a pruning run; `model`, any other; `nothing` of these.
        folder: of the weights; of a finished run the export inside.
    """

    kind: Literal["export", "checkpoint", "model", "nothing"]
    folder: Path

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that the run recorded beside the folder; empty where there are none."""
        run = self.folder.resolve().parent
        path = run / SETTINGS_FILE
        return read_json_object(path, f"{SETTINGS_FILE} in folder={str(run)!r}") if path.is_file() else {}

    @property
    def teacher(self) -> str | None:
        """Folder or Hub name of the teacher, from the run's settings or the export's facts, or None."""
        name = self.settings.get("teacher")
        if not isinstance(name, str) and self.kind == "export":
            name = section_of(read_facts(self.folder), "teacher").get("hub_id")
        return name if isinstance(name, str) else None


def student_in(folder: str | Path) -> StudentIn:
    """Find the model in a folder: an export, `OUTPUT_DIR` of a run, `checkpoint-N`, any model, or nothing of these.

    Raises:
        ValueError: it has a link to an export outside.
    """
    folder = Path(folder)
    inner = folder / STUDENT_FOLDER
    refuse_link_out(folder, STUDENT_FOLDER)
    for export in (folder, inner):
        if (export / FACTS_FILE).is_file():
            return StudentIn("export", export)
    if (folder / STATE_FILE).is_file():
        return StudentIn("checkpoint", folder)
    return StudentIn("model" if (folder / CONFIG_NAME).is_file() else "nothing", folder)


def members_hint(folder: str | Path) -> str:
    """Words for an error about the folder of a family, which is no model itself; empty for other folders."""
    members = sorted(str(facts.parent.parent) for facts in Path(folder).glob(f"*/{STUDENT_FOLDER}/{FACTS_FILE}"))
    return f"; it has several models: name one, such as {members[0]}" if members else ""


def export_model_from(
    source: str | Path,
    output: str | Path,
    *,
    format: str = "standard",
    allow_partial: bool = False,
    teacher: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Export the student of a finished run, of a checkpoint, or of another export.

    Args:
        source: `OUTPUT_DIR` of a run, `checkpoint-N`, or an export.
        output: folder to write.
        format: `"standard"` or `"compact"`.
        allow_partial: also take a student that has not reached its plan.
        teacher: Hub name or folder that the student was made from, for the card; default: the run's.
        overwrite: replace an earlier export in `output`.

    Raises:
        ValueError: there is no student in `source`, it is damaged or unfinished, or `output` is not free.
    """
    source = Path(source)
    if not source.is_dir():
        raise ValueError(
            f"folder={str(source)!r} does not exist; expected a finished run, a checkpoint-N or an export"
        )
    place = student_in(source)
    if place.kind == "export":
        return convert_export(place.folder, output, format, teacher=teacher, overwrite=overwrite)
    checkpoint = check_manifest(source) if place.kind == "checkpoint" else last_checkpoint(source)
    if checkpoint is None:
        raise ValueError(
            f"folder={str(source)!r} holds no {STUDENT_FOLDER}/, no complete checkpoint-N and no {FACTS_FILE}; "
            f"expected a finished run, a checkpoint-N or an export{members_hint(source)}"
        )
    place = StudentIn("checkpoint", checkpoint)
    student, state = checkpoint_student(checkpoint, format=format, allow_partial=allow_partial)
    if not teacher and (teacher := place.teacher) is not None:
        try:
            load_encoder_config(teacher)
        except (OSError, ValueError) as error:
            logger.warning("the card will not tell about teacher=%r, which can't be read: %s", teacher, error)
            teacher = None
    full = plan_in(state, "full", student.config.num_hidden_layers)
    kept = kept_fractions(widths_of(student.config), full)
    return export_student(
        student,
        output,
        format,
        tokenizer=stored_tokenizer(checkpoint),
        teacher=teacher,
        facts={
            "settings": place.settings,
            "training": {
                "method": state["method"],
                "checkpoint": checkpoint.name,
                **{f"kept_fraction_{kind}": fraction for kind, fraction in kept.items()},
            },
            CARD_SECTION: state["card"],
        },
        overwrite=overwrite,
    )


def exported_student(folder: str | Path) -> Path:
    """Find the export in a folder: itself an export, or `OUTPUT_DIR` of a finished run."""
    place = student_in(folder)
    if place.kind == "export":
        return place.folder
    if not place.folder.exists():
        raise ValueError(f"folder={str(folder)!r} does not exist; name an export, or the output_dir of a finished run")
    raise ValueError(
        f"folder={str(folder)!r} holds no export (no {FACTS_FILE}); expected an export or a finished run, or write "
        f"one with homodistil export{members_hint(folder)}"
    )


def dense_copy(model: LayerwiseModel) -> LayerwiseModel:
    """A copy of a student in evaluation mode, on the CPU, without projections."""
    student = type(model)(copy.deepcopy(model.config))
    student.load_state_dict(weights_without_projections(model))
    return student.eval()


def narrowed_copy(pruner: Pruner, *, format: str) -> LayerwiseModel:
    """A copy of a student that has not reached its plan, at the nearest possible widths; else as [`dense_copy`].

    A layer that is leaving stays whole, or is left out if it counts less than half.

    Args:
        pruner: of the run; not changed.
        format: `"compact"`: of its present widths; `"standard"`: of widths that a stock class can hold.
    """
    student, scores = dense_copy(pruner.model), pruner.unit_scores()
    groups = encoder_groups(student)
    if pruner.gates is not None and not pruner.gates.are_removed:
        layers = pruner.gates.nearest()
        remove_layers(student, layers)
        groups = encoder_groups(student)
        scores = renumbered(scores, groups, layers)
    kept = widths_of(student.config)
    plan = kept if format == "compact" else nearest_paddable(kept)
    if plan != kept:
        compact(student, groups, choose_masks(scores, full_masks(groups), plan=plan), plan=plan)
    return student


def check_finished(is_finished: bool, *, kept: WidthPlan, target: WidthPlan, allow_partial: bool) -> None:
    """Refuse a student that has not reached its plan, unless `allow_partial`."""
    if not is_finished and not allow_partial:
        raise ValueError(
            f"the student has not reached its plan yet ({kept.to_json()}, not {target.to_json()}); "
            "resume the run, or set allow_partial to take it as it is"
        )


def checkpoint_student(folder: Path, *, format: str, allow_partial: bool) -> tuple[LayerwiseModel, dict[str, Any]]:
    """The student of a checkpoint that was compared with its manifest, without a trainer.

    `format` decides on possible widths before the plan is reached; see [`narrowed_copy`].

    Returns:
        A student in evaluation mode, without projections, and the state of [`read_state`].

    Raises:
        ValueError: no checkpoint of a run, or unfinished and `allow_partial` is False.
    """
    label = f"checkpoint {str(folder)!r}"
    state = read_state(folder)
    classes = read_json_object(folder / CONFIG_NAME, f"{label}: {CONFIG_NAME}").get("architectures")
    if isinstance(classes, list) and not HEADS.keys() & set(map(str, classes)):
        raise ValueError(
            f"{label} is of an encoder without a head: resume the run, which exports its student at its end"
        )
    student = load_encoder(str(folder), argument="folder")
    kept, num_layers = widths_of(student.config), student.config.num_hidden_layers
    target, full = (plan_in(state, name, num_layers) for name in ("plan", "full"))
    check_finished(state["is_finished"], kept=kept, target=target, allow_partial=allow_partial)
    # layers that the plan leaves out are still there, behind gates
    fades = len(target.layers) < num_layers and "pruner" in state
    # its widths are possible as they are, so no scores are needed
    if not fades and (format == "compact" or nearest_paddable(kept) == kept or "pruner" not in state):
        return student.eval(), state
    kept_layers = state["pruner"]["gates"]["kept"] if fades else None
    pruner = Pruner(student, target, full=full, kept_layers=kept_layers, **state["pruner"]["settings"])
    pruner.load_state(state["pruner"], load_tensors(folder / SCORES_FILE))
    return narrowed_copy(pruner, format=format), state
