"""What the ranks of `distributed_worker.py` do: each run is called on all ranks of a world and tells what it found."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from shutil import copytree, rmtree
from typing import Any

import torch
from run_traces import SaveAt, differences, logs_of, state_of
from tiny_models import make_blocks, make_teacher, tiny_tokenizer
from torch.distributed.optim import ZeroRedundancyOptimizer

from homodistil_hf import HomoDistilTrainer, HomoDistilTrainingArguments, MaskedLMCollator, OneShotTrainer
from homodistil_hf.methods.minilm import MiniLMv2Trainer

PLAN = {"hidden_size": 16, "num_attention_heads": 2, "head_dim": 8, "intermediate_size": 32}
NARROW_HEADS = PLAN | {"num_attention_heads": 4, "head_dim": 4}
GLOBAL_BATCH, NUM_ROWS, NUM_STEPS, SAVED = 8, 70, 12, 5
WORLD_SIZES = (1, 4, 2)
DEVICE = os.environ.get("HOMODISTIL_TEST_DEVICE", "cpu")
SHARED: dict[str, dict[str, Any]] = {
    "plain": {"weight_decay": 0.1},
    "accumulation": {"attention_weight": 0.1, "gradient_accumulation_steps": 2, "importance_metric": "platon"},
    "stream": {"train_dataset": make_blocks(NUM_ROWS).to_iterable_dataset(num_shards=4)},
    "one-shot": {"trainer_class": OneShotTrainer, "num_scoring_batches": 3},
    "rotated": {"rotate_heads": True, "student": NARROW_HEADS, "attention_weight": 0.1},
    "relations": {"trainer_class": MiniLMv2Trainer, "mlm_trains": "head"},
}
"""Runs of the same global batch on any number of ranks. A pass has 9 steps, the last of which is not full."""


class RecordingCollator(MaskedLMCollator):
    """Remembers which rows it was given, batch by batch."""

    def __init__(self) -> None:
        super().__init__(tiny_tokenizer())
        self.rows: list[list[int]] = []

    def __call__(self, rows: Any) -> dict[str, torch.Tensor]:
        self.rows.append([int(row["example_id"]) for row in rows])
        return super().__call__(rows)


def make_trainer(folder: Path, num_ranks: int, **settings: Any) -> HomoDistilTrainer:
    """A trainer whose global batch is the same on any number of ranks."""
    accumulation = settings.get("gradient_accumulation_steps", 1)
    defaults = {
        "output_dir": str(folder),
        "student": PLAN,
        "max_steps": NUM_STEPS,
        "per_device_train_batch_size": GLOBAL_BATCH // num_ranks // accumulation,
        "per_device_eval_batch_size": 4,
        "pruning_interval_steps": 1,
        "width_multiple": 1,
        "compaction_threshold": 0.3,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "teacher_dtype": "float32",
        "disable_tqdm": True,
        "use_cpu": DEVICE == "cpu",
    }
    fields = HomoDistilTrainingArguments.__dataclass_fields__
    given = {name: settings.pop(name) for name in list(settings) if name not in fields}
    trainer_class = given.pop("trainer_class", HomoDistilTrainer)
    data = {
        "train_dataset": make_blocks(NUM_ROWS),
        "eval_dataset": make_blocks(21, seed=1),
        "processing_class": tiny_tokenizer(),
    }
    teacher = given.pop("model", None) or make_teacher()
    return trainer_class(teacher, HomoDistilTrainingArguments(**defaults | settings), **data | given)


def shared(name: str, folder: Path, num_ranks: int) -> dict[str, Any]:
    """Evaluate, train and evaluate; what a run on another number of ranks is compared with."""
    collator = RecordingCollator()
    trainer = make_trainer(
        folder / f"{name} on {num_ranks}",
        num_ranks,
        data_collator=collator,
        callbacks=[SaveAt(SAVED)],
        **SHARED[name],
    )
    choices = record_choices(trainer)
    before = trainer.evaluate()
    collator.rows.clear()
    trainer.train()
    rows = list(collator.rows)
    return findings(trainer) | {"evaluations": [before, trainer.evaluate()], "choices": choices, "rows": rows}


def findings(trainer: HomoDistilTrainer) -> dict[str, Any]:
    """The end of a run and all that it logged."""
    tensors = {name: value for name, value in state_of(trainer).items() if torch.is_tensor(value)}
    return {
        "logs": [entry for entry in logs_of(trainer) if "loss_kl" in entry],
        "num_compactions": trainer.pruner.num_compactions,
        "tensors": {name: value for name, value in tensors.items() if name.startswith(("weight.", "pruner."))},
    }


def record_choices(trainer: HomoDistilTrainer) -> list[dict[str, Any]]:
    """Every choice of masks from now on, with the scores that it was made by."""
    choices: list[dict[str, Any]] = []
    prune_to = trainer.pruner.prune_to

    def recorded(plan: Any) -> None:
        scores = {name: values.clone() for name, values in trainer.pruner.unit_scores().items()}
        prune_to(plan)
        masks = {name: mask.clone() for name, mask in trainer.pruner.masks.items()}
        choices.append({"step": trainer.state.global_step, "scores": scores, "masks": masks})

    trainer.pruner.prune_to = recorded
    return choices


def resumed(name: str, saved_on: int, folder: Path, num_ranks: int) -> dict[str, Any]:
    """Go on with a checkpoint that so many ranks have saved."""
    checkpoint = folder / f"{name} on {saved_on}" / f"checkpoint-{SAVED}"
    trainer = make_trainer(
        folder / f"{name} {saved_on} to {num_ranks}", num_ranks, data_collator=RecordingCollator(), **SHARED[name]
    )
    trainer.train(str(checkpoint))
    return findings(trainer)


def resume_with_dropout(folder: Path, num_ranks: int) -> dict[str, Any]:
    """Resume in a trainer of its own, and in the one that has trained already."""
    settings = {"student_dropout": 0.1, "logging_steps": 5}
    whole = make_trainer(folder / "whole", num_ranks, callbacks=[SaveAt(3, 7)], **settings)
    whole.train()
    state, logs = state_of(whole), logs_of(whole)
    resumed = make_trainer(folder / "resumed", num_ranks, **settings)
    resumed.train(str(folder / "whole" / "checkpoint-7"))
    again = make_trainer(folder / "again", num_ranks, **settings)
    again.train()
    again.train(str(folder / "whole" / "checkpoint-3"))
    return {
        "differences": [differences(state_of(trainer), state) for trainer in (resumed, again)],
        "logs": [logs_of(trainer) == logs for trainer in (resumed, again)],
        "num_logs": len(logs),
    }


def best_model(folder: Path, num_ranks: int) -> dict[str, Any]:
    trainer = make_trainer(
        folder / "best",
        num_ranks,
        save_strategy="steps",
        save_steps=2,
        eval_strategy="steps",
        eval_steps=2,
        load_best_model_at_end=True,
        metric_for_best_model="kl",
        greater_is_better=False,
        save_total_limit=1,
    )
    trainer.train()
    kl = {entry["step"]: entry["eval_kl"] for entry in logs_of(trainer) if "eval_kl" in entry and entry["step"] >= 6}
    trainer.export(folder / "export")
    return {
        "best": trainer.state.best_model_checkpoint,
        "expected": str(folder / "best" / f"checkpoint-{min(kl, key=kl.get)}"),
        "kl": [trainer.evaluate()["eval_kl"], min(kl.values())],
        "exported": (folder / "export" / "model.safetensors").is_file(),
    }


def one_bad_rank(folder: Path, num_ranks: int) -> dict[str, Any]:
    """A loss that is not finite on rank 1 alone."""
    trainer = make_trainer(
        folder / "bad", num_ranks, max_steps=4, pruning_start_fraction=0.7, pruning_end_fraction=0.8
    )
    total, rank = trainer.distillation.total, trainer.args.process_index
    trainer.distillation.total = lambda terms: (
        total(terms) * (float("nan") if (rank, trainer.state.global_step) == (1, 1) else 1.0)
    )
    trainer.train()
    return {
        "num_bad_steps": trainer.step_log.num_bad_steps,
        "finite": all(bool(parameter.isfinite().all()) for parameter in trainer.model.parameters()),
        "weight": trainer.model.bert.embeddings.word_embeddings.weight.detach().clone(),
    }


def other_masks(folder: Path, num_ranks: int) -> dict[str, Any]:
    """Scores that differ on the last rank, right before a choice that is compacted at once."""
    trainer = make_trainer(folder / f"other on {num_ranks}", num_ranks, compaction_threshold=0.0)
    unit_scores = trainer.pruner.unit_scores
    is_last = trainer.args.process_index == num_ranks - 1

    def tampered() -> dict[str, torch.Tensor]:
        scores = unit_scores()
        return {name: -values for name, values in scores.items()} if is_last else scores

    trainer.pruner.unit_scores = tampered
    return {"error": error_of(trainer.train), "step": trainer.state.global_step}


def refusals(folder: Path, num_ranks: int) -> dict[str, str]:
    """What is refused on every rank, though it may be wrong on one only."""
    rank = int(os.environ["RANK"])
    make = partial(make_trainer, num_ranks=num_ranks)
    (folder / f"own {rank}").mkdir()
    if rank == 0:
        (folder / "taken").touch()
    stream = make_blocks(16).to_iterable_dataset()
    teacher = make_teacher()
    sharded = ZeroRedundancyOptimizer(teacher.parameters(), torch.optim.AdamW, lr=1e-3)
    torch.distributed.barrier()
    return {
        "own folders": error_of(lambda: make(folder / f"own {rank}")),
        "a file on rank 1": error_of(lambda: make(folder / ("taken" if rank else "free"))),
        "no such checkpoint": error_of(lambda: make(folder / "none").train("last")),
        "stream to evaluate on": error_of(lambda: make(folder / "stream", eval_dataset=stream).evaluate()),
        "short stream": error_of(lambda: make(folder / "short", train_dataset=stream.take(7)).train()),
        "sharded optimizer": error_of(lambda: make(folder / "zero", model=teacher, optimizers=(sharded, None))),
    }


def nodes(folder: Path, num_ranks: int) -> dict[str, Any]:
    """Each rank on a node of its own, with an output folder of its own, of which one loses a checkpoint."""
    rank = int(os.environ["RANK"])
    run = folder / f"node {rank}"
    make = partial(make_trainer, run, num_ranks, student_dropout=0.1)
    own_folders = error_of(make)
    one_folder = error_of(lambda: make_trainer(folder / "both", num_ranks, save_on_each_node=True))
    whole = make(save_on_each_node=True, callbacks=[SaveAt(3, 7)])
    whole.train()
    if rank:
        rmtree(run / "checkpoint-7")
    last = make(save_on_each_node=True)
    last.train("last")
    if rank:
        copytree(folder / "plain on 2" / f"checkpoint-{SAVED}", run / "checkpoint-3", dirs_exist_ok=True)
    other = make(save_on_each_node=True)
    return {
        "own folders": own_folders,
        "one folder": one_folder,
        "differences": differences(state_of(last), state_of(whole)),
        "logs": logs_of(last) == logs_of(whole),
        "left": sorted(path.name for path in run.iterdir()),
        "other checkpoint": error_of(lambda: other.train(str(run / "checkpoint-3"))),
    }


def error_of(action: Callable[[], Any]) -> str:
    try:
        action()
    except (RuntimeError, ValueError) as error:
        return str(error)
    return ""


RUNS: dict[str, Callable[[Path, int], dict[str, Any]]] = {
    **{name: partial(shared, name) for name in SHARED},
    "resume: 4 ranks": partial(resumed, "plain", 4),
    "resume: 2 ranks": partial(resumed, "plain", 2),
    "resume: 4 → 2": partial(resumed, "plain", 4),
    "resume: 2 → 1": partial(resumed, "accumulation", 2),
    "resume: 1 → 2": partial(resumed, "accumulation", 1),
    "stream: 4 → 2": partial(resumed, "stream", 4),
    "resume": resume_with_dropout,
    "best model": best_model,
    "one bad rank": one_bad_rank,
    "other masks": other_masks,
    "refusals": refusals,
    "nodes": nodes,
}
