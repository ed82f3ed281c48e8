"""The facts of a run for its exports: settings, data, the teacher's metrics and times; and its report.

Each `trainer` is a `DistillationTrainer`. `export/facts.py` checks the sections, `export/report.py` writes the page.
"""

import copy
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.trainer_utils import has_length

from ..export.facts import CARD_SECTION, CHANGED, DATA, LATENCY
from ..export.outcome import TIMINGS, times
from ..export.report import closing_line, try_report
from ..files.provenance import machine_facts
from ..files.settings import differing
from ..files.strict_json import is_number
from ..models.architectures import max_tokens
from ..models.architectures.architecture import PROJECTIONS
from ..models.conversion import to_stock
from ..plans.latency.timing import evaluation_mode, figures, model_inputs, time_in_turns
from .checks import checked_batch

_BATCH_SIZE, _LENGTH = {"cpu": 8}, 128
_ANY_BATCH_SIZE = 32  # of a device that a few texts would not fill
_TURNS: dict[str, Any] = {"num_rounds": 7, "num_warmup": 1, "num_passes": 1, "rest_s": 0.0}
_FORMATS_OF_FILES = ("json", "parquet", "csv", "text", "generator", "arrow", "pandas")
_MADE_BY_LIBRARY = ("dataloader_pin_memory", "use_cpu", "accelerator_config", "output_dir", "logging_dir")


def facts_of_run(trainer: Any, *, format: str) -> dict[str, dict[str, Any]]:
    """The sections that a run adds to the facts of its export in a format."""
    start = {} if trainer.started_as is None else {"started_as": trainer.started_as}
    return {
        "settings": trainer.args.to_sanitized_dict() | start,
        CHANGED: _changed_settings(trainer.args),
        "training": {
            "method": trainer.method,
            "num_steps": trainer.state.global_step,
            "num_epochs": trainer.state.epoch,
            **trainer.extra_logs(),
        },
        DATA: data_of(trainer),
        "evaluation": trainer.held_out_metrics,
        "teacher_evaluation": dict(trainer.teacher_evaluation),
        LATENCY: _latency_once(trainer, format),
        CARD_SECTION: dataclasses.asdict(trainer.card),
        **trainer.about,
    }


def times_smaller(student: nn.Module, teacher: nn.Module) -> str:
    """How many times a teacher has a student's parameters, such as `3.6× smaller`; empty where it has no more."""
    # projections to the teacher don't count: no export has them
    own = sum(tensor.numel() for name, tensor in student.named_parameters() if not name.startswith(PROJECTIONS))
    full = sum(tensor.numel() for tensor in teacher.parameters())
    return f"{times(full, own)} smaller" if own < full else ""


def report_run(trainer: Any, student: Path) -> str:
    """Write logs and `report.html` to the folder of a run, on the main process; return its last line."""
    folder = str(trainer.args.output_dir)
    Path(folder).mkdir(parents=True, exist_ok=True)
    trainer.save_state()
    try_report(folder, student)
    return closing_line(folder, student)


def metrics_of_teacher(trainer: Any) -> dict[str, float]:
    """The teacher's held-out metrics, measured as the student's, those of `compute_metrics` among them; collective."""
    sets: Any = trainer.eval_dataset
    found: dict[str, float] = {}
    for name in sets if isinstance(sets, dict) else [None]:
        if trainer.compute_metrics is None:
            loader, config = trainer.get_eval_dataloader(name), trainer.model.config
            batches = (checked_batch(trainer._prepare_inputs(inputs), config) for inputs in loader)
            metrics = trainer.held_out.of_teacher(batches)
        else:
            metrics = _with_user_metrics(trainer, name)
        found |= metrics if name is None else {f"{name}_{key}": value for key, value in metrics.items()}
    return found


def _with_user_metrics(trainer: Any, name: str | None) -> dict[str, float]:
    """The teacher's metrics, and the results of `compute_metrics` for its logits, by Trainer's own loop."""
    own, prefix = trainer.held_out, "teacher"
    # the loop calls the trainer's own prediction step: for so long the teacher is its student
    trainer.held_out = copy.copy(own)
    trainer.held_out.student = trainer.distillation.teacher.exact
    try:
        loader = trainer.get_eval_dataloader(name)
        metrics = trainer.evaluation_loop(loader, "teacher", False, metric_key_prefix=prefix).metrics or {}
    finally:
        trainer.held_out = own
    trainer.callback_handler.on_predict(trainer.args, trainer.state, trainer.control, metrics)  # ends the bar
    found = {key.removeprefix(f"{prefix}_"): value for key, value in metrics.items() if is_number(value)}
    # what is left are the names that `of_teacher` gives, and the user's own
    shown = (key for key in found if key != "loss" and "kept_fraction" not in key and not key.endswith(TIMINGS))
    return {key: found[key] for key in shown}


def measured_latency(teacher: PreTrainedModel, student: PreTrainedModel) -> dict[str, Any]:
    """Time a student beside its teacher, in turns, on the teacher's device.

    Args:
        teacher: float32.
        student: of the export; a copy is moved.

    Returns:
        `dict`: `teacher_ms` and `student_ms`, medians of one pass; `batch_size`, `length`, `device`, `machine`.
    """
    device = teacher.device
    batch_size = _BATCH_SIZE.get(device.type, _ANY_BATCH_SIZE)
    length = min(_LENGTH, max_tokens(teacher.config))
    tokens, mask = (tensor.to(device) for tensor in model_inputs(teacher.config, batch_size, length))
    models = {"teacher": teacher, "student": student.to(device)}

    def forward(model: PreTrainedModel) -> None:
        type(model).forward(model, input_ids=tokens, attention_mask=mask)  # the instance's may be wrapped
        # a GPU works in the background: without waiting only the launch would be timed
        if device.type != "cpu":
            torch.accelerator.synchronize()

    with torch.no_grad(), evaluation_mode(teacher), evaluation_mode(student):
        passes = {name: lambda model=model: forward(model) for name, model in models.items()}
        found = figures(time_in_turns(passes, **_TURNS))["latency"]
    medians = {f"{name}_ms": round(values["median_ms"], 3) for name, values in found.items()}
    facts = machine_facts()
    processor = f"{facts['processor']}, {facts['num_threads']} thread{'s' * (facts['num_threads'] > 1)}"
    machine = facts["gpu"] if device.type == "cuda" else processor
    return {**medians, "batch_size": batch_size, "length": length, "device": device.type, "machine": machine}


def _latency_once(trainer: Any, format: str) -> dict[str, Any]:
    """The latency of the student at its present widths; pushes during training measure it once."""
    key = (format, trainer.kept)
    if trainer.latency is None or trainer.latency[0] != key:
        student = trainer.dense_student(format=format, allow_partial=True)
        exported = to_stock(student) if format == "standard" else student
        trainer.latency = key, measured_latency(trainer.distillation.teacher.exact, exported)
    return trainer.latency[1]


def _changed_settings(args: Any) -> dict[str, Any]:
    """Settings of a script that differ from their defaults."""
    values: Mapping[str, Any] = {name: value for name, value in args.to_dict().items() if value is not None}
    found = differing(values, type(args))
    return {name: value for name, value in found.items() if name not in _MADE_BY_LIBRARY}


def data_of(trainer: Any) -> dict[str, Any]:
    """Names and numbers of rows, as far as data sets have them; of a task's, what they predict from which columns."""
    held_out = trainer.eval_dataset
    sets = list(held_out.values()) if isinstance(held_out, dict) else [held_out]
    known: dict[str, Any] = {"train": _names([trainer.train_dataset]), "held_out": _names(sets)}
    if trainer.train_dataset is not None and has_length(trainer.train_dataset):
        known["num_train_rows"] = len(trainer.train_dataset)
    if all(rows is not None and has_length(rows) for rows in sets):
        known["num_held_out_rows"] = sum(map(len, sets))
    known |= {name: trainer.rows_facts[name] for name in ("kind", "text_columns") if name in trainer.rows_facts}
    return {name: value for name, value in known.items() if value != []}


def _names(sets: list[Any]) -> list[str]:
    names = [getattr(getattr(rows, "info", None), "dataset_name", None) for rows in sets]
    # data sets of plain files are called after their format, which is no name
    return list(dict.fromkeys(name for name in names if name and name not in _FORMATS_OF_FILES))
