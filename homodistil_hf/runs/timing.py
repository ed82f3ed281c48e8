"""How long a planned run takes on this machine, and how much memory: a few of its steps, taken and thrown away.

The steps are of the run itself: its text, its batches, its teacher and its student, pruned along the same curve in
fewer steps. So they are as wide on average as those of the whole run. Masks are chosen more often; the time that a
choice takes counts as often as the run makes one. `plan.py` says what comes out.
"""

import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import TrainerCallback

from ..trainer import HomoDistilTrainer
from ..training.distillation_trainer import DistillationTrainer
from ..training.progress import ShortProgress
from ..training_args import with_settings
from .config import run_of
from .settings import Log
from .student import make_trainer

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

NUM_STEPS = 20
"""Steps that are taken; the first one warms up and isn't counted."""
_STEPS_ALONE = {"save_strategy": "no", "eval_strategy": "no", "eval_on_start": False}
_STEPS_ALONE |= {"report_to": "none", "push_to_hub": False}


@dataclass
class StepClock(TrainerCallback):
    """Notes when each step ends, and how long masks are chosen before steps behind the first one."""

    begin_step: Callable[[], None]
    ends: list[float] = field(default_factory=list)
    choosing_s: float = 0.0

    def timed_begin(self) -> None:
        """Do what a trainer does before a step, and take its time."""
        since = time.perf_counter()
        self.begin_step()
        self.choosing_s += time.perf_counter() - since if self.ends else 0.0

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Take the time."""
        self.ends.append(time.perf_counter())


def time_run(
    values: Mapping[str, Any], log: Log, *, num_steps: int = NUM_STEPS, num_tokens: float | None = None
) -> dict[str, Any]:
    """Take some steps of a run, and estimate the whole of it; only tokenized text stays, in the cache.

    Args:
        values: settings of the run by name, as the JSON file of `homodistil distill` holds them; without `output_dir`.
        log: takes lines for the user.
        num_steps: steps to take, ≥ 3.
        num_tokens: of the whole run, at full rows. Default: as long as `values` make it.

    Returns:
        `num_steps`: of the whole run; `seconds_per_step`, `setup_s` (reading, tokenizing, loading, scoring), `time_s`:
        of the whole run without evaluations; `peak_bytes`; `device`; `num_tokens`: that it reads, at full rows;
        `student`: its [`WidthPlan`], which is the method's.

    Raises:
        ValueError: as the run itself; a list of students.
    """
    since = time.perf_counter()
    with TemporaryDirectory() as folder:
        settings = run_of({**values, **_STEPS_ALONE, "output_dir": folder}, "the planned run")
        if settings.members:
            raise ValueError(f"student={values['student']!r} is several students; time one of them, such as the last")
        trainer = make_trainer(settings, log)
        length = trainer.rows_facts.get("max_seq_length", settings.run.row_length)
        of_step = trainer.args.rows_per_step * length
        if num_tokens is None:
            *_, planned = trainer.set_initial_training_values(trainer.args, trainer.get_train_dataloader())
        else:
            planned = max(1, round(num_tokens / of_step))
        choices = num_choices(trainer, planned)
        # so few steps, along the same curve
        shortened = {"max_steps": min(num_steps, planned), "disable_tqdm": True, "logging_strategy": "no"}
        shortened |= {"pruning_interval_steps": 1} if hasattr(trainer.args, "pruning_interval_steps") else {}
        trainer.args = with_settings(trainer.args, **shortened)
        trainer.remove_callback(ShortProgress)
        clock = StepClock(trainer.begin_step)
        trainer.begin_step = clock.timed_begin
        trainer.add_callback(clock)
        began = time.perf_counter()
        trainer.train()
    if len(clock.ends) < 3:
        raise ValueError(f"max_steps={planned} is too short a run to be timed; expected at least 3")
    taken = num_choices(trainer, trainer.args.max_steps)
    # the mean of the steps behind the first, with as many choices of masks as the whole run makes
    alone = (clock.ends[-1] - clock.ends[0] - clock.choosing_s) / (len(clock.ends) - 1)
    seconds = alone + clock.choosing_s / max(1, taken) * choices / planned
    # what the first step took beyond a usual one is part of the setup
    setup_s = began - since + max(0.0, clock.ends[0] - began - seconds)
    return {
        "num_steps": planned,
        "rows_per_step": trainer.args.rows_per_step,
        "num_tokens": planned * of_step,
        "seconds_per_step": seconds,
        "setup_s": setup_s,
        "time_s": setup_s + planned * seconds,
        "peak_bytes": peak_bytes(trainer.args.device),
        "device": str(trainer.args.device),
        "student": trainer.plan,
    }


def num_choices(trainer: DistillationTrainer, num_steps: int) -> int:
    """How often a run of so many steps chooses masks behind its first step; 0 of a method that prunes nothing."""
    if not isinstance(trainer, HomoDistilTrainer):
        return 0
    schedule = trainer.args.pruning_schedule(num_steps, trainer.pruned_kinds)
    return sum(map(schedule.is_due, range(1, math.ceil(schedule.end_step) + 1)))


def peak_bytes(device: torch.device) -> int | None:
    """The most memory so far: of tensors on a GPU, else of this process; None where it isn't known."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if resource is None:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # bytes on macOS, kibibytes elsewhere
    return peak if sys.platform == "darwin" else 1024 * peak


def format_timing(timing: Mapping[str, Any]) -> str:
    """Describe what the whole run takes."""
    peak = timing["peak_bytes"]
    memory = "" if peak is None else f"\n  memory peak {peak / 1e9:.1f} GB"
    return (
        f"on this machine ({timing['device']}), by some steps of the run:\n  {timing['num_steps']:,} steps of "
        f"{timing['rows_per_step']:,} rows take {_words(timing['time_s'])}, without evaluations: "
        f"{timing['seconds_per_step']:.2g} s a step and {timing['setup_s']:.0f} s before the first{memory}"
    )


def _words(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 90 * 60 else f"{seconds / 3600:.1f} hours"
