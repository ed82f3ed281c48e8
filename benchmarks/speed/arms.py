"""What is measured side by side: the reference, and our trainer held at places of its schedule.

An arm of ours is a real `HomoDistilTrainer` whose student has the widths and masks of one place and stays there, so
that all its steps cost alike; what moves a student on (choosing masks, compaction) is timed on its own.
"""

import copy
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PrinterCallback, TrainingArguments

from benchmarks.speed.course import Stretch
from benchmarks.speed.reference import ReferenceTrainer
from benchmarks.speed.settings import BenchSettings, Workload
from homodistil_hf.data.masking import MaskedLMCollator
from homodistil_hf.models.widths import WidthPlan
from homodistil_hf.trainer import HomoDistilTrainer
from homodistil_hf.training_args import HomoDistilTrainingArguments


def our_trainer(settings: BenchSettings, work: Workload, place: Stretch, folder: Path) -> HomoDistilTrainer:
    """Our trainer, held at a place of the schedule.

    Args:
        settings: of the benchmark.
        work: models and data.
        place: widths of parameters and masks.
        folder: empty; nothing is written to it.

    Returns:
        `HomoDistilTrainer`, not started.
    """
    trainer = HomoDistilTrainer(
        work.start,
        HomoDistilTrainingArguments(**_our_arguments(settings, folder)),
        teacher=work.teacher,
        train_dataset=work.blocks,
        processing_class=work.tokenizer,
    )
    trainer.remove_callback(PrinterCallback)
    hold(trainer, place)
    return trainer


def _our_arguments(settings: BenchSettings, folder: Path) -> dict[str, Any]:
    return _arguments(settings, folder) | {
        "student": settings.target.to_json(),
        # The reference's: every term with weight 1, heads as the teacher has them.
        "mlm_weight": 1.0,
        "hidden_weight": 1.0,
        "rotate_heads": False,
        "attention_weight": settings.attention_weight,
        "importance_metric": settings.importance_metric,
        "teacher_dtype": settings.dtype,
        "pruning_end_fraction": settings.pruning_end_fraction,
        "pruning_interval_steps": settings.pruning_interval_steps,
        "compaction_threshold": settings.compaction_threshold,
        "width_multiple": settings.multiple,
        "torch_compile": settings.compiled,
        "learning_rate": 1e-5,
    }


def reference_trainer(settings: BenchSettings, work: Workload, folder: Path) -> ReferenceTrainer:
    """The reference.

    Args:
        settings: of the benchmark.
        work: models and data.
        folder: empty; nothing is written to it.

    Returns:
        `ReferenceTrainer`, not started.
    """
    trainer = ReferenceTrainer(
        copy.deepcopy(work.start),
        work.teacher,
        schedule=settings.schedule,
        target=settings.target,
        attention_weight=settings.attention_weight,
        args=TrainingArguments(
            **_arguments(settings, folder), learning_rate=1e-5, adam_epsilon=1e-6, remove_unused_columns=False
        ),
        train_dataset=work.blocks,
        data_collator=MaskedLMCollator(work.tokenizer, seed=settings.seed),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _arguments(settings: BenchSettings, folder: Path) -> dict[str, Any]:
    return {
        "output_dir": str(folder),
        "max_steps": settings.max_steps,
        "per_device_train_batch_size": settings.batch_size,
        "gradient_accumulation_steps": settings.accumulation_steps,
        "bf16": settings.dtype == "bfloat16",
        "use_cpu": settings.device == "cpu",
        "seed": settings.seed,
        "data_seed": settings.seed,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "logging_first_step": True,  # a warm-up step; all later ones are as in any run
    }


@torch.no_grad()
def hold(trainer: HomoDistilTrainer, place: Stretch) -> None:
    """Bring a student to a place of the schedule, whichever units that costs, and keep it there.

    Args:
        trainer: not started.
        place: widths of parameters and masks.
    """
    pruner = trainer.pruner
    generator = torch.Generator().manual_seed(trainer.args.seed)
    for scores in pruner.scores.state.values():
        scores.copy_(torch.rand(scores.shape, generator=generator))
    if place.present != pruner.present:
        pruner.prune_to(place.present)
        pruner.compact()
    if place.kept != place.present:
        pruner.prune_to(place.kept)
    pruner.plan_reached = place.kept == pruner.target
    pruner.rests_until_step = trainer.args.max_steps  # so that no step chooses masks or compacts


def share_teacher(trainer: HomoDistilTrainer, other: HomoDistilTrainer) -> None:
    """Let two trainers' teachers lie in the same memory.

    Args:
        trainer: whose teacher's weights go.
        other: whose stay.
    """
    own, theirs = trainer.distillation.teacher, other.distillation.teacher
    _share_weights(own.exact, theirs.exact)
    _share_weights(own.fast, theirs.fast)


def _share_weights(model: nn.Module, other: nn.Module) -> None:
    theirs = dict(other.named_parameters())
    for name, parameter in model.named_parameters():
        parameter.data = theirs[name].data


def choice_seconds(trainer: HomoDistilTrainer) -> float:
    """How long one choice of masks takes, their application included.

    Args:
        trainer: held at a gate; its masks stay as wide as they are.

    Returns:
        `float`: seconds.
    """
    return _timed(trainer, lambda: trainer.pruner.prune_to(trainer.pruner.kept))


def compaction_seconds(trainer: HomoDistilTrainer, plan: WidthPlan) -> float:
    """How long the compaction takes that ends a student's place, optimizer state included.

    Args:
        trainer: held at a gate; compacted afterwards.
        plan: the next widths of its parameters.

    Returns:
        `float`: seconds.
    """
    pruner = trainer.pruner
    pruner.prune_to(plan)
    return _timed(trainer, lambda: pruner.compact(_bare(trainer.optimizer)))


def _timed(trainer: HomoDistilTrainer, function: Any) -> float:
    synchronize = torch.cuda.synchronize if trainer.args.device.type == "cuda" else (lambda: None)
    synchronize()
    started = time.perf_counter()
    function()
    synchronize()
    return time.perf_counter() - started


def _bare(optimizer: Any) -> torch.optim.Optimizer:
    return getattr(optimizer, "optimizer", optimizer)
