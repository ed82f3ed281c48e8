"""What two training runs are compared by: all that a run leaves behind, and all that it logged."""

import random
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback

from homodistil_hf import HomoDistilTrainer

TIMINGS = ("runtime", "per_second", "preparation_time")


def state_of(trainer: HomoDistilTrainer) -> dict[str, Any]:
    """Weights, optimizer, learning rate, widths, scores, counters and random states, flat."""
    optimizer = trainer.optimizer.state_dict()
    state = {f"weight.{name}": tensor for name, tensor in trainer.model.state_dict().items()}
    for index, values in optimizer["state"].items():
        state |= {f"optimizer.{index}.{name}": value for name, value in values.items()}
    groups = [(len(group["params"]), group["lr"]) for group in optimizer["param_groups"]]
    state |= {f"pruner.{name}": tensor for name, tensor in trainer.tensors_to_save().items()}
    return state | {
        "groups": groups,
        "student": trainer.state_to_save(),
        "scheduler": trainer.lr_scheduler.state_dict(),
        "steps": (trainer.state.global_step, trainer.state.epoch, trainer.state.total_flos),
        "bad_steps": (trainer.step_log.num_bad_steps, trainer.step_log.num_bad_steps_in_row),
        "random": torch.random.get_rng_state(),
        "random.numpy": torch.from_numpy(np.random.get_state()[1].astype(np.int64)),
        "random.python": random.getstate(),
    }


def logs_of(trainer: HomoDistilTrainer, *, after_step: int = -1) -> list[dict[str, float]]:
    """Every logged entry after a step, times and rates left out."""
    return [
        {name: value for name, value in entry.items() if not name.endswith(TIMINGS)}
        for entry in trainer.state.log_history
        if entry["step"] > after_step
    ]


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Names that are missing in one of two states, or not equal to the last bit."""
    return sorted(name for name in one.keys() | other.keys() if not _same(one.get(name), other.get(name)))


def _same(one: Any, other: Any) -> bool:
    if torch.is_tensor(one) and torch.is_tensor(other):
        return one.dtype == other.dtype and torch.equal(one, other)
    return type(one) is type(other) and one == other


def assert_same_run(one: HomoDistilTrainer, other: HomoDistilTrainer) -> None:
    """Both runs ended in the same state and logged the same values, to the last bit."""
    assert differences(state_of(one), state_of(other)) == []
    assert logs_of(one) == logs_of(other)


class SaveAt(TrainerCallback):
    """Saves a checkpoint after the given steps."""

    def __init__(self, *steps: int):
        self.steps = steps

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_save |= state.global_step in self.steps


class Interrupt(TrainerCallback):
    """Kills a run after a step."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt
