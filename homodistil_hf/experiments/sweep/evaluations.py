"""Evaluations of a finished student beside its discrepancy, which every cell has: GLUE.

Each evaluation takes the folder of a model and the settings that stand in the sweep's file, and gives JSON values with
a `mean` over all that was measured.
"""

import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ...evaluation.fine_tuning import GlueSettings, settings_from
from ...evaluation.glue import evaluate_glue
from ...evaluation.task_data import PART_SUFFIX, check_tasks, data_folder
from ...files.messages import nearest_name, short_repr

TASKS = "tasks"


def check_evaluations(evaluate: Mapping[str, Any]) -> None:
    """Refuse unknown names in `evaluate` (name → settings), and settings that can't work, by a ValueError."""
    for name, settings in evaluate.items():
        if name not in EVALUATIONS:
            nearest = nearest_name(name, EVALUATIONS)
            raise ValueError(f"evaluate has the unknown key {short_repr(name)}; nearest valid: {nearest!r}")
        if not isinstance(settings, dict) or TASKS not in settings:
            raise ValueError(
                f'evaluate[{name!r}]={short_repr(settings)} names no tasks; expected such as {{"tasks": ["rte"]}}'
            )
        own = settings_from(GlueSettings, _own(settings))
        for task in check_tasks(settings[TASKS]):
            if own.data_dir is not None:
                data_folder(task, own.data_dir)


def glue_scores(model: str | Path, settings: Mapping[str, Any], output_dir: Path) -> dict[str, Any]:
    """Fine-tune a model, a folder or a Hub name, on GLUE tasks.

    Args:
        model: folder or Hub name.
        settings: `tasks`, and those of [`GlueSettings`].
        output_dir: of the evaluation's own records, by which it goes on after a stop.

    Returns:
        `dict`: `mean` of the tasks' scores, and `tasks`: name → `mean`, `std`, `scores` by seed, `metrics`.
    """
    summary = evaluate_glue(model, settings[TASKS], settings=_own(settings), output_dir=output_dir)
    asked = check_tasks(settings[TASKS])
    tasks = {
        name: {**found["score"], "scores": found["scores"], "metrics": found["metrics"]}
        for name, found in summary[TASKS].items()
        if name.removesuffix(PART_SUFFIX) in asked
    }
    return {"mean": statistics.fmean(task["mean"] for task in tasks.values()), TASKS: tasks}


EVALUATIONS: dict[str, Callable[[str | Path, Mapping[str, Any], Path], dict[str, Any]]] = {"glue": glue_scores}
"""Name in a sweep's file → what evaluates a model."""


def _own(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name != TASKS}
