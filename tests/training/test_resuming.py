"""A resumed run is the uninterrupted one, to the last bit: of every trainer, architecture and way of pruning.

`RUNS` has a line for each; a new trainer gets one, and nothing else, to be held to it.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from run_traces import POINTS, STEP_BY_STEP, SaveAt, assert_same_run
from tiny_architectures import OTHERS, tiny_architecture_teacher
from tiny_embeddings import make_pairs, make_reranker, make_rows, make_sentence_folder
from tiny_models import GRADUAL, make_blocks, make_teacher, randomized, tiny_tokenizer
from transformers import DataCollatorForTokenClassification, Trainer

from homodistil_hf.methods.binarization.binarizing import to_binary
from homodistil_hf.methods.binarization.trainer import BinarizationArguments, BinarizationTrainer
from homodistil_hf.methods.embedding.reranker import RerankerDistilTrainer
from homodistil_hf.methods.embedding.trainer import EmbeddingDistilTrainer
from homodistil_hf.methods.registry import METHODS
from homodistil_hf.methods.registry import RUNS as OF_OTHER_ROWS
from homodistil_hf.methods.self_distillation.trainer import SelfDistillationArguments, SelfDistillTrainer
from homodistil_hf.models.architectures import ARCHITECTURES

QUIET = {"report_to": "none", "disable_tqdm": True, "use_cpu": True, "save_strategy": "no", "logging_steps": 1}
SAME_HEADS = {"hidden_size": 16, "num_attention_heads": 4, "head_dim": 4, "intermediate_size": 32}
HALF_THE_MACS = {"hidden_size": 32, "num_attention_heads": 4, "head_dim": 4, "intermediate_size": 32}
SMALLER_HEADS = {"hidden_size": 16, "num_attention_heads": 2, "head_dim": 4, "intermediate_size": 32}


# How each kind of trainer is made: from the `make_trainer` fixture, a folder for its teacher, and settings.


def distilling(make_trainer: Any, folder: Path, **settings: Any) -> Trainer:
    return make_trainer(**settings)


def distilling_an_architecture(make_trainer: Any, folder: Path, *, name: str, **settings: Any) -> Trainer:
    architecture = ARCHITECTURES[name]
    attention_weight = 0.0 if architecture.scores_have_positions else 1.0
    terms = {"attention_weight": attention_weight, "mlm_weight": 0.5}
    return make_trainer(model=tiny_architecture_teacher(architecture, architecture.heads[0]), **terms | settings)


def distilling_a_tagger(make_trainer: Any, folder: Path, **settings: Any) -> Trainer:
    rows = make_blocks(40)
    rows = rows.map(lambda row: {"labels": [token % 4 for token in row["input_ids"]]}).remove_columns("example_id")
    lengths = [7, 12, 16, 9, 5, 14, 11, 16]
    rows = rows.map(lambda row, index: {key: row[key][: lengths[index % 8]] for key in row}, with_indices=True)
    model = make_teacher("token_classification", num_labels=4)
    collator = DataCollatorForTokenClassification(tiny_tokenizer())
    return make_trainer(model=model, train_dataset=rows, eval_dataset=rows, data_collator=collator, **settings)


def distilling_embeddings(make_trainer: Any, folder: Path, **settings: Any) -> Trainer:
    model = folder if folder.exists() else make_sentence_folder(folder)
    data = {"train_dataset": make_rows(), "eval_dataset": make_rows(32, seed=1)}
    return make_trainer(model=model, trainer_class=EmbeddingDistilTrainer, hidden_weight=1.0, **data | settings)


def distilling_a_reranker(make_trainer: Any, folder: Path, **settings: Any) -> Trainer:
    model = str(folder if folder.exists() else make_reranker(folder))
    data = {"train_dataset": make_pairs(), "eval_dataset": make_pairs(16, seed=1)}
    return make_trainer(model=model, trainer_class=RerankerDistilTrainer, hidden_weight=1.0, **data | settings)


def self_distilling(
    make_trainer: Any, folder: Path, *, has_teacher: bool, callbacks: Any = None, **settings: Any
) -> Trainer:
    model = make_teacher()
    teacher = randomized(copy.deepcopy(model), seed=7) if has_teacher else None
    args = SelfDistillationArguments(per_device_train_batch_size=8, learning_rate=1e-3, **QUIET | settings)
    data = {"train_dataset": make_blocks(), "processing_class": tiny_tokenizer()}
    return SelfDistillTrainer(model, args, teacher_model=teacher, callbacks=callbacks, **data)


def binarizing(make_trainer: Any, folder: Path, *, callbacks: Any = None, **settings: Any) -> Trainer:
    teacher = make_teacher("sequence_classification", hidden_dropout_prob=0.1)
    rows = make_blocks().map(lambda row: {"labels": row["input_ids"][1] % 2}).remove_columns("example_id")
    args = BinarizationArguments(per_device_train_batch_size=8, learning_rate=1e-3, **QUIET | settings)
    model = to_binary(copy.deepcopy(teacher), activation_bits=2)
    return BinarizationTrainer(model, args, teacher_model=teacher, train_dataset=rows, callbacks=callbacks)


@dataclass(frozen=True)
class Run:
    """How a trainer is made, after which of its steps it is resumed, and what it logs otherwise then."""

    settings: dict[str, Any] = field(default_factory=dict)
    make: Callable[..., Trainer] = distilling
    steps: tuple[int, ...] = (3,)
    inexact: tuple[str, ...] = ()


def gradual(**settings: Any) -> Run:
    return Run(STEP_BY_STEP | settings, steps=POINTS)


def method(name: str, **settings: Any) -> Run:
    student = HALF_THE_MACS if name == "distilbert" else SAME_HEADS
    return Run({"trainer_class": METHODS[name], "student": student, "max_steps": 6} | settings)


def architecture(name: str, **settings: Any) -> Run:
    """While units go, and afterwards."""
    make = partial(distilling_an_architecture, name=name)
    return Run(GRADUAL | {"max_steps": 8} | settings, make, steps=(2, 5))


RUNS: dict[str, Run] = {
    "as users have it": Run({"max_steps": 6}),
    "as users have it, accumulation": Run({"max_steps": 6, "gradient_accumulation_steps": 2}),
    "gradual": gradual(),
    "gradual, scored first": gradual(num_scoring_batches=3),
    "gradual, scored first by movement": gradual(num_scoring_batches=3, importance_metric="movement"),
    "gradual, movement": gradual(importance_metric="movement"),
    "gradual, dropout": gradual(student_dropout=0.1),
    "gradual, accumulation": gradual(gradient_accumulation_steps=2, per_device_train_batch_size=4),
    "gradual, several shuffled epochs": gradual(max_steps=-1, num_train_epochs=2.4, per_device_train_batch_size=13),
    "gradual, rows left over in each pass": gradual(
        train_dataset=make_blocks(21), per_device_train_batch_size=1, gradient_accumulation_steps=8
    ),
    "gradual, bfloat16": gradual(bf16=True),
    "gradual, evaluations": gradual(eval_strategy="steps", eval_steps=2, student_dropout=0.1),
    "gradual, rotated heads": gradual(rotate_heads=True, attention_weight=0.1, student=SAME_HEADS),
    "gradual, everything else": gradual(
        attention_weight=0.1,
        projection_init="random",
        lr_scheduler_type="cosine",
        optim="sgd",
        optim_args="momentum=0.9",
    ),
    "padded rows of tags": Run(
        GRADUAL | {"max_steps": 10, "student_dropout": 0.1, "learning_rate": 5e-3}, distilling_a_tagger, steps=(4,)
    ),
    **{name: architecture(name) for name in (one.model_type for one in OTHERS)},
    "modernbert, smaller heads": architecture("modernbert", student=SMALLER_HEADS),
    **{name: method(name) for name in METHODS if name != "homodistil" and name not in OF_OTHER_ROWS},
    "one_shot, movement": method("one_shot", importance_metric="movement", student_dropout=0.1),
    "shallow, budget": method("shallow", student="macs=0.25"),
    "distilbert, dropout": method("distilbert", student_dropout=0.1),
    "tinybert, head by words": method("tinybert", mlm_trains="head"),
    "minilm_v2, head by words": method("minilm_v2", student_dropout=0.1, mlm_trains="head"),
    "embedding": Run({"max_steps": 8, "learning_rate": 1e-2}, distilling_embeddings),
    "embedding, axes": Run({"max_steps": 6, "learning_rate": 1e-2, "output": 7}, distilling_embeddings),
    "reranker": Run({"max_steps": 8, "learning_rate": 1e-2}, distilling_a_reranker),
    "self_distillation": Run({"max_steps": 6}, partial(self_distilling, has_teacher=True)),
    "further pre-training": Run({"max_steps": 6}, partial(self_distilling, has_teacher=False)),
    "bit": Run({"max_steps": 6}, binarizing),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_a_resumed_run_is_the_uninterrupted_one(make_trainer, tmp_path, name):
    run = RUNS[name]

    def made(folder: str, **others: Any) -> Trainer:
        torch.manual_seed(0)
        settings = run.settings | {"output_dir": str(tmp_path / folder)} | others
        return run.make(make_trainer, tmp_path / "teacher", **settings)

    whole = made("whole", callbacks=[SaveAt(*run.steps)])
    whole.train()
    for step in run.steps:
        resumed = made(f"from-{step}")
        resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{step}"))
        assert_same_run(resumed, whole, without=run.inexact)


def test_every_method_and_architecture_has_a_run():
    assert METHODS.keys() - {"homodistil"} <= RUNS.keys()
    assert {architecture.model_type for architecture in OTHERS} <= RUNS.keys()
