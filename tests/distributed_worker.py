"""One rank of the runs that `test_distributed.py` compares: `torchrun distributed_worker.py FOLDER`.

All ranks run every scenario, one after the other, as starting processes takes longest. Each leaves a file a rank.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from conftest import make_blocks, make_teacher, tiny_tokenizer
from runs import SaveAt, differences, logs_of, state_of

from homodistil_hf import HomoDistilTrainer, HomoDistilTrainingArguments, OneShotTrainer

PLAN = {"hidden_size": 16, "num_attention_heads": 2, "head_dim": 8, "intermediate_size": 32}
GLOBAL_BATCH = 8
SHARED: dict[str, dict[str, Any]] = {
    "plain": {"weight_decay": 0.1},
    "accumulation": {"attention_weight": 0.1, "gradient_accumulation_steps": 2, "importance_metric": "platon"},
    "stream": {"train_dataset": make_blocks(64).to_iterable_dataset()},
    "one-shot": {"trainer_class": OneShotTrainer, "num_scoring_batches": 3},
}
"""Runs that one process makes too."""


def make_trainer(folder: Path, *, world_size: int, **settings: Any) -> HomoDistilTrainer:
    """A trainer whose global batch is the same on any number of ranks."""
    accumulation = settings.get("gradient_accumulation_steps", 1)
    defaults = {
        "output_dir": str(folder),
        "student": PLAN,
        "max_steps": 12,
        "per_device_train_batch_size": GLOBAL_BATCH // world_size // accumulation,
        "per_device_eval_batch_size": 4,
        "pruning_interval_steps": 1,
        "width_multiple": 1,
        "compaction_threshold": 0.3,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "teacher_dtype": "float32",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    fields = HomoDistilTrainingArguments.__dataclass_fields__
    given = {name: settings.pop(name) for name in list(settings) if name not in fields}
    trainer_class = given.pop("trainer_class", HomoDistilTrainer)
    data = {
        "train_dataset": make_blocks(),
        "eval_dataset": make_blocks(21, seed=1),
        "processing_class": tiny_tokenizer(),
    }
    return trainer_class(make_teacher(), HomoDistilTrainingArguments(**defaults | settings), **data | given)


def shared_run(folder: Path, name: str, *, world_size: int) -> dict[str, Any]:
    """Train and evaluate; what a run of another number of ranks is compared with."""
    trainer = make_trainer(folder / name, world_size=world_size, **SHARED[name])
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    state = state_of(trainer)
    return {
        "logs": [entry for entry in logs_of(trainer) if "loss_kl" in entry],
        "evaluations": [before, after],
        "choices": trainer.pruner.choices_digest.hex(),
        "num_compactions": trainer.pruner.num_compactions,
        "tensors": {k: v for k, v in state.items() if k.startswith(("weight.", "pruner.")) and torch.is_tensor(v)},
    }


def resume(folder: Path) -> dict[str, Any]:
    """Resume in a trainer of its own, and in the one that has trained already."""
    settings = {"student_dropout": 0.1, "logging_steps": 5, "world_size": 2}
    whole = make_trainer(folder / "whole", callbacks=[SaveAt(3, 7)], **settings)
    whole.train()
    state, logs = state_of(whole), logs_of(whole)
    resumed = make_trainer(folder / "resumed", **settings)
    resumed.train(str(folder / "whole" / "checkpoint-7"))
    again = make_trainer(folder / "again", **settings)
    again.train()
    again.train(str(folder / "whole" / "checkpoint-3"))
    return {
        "differences": [differences(state_of(trainer), state) for trainer in (resumed, again)],
        "logs": [logs_of(trainer) == logs for trainer in (resumed, again)],
        "num_logs": len(logs),
    }


def best_model(folder: Path) -> dict[str, Any]:
    trainer = make_trainer(
        folder / "best",
        world_size=2,
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


def one_bad_rank(folder: Path) -> dict[str, Any]:
    """A loss that is not finite on rank 1 alone."""
    trainer = make_trainer(
        folder / "bad", world_size=2, max_steps=4, pruning_start_fraction=0.7, pruning_end_fraction=0.8
    )
    total, rank = trainer.distillation.total, trainer.args.process_index
    trainer.distillation.total = lambda terms: (
        total(terms) * (float("nan") if (rank, trainer.state.global_step) == (1, 1) else 1.0)
    )
    trainer.train()
    return {
        "num_bad_steps": trainer.num_bad_steps,
        "finite": all(bool(parameter.isfinite().all()) for parameter in trainer.model.parameters()),
        "weight": trainer.model.bert.embeddings.word_embeddings.weight.detach().clone(),
    }


def other_masks(folder: Path) -> dict[str, Any]:
    """Scores that differ on rank 1, right before a choice that is compacted at once."""
    trainer = make_trainer(folder / "other", world_size=2, compaction_threshold=0.0)
    unit_scores = trainer.pruner.unit_scores

    def tampered() -> dict[str, torch.Tensor]:
        scores = unit_scores()
        return {name: -values for name, values in scores.items()} if trainer.args.process_index else scores

    trainer.pruner.unit_scores = tampered
    try:
        trainer.train()
    except RuntimeError as error:
        return {"error": str(error)}
    return {"error": ""}


SCENARIOS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "resume": resume,
    "best model": best_model,
    "one bad rank": one_bad_rank,
    "other masks": other_masks,
}


def main(folder: Path) -> None:
    """Run everything; results go to `FOLDER/NAME-RANK.pt`."""
    torch.manual_seed(0)
    results = {name: shared_run(folder, name, world_size=2) for name in SHARED}
    results |= {name: scenario(folder) for name, scenario in SCENARIOS.items()}
    for name, result in results.items():
        torch.save(result, folder / f"{name}-{torch.distributed.get_rank()}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
