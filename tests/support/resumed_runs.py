"""Runs that are resumed: how a trainer is made, after which of its steps, and SIGTERM in the middle of one."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from method_students import SAME_HEADS
from transformers import Trainer

from homodistil_hf.runs.kinds import trainer_named

QUIET = {"report_to": "none", "disable_tqdm": True, "use_cpu": True, "save_strategy": "no", "logging_steps": 1}


def distilling(make_trainer: Any, folder: Path, **settings: Any) -> Trainer:
    """Make a trainer from the fixture `make_trainer`, a folder for its teacher, and settings."""
    return make_trainer(**settings)


@dataclass(frozen=True)
class Run:
    """How a trainer is made, after which of its steps it is resumed, and what it logs otherwise then."""

    settings: dict[str, Any] = field(default_factory=dict)
    make: Callable[..., Trainer] = distilling
    steps: tuple[int, ...] = (3,)
    inexact: tuple[str, ...] = ()


def method(name: str, student: Any = SAME_HEADS, **settings: Any) -> Run:
    return Run({"trainer_class": trainer_named(name), "student": student, "max_steps": 6} | settings)


@contextmanager
def sigterm_at(trainer_class: Any, call: int | None) -> Iterator[list[int]]:
    """SIGTERM arrives in so many a call of `training_step`; yields the steps that were trained."""
    train, seen = trainer_class.training_step, []

    def asked(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(self.state.global_step)
        if len(seen) == call:
            signal.raise_signal(signal.SIGTERM)
        return train(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(trainer_class, "training_step", asked)
        yield seen
