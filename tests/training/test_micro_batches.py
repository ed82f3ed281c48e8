import pytest
import torch
from run_traces import differences, logs_of
from tiny_models import make_teacher

from homodistil_hf.models.widths import LayerWidths, WidthPlan
from homodistil_hf.training.micro_batches import activation_bytes, num_parts, split_rows


def test_bytes_by_hand():
    plan = WidthPlan(3, (LayerWidths(2, 4, 5), LayerWidths(1, 4, 7)))
    states = 4 * 3 * (3 + 6)
    first = 2 * (3 * 3 + 6 + 4 * 8 + 2 * 10 + 5) + 4 * 2 * 3
    second = 2 * (3 * 3 + 6 + 4 * 4 + 1 * 10 + 7) + 4 * 2 * 3
    assert activation_bytes(plan, length=10, teacher_size=6, matrix_bytes=2) == states + first + second


@pytest.mark.parametrize(
    ("num_tokens", "budget_mb", "expected"),
    [(1000, None, 1), (1000, 1.0, 1), (1001, 1.0, 2), (4000, 1.5, 3), (0, 1.0, 1), (10, 1e-9, 10_000_000)],
)
def test_parts_are_as_few_as_fit(num_tokens, budget_mb, expected):
    assert num_parts(num_tokens, 1000, budget_mb=budget_mb) == pytest.approx(expected)


@pytest.mark.parametrize(("number", "sizes"), [(1, [5]), (2, [3, 2]), (3, [2, 2, 1]), (4, [2, 2, 1]), (99, [1] * 5)])
def test_parts_hold_every_row_once(number, sizes):
    tokens = torch.arange(15).view(5, 3)
    labels = torch.where(tokens % 4 == 0, tokens, -100)
    positions = (labels.flatten() != -100).nonzero().flatten()
    batch = {"input_ids": tokens, "labels": labels, "masked_positions": positions, "scale": torch.tensor(2.0)}
    parts = split_rows(batch, number)
    assert [len(part["input_ids"]) for part in parts] == sizes
    assert torch.equal(torch.cat([part["input_ids"] for part in parts]), tokens)
    for part in parts:
        assert set(part) == set(batch)
        assert torch.equal(part["masked_positions"], (part["labels"].flatten() != -100).nonzero().flatten())
        assert float(part["scale"]) == 2


# One run, whole or in parts


def run(make_trainer, **settings):
    trainer = make_trainer(model=make_teacher().double(), attention_weight=1.0, max_steps=6, **settings)
    calls = []
    forward = trainer.distillation.terms
    trainer.distillation.terms = lambda model, inputs, *a, **k: (
        calls.append(len(inputs["input_ids"])) or forward(model, inputs, *a, **k)
    )
    trainer.train()
    return trainer, calls


@pytest.mark.slow
def test_a_run_in_parts_equals_the_whole(make_trainer):
    whole, whole_sizes = run(make_trainer, per_device_train_batch_size=4, activation_budget_mb=0)
    parts, part_sizes = run(make_trainer, per_device_train_batch_size=4, activation_budget_mb=0.02)
    assert set(whole_sizes) == {4}
    assert max(part_sizes) < 4
    assert sum(part_sizes) == sum(whole_sizes)
    for mine, other in zip(logs_of(parts), logs_of(whole), strict=True):
        assert {k: v for k, v in mine.items() if k.startswith("loss")} == pytest.approx(
            {k: v for k, v in other.items() if k.startswith("loss")}, rel=1e-4, abs=1e-5
        )
    assert differences(parts.pruner.masks, whole.pruner.masks) == []


def test_a_cpu_has_a_budget_and_zero_means_none(make_trainer):
    assert make_trainer().args.activation_budget == 1000
    assert make_trainer(activation_budget_mb=0).args.activation_budget is None
    assert make_trainer(activation_budget_mb=250).args.activation_budget == 250


def test_a_negative_budget_is_refused(make_trainer):
    with pytest.raises(ValueError, match="activation_budget_mb=-1"):
        make_trainer(activation_budget_mb=-1)
