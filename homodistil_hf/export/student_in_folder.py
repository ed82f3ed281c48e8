"""From a folder that a run has left to an export: which student is in there, and what is known about it.

The folder is a finished run, a `checkpoint-N` or an export of either format.
"""

import logging
from pathlib import Path
from typing import Any

from ..files.checkpoints import last_checkpoint, sorted_checkpoints
from ..files.strict_json import read_json_object
from ..models.loading import load_teacher_config
from ..models.tokenizers import stored_tokenizer
from ..pruning.saved_state import METHOD_KEY, STATE_FILE, read_state_file
from .dense_student import checkpoint_pruner, compacted_copy
from .export_folder import convert_export, export_student
from .facts import CARD_SECTION, FACTS_FILE

logger = logging.getLogger(__name__)


RESULTS_FILE = "results.json"


SETTINGS_FILE = "settings.json"


STUDENT_FOLDER = "student"


def export_folder(
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
        teacher: Hub name or folder that the student was made from, for the card; default: as the run recorded it.
        overwrite: replace an earlier export in `output`.

    Returns:
        `Path`: the export.

    Raises:
        ValueError: there is no student in `source`, it is damaged or unfinished, or `output` is not free.
    """
    source = Path(source)
    if not source.is_dir():
        raise ValueError(
            f"folder={str(source)!r} does not exist; expected a finished run, a checkpoint-N or an export"
        )
    for export in (source, source / STUDENT_FOLDER):
        if (export / FACTS_FILE).is_file():
            return convert_export(export, output, format, teacher=teacher, overwrite=overwrite)
    checkpoint = source if (source / STATE_FILE).is_file() else _newest_checkpoint(source)
    pruner = checkpoint_pruner(checkpoint)
    settings = _read_settings(checkpoint.parent)
    trainer = read_state_file(checkpoint)["trainer"]
    method = {METHOD_KEY: trainer[METHOD_KEY]} if METHOD_KEY in trainer else {}
    return export_student(
        compacted_copy(pruner, format=format, allow_partial=allow_partial),
        output,
        format,
        tokenizer=stored_tokenizer(checkpoint),
        teacher=teacher or _reachable_teacher(settings),
        facts={
            "settings": settings,
            "training": {**method, "checkpoint": checkpoint.name, **pruner.status()},
            CARD_SECTION: trainer.get(CARD_SECTION) or {},
        },
        overwrite=overwrite,
    )


def exported_student(folder: str | Path) -> Path:
    """Find the export that a folder is or holds.

    Args:
        folder: an export, or `OUTPUT_DIR` of a finished run.

    Returns:
        `Path`: the export.

    Raises:
        ValueError: there is none.
    """
    for export in (Path(folder), Path(folder) / STUDENT_FOLDER):
        if (export / FACTS_FILE).is_file():
            return export
    raise ValueError(
        f"folder={str(folder)!r} holds no export (no {FACTS_FILE}); expected an export or a finished run, or write "
        "one with homodistil export"
    )


def _newest_checkpoint(folder: Path) -> Path:
    checkpoint = last_checkpoint(folder)
    if checkpoint is None:
        raise ValueError(
            f"folder={str(folder)!r} holds no {STUDENT_FOLDER}/, no complete checkpoint-N and no {FACTS_FILE}; "
            "expected a finished run, a checkpoint-N or an export"
        )
    if checkpoint != sorted_checkpoints(folder)[0]:
        logger.warning("newer checkpoints than %s are incomplete or damaged and left out", checkpoint)
    return checkpoint


def _read_settings(run_folder: Path) -> dict[str, Any]:
    path = run_folder / SETTINGS_FILE
    return read_json_object(path, f"{SETTINGS_FILE} in folder={str(run_folder)!r}") if path.is_file() else {}


def _reachable_teacher(settings: dict[str, Any]) -> str | None:
    name = settings.get("teacher")
    if name is None:
        return None
    try:
        load_teacher_config(name)
    except (OSError, ValueError) as error:
        logger.warning("the card will not tell about teacher=%r, which can't be read: %s", name, error)
        return None
    return name
