"""A run's student becomes a dense one of its own, at the plan or, if asked for, at the nearest possible widths."""

import pytest
import torch
from tiny_models import make_teacher

from homodistil_hf.export.dense_student import checkpoint_pruner, compacted_copy
from homodistil_hf.models.conversion import to_stock, to_student
from homodistil_hf.models.widths import LayerWidths, WidthPlan
from homodistil_hf.pruning.pruner import Pruner

INPUT_IDS = torch.randint(5, 96, (4, 16), generator=torch.Generator().manual_seed(3))
TARGET = WidthPlan.uniform(16, 2, LayerWidths(2, 8, 32))
ODD = WidthPlan(20, (LayerWidths(3, 6, 40), LayerWidths(2, 6, 24)))


def make_pruner(target: WidthPlan = TARGET) -> Pruner:
    pruner = Pruner(to_student(make_teacher()), target)
    pruner.model(INPUT_IDS, labels=INPUT_IDS).loss.backward()
    pruner.score()
    return pruner


@torch.no_grad()
def logits_of(model) -> torch.Tensor:
    return model.eval()(INPUT_IDS).logits


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-5 * max(1.0, float(expected.abs().max())))


def test_a_masked_student_at_the_plan_keeps_its_logits():
    pruner = make_pruner(ODD)
    pruner.prune_to(ODD)
    pruner.plan_reached = True
    masked = logits_of(pruner.model)
    student = compacted_copy(pruner, format="compact")
    assert Pruner(student, ODD).present == ODD
    assert_close(logits_of(student), masked)
    assert not student.training


def test_the_run_goes_on_unchanged():
    pruner = make_pruner()
    pruner.prune_to(TARGET)
    before = {name: tensor.clone() for name, tensor in pruner.model.state_dict().items()}
    student = compacted_copy(pruner, allow_partial=True)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.zero_()
    after = pruner.model.state_dict()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    assert pruner.present.hidden_size == 32


def test_an_unfinished_student_is_refused():
    pruner = make_pruner()
    with pytest.raises(ValueError, match=r"not reached its plan yet \(.*32.*, not .*16.*allow_partial=True"):
        compacted_copy(pruner)


@pytest.mark.parametrize(("format", "expected"), [("compact", ODD), ("standard", None)])
def test_an_unfinished_student_is_taken_at_the_nearest_widths(format, expected):
    pruner = make_pruner()
    pruner.prune_to(ODD)
    student = compacted_copy(pruner, format=format, allow_partial=True)
    plan = Pruner(student, TARGET).present
    if expected is not None:
        assert plan == expected
        return
    # 3 heads × 6 channels don't fit into 20 hidden channels of a stock BERT, whose heads must divide them.
    stock = to_stock(student)
    assert stock.config.hidden_size % stock.config.num_attention_heads == 0
    assert plan.hidden_size <= 20
    assert_close(logits_of(stock), logits_of(student))


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["sensitivity", "platon"])
def test_a_checkpoint_becomes_a_student_without_a_trainer(make_trainer, metric, tmp_path):
    settings = {"max_steps": 12, "save_strategy": "steps", "save_steps": 4, "pruning_end_fraction": 0.5}
    trainer = make_trainer(importance_metric=metric, **settings)
    trainer.train()
    final = checkpoint_pruner(tmp_path / "run" / "checkpoint-12")
    assert final.plan_reached
    assert torch.equal(logits_of(compacted_copy(final)), logits_of(compacted_copy(trainer.pruner)))
    halfway = checkpoint_pruner(tmp_path / "run" / "checkpoint-4")
    assert halfway.full == trainer.full
    assert halfway.target == trainer.plan
    assert not halfway.plan_reached
    masked = logits_of(halfway.model)
    assert_close(logits_of(compacted_copy(halfway, format="compact", allow_partial=True)), masked)


def test_a_damaged_checkpoint_is_refused(make_trainer, tmp_path):
    make_trainer(max_steps=2, save_strategy="steps", save_steps=2).train()
    weights = tmp_path / "run" / "checkpoint-2" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match="model.safetensors is damaged"):
        checkpoint_pruner(weights.parent)
