"""The variants of a benchmark: the baselines, and our trainer held at places of its schedule.

A variant of ours is a real `HomoDistilTrainer`. Its student has the widths of one place and keeps them, so that all
its steps cost alike; choosing masks and slicing off what they drop is timed on its own.
"""

import copy
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, Trainer, TrainingArguments

from benchmarks.quiet import QUIET
from benchmarks.speed.reference import PlainLoop, StrongLoop
from benchmarks.speed.settings import DTYPES, BenchSettings, Workload
from benchmarks.speed.whole_run import Stretch
from homodistil_hf.data.masking import MaskedLMCollator
from homodistil_hf.homodistil_args import HomoDistilTrainingArguments
from homodistil_hf.models.widths import WidthPlan
from homodistil_hf.runs.kinds import trainer_named
from homodistil_hf.trainer import HomoDistilTrainer
from homodistil_hf.training.progress import ShortProgress

SCORING_BATCHES = HomoDistilTrainingArguments.num_scoring_batches
"""Batches that both ways of pruning score the intact teacher by, before their first step."""


class _TimedStart:
    """Before a trainer's class: notes how long scoring takes, before the first step."""

    start_seconds = 0.0

    def start_student(self) -> None:
        started = _now(self)
        super().start_student()
        self.start_seconds = _now(self) - started


def our_trainer(settings: BenchSettings, work: Workload, place: Stretch, folder: Path) -> HomoDistilTrainer:
    """Our trainer, held at a place of the schedule; not started. At the first one it scores as a run does."""
    gradual = {name: getattr(settings, name) for name in ("pruning_end_fraction", "pruning_interval_steps")}
    gradual |= {"num_scoring_batches": SCORING_BATCHES if place.plan == settings.full else 0}
    timed = type("TimedTrainer", (_TimedStart, HomoDistilTrainer), {})
    trainer = timed(**_ours(HomoDistilTrainingArguments, settings, work, folder, **gradual))
    trainer.remove_callback(ShortProgress)
    _hold(trainer, place)
    return trainer


def one_shot_trainer(settings: BenchSettings, work: Workload, folder: Path) -> HomoDistilTrainer:
    """A student that is as narrow as the plan from its first step on; not started."""
    one_shot = trainer_named("one_shot")
    timed = type("TimedOneShot", (_TimedStart, one_shot), {})
    trainer = timed(**_ours(one_shot.arguments_class, settings, work, folder, num_scoring_batches=SCORING_BATCHES))
    trainer.remove_callback(ShortProgress)
    return trainer


def plain_loop(settings: BenchSettings, work: Workload, folder: Path) -> PlainLoop:
    """The plain loop; not started."""
    return _loop(PlainLoop, settings, work, folder)


def strong_loop(settings: BenchSettings, work: Workload, folder: Path) -> StrongLoop:
    """The strong loop; not started."""
    return _loop(partial(StrongLoop, dtype=DTYPES[settings.dtype]), settings, work, folder)


def _ours(
    kind: type[HomoDistilTrainingArguments], settings: BenchSettings, work: Workload, folder: Path, **other: Any
) -> dict[str, Any]:
    own = {
        "student": settings.target.to_json(),
        # The loops': every term with weight 1, heads as the teacher has them, scores at every step.
        "mlm_weight": 1.0,
        "hidden_weight": 1.0,
        "rotate_heads": False,
        "mlm_probability": settings.mlm_probability,
        "attention_weight": settings.attention_weight,
        "importance_metric": settings.importance_metric,
        "teacher_dtype": settings.dtype,
        "width_multiple": settings.multiple,
        "torch_compile": settings.compiled,
    }
    return {
        "model": work.start,
        "args": kind(**_arguments(settings, folder) | own | other),
        "teacher_model": work.teacher,
        "train_dataset": work.blocks,
        "processing_class": work.tokenizer,
    }


def _loop(kind: Callable[..., Any], settings: BenchSettings, work: Workload, folder: Path) -> Any:
    trainer = kind(
        copy.deepcopy(work.start),
        work.teacher,
        schedule=settings.schedule,
        target=settings.target,
        attention_weight=settings.attention_weight,
        args=TrainingArguments(**_arguments(settings, folder), adam_epsilon=1e-6, remove_unused_columns=False),
        train_dataset=work.blocks,
        data_collator=MaskedLMCollator(work.tokenizer, mlm_probability=settings.mlm_probability, seed=settings.seed),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _arguments(settings: BenchSettings, folder: Path) -> dict[str, Any]:
    return {
        "output_dir": str(folder),
        "max_steps": settings.max_steps,
        "learning_rate": 1e-5,
        "per_device_train_batch_size": settings.batch_size,
        "gradient_accumulation_steps": settings.accumulation_steps,
        "bf16": settings.dtype == "bfloat16",
        "use_cpu": settings.device == "cpu",
        "seed": settings.seed,
        "data_seed": settings.seed,
        **QUIET,
        "logging_first_step": True,  # a warm-up step; all later ones are as in any run
    }


def _hold(trainer: HomoDistilTrainer, place: Stretch) -> None:
    """Bring a student to a place of the schedule, whichever units that costs, and keep it there."""
    pruner = trainer.pruner
    generator = torch.Generator().manual_seed(trainer.args.seed)
    for scores in pruner.scores.state.values():
        scores.copy_(torch.rand(scores.shape, generator=generator))
    if place.plan != pruner.kept:
        _move_on(trainer, place.plan)
    pruner.plan_reached = place.plan == pruner.target
    pruner.step = lambda *args, **kwargs: None  # type: ignore[method-assign]


def _move_on(trainer: HomoDistilTrainer, plan: WidthPlan) -> None:
    trainer.on_resized(trainer.pruner.prune_to(plan, optimizer=trainer.bare_optimizer))


def share_teacher(trainer: HomoDistilTrainer, other: HomoDistilTrainer) -> None:
    """Let the teacher of a trainer lie in the memory of another one's."""
    own, theirs = trainer.distillation.teacher, other.distillation.teacher
    for model, source in ((own.exact, theirs.exact), (own.fast, theirs.fast)):
        weights = dict(source.named_parameters())
        for name, parameter in model.named_parameters():
            parameter.data = weights[name].data


def choice_seconds(trainer: HomoDistilTrainer, plan: WidthPlan) -> float:
    """How long it takes to choose masks that leave these widths and to slice the rest off, optimizer included."""
    started = _now(trainer)
    _move_on(trainer, plan)
    return _now(trainer) - started


def _now(trainer: Trainer) -> float:
    if trainer.args.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()
