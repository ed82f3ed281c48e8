"""The training step: what is averaged, what is scored, what is zero, what happens when, and what is refused."""

import logging
import math
import time
from itertools import pairwise
from typing import Any

import pytest
import torch
from datasets import Dataset, IterableDataset
from fake_device import DEVICE, fake_device
from run_traces import OnStep, assert_close_run, assert_same_run, differences, logs_of, losses_of, state_of
from students import indices_of
from tiny_models import GRADUAL, VOCAB_SIZE, WIDE_WINDOW, make_blocks
from torch import nn
from transformers import TrainerCallback, default_data_collator

from homodistil_hf import HomoDistilTrainer
from homodistil_hf.distillation.objective import DistillationLoss
from homodistil_hf.pruning.scores import SensitivityScores

pytestmark = pytest.mark.slow

# The loss


def test_the_student_starts_equal_to_its_teacher(trained):
    trainer = trained(max_steps=1, attention_weight=1.0, mlm_weight=0.5, rotate_heads=False, **GRADUAL)
    (terms,) = losses_of(trainer)
    assert trainer.kept == trainer.plan  # a single step has no other moment
    assert terms == {
        "loss": pytest.approx(0.5 * terms["loss_mlm"]),
        "loss_mlm": pytest.approx(math.log(VOCAB_SIZE), rel=0.2),
        "loss_kl": 0.0,
        "loss_hidden": 0.0,
        "loss_embedding": 0.0,
        "loss_attention": 0.0,
    }


def test_the_loss_is_the_weighted_sum_of_its_terms(trained):
    weights = {"mlm": 0.5, "kl": 2.0, "hidden": 0.3, "embedding": 0.7, "attention": 0.1}
    settings = {f"{name}_weight": value for name, value in weights.items()}
    trainer = trained(max_steps=4, projection_init="random", **settings)
    for terms in losses_of(trainer):
        assert terms["loss"] == pytest.approx(sum(weights[name] * terms[f"loss_{name}"] for name in weights), rel=1e-5)
        assert terms["loss_hidden"] > 0


def test_the_loss_of_another_task_teaches_nothing(make_trainer):
    weights = dict.fromkeys(("mlm_weight", "kl_weight", "hidden_weight", "embedding_weight"), 0.0)  # task_weight is 1
    with pytest.raises(ValueError, match=r"_weight are 0, all that count for a HomoBertForMaskedLM, .*kl_weight=1\.0"):
        make_trainer(**weights)
    make_trainer(**weights | {"kl_weight": 0.1})


def test_what_the_user_logs_stays_as_it_is(make_trainer):
    trainer, alone = make_trainer(max_steps=4, logging_steps=4), make_trainer(max_steps=4, logging_steps=4)
    trainer.add_callback(OnStep(lambda step: trainer.log({"loss": 3.0}) if step == 2 else None))
    for each in (trainer, alone):
        each.train()
    own, *others = logs_of(trainer)
    assert (own["step"], own["loss"], others) == (2, 3.0, logs_of(alone))


class WithAnotherTerm(DistillationLoss):
    """As a subclass of the trainer may add one."""

    def terms(self, model: nn.Module, *args: Any, **kwargs: Any) -> Any:
        terms, outputs = super().terms(model, *args, **kwargs)
        return terms | {"norm": self.student.base_model.embeddings.LayerNorm.weight.square().sum()}, outputs


def test_a_subclass_adds_a_term_with_a_weight_of_its_own(trained):
    class Trainer(HomoDistilTrainer):
        def make_distillation(self, teacher: Any) -> DistillationLoss:
            weights = super().make_distillation(teacher).weights | {"norm": 0.5, "hidden": 2.0}
            return WithAnotherTerm(self.model, teacher, weights=weights, kept_heads=self.matched_heads)

    trainer = trained(trainer_class=Trainer, max_steps=1, rotate_heads=False, mlm_weight=0.0, **GRADUAL)
    (terms,) = losses_of(trainer)
    assert terms["loss_norm"] > 0
    assert terms["loss"] == pytest.approx(0.5 * terms["loss_norm"])  # the others begin at 0


def padded_blocks(num_rows: int) -> Dataset:
    """Rows of 6 to 16 tokens, so that micro-batches are padded differently from whole batches."""
    rows = [row[: 6 + 5 * index % 11] for index, row in enumerate(make_blocks(num_rows)["input_ids"])]
    return Dataset.from_dict({"input_ids": rows, "example_id": list(range(num_rows))})


def rarely_labelled(num_rows: int) -> Dataset:
    """One word in every third row has a label; the other rows have none."""
    input_ids = make_blocks(num_rows)["input_ids"]
    labels = [[-100, -100, row[2] if index % 3 == 0 else -100, *[-100] * 13] for index, row in enumerate(input_ids)]
    return Dataset.from_dict({"input_ids": input_ids, "labels": labels})


ACCUMULATED: dict[str, dict[str, Any]] = {
    "full batches": {"train_dataset": make_blocks(64), "attention_weight": 0.1, "max_steps": 10},
    "ragged last batch, padding": {"train_dataset": padded_blocks(20), "max_steps": -1, "num_train_epochs": 3},
    "micro-batches without labels": {
        "train_dataset": rarely_labelled(24),
        "data_collator": default_data_collator,
        "max_steps": 8,
    },
}


@pytest.mark.parametrize("case", ACCUMULATED)
def test_one_batch_of_eight_equals_eight_of_one(trained, case):
    settings = WIDE_WINDOW | ACCUMULATED[case]
    whole = trained(per_device_train_batch_size=8, **settings)
    parts = trained(per_device_train_batch_size=1, gradient_accumulation_steps=8, **settings)
    assert whole.kept != whole.full
    assert_close_run(parts, whole)


def test_a_step_without_any_label_learns_from_the_hidden_states_alone(trained):
    input_ids = make_blocks(8)["input_ids"]
    unlabelled = Dataset.from_dict({"input_ids": input_ids, "labels": [[-100] * 16] * 8})
    trainer = trained(
        max_steps=4, train_dataset=unlabelled, data_collator=default_data_collator, projection_init="random"
    )
    for terms in losses_of(trainer):
        assert terms["loss_mlm"] == terms["loss_kl"] == 0.0
        assert terms["loss_hidden"] > 0
    assert trainer.step_log.num_bad_steps == 0


# The scores


class Watched(SensitivityScores):
    """Keeps the weights and gradients that scores are taken from, and how they are smoothed."""

    seen: list[tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]]
    smoothings: list[float | None]

    def update(self, parameters: Any, groups: Any, **given: Any) -> None:
        weights = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        gradients = {name: p.grad.clone() for name, p in parameters.items() if p.grad is not None}
        self.seen.append((weights, gradients))
        self.smoothings.append(given["smoothing"])
        super().update(parameters, groups, **given)


def watched(trainer: HomoDistilTrainer) -> Watched:
    scores = trainer.pruner.scores = Watched(trainer.pruner.groups)
    scores.seen, scores.smoothings = [], []
    return scores


def slow_scores(trainer: HomoDistilTrainer, weights: Any, gradients: Any) -> dict[str, torch.Tensor]:
    """(1 − β1)·Σ|θ·∂L/∂θ|, unit by unit and slice by slice, over the mean of the group."""
    scores = {}
    for name, group in trainer.pruner.groups.items():
        values = torch.zeros(group.num_units)
        for piece in group.slices:
            importance = (weights[piece.parameter] * gradients[piece.parameter]).abs()
            for unit in range(group.num_units):
                values[unit] += importance.index_select(piece.dim, indices_of(piece, unit)).sum()
        scores[name] = (1 - trainer.args.sensitivity_smoothing) * values / values.mean()
    return scores


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"gradient_accumulation_steps": 4, "per_device_train_batch_size": 2},
        {"bf16": True},
        {"max_grad_norm": 1e-3},
        {"max_grad_norm": 1e-3, "bf16": True, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 4},
    ],
)
def test_complete_unclipped_gradients_are_scored(make_trainer, settings):
    same = GRADUAL | {"max_steps": 2, "mlm_weight": 1.0, "rotate_heads": False}
    reference, trainer = make_trainer(**same, max_grad_norm=0.0), make_trainer(**same, **settings)
    expected, found = watched(reference), watched(trainer)
    before_step: list[tuple[float, dict[str, torch.Tensor], dict[str, torch.Tensor]]] = []

    class BeforeStep(TrainerCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            norm = nn.utils.get_total_norm([p.grad for p in trainer.model.parameters()])
            before_step.append((float(norm), dict(found.state), slow_scores(trainer, *found.seen[-1])))
            control.should_training_stop = True

    trainer.add_callback(BeforeStep())
    reference.train()
    trainer.train()
    gradients, full = found.seen[0][1], expected.seen[0][1]
    assert all(gradient.dtype == torch.float32 for gradient in gradients.values())
    # Noise of float32, or of bfloat16's 8 bits of mantissa, 0.07 on a processor that emulates it; a loss divided by
    # the wrong number of batches, or a clipped gradient, is off by a half or more.
    tolerance = 0.15 if settings.get("bf16") else 1e-4
    error = nn.utils.get_total_norm([gradients[name] - gradient for name, gradient in full.items()])
    norm = float(nn.utils.get_total_norm(list(gradients.values())))
    assert float(error) < tolerance * norm
    clipped_norm, scores, slow = before_step[0]
    assert clipped_norm == pytest.approx(min(norm, settings.get("max_grad_norm", 1.0)), rel=1e-2)
    for name, values in slow.items():
        torch.testing.assert_close(scores[name], values, rtol=1e-4, atol=1e-8, msg=name)


def test_batches_without_finite_gradients_are_not_scored(make_trainer, tmp_path):
    def scored(broken: tuple[int, ...], name: str) -> HomoDistilTrainer:
        trainer = make_trainer(num_scoring_batches=2, rotate_heads=False, output_dir=str(tmp_path / name))
        compute_loss = trainer.compute_loss
        factors = (math.nan if call in broken else 1.0 for call in range(100))
        trainer.compute_loss = lambda *given, **named: compute_loss(*given, **named) * next(factors)
        trainer.start_student()
        return trainer

    whole, part = scored((), "whole").pruner.unit_scores(), scored((0,), "part").pruner.unit_scores()
    for name, values in part.items():
        assert values.isfinite().all()
        assert not torch.equal(values, whole[name])
    with pytest.raises(FloatingPointError, match="none of num_scoring_batches=2 gave finite gradients"):
        scored((0, 1), "none")


def test_first_batches_count_alike_and_every_step_until_the_plan_updates_the_scores(make_trainer):
    trainer = make_trainer(num_scoring_batches=3, max_steps=10, pruning_interval_steps=1)
    scores = watched(trainer)
    trainer.train()
    assert scores.smoothings[:3] == [0.0, 1 / 2, 2 / 3]  # the mean
    assert scores.smoothings[3:] == [None] * 3  # the plan is reached at 0.3 of ten steps


def test_scoring_in_float16_has_a_fixed_scale_that_is_divided_out(make_trainer, tmp_path):
    """A power of two changes no bit of the scores; the gradients are a thousand times as large."""
    plain, scaled = (make_trainer(output_dir=str(tmp_path / name), rotate_heads=False) for name in ("plain", "scaled"))
    scaled.args.fp16 = True
    scores = watched(scaled)
    plain.start_student()
    scaled.start_student()
    for name, values in plain.pruner.unit_scores().items():
        assert torch.equal(scaled.pruner.unit_scores()[name], values)
    embeddings = scaled.model.get_input_embeddings().weight
    (name,) = (name for name, parameter in scaled.model.named_parameters() if parameter is embeddings)
    assert min(gradients[name].abs().max() for _, gradients in scores.seen) > 1.0


def test_a_metric_without_gradients_scores_no_batches_first(make_trainer):
    unread = IterableDataset.from_generator(lambda: pytest.fail("data were read"))
    settings = {"importance_metric": "magnitude", "rotate_heads": False, "learning_rate": 1e-3}
    make_trainer(train_dataset=unread, **settings).start_student()


# The plan


@pytest.mark.parametrize("max_steps", [1, 2, 7])
def test_short_runs_reach_their_plan_too(trained, max_steps):
    trainer = trained(max_steps=max_steps, **GRADUAL)
    assert trainer.kept == trainer.plan


# Everything a user of Trainer does


def test_two_runs_with_one_seed_are_the_same_whatever_the_clock_says(make_trainer, monkeypatch):
    settings = {"max_steps": 8, "student_dropout": 0.1, "eval_strategy": "steps", "eval_steps": 4}
    first, second, other = (make_trainer(seed=seed, **settings) for seed in (1, 1, 2))
    first.train()
    ticks = iter(range(10**9))
    for name in ("time", "perf_counter", "monotonic"):
        monkeypatch.setattr(time, name, lambda: 1000.0 * next(ticks) ** 2)
    torch.manual_seed(99)
    second.train()
    monkeypatch.undo()
    assert_same_run(second, first)
    other.train()
    assert differences(state_of(other), state_of(first)) != []


def test_callbacks_see_a_step_when_it_is_done(make_trainer):
    seen: dict[str, list[Any]] = {"width": [], "kept": [], "logs": []}
    trainer = make_trainer(max_steps=6, **GRADUAL)

    class Watch(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            seen["width"].append(kwargs["model"].bert.embeddings.word_embeddings.weight.shape[1] / 32)
            seen["kept"].append(trainer.status()["kept_fraction_hidden"])

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            seen["logs"].append(logs)

    trainer.add_callback(Watch())
    trainer.train()
    assert seen["width"] == seen["kept"] == [entry["kept_fraction_hidden"] for entry in seen["logs"][:-1]]
    assert seen["kept"][-1] == 0.5
    assert {"loss", "loss_mlm", "loss_kl", "loss_hidden", "loss_embedding", "num_bad_steps"} <= seen["logs"][0].keys()


def test_a_step_is_counted_on_a_device_without_float64(make_trainer):
    trainer = make_trainer()
    batch = trainer.data_collator([trainer.train_dataset[row] for row in range(2)])
    with fake_device(has_float64=False):
        batches, counts = trainer.get_batch_samples(iter([batch]), 1, DEVICE)
    assert (len(batches), counts.shape, counts.dtype, counts.device) == (1, (3,), torch.int64, DEVICE)


@pytest.mark.filterwarnings("ignore:.*checkpointing.* is deprecated:FutureWarning")
def test_activation_checkpointing_changes_no_loss(trained):
    plain = trained(max_steps=6, attention_weight=1.0, student_dropout=0.1)
    # The name that all supported versions of transformers have; newer ones call it activation_checkpointing.
    saving = trained(max_steps=6, attention_weight=1.0, student_dropout=0.1, gradient_checkpointing=True)
    assert_close_run(saving, plain, tolerance=1e-5)


def test_training_twice_starts_anew_from_the_student_as_it_is(trained):
    trainer = trained(max_steps=6)
    trainer.step_log.num_bad_steps = 3
    trainer.train()
    assert trainer.state.global_step == 6
    assert trainer.step_log.num_bad_steps == 0
    assert trainer.kept == trainer.plan


def test_widths_fall_evenly_over_the_run(make_trainer):
    trainer = make_trainer(max_steps=20, **WIDE_WINDOW)
    sizes: list[int] = []
    trainer.add_callback(OnStep(lambda step: sizes.append(trainer.kept.hidden_size)))
    trainer.train()
    # 16 + 16·(1 − t/18)³ after t steps, rounded.
    assert sizes == [math.floor(16.5 + 16 * max(0.0, 1 - step / 18) ** 3) for step in range(20)]
    assert all(later <= earlier for earlier, later in pairwise(sizes))


@pytest.mark.parametrize("rotates", [True, False])
def test_rewritten_heads_are_told_in_words_of_the_settings(make_trainer, caplog, rotates):
    caplog.set_level(logging.INFO, "homodistil_hf")
    narrow = {"hidden_size": 32, "num_attention_heads": 4, "head_dim": 4, "intermediate_size": 32}
    make_trainer(max_steps=1, rotate_heads=rotates, student=narrow, **GRADUAL).train()
    assert ("rotate_heads: heads of 2 layers get uncorrelated channels" in caplog.text) is rotates
