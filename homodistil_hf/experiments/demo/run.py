"""`homodistil demo`: a real teacher, its HomoDistil student and the same width pruned at once, in one honest table.

Everything is a function of settings and seed, never of a clock. How text and teacher are made isn't here.
"""

import dataclasses
import json
import shutil
import tempfile
import time
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
from ...files.strict_json import write_json
from ...methods.one_shot import OneShotTrainer
from ...models.cost import model_facts
from ...tables import format_table
from ...trainer import HomoDistilTrainer
from ...training_args import HomoDistilTrainingArguments
from ..plots import can_plot, plot_discrepancy
from .teacher import Lesson, TeacherSettings, prepare_lesson

MARKER_FILE = "demo.json"
RESULTS_FILE = "results.json"
PLOT_FILE = "discrepancy.png"
_TRAINERS: dict[str, type[HomoDistilTrainer]] = {"student": HomoDistilTrainer, "one_shot": OneShotTrainer}
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
    """Everything the demo depends on.

    Args:
        output_dir: folder to write.
        seed: of teacher and students.
        max_steps: optimizer steps of each student.
        batch_size: blocks a step.
        learning_rate: peak, of both students.
        pruning_interval_steps: steps between two choices of masks.
        student: the width plan; a share of the teacher's encoder MACs.
        teacher: settings of text and teacher.
    """

    output_dir: str = "runs/demo"
    seed: int = 0
    max_steps: int = 600
    batch_size: int = 32
    learning_rate: float = 1e-3
    pruning_interval_steps: int = 10
    student: str = "macs=0.25"
    teacher: TeacherSettings = field(default_factory=TeacherSettings)


@dataclass(frozen=True)
class Outcome:
    """What training a student gave.

    Args:
        metrics: held-out `kl`, `mlm_loss` and `mlm_accuracy`.
        curve: (step, held-out KL in nats), from step 0 on.
        teacher_accuracy: of the teacher on the same blocks.
    """

    metrics: dict[str, float]
    curve: list[tuple[int, float]]
    teacher_accuracy: float


def demo_settings(
    *, output_dir: str, seed: int, max_steps: int | None = None, teacher_steps: int | None = None, quick: bool = False
) -> DemoSettings:
    """Settings from what the command line takes.

    Args:
        output_dir: folder to write.
        seed: of teacher and students, 0 … 2³² − 1.
        max_steps: steps of each student, ≥ 10.
        teacher_steps: steps of the teacher, ≥ 1.
        quick: tiny models and a few steps.

    Returns:
        [`DemoSettings`].

    Raises:
        ValueError: a number out of range.
    """
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
    """Run the demo and print what came out.

    Args:
        settings: what [`demo_settings`] returned.

    Returns:
        `list[dict]`: the rows of `results.json`.

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
    outcomes = {}
    for number, name in enumerate(_TRAINERS, start=2):
        print(f"{number}/4  {name}: {settings.student} of the teacher's encoder, {settings.max_steps} steps")
        outcomes[name] = train_student(name, lesson, settings)
    print("4/4  loading the student with stock transformers in a fresh process, measuring latency")
    _verify(folder)
    rows = _rows(folder, outcomes, settings)
    write_json(folder / RESULTS_FILE, rows)
    write_json(folder / MARKER_FILE, _record(settings, outcomes, seconds=time.perf_counter() - start))
    _print_outcome(folder, rows, outcomes)
    print(f"\nall in {folder}/, {time.perf_counter() - start:,.0f} s")
    return rows


def claim_folder(folder: Path) -> None:
    """Mark a folder as the demo's, or refuse it.

    Args:
        folder: absent, empty, or written by an earlier demo.

    Raises:
        ValueError: it holds something else.
    """
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


def train_student(name: str, lesson: Lesson, settings: DemoSettings) -> Outcome:
    """Train one student and export it.

    Args:
        name: `"student"` (HomoDistil) or `"one_shot"`; also the folder of the export.
        lesson: teacher and text.
        settings: of the demo.

    Returns:
        [`Outcome`].
    """
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
    return Outcome(
        {metric: trainer.held_out_metrics[metric] for metric in ("kl", "mlm_loss", "mlm_accuracy")},
        sorted((step, metrics["kl"]) for step, metrics in trainer.evaluations.items()),
        trainer.evaluate_teacher()["mlm_accuracy"],
    )


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
        content = json.loads(marker.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("made_by") == _MADE_BY


def _verify(folder: Path) -> None:
    report = verify_export(folder / "student")
    if not report.ok:
        raise ValueError(f"folder={str(folder / 'student')!r} is not what it should be: {'; '.join(report.problems)}")


def _rows(folder: Path, outcomes: dict[str, Outcome], settings: DemoSettings) -> list[dict[str, Any]]:
    models = {name: AutoModelForMaskedLM.from_pretrained(folder / name) for name in ("teacher", *outcomes)}
    grid = LatencyGrid([_LATENCY_BLOCKS], [settings.teacher.max_seq_length], ["torch"], with_head=True)
    latencies = compare_latencies(models, grid)["cells"][0]["latency"]
    measured: dict[str, dict[str, float]] = {name: outcome.metrics for name, outcome in outcomes.items()}
    measured["teacher"] = {"kl": 0.0, "mlm_accuracy": outcomes["student"].teacher_accuracy}
    return [
        {
            "name": name,
            **{cost: model_facts(model)[cost] for cost in ("num_parameters", "encoder_macs", "size_bytes")},
            "latency_ms": round(latencies[name]["median_ms"], 3),
            **{metric: measured[name][metric] for metric in ("kl", "mlm_accuracy")},
        }
        for name, model in models.items()
    ]


def _record(settings: DemoSettings, outcomes: dict[str, Outcome], *, seconds: float) -> dict[str, Any]:
    return {
        "made_by": _MADE_BY,
        "settings": dataclasses.asdict(settings),
        "curves": {name: outcome.curve for name, outcome in outcomes.items()},
        "time_s": round(seconds, 1),
        "versions": version_facts(),
    }


def _print_outcome(folder: Path, rows: list[dict[str, Any]], outcomes: dict[str, Outcome]) -> None:
    print(f"\n{format_table(rows)}\n")
    print(f"latency: one forward pass of {_LATENCY_BLOCKS} blocks, median; KL and accuracy: unseen docstrings\n")
    for sentence, answers in _predictions(folder).items():
        print(sentence)
        for name, words in answers.items():
            print(f"  {name.ljust(8)} {', '.join(words)}")
    curves = {name: outcome.curve for name, outcome in outcomes.items()}
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
