"""The scores of fine-tuned students on GLUE beside their teacher's: plainly, and taught by the fine-tuned teacher.

    python -m benchmarks.sweep examples/sweeps/sizes.json
    python -m benchmarks.results.fine_tunings runs/sweeps/sizes --variants half quarter eighth --run_seeds 0

The teacher is fine-tuned first, then each student twice: as `homodistil finetune` does it with the fine-tuned teacher,
and as `homodistil evaluate` does it. Rates are chosen on held-out training rows, unless a single one is given; their
scores there are kept, also from earlier commands for the same folders. Every fine-tuning has a file of its own beside
its student, so a command that was stopped resumes. After each model its scores are written to --results, where those
of other students and tasks stay, beside those of a model that gives each row the most frequent label.
"""

import argparse
import dataclasses
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset

from benchmarks.results.sweep_models import Model, models_of
from benchmarks.sweep.cells import TEACHER
from homodistil_hf import HomoDistilTrainer, HomoDistilTrainingArguments
from homodistil_hf.evaluation.evaluated_model import EvaluatedModel, load_model
from homodistil_hf.evaluation.fine_tuning import FineTuned, GlueSettings
from homodistil_hf.evaluation.task_runs import constant_score, evaluate_tasks, glue_metrics, official_metrics
from homodistil_hf.files.folders import write_text
from homodistil_hf.files.provenance import machine_facts
from homodistil_hf.files.strict_json import read_json_object
from homodistil_hf.models.conversion import to_stock
from homodistil_hf.models.loading import load_encoder
from homodistil_hf.tasks.glue import GLUE_TASKS, load_task
from homodistil_hf.training.small_start import BESIDE_A_TEACHER

TASKS = ("cola", "sst2", "mrpc", "rte", "stsb")
PLAIN, BY_TEACHER = "plain", "by the teacher"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep_folder", type=Path, help="output of a sweep")
    parser.add_argument("--variants", nargs="+", required=True)
    parser.add_argument("--run_seeds", nargs="+", type=int, help="only students of runs with these seeds")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--data_dir", default="../shared/data/glue", help="folder with cola/, …")
    parser.add_argument("--ways", nargs="+", choices=(BY_TEACHER, PLAIN), default=[BY_TEACHER, PLAIN])
    parser.add_argument("--rates", nargs="+", type=float, help="of the students, to choose from; default: evaluate's")
    parser.add_argument("--teacher_rates", nargs="+", type=float, help="of the teacher, likewise")
    parser.add_argument("--max_train_samples", type=int, default=10_000)
    parser.add_argument("--max_train_steps", type=int, help="of each fine-tuning; default: as many as its rows want")
    parser.add_argument("--results", type=Path, default=Path("docs/results/fine_tunings.json"))
    given = parser.parse_args()
    named = {name: getattr(given, name) for name in ("data_dir", "max_train_samples", "max_train_steps")}
    own, settings = (
        GlueSettings(seeds=(0,), learning_rates=rates or (), **named) for rates in (given.teacher_rates, given.rates)
    )
    teacher, *students = models_of(given.sweep_folder, given.variants, given.run_seeds)
    kept = teacher.evaluations.parent / "fine_tuned"
    constant = {task: round(constant_score(load_task(task, given.data_dir)), 4) for task in given.tasks}
    write = partial(_write, given.results, constant)
    write(scored(teacher, PLAIN, given.tasks, own, partial(_keeping, kept)))
    for student in students:
        for way in given.ways:
            measure = partial(_beside, kept) if way == BY_TEACHER else official_metrics
            write(scored(student, way, given.tasks, settings, measure))


def scored(model: Model, way: str, tasks: Sequence[str], settings: GlueSettings, measure: Any) -> dict[str, Any]:
    """A model's scores on its tasks, its chosen rates, and the scores of all tried rates on held-out rows."""
    evaluated = load_model(model.folder, model.evaluations)
    if way == BY_TEACHER:  # no figures of the model alone: they don't belong into its card
        evaluated = dataclasses.replace(evaluated, results=model.evaluations / "by_teacher", export=None)
    rows = (load_task(task, settings.data_dir) for task in tasks)
    found = evaluate_tasks(evaluated, rows, measure, settings=settings, say=partial(print, flush=True))["tasks"]
    rates = {task: found[task]["conditions"]["learning_rate"] for task in tasks}
    scores = {task: found[task]["scores"][0] for task in tasks}
    place = {"variant": model.variant, "axes": model.axes, "seed": model.seed, "way": way}
    tried = {task: _tried(evaluated.results, task) for task in tasks}
    found = {"scores": scores, "learning_rates": rates, "tried": {task: one for task, one in tried.items() if one}}
    return place | found | {"machine": machine_facts()}


def _tried(folder: Path, task: str) -> dict[str, float | None]:
    """Learning rate → score on held-out training rows, None where it diverged."""
    records = [read_json_object(file, str(file)) for file in folder.glob(f"{task}.learning-rate-*.json")]
    scores = {record["tried"]["learning_rate"]: record["score"] for record in records}
    return {f"{rate:g}": score for rate, score in sorted(scores.items())}


def _keeping(
    kept: Path, evaluated: EvaluatedModel, task: str, rows: Dataset, measured_on: Mapping[str, Dataset], **given: Any
) -> tuple[dict[str, dict[str, float]], FineTuned]:
    """Fine-tune the teacher, and keep the last model of each task: that of the chosen rate on all rows."""
    found, trained = official_metrics(evaluated, task, rows, measured_on, **given)
    trained.model.save_pretrained(kept / task)
    return found, trained


def _beside(
    kept: Path,
    evaluated: EvaluatedModel,
    task: str,
    rows: Dataset,
    measured_on: Mapping[str, Dataset],
    *,
    settings: GlueSettings,
    seed: int,
    folder: Path,
) -> tuple[dict[str, dict[str, float]], FineTuned]:
    """Train a student beside the teacher of its task: the loss of `distill --start`, the steps of *plain*."""
    how: dict[str, Any] = {"per_device_train_batch_size": settings.batch_size, "learning_rate": settings.learning_rate}
    how |= {"max_steps": settings.num_steps(len(rows), settings.batch_size), "seed": seed, "report_to": "none"}
    args = HomoDistilTrainingArguments(str(folder), overwrite_output_dir=True, **how, **BESIDE_A_TEACHER)
    trainer = HomoDistilTrainer(
        evaluated.model,
        args,
        teacher_model=load_encoder(str(kept / task)),
        train_dataset=rows.select_columns([*GLUE_TASKS[task].columns.texts, "label"]),
        processing_class=evaluated.tokenizer,
    )
    output, model = trainer.train(), to_stock(trainer.dense_student())
    metrics = glue_metrics(model, evaluated.tokenizer, task, measured_on, settings.row_length)
    return metrics, FineTuned(model, output.global_step, output.training_loss)


def _write(results: Path, constant: Mapping[str, float], model: dict[str, Any]) -> None:
    """Add a model to a file that may hold some; other tasks of the same model stay."""
    there = read_json_object(results, f"--results {results}") if results.is_file() else {}
    models = {place(one): one for one in there.get("models", [])}
    known = models.get(place(model), {})
    kept = {name: known.get(name, {}) | model[name] for name in ("scores", "learning_rates", "tried")}
    models[place(model)] = model | kept
    in_order = sorted(models.values(), key=lambda one: (one["variant"] != TEACHER, *place(one)[:2], one["seed"] or 0))
    constant = there.get("constant", {}) | constant
    write_text(results, json.dumps({"constant": constant, "models": in_order}, indent=1) + "\n")


def place(model: Mapping[str, Any]) -> tuple[Any, ...]:
    """Variant, other axes, seed and way of fine-tuning of a model, and the GPU that it was fine-tuned on."""
    return model["variant"], model["axes"], model["seed"], model["way"], model["machine"].get("gpu", "")


if __name__ == "__main__":
    main()
