"""What two training runs are compared by: all that a run leaves behind, and all that it logged."""

import random
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Trainer, TrainerCallback

from homodistil_hf import HomoDistilTrainer
from homodistil_hf.training.distillation_trainer import DistillationTrainer

# Before the first unit goes, twice while the student gets narrower, at the plan, and the last step.
BEFORE, WIDER, NARROWER, AFTER, END = 1, 3, 5, 10, 12
POINTS = (BEFORE, WIDER, NARROWER, AFTER)
STEP_BY_STEP = {
    "max_steps": END,
    "num_scoring_batches": 0,
    "pruning_start_fraction": 0.1,
    "pruning_end_fraction": 0.6,
    "pruning_interval_steps": 1,
    "width_multiple": 1,
    "logging_steps": 3,
    "weight_decay": 0.1,
}
EVERY_SECOND_STEP = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2}
EVERY_SECOND_STEP |= {"load_best_model_at_end": True}
"""Settings of a run that ends with the best of its checkpoints."""
SAVED = ("dtype", "architectures")
"""What a configuration gets when its model is saved."""
TIMINGS = ("runtime", "per_second", "preparation_time")


def state_of(trainer: Trainer) -> dict[str, Any]:
    """Weights, optimizer, learning rate, counters and random states, flat; of a student widths and scores as well."""
    optimizer = trainer.optimizer.state_dict()
    state = {f"weight.{name}": tensor for name, tensor in trainer.model.state_dict().items()}
    for index, values in optimizer["state"].items():
        state |= {f"optimizer.{index}.{name}": value for name, value in values.items()}
    groups = [(len(group["params"]), group["lr"]) for group in optimizer["param_groups"]]
    return (
        state
        | (_student_of(trainer) if isinstance(trainer, DistillationTrainer) else {})
        | {
            "config": {name: value for name, value in trainer.model.config.to_dict().items() if name not in SAVED},
            "groups": groups,
            "scheduler": trainer.lr_scheduler.state_dict(),
            "steps": (trainer.state.global_step, trainer.state.epoch, trainer.state.total_flos),
            "random": torch.random.get_rng_state(),
            "random.numpy": torch.from_numpy(np.random.get_state()[1].astype(np.int64)),
            "random.python": random.getstate(),
        }
    )


def _student_of(trainer: DistillationTrainer) -> dict[str, Any]:
    student = trainer.state_to_save()
    del student["measured"]  # logs
    return {f"pruner.{name}": tensor for name, tensor in trainer.tensors_to_save().items()} | {
        "student": student,
        "bad_steps": (trainer.step_log.num_bad_steps, trainer.step_log.num_bad_steps_in_row),
    }


def logs_of(trainer: Trainer, *, without: tuple[str, ...] = ()) -> list[dict[str, float]]:
    """Every logged entry, times, rates and what `without` names left out."""
    return [
        {name: value for name, value in entry.items() if not name.endswith(TIMINGS + without)}
        for entry in trainer.state.log_history
    ]


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Names that are missing in one of two states, or not equal to the last bit."""
    return sorted(name for name in one.keys() | other.keys() if not _same(one.get(name), other.get(name)))


def _same(one: Any, other: Any) -> bool:
    if torch.is_tensor(one) and torch.is_tensor(other):
        return one.dtype == other.dtype and torch.equal(one, other)
    return type(one) is type(other) and one == other


def assert_same_run(one: Trainer, other: Trainer, *, without: tuple[str, ...] = ()) -> None:
    """Both runs ended in the same state and logged the same values, but those in `without`, to the last bit."""
    assert differences(state_of(one), state_of(other)) == []
    assert logs_of(one, without=without) == logs_of(other, without=without)


def losses_of(trainer: HomoDistilTrainer) -> list[dict[str, float]]:
    """Every term of the loss at every step."""
    entries = [entry for entry in logs_of(trainer) if "loss_kl" in entry]
    return [{name: value for name, value in entry.items() if name.startswith("loss")} for entry in entries]


def assert_close_run(one: HomoDistilTrainer, other: HomoDistilTrainer, *, tolerance: float = 1e-4) -> None:
    """Same masks; losses, scores and weights within float32 noise."""
    assert len(losses_of(one)) == len(losses_of(other)) > 0
    for found, expected in zip(losses_of(one), losses_of(other), strict=True):
        assert found == pytest.approx(expected, rel=tolerance, abs=tolerance)
    assert one.pruner.choices_digest == other.pruner.choices_digest
    found, expected = one.pruner.state_tensors(), other.pruner.state_tensors()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=10 * tolerance, atol=tolerance, msg=name)
    weights = one.model.state_dict()
    for name, tensor in other.model.state_dict().items():
        torch.testing.assert_close(weights[name], tensor, rtol=tolerance, atol=tolerance, msg=name)


class SaveAt(TrainerCallback):
    """Saves a checkpoint after the given steps."""

    def __init__(self, *steps: int):
        self.steps = steps

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_save |= state.global_step in self.steps


class OnStep(TrainerCallback):
    """Calls a function at the end of every step."""

    def __init__(self, function: Any):
        self.function = function

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.function(state.global_step)


class Interrupt(TrainerCallback):
    """Kills a run after a step."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt
