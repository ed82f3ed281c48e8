"""The worlds of ranks that `test_distributed.py` compares: each run is called on all ranks and tells what it found.

Starting a process takes longest, so one process imports everything and then forks the ranks of one group of worlds
after the other; the runs of a world follow each other in the same processes. Each leaves a file a rank.
"""

import gc
import os
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import torch
from datasets import Dataset
from method_students import SAME_HEADS
from ranks import free_port, launched_as
from run_traces import EVERY_SECOND_STEP, SaveAt, differences, logs_of, state_of
from tiny_architectures import MASKED_LMS, tiny_architecture_teacher
from tiny_models import GRADUAL, make_blocks, make_teacher, tiny_tokenizer
from tiny_trainers import QUARTER, tiny_trainer
from torch.multiprocessing import ProcessContext, start_processes
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import IterableDataset
from transformers import TrainerCallback

from homodistil_hf import HomoDistilTrainer, MaskedLMCollator, OneShotTrainer
from homodistil_hf.methods.baselines.minilm import MiniLMv2Trainer
from homodistil_hf.pruning.pruner import Pruner
from homodistil_hf.training.distillation_trainer import DistillationTrainer

GLOBAL_BATCH, NUM_ROWS, NUM_STEPS = 8, 70, 12
WORLD_SIZES = (1, 4, 2)
DEVICE = os.environ.get("HOMODISTIL_TEST_DEVICE", "cpu")


def rows_of_all_lengths() -> Dataset:
    """Rows of three to sixteen tokens."""
    tokens = [ids[: 3 + 5 * index % 14] for index, ids in enumerate(make_blocks(NUM_ROWS)["input_ids"])]
    return Dataset.from_dict({"input_ids": tokens, "example_id": list(range(NUM_ROWS))})


SHARED: dict[str, dict[str, Any]] = {
    "plain": {"weight_decay": 0.1},
    "accumulation": {"attention_weight": 0.1, "gradient_accumulation_steps": 2},
    "stream": {"train_dataset": make_blocks(NUM_ROWS).to_iterable_dataset(num_shards=35)},
    "stream of few files": {"train_dataset": make_blocks(NUM_ROWS).to_iterable_dataset(num_shards=4)},
    "scored first, by length": {
        "num_scoring_batches": 3,
        "train_sampling_strategy": "group_by_length",
        "train_dataset": rows_of_all_lengths(),
    },
    "fewer layers": {
        "student": QUARTER | {"num_hidden_layers": 1},
        "model": partial(make_teacher, num_hidden_layers=3),
        "num_scoring_batches": 3,
        "attention_weight": 0.1,
    },
    "rotated": {"rotate_heads": True, "student": SAME_HEADS, "attention_weight": 0.1},
    "nested": {"student": ["24-3x8-48", "8-2x4-16"], "nested": True},
    "one-shot": {"trainer_class": OneShotTrainer, "num_scoring_batches": 3},
    "relations": {"trainer_class": MiniLMv2Trainer},
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    architecture.model_type: {
        "model": partial(tiny_architecture_teacher, architecture, architecture.heads[0]),
        "max_steps": 6,
    }
    for architecture in MASKED_LMS
    if architecture.model_type not in ("xlm-roberta", "camembert", "data2vec-text")  # RoBERTa's code
}
SHARED |= ARCHITECTURES
"""Runs of the same global batch on any number of ranks. A pass has 8 steps; 6 of its 70 rows are left over."""


BY_LENGTH = "scored first, by length"
SAVED = {"plain": 5, "accumulation": 5, "stream": 5, BY_LENGTH: 10}
"""Those of them that others resume → the step; the last is one of the second pass."""


def shared_on(num_ranks: int) -> list[str]:
    """Names of `SHARED` that a world runs; four ranks differ from two by who gets which rows alone."""
    return [*SHARED] if num_ranks <= 2 else [*SAVED]


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
    kind = settings.get("trainer_class", HomoDistilTrainer).arguments_class
    defaults = GRADUAL | {
        "max_steps": NUM_STEPS,
        "per_device_train_batch_size": GLOBAL_BATCH // num_ranks // accumulation,
        "per_device_eval_batch_size": 4,
        "pruning_interval_steps": 1,
        "width_multiple": 1,
        "use_cpu": DEVICE == "cpu",
    }
    defaults = {name: defaults[name] for name in defaults if name in kind.__dataclass_fields__.keys() - kind.no_part}
    data = {"train_dataset": make_blocks(NUM_ROWS), "eval_dataset": make_blocks(21, seed=1)}
    teacher = settings.pop("model", make_teacher)()
    return tiny_trainer(folder, model=teacher, **data | defaults | settings)


def shared(name: str, folder: Path, num_ranks: int) -> dict[str, Any]:
    """Evaluate, train and evaluate; what a run on another number of ranks is compared with."""
    collator = RecordingCollator()
    settings = SHARED[name] | ({"callbacks": [SaveAt(SAVED[name])]} if name in SAVED else {})
    trainer = make_trainer(folder / f"{name} on {num_ranks}", num_ranks, data_collator=collator, **settings)
    before = trainer.evaluate()
    collator.rows.clear()
    prune_to = Pruner.prune_to
    choices = record_choices(trainer)
    trainer.train()
    Pruner.prune_to = prune_to
    rows = list(collator.rows)
    return findings(trainer) | {"evaluations": [before, trainer.evaluate()], "choices": choices, "rows": rows}


def findings(trainer: HomoDistilTrainer) -> dict[str, Any]:
    """The end of a run and all that it logged."""
    tensors = {name: value for name, value in state_of(trainer).items() if torch.is_tensor(value)}
    return {
        "logs": [entry for entry in logs_of(trainer) if "loss_kl" in entry],
        "kept": trainer.kept.to_json(),
        "tensors": {name: value for name, value in tensors.items() if name.startswith(("weight.", "pruner."))},
    }


def record_choices(trainer: DistillationTrainer) -> list[dict[str, Any]]:
    """Every choice of masks from now on, with the scores that it was made by."""
    choices: list[dict[str, Any]] = []
    prune_to = Pruner.prune_to

    def recorded(pruner: Pruner, plan: Any, **settings: Any) -> Any:
        scores = {name: values.clone() for name, values in pruner.unit_scores().items()}
        masks = prune_to(pruner, plan, **settings)
        choices.append({"step": trainer.state.global_step, "scores": scores, "masks": dict(masks)})
        return masks

    Pruner.prune_to = recorded
    return choices


def resumed(name: str, saved_on: int, folder: Path, num_ranks: int) -> dict[str, Any]:
    """Go on with a checkpoint that so many ranks have saved."""
    checkpoint = folder / f"{name} on {saved_on}" / f"checkpoint-{SAVED[name]}"
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


def same_passes(folder: Path, num_ranks: int) -> dict[str, Any]:
    """Two and a half passes over a table whose length is no multiple of the global batch."""
    settings = {"max_steps": -1, "num_train_epochs": 2.5, "train_dataset": make_blocks(21)}
    trainer = make_trainer(folder / f"passes on {num_ranks}", num_ranks, **settings)
    trainer.train()
    losses = [entry["loss"] for entry in logs_of(trainer) if "loss" in entry]
    return {"num_steps": trainer.state.global_step, "epoch": trainer.state.epoch, "losses": losses}


class _Watched(TrainerCallback):
    """What is alive at the end of each step."""

    def __init__(self) -> None:
        self.trainer: Any = None
        self.first: list[weakref.ref] = []
        self.alive: list[tuple[int, int, int, bool]] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.first = [weakref.ref(p) for p in self.trainer.model.parameters() if p.dim() == 2]

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        wrapper = self.trainer.model_wrapped
        gc.collect()
        wrappers = [found for found in gc.get_objects() if isinstance(found, DistributedDataParallel)]
        reducers = {id(found.reducer) for found in wrappers}
        num_old = sum(ref() is not None for ref in self.first)
        reduced = {id(p) for p in wrapper._module_parameters}
        is_current = reduced == {id(p) for p in self.trainer.model.parameters() if p.requires_grad}
        self.alive.append((len(wrappers), len(reducers), num_old, is_current))


def reducers(folder: Path, num_ranks: int) -> dict[str, Any]:
    """DDP after slicing: the wrappers and reducers that live, and how many of the first parameters are left."""
    gc.collect()
    gc.freeze()  # all that was imported, which the collections to come need not go through
    watch = _Watched()
    trainer = make_trainer(folder / "reducers", num_ranks, max_steps=8, callbacks=[watch])
    watch.trainer = trainer
    trainer.train()
    return {"alive": watch.alive, "num_first": len(watch.first), "width": trainer.kept.hidden_size}


def evaluated_rows(folder: Path, num_ranks: int) -> dict[str, Any]:
    """How many rows an evaluation counts, and what it measures, where training would drop the last ones."""
    collator = RecordingCollator()
    trainer = make_trainer(folder / f"evaluated on {num_ranks}", num_ranks, data_collator=collator)
    output = trainer.predict(make_blocks(21, seed=1))
    teacher = {f"teacher_{name}": value for name, value in trainer.evaluate_teacher().items()}
    return {"num_rows": len(output.label_ids), "metrics": {**output.metrics, **trainer.evaluate(), **teacher}}


def best_model(folder: Path, num_ranks: int) -> dict[str, Any]:
    settings = EVERY_SECOND_STEP | {"metric_for_best_model": "kl", "greater_is_better": False, "save_total_limit": 1}
    trainer = make_trainer(folder / "best", num_ranks, **settings)
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
    scale_and_log, rank = trainer.scale_and_log, trainer.args.process_index
    trainer.scale_and_log = lambda loss, *rest: scale_and_log(
        loss * (float("nan") if (rank, trainer.state.global_step) == (1, 1) else 1.0), *rest
    )
    trainer.train()
    return {
        "num_bad_steps": trainer.step_log.num_bad_steps,
        "finite": all(bool(parameter.isfinite().all()) for parameter in trainer.model.parameters()),
        "weight": trainer.model.bert.embeddings.word_embeddings.weight.detach().clone(),
    }


def other_masks(folder: Path, num_ranks: int) -> dict[str, Any]:
    """Scores that differ on the last rank."""
    trainer = make_trainer(folder / "other", num_ranks)
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
    if rank == 0:
        (folder / "taken").touch()
    stream = make_blocks(16).to_iterable_dataset()
    torch.distributed.barrier()
    return {
        "a file on rank 1": error_of(lambda: make(folder / ("taken" if rank else "free"))),
        "no such checkpoint": error_of(lambda: make(folder / "none").train("last")),
        "stream to evaluate on": error_of(lambda: make(folder / "stream", eval_dataset=stream).evaluate()),
        "sized stream to evaluate on": error_of(lambda: make(folder / "sized", eval_dataset=Sized()).evaluate()),
        "other rows": error_of(lambda: make(folder / "rows", train_dataset=make_blocks(16, seed=rank)).train()),
        "short stream": error_of(lambda: make(folder / "short", train_dataset=stream.take(7)).train()),
    }


class Sized(IterableDataset):
    """A stream of torch's kind that knows its length."""

    def __iter__(self) -> Iterator[Any]:
        yield from make_blocks(16)

    def __len__(self) -> int:
        return 16


def short_lanes(folder: Path, num_ranks: int) -> dict[str, Any]:
    """A run whose scores ask for more batches than the rank with the shorter files has."""

    def rows(shards: list[int]) -> Iterator[Any]:
        for shard in shards:
            yield from make_blocks(2 if shard % 2 else 6, seed=shard)

    stream = datasets.IterableDataset.from_generator(rows, gen_kwargs={"shards": [*range(16)]})
    trainer = make_trainer(
        folder / "lanes", num_ranks=num_ranks, train_dataset=stream, num_scoring_batches=16, max_steps=3
    )
    trainer.train()
    return {"steps": trainer.state.global_step, "is_finished": trainer.is_finished}


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
    "resume by length: 2 ranks": partial(resumed, BY_LENGTH, 2),
    "resume: 4 → 2": partial(resumed, "plain", 4),
    "resume: 2 → 1": partial(resumed, "accumulation", 2),
    "resume: 1 → 2": partial(resumed, "accumulation", 1),
    "stream: 4 → 2": partial(resumed, "stream", 4),
    "resume": resume_with_dropout,
    "best model": best_model,
    "passes": same_passes,
    "reducers": reducers,
    "evaluated rows": evaluated_rows,
    "one bad rank": one_bad_rank,
    "other masks": other_masks,
    "refusals": refusals,
    "short lanes": short_lanes,
}


@dataclass(frozen=True)
class World:
    """Ranks that run something together.

    Args:
        name: of the files that they leave.
        num_ranks: of all nodes.
        runs: what they do, in order.
    """

    name: str
    num_ranks: int
    runs: tuple[str, ...]


_ONE, *_MANY = (World(str(size), size, (*shared_on(size), "passes", "evaluated rows")) for size in WORLD_SIZES)
GROUPS = (
    (_ONE,),
    *((world,) for world in _MANY),
    (
        World("4 more", 4, ("resume: 4 ranks",)),
        World(
            "2 more",
            2,
            (
                "resume: 2 ranks",
                "resume by length: 2 ranks",
                "resume: 4 → 2",
                "resume: 1 → 2",
                "stream: 4 → 2",
                "resume",
                "best model",
            ),
        ),
        World("2 bad", 2, ("one bad rank", "other masks", "short lanes", "refusals")),
        World("2 alive", 2, ("reducers",)),
        World("1 more", 1, ("resume: 2 → 1",)),
    ),
)
"""Worlds of a group run side by side; the last ones resume checkpoints of those before."""


def run_worlds(folder: Path, names: Sequence[str]) -> None:
    """Run the named worlds, or all; results go to `FOLDER/WORLD/RUN-RANK.pt`."""
    for group in GROUPS:
        started = [_start_world(world, folder) for world in group if not names or world.name in names]
        for ranks in started:
            while not ranks.join():
                pass


def _start_world(world: World, folder: Path) -> ProcessContext:
    (folder / world.name).mkdir(parents=True)
    given = (world, free_port(), folder)
    return start_processes(run_rank, given, world.num_ranks, join=False, start_method="fork")


def run_rank(rank: int, world: World, port: int, folder: Path) -> None:
    """One rank of a world, from joining to leaving."""
    torch.manual_seed(0)
    if world.num_ranks > 1:
        os.environ |= launched_as(rank, world.num_ranks, port)
    for name in world.runs:
        torch.save(RUNS[name](folder, world.num_ranks), folder / world.name / f"{name}-{rank}.pt")
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
