"""`homodistil demo`: a real teacher, its HomoDistil student and the same width pruned at once, in one honest table.

Everything is a function of settings and seed, never of a clock. How text and teacher are made isn't here.
"""

import dataclasses
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer, ProgressCallback, pipeline

from ...distillation.teacher import multiplies_bfloat16
from ...evaluation.latency import LatencyGrid, compare_latencies
from ...export.export_folder import check_target
from ...export.verify import verify_export
from ...files.provenance import version_facts
from ...files.strict_json import read_json_object, write_json
from ...methods.one_shot import OneShotTrainer
from ...models.cost import model_facts
from ...tables import format_table
from ...trainer import HomoDistilTrainer
from ...training.distillation_trainer import DistillationTrainer
from ...training_args import HomoDistilTrainingArguments
from ..plots import Curve, can_plot, plot_discrepancy
from .teacher import Lesson, TeacherSettings, prepare_lesson

MARKER_FILE = "demo.json"
RESULTS_FILE = "results.json"
PLOT_FILE = "discrepancy.png"
_TRAINERS: dict[str, type[DistillationTrainer]] = {"student": HomoDistilTrainer, "one_shot": OneShotTrainer}
_MADE_BY = "homodistil demo"
_LATENCY_BLOCKS = 16
_NUM_PREDICTIONS = 3
_SENTENCES = (
    "Return the [MASK] of the given array.",
    "If the file does not [MASK], an error is raised.",
    "This function is used to [MASK] the data.",
    "The default [MASK] is None.",
)


@dataclass(frozen=True)
class DemoSettings:
    """Everything the demo depends on: the batch is in blocks, the learning rate the peak of both students."""

    output_dir: str = "runs/demo"
    seed: int = 0
    max_steps: int = 600
    batch_size: int = 32
    learning_rate: float = 1e-3
    pruning_interval_steps: int = 10
    student: str = "macs=0.25"
    teacher: TeacherSettings = field(default_factory=TeacherSettings)


def demo_settings(
    *, output_dir: str, seed: int, max_steps: int | None = None, teacher_steps: int | None = None, quick: bool = False
) -> DemoSettings:
    """Settings from what the command line takes; a ValueError for a number out of range."""
    for name, value, least in (("max_steps", max_steps, 10), ("teacher_steps", teacher_steps, 1), ("seed", seed, 0)):
        if value is not None and value < least:
            raise ValueError(f"{name}={value} is too small; nearest valid: {least}")
    settings = _QUICK if quick else DemoSettings()
    teacher = dataclasses.replace(settings.teacher, seed=seed, num_steps=teacher_steps or settings.teacher.num_steps)
    return dataclasses.replace(
        settings, output_dir=output_dir, seed=seed, max_steps=max_steps or settings.max_steps, teacher=teacher
    )


_QUICK = DemoSettings(
    max_steps=20,
    batch_size=4,
    pruning_interval_steps=2,
    teacher=TeacherSettings(
        num_characters=300_000,
        vocab_size=500,
        max_seq_length=32,
        num_hidden_layers=2,
        hidden_size=64,
        num_attention_heads=4,
        intermediate_size=128,
        num_steps=20,
        batch_size=4,
    ),
)


def run_demo(settings: DemoSettings) -> list[dict[str, Any]]:
    """Run the demo, print what came out, and return the rows of `results.json`.

    Raises:
        ValueError: `output_dir` holds something that is not the demo's, or an export is not what it should be.
    """
    start = time.perf_counter()
    folder = Path(settings.output_dir)
    claim_folder(folder)
    print("1/4  teacher: docstrings of this machine, vocabulary, masked-LM training; kept for the next demo")
    lesson = prepare_lesson(settings.teacher)
    shutil.rmtree(folder / "teacher", ignore_errors=True)
    shutil.copytree(lesson.folder, folder / "teacher")
    trainers = {}
    for number, name in enumerate(_TRAINERS, start=2):
        print(f"{number}/4  {name}: {settings.student} of the teacher's encoder, {settings.max_steps} steps")
        trainers[name] = train_student(name, lesson, settings)
    print("4/4  loading the student with stock transformers in a fresh process, measuring latency")
    report = verify_export(folder / "student")
    if not report.ok:
        raise ValueError(f"folder={str(folder / 'student')!r} is not what it should be: {'; '.join(report.problems)}")
    rows = _rows(folder, trainers, settings)
    curves = {
        name: sorted((step, metrics["kl"]) for step, metrics in trainer.evaluations.items())
        for name, trainer in trainers.items()
    }
    time_s = round(time.perf_counter() - start, 1)
    facts = {"settings": dataclasses.asdict(settings), "curves": curves, "time_s": time_s, "versions": version_facts()}
    write_json(folder / RESULTS_FILE, rows)
    write_json(folder / MARKER_FILE, {"made_by": _MADE_BY, **facts})
    _print_outcome(folder, rows, curves)
    print(f"\nall in {folder}/, {time.perf_counter() - start:,.0f} s")
    return rows


def claim_folder(folder: Path) -> None:
    """Mark a folder as the demo's; a ValueError where it holds something that no earlier demo wrote."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"output_dir={str(folder)!r} is a file; name a folder")
    marker = folder / MARKER_FILE
    if folder.is_dir() and any(folder.iterdir()) and not _is_ours(marker):
        raise ValueError(
            f"output_dir={str(folder)!r} is not empty and was not written by homodistil demo; name another folder"
        )
    for name in _TRAINERS:
        check_target(folder / name, overwrite=True)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(marker, {"made_by": _MADE_BY})


def train_student(name: str, lesson: Lesson, settings: DemoSettings) -> DistillationTrainer:
    """Train and evaluate a student by one of `_TRAINERS`, and export it to the folder of its name."""
    with tempfile.TemporaryDirectory() as scratch:
        trainer = _TRAINERS[name](
            str(lesson.folder),
            _training_arguments(scratch, settings),
            train_dataset=lesson.train_blocks,
            eval_dataset=lesson.eval_blocks,
            processing_class=AutoTokenizer.from_pretrained(lesson.folder),
        )
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(_ShortProgress)
        trainer.train()
        trainer.evaluate()
        trainer.export(Path(settings.output_dir) / name)
    return trainer


class _ShortProgress(ProgressCallback):
    """Trainer's bars, with one number an evaluation instead of a dictionary."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if self.training_bar is not None and "eval_kl" in (logs or {}):
            self.training_bar.write(f"     step {state.global_step}: held-out KL {logs['eval_kl']:.3f} nats")


def _training_arguments(output_dir: str, settings: DemoSettings) -> HomoDistilTrainingArguments:
    tenth = max(1, settings.max_steps // 10)
    return HomoDistilTrainingArguments(
        output_dir=output_dir,
        student=settings.student,
        max_steps=settings.max_steps,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=64,
        learning_rate=settings.learning_rate,
        adam_beta2=0.98,
        pruning_interval_steps=settings.pruning_interval_steps,
        # Students of this small teacher end so near to it that the default would drown out the KL.
        hidden_weight=10.0,
        mlm_probability=0.15,
        bf16=multiplies_bfloat16(torch.device("cpu")),
        use_cpu=True,
        seed=settings.seed,
        eval_strategy="steps",
        eval_steps=tenth,
        eval_on_start=True,
        logging_steps=tenth,
        save_strategy="no",
        report_to="none",
        dataloader_pin_memory=False,
    )


def _is_ours(marker: Path) -> bool:
    try:
        return read_json_object(marker, MARKER_FILE).get("made_by") == _MADE_BY
    except (OSError, ValueError):
        return False


def _rows(folder: Path, trainers: dict[str, DistillationTrainer], settings: DemoSettings) -> list[dict[str, Any]]:
    models = {name: AutoModelForMaskedLM.from_pretrained(folder / name) for name in ("teacher", *trainers)}
    grid = LatencyGrid([_LATENCY_BLOCKS], [settings.teacher.max_seq_length], ["torch"], with_head=True)
    latencies = compare_latencies(models, grid)["cells"][0]["latency"]
    measured = {name: trainer.held_out_metrics for name, trainer in trainers.items()}
    measured["teacher"] = dict(trainers["student"].evaluate_teacher())
    return [
        {
            "name": name,
            **{cost: model_facts(model)[cost] for cost in ("num_parameters", "encoder_macs", "size_bytes")},
            "latency_ms": round(latencies[name]["median_ms"], 3),
            **{metric: measured[name][metric] for metric in ("kl", "mlm_accuracy")},
        }
        for name, model in models.items()
    ]


def _print_outcome(folder: Path, rows: list[dict[str, Any]], curves: Mapping[str, Curve]) -> None:
    print(f"\n{format_table(rows)}\n")
    print(f"latency: one forward pass of {_LATENCY_BLOCKS} blocks, median; KL and accuracy: unseen docstrings\n")
    for sentence, answers in _predictions(folder).items():
        print(sentence)
        for name, words in answers.items():
            print(f"  {name.ljust(8)} {', '.join(words)}")
    if can_plot():
        print(f"\nKL over the steps: {plot_discrepancy(curves, folder / PLOT_FILE)}")
    else:
        print(f"\nno {PLOT_FILE}: plots need matplotlib, pip install 'homodistil-hf[report]'")


def _predictions(folder: Path) -> dict[str, dict[str, list[str]]]:
    """Sentence → model → its most likely words."""
    answers: dict[str, dict[str, list[str]]] = {sentence: {} for sentence in _SENTENCES}
    for name in ("teacher", "student"):
        fill = pipeline("fill-mask", model=str(folder / name), tokenizer=str(folder / name), device="cpu")
        for sentence in _SENTENCES:
            answers[sentence][name] = [guess["token_str"] for guess in fill(sentence, top_k=_NUM_PREDICTIONS)]
    return answers
