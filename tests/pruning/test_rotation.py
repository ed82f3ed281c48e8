"""Other bases inside heads: the same function, channels that are easier to drop, and no trace in the run's data."""

import copy
from itertools import combinations
from typing import Any

import pytest
import torch
from distributed_runs import RecordingCollator
from rows import each
from students import FULL, UNEVEN, assert_same_logits, logits_of, make_batch, make_student, sliced, zeroed_copy
from tiny_models import GRADUAL, make_teacher
from transformers import PreTrainedModel

from homodistil_hf.models.units import encoder_groups
from homodistil_hf.models.widths import LayerWidths, WidthPlan
from homodistil_hf.pruning.masks import full_masks
from homodistil_hf.pruning.rotation import head_moments, moments_of, paired_bases, rotate_heads, rotated_layers
from homodistil_hf.runs.kinds import trainer_named

RANK = 3
NARROW = {"hidden_size": 32, "num_attention_heads": 4, "head_dim": RANK, "intermediate_size": 64}
LAYERS = range(2)


def random_moments(size: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(50, size, generator=generator, dtype=torch.float64)
    return states.T @ states / 50


def rotated(student: Any) -> Any:
    moments = head_moments(student, [make_batch(num_rows=16, seed=seed) for seed in (3, 4)], LAYERS)
    rotate_heads(student, moments)
    return student


@torch.no_grad()
def make_low_rank(model: PreTrainedModel) -> PreTrainedModel:
    """Queries and values of each head have rank 3 of 8, mixed over all channels, biases included."""
    generator = torch.Generator().manual_seed(0)
    for layer in model.base_model.encoder.layer:
        for linear in (layer.attention.self.query, layer.attention.self.value):
            for rows in torch.arange(linear.out_features).split(8):
                mixing = torch.randn(8, RANK, generator=generator, dtype=linear.weight.dtype)
                linear.weight[rows] = mixing @ linear.weight[rows[:RANK]]
                linear.bias[rows] = mixing @ linear.bias[rows[:RANK]]
            linear.weight *= 4.0
    return model


# Bases


@each("ranks", [(6, 6), (2, 6), (6, 3), (2, 3), (0, 6)])
def test_products_stay_whatever_the_ranks(ranks):
    first, second = (random_moments(6, seed) for seed in (1, 2))
    first[ranks[0] :], first[:, ranks[0] :], second[ranks[1] :], second[:, ranks[1] :] = 0, 0, 0, 0
    a, b = paired_bases(first, second)
    torch.testing.assert_close(a.T @ b, torch.eye(6).double(), rtol=0, atol=1e-12)


def test_channels_are_uncorrelated_and_the_largest_first():
    first, second = random_moments(6, 1), random_moments(6, 2)
    a, b = paired_bases(first, second)
    sizes = (a @ first @ a.T).diagonal()
    torch.testing.assert_close(a @ first @ a.T, sizes.diag())
    torch.testing.assert_close(b @ second @ b.T, sizes.diag())
    assert sizes.tolist() == sorted(sizes.tolist(), reverse=True)


def test_dropping_the_last_channels_beats_dropping_any_of_the_old_ones():
    """E[(a·b)²] over the dropped channels, of independent a and b."""
    first, second = random_moments(6, 1), random_moments(6, 2)
    a, b = paired_bases(first, second)

    def loss(p: torch.Tensor, q: torch.Tensor, dropped: Any) -> float:
        return float((p * q)[list(dropped)][:, list(dropped)].sum())

    new = loss(a @ first @ a.T, b @ second @ b.T, (3, 4, 5))
    assert new < min(loss(first, second, dropped) for dropped in combinations(range(6), 3))


def test_signs_of_bases_do_not_hang_on_the_last_bits():
    first, second = random_moments(6, 1), random_moments(6, 2)
    a, _ = paired_bases(first, second)
    near, _ = paired_bases(first + 1e-12 * random_moments(6, 3), second)
    assert (a.gather(1, a.abs().argmax(1, keepdim=True)) > 0).all()
    torch.testing.assert_close(near, a, rtol=0, atol=1e-8)


def test_padding_does_not_count():
    states = torch.randn(5, 8)
    kept = torch.tensor([True, True, False, True, False])
    torch.testing.assert_close(moments_of(states, kept, num_heads=2), moments_of(states[kept], None, num_heads=2))
    (query, key, context), (other, *_) = (
        head_moments(make_student(), [batch], LAYERS)[1]
        for batch in (make_batch(), {"input_ids": make_batch()["input_ids"]})
    )
    real = int(make_batch()["attention_mask"].sum())
    assert {float(total[0, -1, -1]) for total in (query, key, context)} == {real}
    assert float(other[0, -1, -1]) == make_batch()["input_ids"].numel() > real


# The function


@pytest.mark.slow
@each("dtype", [torch.float32, torch.float64])
@each("task", ["masked_lm", "sequence_classification"])
def test_the_function_stays(task, dtype):
    student = make_student(task, dtype=dtype)
    before, inputs = [value.clone() for value in student.parameters()], make_batch(task, num_rows=6)
    expected = logits_of(student, inputs)
    actual = logits_of(rotated(student), inputs)
    assert_same_logits(actual, expected)
    if dtype == torch.float64:
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-10)
    changed = [not torch.equal(one, other) for one, other in zip(before, student.parameters(), strict=True)]
    assert sum(changed) == len(LAYERS) * 8


def test_the_function_stays_whatever_the_widths_and_where_the_text_says_nothing():
    """One token, so that no key and no context varies; or none at all."""
    student = make_student(dtype=torch.float64)
    sliced(student, UNEVEN)
    expected = logits_of(student, make_batch())
    torch.testing.assert_close(logits_of(rotated(student), make_batch()), expected, rtol=0, atol=1e-10)
    student = make_student(dtype=torch.float64).train()
    expected = logits_of(copy.deepcopy(student), make_batch())
    rotate_heads(student, head_moments(student, [{"input_ids": torch.tensor([[7]])}], LAYERS))
    rotate_heads(student, head_moments(student, [], LAYERS))
    assert student.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in student.modules())
    torch.testing.assert_close(logits_of(student, make_batch()), expected, rtol=0, atol=1e-10)


def test_the_last_channels_of_a_low_rank_head_can_go_for_nothing():
    student = make_low_rank(make_student(dtype=torch.float64))
    expected = logits_of(student, make_batch())
    changes = []
    for model in (student, rotated(make_low_rank(make_student(dtype=torch.float64)))):
        groups = encoder_groups(model)
        masks = full_masks(groups)
        for name in groups:
            if name.startswith(("query_key", "value_output")):
                masks[name] = torch.arange(32) % 8 < RANK
        changes.append(float((logits_of(zeroed_copy(model, masks), make_batch()) - expected).abs().max()))
    assert changes[0] > 0.01
    assert changes[1] < 1e-9


# Runs


def test_only_layers_that_lose_channels_inside_heads():
    narrow, fewer = LayerWidths(4, 5, 64), LayerWidths(2, 8, 16)
    assert rotated_layers(FULL, FULL) == []
    assert rotated_layers(FULL, WidthPlan(16, (fewer, narrow))) == [1]
    assert rotated_layers(FULL, UNEVEN) == [0]
    assert rotated_layers(FULL, WidthPlan(16, (narrow,))) == [0, 1]  # either may stay
    assert rotated_layers(FULL, WidthPlan(16, (fewer,))) == []


@pytest.mark.slow
def test_starts_equal_to_the_teacher_and_sees_the_same_rows(make_trainer, tmp_path):
    rows, terms = [], []
    for on in (False, True):
        collator = RecordingCollator()
        trainer = make_trainer(
            student=NARROW,
            rotate_heads=on,
            attention_weight=1.0,
            max_steps=4,
            data_collator=collator,
            output_dir=str(tmp_path / str(on)),
            **GRADUAL | {"pruning_start_fraction": 0.4, "pruning_end_fraction": 0.5},
        )
        weight = trainer.model.base_model.encoder.layer[0].attention.self.query.weight
        first = weight.detach().clone()
        trainer.start_student()
        trainer.has_started = True
        assert torch.equal(weight, first) != on
        collator.rows.clear()
        trainer.train()
        rows.append(collator.rows)
        terms.append([trainer.state.log_history[0][f"loss_{name}"] for name in ("kl", "hidden", "attention")])
    assert rows[0] == rows[1]
    assert max(terms[1]) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("method", ["one_shot", "homodistil"])
def test_a_low_rank_teacher_loses_nothing(make_trainer, tmp_path, method):
    """By the time that units are scored, heads are in their own bases."""
    discrepancies = []
    for on in (False, True):
        trainer = make_trainer(
            model=make_low_rank(make_teacher()),
            trainer_class=trainer_named(method),
            student=NARROW,
            rotate_heads=on,
            learning_rate=1e-9,
            max_steps=4,
            output_dir=str(tmp_path / str(on)),
            **GRADUAL | {"pruning_interval_steps": 1} if method == "homodistil" else {},
        )
        trainer.train()
        discrepancies.append(trainer.evaluate()["eval_kl"])
    assert discrepancies[0] > 1e-4
    assert discrepancies[1] < 1e-6
