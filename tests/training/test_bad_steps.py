"""Steps with gradients or losses that are not finite: what they change, and when they stop a run."""

import logging
import math
from typing import Any

import pytest
import torch
from run_traces import OnStep, SaveAt, differences, logs_of, losses_of, state_of
from tiny_models import GRADUAL
from transformers import TrainerCallback

from homodistil_hf import HomoDistilTrainer


class Poison:
    """Spoils one gradient in the backward passes of some steps."""

    def __init__(self, trainer: HomoDistilTrainer, value: float, steps: range):
        self.trainer, self.value, self.steps = trainer, value, steps
        trainer.model.bert.embeddings.word_embeddings.weight.register_hook(self)

    def __call__(self, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * self.value if self.trainer.state.global_step + 1 in self.steps else gradient


@pytest.mark.slow
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_step_with_bad_gradients_changes_nothing_but_the_clocks(make_trainer, value, accumulation, caplog):
    settings = GRADUAL | {
        "max_steps": 8,
        "weight_decay": 0.1,
        "pruning_start_fraction": 0.5,
        "pruning_end_fraction": 0.9,
    }
    trainer = make_trainer(gradient_accumulation_steps=accumulation, **settings)
    clean = make_trainer(gradient_accumulation_steps=accumulation, **settings)
    Poison(trainer, value, range(3, 4))
    states: dict[int, dict[str, Any]] = {}
    trainer.add_callback(OnStep(lambda step: states.update({step: state_of(trainer)})))
    with caplog.at_level(logging.WARNING, "homodistil_hf"):
        trainer.train()
    clean.train()
    assert "step 3 is skipped: gradients are not finite (1 in a row)" in caplog.text
    moved = differences(states[2], states[3])
    assert [name for name in moved if name.startswith(("weight.", "optimizer.", "pruner.score"))] == []
    logs = {entry["step"]: entry for entry in logs_of(trainer) if "num_bad_steps" in entry}
    assert [entry["num_bad_steps"] for entry in logs.values()] == [0, 0, 1, 1, 1, 1, 1, 1]
    assert all(math.isfinite(number) for entry in logs.values() for number in entry.values())
    expected = {entry["step"]: entry for entry in logs_of(clean) if "num_bad_steps" in entry}
    for name in ("learning_rate", "kept_fraction_hidden", "epoch"):
        assert [entry[name] for entry in logs.values()] == [entry[name] for entry in expected.values()]
    assert trainer.kept == trainer.plan
    assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())


def test_a_loss_that_is_not_finite_is_skipped_too(make_trainer):
    trainer = make_trainer(max_steps=4, logging_steps=2)
    scale_and_log = trainer.scale_and_log

    def spoiled(loss: torch.Tensor, *args: Any) -> torch.Tensor:
        return scale_and_log(loss * (math.nan if trainer.state.global_step == 1 else 1.0), *args)

    trainer.scale_and_log = spoiled
    trainer.train()
    assert trainer.step_log.num_bad_steps == 1
    assert all(math.isfinite(value) for terms in losses_of(trainer) for value in terms.values())


def test_too_many_bad_steps_in_a_row_stop_the_run(make_trainer, tmp_path):
    late = GRADUAL | {"pruning_start_fraction": 0.9, "pruning_end_fraction": 0.95}
    trainer = make_trainer(max_bad_steps=2, callbacks=[SaveAt(3)], **late)
    Poison(trainer, math.nan, range(2, 4))
    Poison(trainer, math.nan, range(5, 99))
    with pytest.raises(FloatingPointError, match=r"for 3 steps in a row \(max_bad_steps=2\).*checkpoint-3$"):
        trainer.train()
    assert trainer.state.global_step == 6
    assert trainer.step_log.num_bad_steps == 5


@pytest.mark.slow
def test_bad_steps_are_counted_across_a_resume(make_trainer, tmp_path):
    settings = GRADUAL | {"max_steps": 8, "pruning_start_fraction": 0.8, "pruning_end_fraction": 0.9}
    settings |= {"max_bad_steps": 3}
    trainer = make_trainer(callbacks=[SaveAt(4)], **settings)
    Poison(trainer, math.nan, range(3, 5))
    trainer.train()
    resumed = make_trainer(output_dir=str(tmp_path / "resumed"), **settings)
    scale_and_log = resumed.scale_and_log
    resumed.scale_and_log = lambda loss, *args: scale_and_log(loss * math.nan, *args)
    with pytest.raises(FloatingPointError, match="for 4 steps in a row"):
        resumed.train(str(tmp_path / "run" / "checkpoint-4"))
    assert resumed.step_log.num_bad_steps == 4


@pytest.mark.slow
def test_the_learning_rate_goes_on_after_a_gradient_scaler_skipped_a_step(make_trainer, monkeypatch):
    trainer, clean = make_trainer(max_steps=6), make_trainer(max_steps=6)
    skipped: list[bool] = []

    class Skip(TrainerCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            skipped[:] = [state.global_step in (0, 2)]

    was_skipped = property(lambda accelerator: accelerator is trainer.accelerator and skipped[0])
    monkeypatch.setattr(type(trainer.accelerator), "optimizer_step_was_skipped", was_skipped)
    trainer.add_callback(Skip())
    trainer.train()
    clean.train()
    rates = [[entry["learning_rate"] for entry in logs_of(one) if "loss_kl" in entry] for one in (trainer, clean)]
    assert rates[0] == rates[1]
