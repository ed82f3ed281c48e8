"""One student: check its run, train, evaluate, export, write the results down. What goes before it: `distill.py`."""

import logging
import math
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..data.blocks import some_blocks
from ..export.export_folder import check_output
from ..export.facts import CHANGED, DATA, SIZES, file_facts, read_facts, section_of
from ..files.caches import keep_datasets_here
from ..files.checkpoints import sorted_checkpoints
from ..files.messages import short_repr
from ..files.provenance import public_name, version_facts
from ..files.run_names import NESTED, RESULTS_FILE, SETTINGS_FILE, STUDENT_FOLDER
from ..files.strict_json import is_number, read_json_object, write_json
from ..models.cost import MODEL_COSTS
from ..models.widths import WidthPlan, widths_of
from ..training.distillation_trainer import DistillationTrainer
from ..training.evaluation_loop import HeldOutEvaluation
from ..training.publishing import check_address
from ..training.run_folder import (
    Requested,
    check_free,
    check_output_dir,
    existing_files,
    is_hub_address,
    verified_checkpoint,
)
from ..training_args import with_settings
from .kinds import RunInputs, student_kind_of, trainer_named
from .settings import Log, RunConfig

logger = logging.getLogger(__name__)

_ROWS_OF_EACH = 0.006
"""Rows of one of ten evaluations, as a share of those that a run trains on: 3 % of its cost, as a row that is trained
on costs twice a row that is evaluated."""
_LEAST_ROWS = 16


class TenTimes(TrainerCallback):
    """Logs a run ten times, and evaluates it on some rows, where its settings don't say how often: for the report.

    Args:
        trainer: of the run.
        given: settings of the run that the user has given.
    """

    def __init__(self, trainer: DistillationTrainer, given: Mapping[str, Any]):
        self.trainer = trainer
        self.logs = not {"logging_steps", "logging_strategy"} & given.keys()
        # figures of whole spaces, such as nearest neighbours, are of no worth on some rows
        self.evaluates = "eval_strategy" not in given and type(trainer.held_out.largest) is HeldOutEvaluation
        self.rows: Dataset | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The length of the run is known: choose the rows, evenly spread."""
        held_out, num_rows = self.trainer.eval_dataset, int(_ROWS_OF_EACH * state.max_steps * args.rows_per_step)
        if self.evaluates and isinstance(held_out, Dataset) and min(num_rows, len(held_out)) >= _LEAST_ROWS:
            self.rows = some_blocks(held_out, num_rows)
            logger.info(
                "evaluated at most ten times, on %s of %s held-out rows, at the end on all",
                *(f"{len(self.rows):,}", f"{len(held_out):,}"),
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Evaluate and ask for a log; a run evaluates its last step itself."""
        if state.global_step % -(-state.max_steps // 10):
            return
        if self.rows is not None and state.global_step < state.max_steps:
            self.trainer.evaluate(self.rows)
        control.should_log |= self.logs


def make_trainer(
    settings: RunConfig,
    log: Log,
    *,
    inputs: RunInputs | None = None,
    plan: WidthPlan | None = None,
    start: PreTrainedModel | None = None,
) -> Any:
    """Check a run from the cheapest to the dearest, then load text, teacher and start, and make the trainer.

    Args:
        settings: the run's.
        log: takes lines for the user.
        inputs: what [`StudentKind`] has them be. Default: they are checked now.
        plan: the student's widths. Default: as the kind of run has them.
        start: the model that the student starts as. Default: as the kind of run has it.

    Raises:
        ValueError: something about the settings, the data or the teacher can't work.
        OSError: a file or a Hub repository can't be read.
    """
    run, training, kind = settings.run, settings.training, student_kind_of(settings)
    for name in ("further_pretraining", "vocabulary"):
        if (value := getattr(run, name)) is not None:
            raise ValueError(
                f"{name}={short_repr(value)} goes before a run of `homodistil distill` alone; make that teacher "
                "first, and name its folder as the teacher"
            )
    inputs = inputs or kind.inputs(settings)
    plan = plan or kind.plan(settings, inputs)
    method = trainer_named(run.method)
    method.check_possible(plan, widths_of(inputs.config))
    keep_datasets_here()
    # one process tokenizes, the others find the rows in its cache
    with training.main_process_first(desc="reading the text"):
        rows = kind.rows(settings, inputs, log)
    arguments = kind.training(settings, inputs, rows.train)
    small, teacher = kind.models(settings, inputs)
    start = start or small
    # it starts as `start` and learns from the teacher, or starts as a copy of the teacher
    trainer = method(
        start or teacher,
        arguments,
        teacher_model=teacher if start else None,
        plan=plan,
        train_dataset=rows.train,
        eval_dataset=rows.held_out,
        processing_class=inputs.tokenizer,
    )
    trainer.rows_facts = rows.facts
    if rows.metrics:
        trainer.reported_metrics = rows.metrics
    if rows.grading is not None:
        trainer.gradings = [(trainer.eval_dataset, rows.grading)]
    return trainer


def train_student(settings: RunConfig, log: Log) -> dict[str, Any]:
    """Run one distillation to its end; arguments, return and errors as [`distill`]."""
    since = time.perf_counter()
    checkpoint = _checked_folder(settings)
    # asked to go on where nothing was saved: a new run over what is there
    if checkpoint is None and settings.training.resume_from_checkpoint:
        anew = with_settings(settings.training, resume_from_checkpoint=None, overwrite_output_dir=True)
        settings = replace(settings, training=anew)
    results = train_to_the_end(make_trainer(settings, log), settings, checkpoint, since=since)
    kind = student_kind_of(settings)
    if NESTED in results and kind.of_members is not None:
        results |= kind.of_members(settings, kind.inputs(settings), [settings.folder])
        write_json(settings.folder / RESULTS_FILE, results)
    return results


def train_to_the_end(
    trainer: DistillationTrainer, settings: RunConfig, checkpoint: Requested, *, since: float
) -> dict[str, Any]:
    """Train, evaluate, export, write `results.json`, returned on the main process, push; `since`: when it began."""
    folder = Path(settings.training.output_dir)
    if trainer.is_world_process_zero():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / SETTINGS_FILE, settings.recorded)
    run = settings.run
    # names and numbers of rows, for facts and card
    data = trainer.data_facts() | {
        "train": [public_name(name) for name in run.train_data],
        "held_out": [public_name(name) for name in run.eval_data or run.train_data],
        "max_tokens": trainer.rows_facts.get("max_seq_length", run.row_length),
    }
    trainer.about = {CHANGED: settings.given, DATA: data}
    trainer.add_callback(TenTimes(trainer, settings.given))
    trainer.train(checkpoint)
    trainer.evaluate()
    trainer.evaluate_teacher()
    trainer.check_finished(allow_partial=False)  # on all ranks, or some would wait for ever
    results = {}
    if trainer.is_world_process_zero():
        results = _results_of_the_same_run(trainer, settings)
        trainer.save_state()
        if not results:
            trainer.write_export(trainer.student_folder, "standard", False)
            time_s = round(time.perf_counter() - since, 1)
            results = _results(trainer, settings) | {"time_s": time_s}
            write_json(folder / RESULTS_FILE, results)
    trainer.accelerator.wait_for_everyone()
    if settings.training.push_to_hub:
        trainer.push_written()  # last, as it may fail
    return results


def _results_of_the_same_run(trainer: DistillationTrainer, settings: RunConfig) -> dict[str, Any]:
    """`results.json` of a run that had ended before it was resumed, whose student is whole; else empty.

    An export anew would have the same weights, and lack what later commands have added: benchmarks and graphs. Other
    weights, or other held-out rows, show in the metrics.
    """
    folder, student, resumed = settings.folder, trainer.student_folder, trainer.resumed_from
    if resumed is None or Path(resumed).name != f"{PREFIX_CHECKPOINT_DIR}-{trainer.state.global_step}":
        return {}
    results = dict[str, Any]()
    with suppress(OSError, ValueError):  # a file is missing or damaged
        facts, found = read_facts(student), read_json_object(folder / RESULTS_FILE, RESULTS_FILE)
        is_of_run = found.get("settings") == settings.given and found.get("num_steps") == trainer.num_steps
        is_of_run = is_of_run and _are_alike(section_of(found, "evaluation"), trainer.held_out_metrics)
        results = found if is_of_run and facts.get("files") == file_facts(student) else {}
    if results:
        logger.warning("the run had ended before: %s and %s stay as they are", student, folder / RESULTS_FILE)
    return results


def _are_alike(recorded: Mapping[str, Any], measured: Mapping[str, Any]) -> bool:
    numbers = [{name: value for name, value in one.items() if is_number(value)} for one in (recorded, measured)]
    return numbers[0].keys() == numbers[1].keys() and all(
        math.isclose(value, numbers[1][name], rel_tol=1e-6) for name, value in numbers[0].items()
    )


def _results(trainer: DistillationTrainer, settings: RunConfig) -> dict[str, Any]:
    metrics, of_teacher = trainer.held_out_metrics, trainer.teacher_evaluation
    # Rows without labels have fewer.
    reported = [name for name in trainer.reported_metrics if name in metrics or name in of_teacher]
    facts = read_facts(Path(settings.training.output_dir) / STUDENT_FOLDER)
    forms, members = facts.get("forms"), trainer.members()
    students = [(name, size, size) for name, size in facts.get(SIZES, {}).items()]
    students = students or [("student", facts["student"], metrics)]
    return {
        "method": trainer.method,
        "models": [
            {"name": name, **{cost: costs.get(cost) for cost in MODEL_COSTS}}  # vectors alone have none
            | {metric: found.get(metric) for metric in reported}
            for name, costs, found in (("teacher", facts["teacher"], of_teacher), *students)
        ],
        # None where the stock student has no padding.
        "compact": {cost: forms["compact"][cost] for cost in MODEL_COSTS} if forms else None,
        "evaluation": metrics,
        "plan": trainer.plan.to_dict(of_layers=len(trainer.full.layers)),
        **({NESTED: [{"name": one.name, "plan": one.plan.to_dict()} for one in members]} if members else {}),
        "num_steps": trainer.num_steps,
        "versions": version_facts(),
        "settings": settings.given,
    } | ({"rows": dict(trainer.rows_facts)} if trainer.rows_facts else {})


def _checked_folder(settings: RunConfig) -> Requested:
    """What `train` is to go on with; its files are checked here, before any text is read."""
    training = settings.training
    output_dir, resume = training.output_dir, training.resume_from_checkpoint
    check_output_dir(output_dir)
    check_output(Path(output_dir) / STUDENT_FOLDER, overwrite=True)
    earlier_files = existing_files(output_dir)
    # settings without a student are left by a run that was stopped, perhaps before it saved anything
    is_unsaved = SETTINGS_FILE in earlier_files and STUDENT_FOLDER not in earlier_files
    has_begun = is_unsaved and not sorted_checkpoints(output_dir)
    if not resume:
        check_free(training, earlier_files, has_begun=has_begun)
        return None
    if has_begun and resume == "last":
        logger.warning("output_dir=%r has no checkpoint yet: its run starts anew", output_dir)
        return None
    if is_hub_address(resume):
        check_address(str(resume), token=training.hub_token)
        return resume
    return verified_checkpoint(resume, output_dir)
