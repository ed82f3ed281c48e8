"""A resumed run is the uninterrupted one, to the last bit: of every trainer, architecture and way of pruning.

`RUNS` has a line for each; a new trainer gets one, and nothing else.
"""

import copy
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from method_students import HALF_THE_MACS, SAME_HEADS, student_of
from resumed_runs import QUIET, Run, method
from run_traces import EVERY_SECOND_STEP, POINTS, STEP_BY_STEP, WIDER, SaveAt, assert_same_run
from tiny_architectures import MASKED_LMS, rows_for, tiny_architecture_teacher
from tiny_embeddings import PLAIN, distilling_a_reranker, distilling_embeddings
from tiny_models import GRADUAL, make_blocks, make_teacher, randomized, tiny_tokenizer
from tiny_multi_vector import distilling_token_vectors
from tiny_sparse import distilling_sparse_vectors
from transformers import DataCollatorForTokenClassification, EarlyStoppingCallback, Trainer, TrainerCallback

from homodistil_hf import (
    BinarizationArguments,
    BinarizationTrainer,
    SelfDistillationArguments,
    SelfDistillTrainer,
    to_binary,
)
from homodistil_hf.models.architectures import ARCHITECTURES
from homodistil_hf.models.saved_student import read_state
from homodistil_hf.runs.kinds import KINDS, METHODS

SMALLER_HEADS = {"hidden_size": 16, "num_attention_heads": 2, "head_dim": 4, "intermediate_size": 32}
NESTED = ["24-3x8-48", "16-2x8-32", "8-2x4-16"]
NESTED_WHOLE_HEADS = [*NESTED[:2], "8-1x4-16"]
ONE_LAYER = SAME_HEADS | {"num_hidden_layers": 1}


def distilling_an_architecture(make_trainer: Any, folder: Path, *, name: str, **settings: Any) -> Trainer:
    architecture = ARCHITECTURES[name]
    head, attention_weight = architecture.heads[0], 0.0 if architecture.scores_have_positions else 1.0
    terms = {"attention_weight": attention_weight} | ({"mlm_weight": 0.5} if architecture in MASKED_LMS else {})
    return make_trainer(model=tiny_architecture_teacher(architecture, head), **rows_for(head) | terms | settings)


def distilling_a_tagger(make_trainer: Any, folder: Path, **settings: Any) -> Trainer:
    rows = make_blocks(40)
    rows = rows.map(lambda row: {"labels": [token % 4 for token in row["input_ids"]]}).remove_columns("example_id")
    lengths = [7, 12, 16, 9, 5, 14, 11, 16]
    rows = rows.map(lambda row, index: {key: row[key][: lengths[index % 8]] for key in row}, with_indices=True)
    model = make_teacher("token_classification", num_labels=4)
    collator = DataCollatorForTokenClassification(tiny_tokenizer())
    return make_trainer(model=model, train_dataset=rows, eval_dataset=rows, data_collator=collator, **settings)


def distilling_a_stream(make_trainer: Any, folder: Path, **settings: Any) -> Trainer:
    """One that is read several times."""
    stream = make_blocks(28).to_iterable_dataset().shuffle(seed=5, buffer_size=10)
    return make_trainer(train_dataset=stream, **settings)


def with_an_optimizer_of_the_users(make_trainer: Any, folder: Path, **settings: Any) -> Trainer:
    teacher = make_teacher()
    optimizer = torch.optim.NAdam(teacher.parameters(), lr=1e-3, weight_decay=0.01)
    return make_trainer(model=teacher, optimizers=(optimizer, None), **settings)


def binarizing(make_trainer: Any, folder: Path, *, callbacks: Any = None, **settings: Any) -> Trainer:
    teacher = make_teacher("sequence_classification", hidden_dropout_prob=0.1)
    rows = make_blocks().map(lambda row: {"labels": row["input_ids"][1] % 2}).remove_columns("example_id")
    args = BinarizationArguments(per_device_train_batch_size=8, learning_rate=1e-3, **QUIET | settings)
    model = to_binary(copy.deepcopy(teacher), activation_bits=2)
    return BinarizationTrainer(model, args, teacher_model=teacher, train_dataset=rows, callbacks=callbacks)


def self_distilling(
    make_trainer: Any, folder: Path, *, has_teacher: bool, callbacks: Any = None, **settings: Any
) -> Trainer:
    model = make_teacher()
    teacher = randomized(copy.deepcopy(model), seed=7) if has_teacher else None
    args = SelfDistillationArguments(per_device_train_batch_size=8, learning_rate=1e-3, **QUIET | settings)
    data = {"train_dataset": make_blocks(), "processing_class": tiny_tokenizer()}
    return SelfDistillTrainer(model, args, teacher_model=teacher, callbacks=callbacks, **data)


def gradual(*, steps: tuple[int, ...] = POINTS, inexact: tuple[str, ...] = (), **settings: Any) -> Run:
    return Run(STEP_BY_STEP | settings, steps=steps, inexact=inexact)


def architecture(name: str, **settings: Any) -> Run:
    """While units go, and afterwards."""
    make = partial(distilling_an_architecture, name=name)
    return Run(GRADUAL | {"max_steps": 8} | settings, make, steps=(2, 5))


RUNS: dict[str, Run] = {
    "as users have it": Run({"max_steps": 6}),
    "as users have it, accumulation": Run({"max_steps": 6, "gradient_accumulation_steps": 2}),
    "as users have it, of stock shapes": Run({"max_steps": 6, "student": SAME_HEADS}),
    "gradual": gradual(),
    "gradual, scored first": gradual(num_scoring_batches=3),
    "gradual, dropout": gradual(student_dropout=0.1),
    "gradual, accumulation": gradual(gradient_accumulation_steps=2, per_device_train_batch_size=4),
    "gradual, several shuffled epochs": gradual(max_steps=-1, num_train_epochs=2.4, per_device_train_batch_size=13),
    "gradual, rows left over in each pass": gradual(
        train_dataset=make_blocks(21), per_device_train_batch_size=1, gradient_accumulation_steps=8
    ),
    "gradual, at the end of a pass": gradual(
        max_steps=-1,
        num_train_epochs=3,
        train_dataset=make_blocks(32),
        per_device_train_batch_size=8,
        eval_strategy="epoch",
        student_dropout=0.1,
        learning_rate_curve="trainer",
        lr_scheduler_type="reduce_lr_on_plateau",
        lr_scheduler_kwargs={"patience": 0, "mode": "max"},  # of a loss, so it falls
        metric_for_best_model="kl",
        steps=(4, 8, 12),
    ),
    "gradual, a log a pass": gradual(
        max_steps=10,
        train_dataset=make_blocks(32),
        per_device_train_batch_size=8,
        logging_strategy="epoch",
        eval_strategy="epoch",
        steps=(4, 10),
        inexact=("learning_rate", "grad_norm"),  # of the step, which Trainer has forgotten
    ),
    "gradual, bfloat16": gradual(bf16=True),
    "gradual, compiled": gradual(torch_compile=True, torch_compile_backend="eager"),
    "gradual, evaluations": gradual(eval_strategy="steps", eval_steps=2, student_dropout=0.1),
    "gradual, rotated heads": gradual(rotate_heads=True, attention_weight=0.1, student=SAME_HEADS),
    "gradual, fewer layers": gradual(student=ONE_LAYER, attention_weight=0.1, model=make_teacher(num_hidden_layers=3)),
    "gradual, fewer layers, scored first": gradual(student=ONE_LAYER, num_scoring_batches=3, student_dropout=0.1),
    "gradual, nested": gradual(student=NESTED, nested=True, num_scoring_batches=3, student_dropout=0.1),
    "gradual, nested, bfloat16": gradual(student=NESTED, nested=True, bf16=True),
    "gradual, everything else": gradual(
        attention_weight=0.1,
        projection_init="random",
        lr_scheduler_type="cosine",
        optim="sgd",
        optim_args="momentum=0.9",
    ),
    "gradual, an optimizer of the user's": Run(STEP_BY_STEP, with_an_optimizer_of_the_users, steps=(WIDER,)),
    "a stream": Run({"max_steps": 8, "student_dropout": 0.1}, distilling_a_stream, steps=(2, 3, 5)),
    "a stream, accumulation": Run(
        {"max_steps": 8, "student_dropout": 0.1, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 4},
        distilling_a_stream,
        steps=(2, 3, 5),
    ),
    "padded rows of tags": Run(
        GRADUAL | {"max_steps": 10, "student_dropout": 0.1, "learning_rate": 5e-3}, distilling_a_tagger, steps=(4,)
    ),
    "padded rows of tags by length, several passes": Run(
        GRADUAL | {"max_steps": 12, "student_dropout": 0.1, "train_sampling_strategy": "group_by_length"},
        distilling_a_tagger,
        steps=(4, 8),
    ),
    **{name: architecture(name) for name in (one.model_type for one in MASKED_LMS)},
    "qwen3": architecture("qwen3"),
    "modernbert, nested": architecture("modernbert", student=NESTED_WHOLE_HEADS, nested=True),
    "modernbert, fewer layers": architecture("modernbert", student=SMALLER_HEADS | {"num_hidden_layers": 1}),
    "modernbert, smaller heads": architecture("modernbert", student=SMALLER_HEADS),
    **{name: method(name, student_of(name)) for name in METHODS if name != "homodistil" and name not in KINDS},
    "one_shot": method("one_shot", student_dropout=0.1),
    "one_shot, fewer layers": method("one_shot", ONE_LAYER),
    "distilbert, dropout": method("distilbert", HALF_THE_MACS, student_dropout=0.1),
    "minilm_v2, dropout": method("minilm_v2", student_dropout=0.1),
    "embedding": Run({"max_steps": 8, "learning_rate": 1e-2}, distilling_embeddings),
    "embedding, axes": Run({"max_steps": 6, "learning_rate": 1e-2, "output": 7}, distilling_embeddings),
    "embedding, plain": Run({"max_steps": 6, "student": PLAIN, "plain": True}, distilling_embeddings),
    "embedding, nested": Run(
        {"max_steps": 8, "learning_rate": 1e-2, "student": NESTED, "nested": True}, distilling_embeddings
    ),
    "sparse": Run({"max_steps": 8, "learning_rate": 1e-2}, distilling_sparse_vectors),
    "multi_vector": Run({"max_steps": 8, "learning_rate": 1e-2}, distilling_token_vectors),
    "reranker": Run({"max_steps": 8, "learning_rate": 1e-2}, distilling_a_reranker),
    "self_distillation": Run({"max_steps": 6}, partial(self_distilling, has_teacher=True)),
    "further pre-training": Run({"max_steps": 6}, partial(self_distilling, has_teacher=False)),
    "factored moments": Run({"max_steps": 6, "optim": "adafactor"}, partial(self_distilling, has_teacher=False)),
    "bit": Run({"max_steps": 6}, binarizing),
    # the order of these comes from the global generator, in a later pass too
    "bit, rows grouped by length": Run(
        {"max_steps": 12, "train_sampling_strategy": "group_by_length"}, binarizing, steps=(3, 10)
    ),
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
    assert {architecture.model_type for architecture in MASKED_LMS} <= RUNS.keys()


def test_resuming_with_another_teacher_is_refused_and_with_other_rows_told(make_trainer, tmp_path, caplog):
    settings = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1, "output_dir": str(tmp_path / "run")}
    make_trainer(**settings).train()
    checkpoint = str(tmp_path / "run" / "checkpoint-1")
    others = {"output_dir": str(tmp_path / "other"), "max_steps": 2}
    with pytest.raises(ValueError, match="checkpoint-1 is of a teacher with other weights than this run's; resume"):
        make_trainer(model=randomized(make_teacher(), seed=7), **others).train(resume_from_checkpoint=checkpoint)
    make_trainer(**others).train(resume_from_checkpoint=checkpoint)
    assert "the run will differ" not in caplog.text
    make_trainer(
        **others | {"output_dir": str(tmp_path / "third")}, train_dataset=make_blocks(40).select(range(8, 40))
    ).train(resume_from_checkpoint=checkpoint)
    assert "resumed with train_dataset='32 rows, digest " in caplog.text


def test_a_callback_with_a_state_may_be_added_at_a_resume(make_trainer, tmp_path):
    evaluated = {"eval_strategy": "steps", "eval_steps": 2, "metric_for_best_model": "kl"}
    settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2} | evaluated
    make_trainer(**settings).train()
    added = make_trainer(output_dir=str(tmp_path / "added"), callbacks=[EarlyStoppingCallback(3)], **settings)
    added.train(str(tmp_path / "run" / "checkpoint-2"))
    assert (tmp_path / "added" / "checkpoint-4").is_dir()


@pytest.mark.parametrize("others", [{}, {"dataloader_drop_last": False}])
def test_another_cut_of_a_step_is_told_where_rows_depend_on_it(make_trainer, tmp_path, caplog, others):
    settings = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1} | others
    make_trainer(per_device_train_batch_size=8, **settings).train()
    cut = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "output_dir": str(tmp_path / "cut")}
    make_trainer(**settings | cut).train(str(tmp_path / "run" / "checkpoint-1"))
    assert ("resumed with gradient_accumulation_steps=2, the checkpoint has 1" in caplog.text) is bool(others)


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_finished_run_is_not_evaluated_again(make_trainer, tmp_path, is_stream):
    rows = make_blocks(32).to_iterable_dataset() if is_stream else make_blocks(32)
    settings = {"per_device_train_batch_size": 8, "max_steps": 6, "eval_strategy": "epoch", "save_strategy": "epoch"}
    make_trainer(train_dataset=rows, **settings).train()
    resumed = make_trainer(train_dataset=rows, **settings)
    resumed.train("last")
    assert [entry["step"] for entry in resumed.state.log_history if "eval_kl" in entry] == [4, 6]


def test_a_run_that_moved_keeps_its_best_checkpoint(make_trainer, tmp_path, caplog):
    settings = EVERY_SECOND_STEP | {"metric_for_best_model": "mlm_accuracy", "greater_is_better": False}
    settings |= {"max_steps": 12, "save_total_limit": 2, "pruning_end_fraction": 0.1, "learning_rate": 1e-3}
    (whole := make_trainer(**settings)).train()
    best = whole.state.best_global_step
    assert best < 12
    last, moved = tmp_path / "run" / "checkpoint-12", tmp_path / "moved"
    (tmp_path / "run").rename(moved)
    again = make_trainer(output_dir=str(moved), **settings | {"max_steps": 14})
    again.train("last")
    assert (again.state.best_global_step, again.state.best_model_checkpoint) == (
        best,
        str(moved / f"checkpoint-{best}"),
    )
    assert again.step_of_weights == best
    assert not last.exists()
    # a copy has one of its own, and a run that goes on elsewhere looks beside what it goes on from
    shutil.copytree(moved, tmp_path / "copy")
    for place, checkpoint in (("copy", "last"), ("elsewhere", str(tmp_path / "copy" / "checkpoint-16"))):
        other = make_trainer(output_dir=str(tmp_path / place), **settings | {"max_steps": 16})
        other.train(checkpoint)
        assert other.state.best_model_checkpoint == str(tmp_path / "copy" / f"checkpoint-{best}")
        assert other.step_of_weights == best
    shutil.rmtree(moved / f"checkpoint-{best}")
    gone = make_trainer(output_dir=str(moved), **settings | {"max_steps": 16})
    gone.train("last")
    assert f"checkpoint-{best}, the best one so far, is no more: only later ones will count as the best" in caplog.text
    assert gone.state.best_global_step == 16


@pytest.mark.parametrize("strategy", ["steps", "epoch"])
def test_a_run_that_was_out_of_patience_takes_no_further_step(make_trainer, tmp_path, strategy):
    settings = {"max_steps": 30, "metric_for_best_model": "mlm_accuracy", "greater_is_better": False}
    settings |= {"eval_strategy": strategy, "eval_steps": 1, "save_strategy": strategy, "save_steps": 1}

    def make(patience):
        return make_trainer(callbacks=[EarlyStoppingCallback(patience)], pruning_end_fraction=0.1, **settings)

    (whole := make(2)).train()
    end = whole.state.global_step
    assert end < 30
    (resumed := make(2)).train("last")
    assert resumed.state.global_step == end
    assert_same_weights_of(resumed, whole)
    (patient := make(3)).train("last")
    assert patient.state.global_step > end


def assert_same_weights_of(one, other):
    for name, tensor in other.model.state_dict().items():
        assert torch.equal(one.model.state_dict()[name], tensor), name


class Numbered(torch.utils.data.Dataset):
    """Rows of a table in another order each pass, which it is told."""

    def __init__(self, rows):
        self.rows, self.epoch, self.told = rows.with_format("torch"), 0, []

    def set_epoch(self, epoch):
        self.epoch = epoch
        self.told.append(epoch)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, number):
        return self.rows[(int(number) + self.epoch) % len(self.rows)]


def test_a_data_set_is_told_its_pass_in_a_resumed_one_too(make_trainer, tmp_path):
    settings = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3, "per_device_train_batch_size": 8}
    (whole := make_trainer(train_dataset=Numbered(make_blocks(16)), **settings)).train()
    (resumed := make_trainer(train_dataset=Numbered(make_blocks(16)), **settings)).train(
        str(tmp_path / "run" / "checkpoint-3")
    )
    assert {1, 2} <= {*resumed.train_dataset.told}
    assert_same_weights_of(resumed, whole)


@pytest.mark.slow
def test_workers_that_persist_leave_the_order_of_dropout_alone(make_trainer, tmp_path):
    settings = {"max_steps": 6, "save_strategy": "steps", "save_steps": 1, "per_device_train_batch_size": 8}
    settings |= {"dataloader_num_workers": 2, "dataloader_persistent_workers": True, "student_dropout": 0.1}
    (whole := make_trainer(train_dataset=make_blocks(16), **settings)).train()
    (resumed := make_trainer(train_dataset=make_blocks(16), **settings)).train(str(tmp_path / "run" / "checkpoint-1"))
    assert_same_run(resumed, whole)


def test_settings_that_a_resumed_run_would_change_in_silence_are_told(make_trainer, tmp_path, caplog):
    settings = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1, "student_dropout": 0.1}
    best = {"eval_strategy": "steps", "eval_steps": 1, "metric_for_best_model": "mlm_accuracy"}
    make_trainer(per_device_train_batch_size=8, **settings, **best).train()
    cut = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "output_dir": str(tmp_path / "cut")}
    other = make_trainer(**settings | best | cut | {"metric_for_best_model": "mlm_loss"})
    other.train(str(tmp_path / "run" / "checkpoint-1"))
    assert "resumed with gradient_accumulation_steps=2, the checkpoint has 1" in caplog.text
    assert "resumed with metric_for_best_model='mlm_loss', the checkpoint has 'mlm_accuracy'" in caplog.text


def test_rates_of_dropout_without_a_module_count_in_the_cut_of_a_step(make_trainer):
    model = tiny_architecture_teacher(ARCHITECTURES["eurobert"], ARCHITECTURES["eurobert"].heads[0])
    for dropout in (0.0, 0.1):
        trainer = make_trainer(model=model, student_dropout=dropout)
        assert ("gradient_accumulation_steps" in trainer.state_to_save()["settings"]) is bool(dropout)


def test_a_seed_of_rows_that_earlier_versions_left_out_is_the_runs(make_trainer, tmp_path, caplog):
    settings = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1}
    make_trainer(**settings).train()
    checkpoint = tmp_path / "run" / "checkpoint-1"
    trainer = make_trainer(output_dir=str(tmp_path / "again"), **settings)
    state = read_state(checkpoint)
    for seed in (None, 5):
        state["settings"]["data_seed"] = seed
        trainer.check_state(state, checkpoint)
        assert ("resumed with data_seed=42, the checkpoint has 5" in caplog.text) is (seed == 5)
    assert "the checkpoint has None" not in caplog.text


class EvaluatesOtherRows(TrainerCallback):
    """Measures rows of its own behind each save."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 2:
            self.trainer.evaluate(make_blocks(8, seed=9))


def test_what_a_callback_measured_of_other_rows_is_no_result_of_a_resumed_run(make_trainer, tmp_path):
    settings = {"max_steps": 12, "save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 1}

    def make():
        callback = EvaluatesOtherRows()
        callback.trainer = make_trainer(callbacks=[callback], **settings)
        return callback.trainer

    (whole := make()).train()
    for checkpoint in ("checkpoint-2", "checkpoint-8", "checkpoint-12"):
        (resumed := make()).train(str(tmp_path / "run" / checkpoint))
        assert resumed.own_evaluations == whole.own_evaluations
        assert resumed.held_out_metrics == whole.held_out_metrics
        assert [*resumed.held_out_metrics] == [*whole.held_out_metrics]
        assert resumed.step_measured == 12
