"""One cell: check it before any cell is trained, then train it or go on, export, evaluate, and write one record.

`running.py` decides which cells are left; the process that calls [`run_cell`] holds the cell's lock.
"""

import json
import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from benchmarks.sweep.cells import TEACHER, Cell
from benchmarks.sweep.folder import (
    CELL_FILE,
    DONE,
    ERROR,
    EVALUATE,
    SweepFolder,
    missing_evaluations,
    read_record,
    record_head,
    write_record,
)
from homodistil_hf.evaluation.fine_tuning import GlueSettings, settings_from
from homodistil_hf.evaluation.task_runs import evaluate_glue
from homodistil_hf.export.facts import read_facts
from homodistil_hf.files.checkpoints import last_checkpoint, sorted_checkpoints
from homodistil_hf.files.folders import remove_folder, write_text
from homodistil_hf.files.messages import nearest_valid, short_repr
from homodistil_hf.files.provenance import machine_facts
from homodistil_hf.files.run_names import STUDENT_FOLDER
from homodistil_hf.files.settings import setting_types
from homodistil_hf.files.strict_json import fits, is_int, read_json_object
from homodistil_hf.models.cost import COSTS
from homodistil_hf.models.widths import DEPTH_KEY, widths_of
from homodistil_hf.runs.config import SETTINGS_OF_ONE_CALL, run_of
from homodistil_hf.runs.kinds import (
    KINDS,
    MASKED_WORDS_RUN,
    METHODS,
    RunInputs,
    run_kind_named,
    run_kind_of,
    trainer_named,
)
from homodistil_hf.runs.settings import Log, RunConfig
from homodistil_hf.runs.student import make_trainer
from homodistil_hf.tasks.glue import PART_SUFFIX, check_tasks, data_folder
from homodistil_hf.training.distillation_trainer import DistillationTrainer

_DECIDES_SOURCES = (
    *("teacher", "teacher_revision", "tokenizer", "streaming", "max_seq_length"),
    *("student", "plain", "width_multiple"),
)

_CLOCK_FILE = "clock.json"
_MOST_DIGITS = 20  # of a step

TASKS = "tasks"


def setting_names() -> set[str]:
    """Name every setting that a run on masked words has with one method or another."""
    kind = run_kind_named(MASKED_WORDS_RUN)
    methods = [name for name in METHODS if name not in KINDS]
    return {name for method in methods for name in setting_types(*kind.settings_classes(method))}


def run_settings(cell: Cell, output_dir: str, **others: Any) -> RunConfig:
    """The settings of a cell's run in `output_dir`; a ValueError where no run can have them."""
    trainer_named(cell.method)  # refuses what is no method
    if cell.method in KINDS:
        names = ", ".join(name for name in METHODS if name not in KINDS)
        raise ValueError(
            f"cell {cell.name!r} has method={cell.method!r}, whose students can't be compared with the others' by a "
            f"sweep; use one of {names}"
        )
    decided = {"method": cell.method, "disable_tqdm": True, "output_dir": output_dir}
    values = {**cell.settings, **decided, **others}
    settings = run_of(values, f"cell {cell.name!r}")
    if settings.members:
        raise ValueError(
            f"cell {cell.name!r} has the list student={short_repr(cell.settings['student'])}; name one student"
        )
    return settings


def check_cells(cells: Iterable[Cell]) -> dict[str, str]:
    """Check cells without reading text or weights: name of each that can't exist → why.

    Raises:
        ValueError: settings that can't work; the message begins with the cell.
        OSError: a teacher or tokenizer can't be read.
    """
    sources: dict[str, RunInputs] = {}
    reasons = {}
    for cell in (cell for cell in cells if cell.method != TEACHER):
        try:
            reason = _impossible_reason(cell, sources)
        except ValueError as error:
            label = f"cell {cell.name!r}"
            raise ValueError(str(error) if label in str(error) else f"{label}: {error}") from error
        if reason is not None:
            reasons[cell.name] = reason
    return reasons


def _impossible_reason(cell: Cell, known: dict[str, RunInputs]) -> str | None:
    settings = run_settings(cell, "runs/checked")
    # cells that are equal in these settings share what was read
    key = json.dumps([cell.method, *(cell.settings.get(name) for name in _DECIDES_SOURCES)])
    kind = run_kind_of(settings)
    if key not in known:
        if kind is not run_kind_named(MASKED_WORDS_RUN):
            raise ValueError(
                f"cell {cell.name!r} has teacher={settings.run.teacher!r}, no model of masked words; sweeps compare "
                "students of masked words: start homodistil distill with each setting"
            )
        known[key] = kind.inputs(settings)
    return trainer_named(cell.method).impossible_reason(kind.plan(settings, known[key]), widths_of(known[key].config))


def run_cell(cell: Cell, folder: SweepFolder, evaluate: Mapping[str, Any], log: Log) -> None:
    """Bring a cell to its end, from wherever it is; `evaluate`: evaluations of its student, name → settings."""
    run_folder = folder.run(cell)
    record = read_record(folder.record(cell))
    if record is None or not _is_trained(cell, record, run_folder, evaluate):
        is_teacher = cell.method == TEACHER
        record = record_head(cell) | {"status": DONE} if is_teacher else train_cell(cell, run_folder, log)
        # the record first: until it is there a stopped cell needs its checkpoints
        write_record(folder.record(cell), record)
        for checkpoint in sorted_checkpoints(run_folder):
            remove_folder(checkpoint)
    model = cell.settings[TEACHER] if cell.method == TEACHER else run_folder / STUDENT_FOLDER
    for name in missing_evaluations(record, evaluate):
        log(f"evaluation: {name}")
        results = EVALUATIONS[name](model, evaluate[name], run_folder / "evaluations")
        record.pop(ERROR, None)
        record[EVALUATE] = record.get(EVALUATE, {}) | {name: {"settings": evaluate[name], "results": results}}
        write_record(folder.record(cell), record)


def _is_trained(cell: Cell, record: Mapping[str, Any], run_folder: Path, evaluate: Mapping[str, Any]) -> bool:
    if record["status"] != DONE or record["digest"] != cell.digest:
        return False
    has_model = cell.method == TEACHER or (run_folder / STUDENT_FOLDER).is_dir()
    return has_model or not missing_evaluations(record, evaluate)


def train_cell(cell: Cell, run_folder: Path, log: Log) -> dict[str, Any]:
    """Train a cell, or go on at its last checkpoint; export and evaluate its student; its record.

    Anything in `run_folder` that was trained with other settings is removed.
    """
    _claim(cell, run_folder)
    checkpoint = last_checkpoint(run_folder)
    settings = run_settings(cell, str(run_folder), overwrite_output_dir=checkpoint is None)
    settings.training.resume_from_checkpoint = None if checkpoint is None else str(checkpoint)
    settings.training.eval_on_start &= checkpoint is None  # Trainer would evaluate wherever a run goes on
    trainer = make_trainer(settings, log)
    clock = RunClock(run_folder / _CLOCK_FILE)
    trainer.add_callback(clock)
    trainer.train(checkpoint)
    trainer.evaluate()
    trainer.evaluate_teacher()
    student = trainer.export(run_folder / STUDENT_FOLDER)
    return record_head(cell) | {"status": DONE} | _outcome(trainer, settings, clock, read_facts(student))


class RunClock(TrainerCallback):
    """Measures how long a run takes, over all the processes that it takes.

    `file` keeps the time at each checkpoint; what a killed process did after its last one isn't counted.
    """

    def __init__(self, file: Path):
        self.file = file
        known = read_json_object(file, f"{file.name} of the run") if file.is_file() else {}
        self.marks: dict[str, float] = known.get("seconds", {})
        self.num_sessions: int = known.get("num_sessions", 0)
        if not is_int(self.num_sessions) or not fits(self.marks, {...: int | float}) or not _are_steps(self.marks):
            raise ValueError(
                f"{file.name} of the run holds {short_repr(known)}, which no run wrote; remove {str(file)!r}: the "
                "time of earlier sessions isn't counted then"
            )
        self.seconds = self.evaluation_seconds = 0.0
        self._earlier = 0.0
        self._start = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Go on from the mark of the checkpoint."""
        self._start = time.perf_counter()
        # marks beyond the checkpoint are of work that was lost
        past = [seconds for step, seconds in self.marks.items() if int(step) <= state.global_step]
        self._earlier = self.seconds = max(past, default=0.0)
        self.num_sessions += 1
        self._write()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Set a mark."""
        self.marks[str(state.global_step)] = round(self._earlier + time.perf_counter() - self._start, 1)
        self._write()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop."""
        self.seconds = self._earlier + time.perf_counter() - self._start
        self.evaluation_seconds = sum(entry.get("eval_runtime", 0.0) for entry in state.log_history)

    def _write(self) -> None:
        write_text(self.file, json.dumps({"num_sessions": self.num_sessions, "seconds": self.marks}) + "\n")


def _are_steps(marks: Mapping[str, float]) -> bool:
    return all(step.isdecimal() and len(step) < _MOST_DIGITS for step in marks)


def _claim(cell: Cell, run_folder: Path) -> None:
    marker = run_folder / CELL_FILE
    begun = read_json_object(marker, f"{CELL_FILE} of cell {cell.name!r}") if marker.is_file() else {}
    if begun.get("digest", cell.digest) != cell.digest:  # as `state_of` has it
        remove_folder(run_folder)
    run_folder.mkdir(parents=True, exist_ok=True)
    write_text(marker, json.dumps(record_head(cell), indent=1) + "\n")


def _outcome(
    trainer: DistillationTrainer, settings: RunConfig, clock: RunClock, facts: Mapping[str, Any]
) -> dict[str, Any]:
    history = trainer.state.log_history
    for name, value in trainer.held_out_metrics.items():
        if not math.isfinite(value):
            raise FloatingPointError(f"{name}={value} of the student on held-out text; lower learning_rate")
    num_steps = trainer.state.global_step
    num_tokens = num_steps * trainer.args.train_batch_size * trainer.args.gradient_accumulation_steps
    num_tokens *= trainer.args.world_size * settings.run.row_length
    numbers = {model: facts[model][DEPTH_KEY] for model in ("student", "teacher")}
    depth = {DEPTH_KEY: numbers["student"]} if numbers["student"] < numbers["teacher"] else {}
    return {
        "plan": depth | facts["student"]["plan"],
        "models": _costs(facts),
        "evaluation": trainer.held_out_metrics,
        "teacher_evaluation": dict(trainer.teacher_evaluation),
        "num_steps": num_steps,
        "num_tokens": num_tokens,
        "seconds": round(clock.seconds, 1),
        "evaluation_seconds": round(clock.evaluation_seconds, 1),
        "num_sessions": clock.num_sessions,
        "machine": machine_facts(),
        # Defaults included, because a later version may have others; the learning rate is the run's.
        "own_settings": _kept(trainer.args.own_settings()),
        "evaluations": [_rounded({"step": step, **values}) for step, values in trainer.evaluations.items()],
        "kept_fractions": _kept_fractions(history),
    }


def _kept(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in SETTINGS_OF_ONE_CALL}


def _costs(facts: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Those of the teacher, of the exported student and, where that is padded, the student itself, with its plan."""
    models = {model: {cost: facts[model][cost] for cost in COSTS} for model in ("teacher", "student")}
    if facts.get("forms"):
        models["compact"] = {name: facts["forms"]["compact"][name] for name in (*COSTS, "plan")}
    return models


def _kept_fractions(history: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """How wide the student was up to which step: the last logged row of each width."""
    rows = {}
    for entry in history:
        kept = {kind: entry.get(f"kept_fraction_{kind}") for kind in ("hidden", "attention", "ffn")}
        if "loss" in entry and None not in kept.values():
            rows[tuple(kept.values())] = _rounded({"step": entry["step"], **kept})
    return list(rows.values())


def _rounded(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Six digits are enough for a curve; None stands for values that are not finite, which JSON can't hold."""
    return {name: _short(value) if isinstance(value, float) else value for name, value in entry.items()}


def _short(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None


def check_evaluations(evaluate: Mapping[str, Any]) -> None:
    """Refuse unknown names in `evaluate` (name → settings), and settings that can't work, by a ValueError."""
    for name, settings in evaluate.items():
        if name not in EVALUATIONS:
            nearest = nearest_valid(name, EVALUATIONS)
            raise ValueError(f"evaluate has the unknown key {short_repr(name)}; {nearest}")
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
