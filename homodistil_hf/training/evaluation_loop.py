"""Measurement of held-out batches against the teacher and the labels, in float32, inside Trainer's evaluation loop.

`distillation/discrepancy.py` computes the metrics from the rows that this file finds.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from transformers import PreTrainedModel
from transformers.trainer_pt_utils import nested_detach

from ..distillation.discrepancy import DiscrepancyMeter
from ..distillation.tasks import Task
from ..distillation.teacher import FrozenTeacher
from ..tasks.kinds import IS_CONSTANT, names_of
from .raw_rows import Grading

_PREFIX = "eval_"


class HeldOutEvaluation:
    """Measures one evaluation at a time; rows that accelerate repeats to fill the last batch count once.

    Args:
        student: without any wrapper.
        teacher: frozen.
        task: names the labels.
        accelerator: sums over ranks.
    """

    whole_row_scores: Grading | None = None
    """Grades a model on the whole rows of the present evaluation."""

    def __init__(self, student: PreTrainedModel, teacher: FrozenTeacher, task: Task, accelerator: Accelerator):
        self.student: Any = student
        self.teacher = teacher
        self.task = task
        self.accelerator = accelerator
        self.reset()

    @property
    def largest(self) -> "HeldOutEvaluation":
        """Itself; of a nested student, the evaluation of its largest member."""
        return self

    def reset(self) -> None:
        """Start a new evaluation."""
        self.meter = self.new_meter("the student")

    def new_meter(self, whose: str) -> DiscrepancyMeter:
        """A meter of a model without rows; of a task with labels of its own it has the task's metrics."""
        if self.task.is_pretraining:
            return DiscrepancyMeter(self.task)
        from ..distillation.task_scores import TaskMeter  # metrics of tasks alone

        return TaskMeter(self.task, names_of(self.student.config), whose=whose)

    def measure(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor | None:
        """Mean loss of the rows of a batch that are not repeated, 0 if all are; None without labels."""
        if not all(name in inputs for name in self.task.required_labels):
            return None
        rows = own_rows(inputs, self.accelerator)
        if len(rows["input_ids"]) == 0:
            return torch.zeros((), device=self.student.device)
        return self.meter.update(self.student, self.teacher, rows)

    def logits(self, inputs: Mapping[str, torch.Tensor], ignore_keys: Sequence[str] | None) -> Any:
        """Logits at all positions: a tensor, or a tuple of several; outputs named in `ignore_keys` are left out.

        For `compute_metrics` Trainer keeps them for all rows: reduce them by `preprocess_logits_for_metrics`.
        """
        # without labels, and by the class: accelerate wraps the instance's forward in autocast
        forward = {name: value for name, value in inputs.items() if name not in self.task.label_names}
        with torch.no_grad(), torch.autocast(self.student.device.type, enabled=False):
            outputs = type(self.student).forward(self.student, **forward)
        logits = tuple(value for name, value in outputs.items() if name not in (ignore_keys or ()))
        return one_or_all(nested_detach(logits))

    def results(self) -> dict[str, float]:
        """Averages since `reset`, over all ranks, as [`DiscrepancyMeter.results`], and the labels' `loss`.

        `is_constant` stands beside them, true, where all classes that it gives are alike, or all labels.
        """
        results = self._totals(self.meter, self.student)
        # Rows without labels have the distance from the teacher alone.
        return results | {"loss": results.get(f"{self.task.name}_loss", results.get("kl", 0.0))} if results else {}

    def of_teacher(self, batches: Iterable[Mapping[str, torch.Tensor]]) -> dict[str, float]:
        """Metrics of the teacher on batches with labels, measured as a student's; collective. Its `kl` is 0."""
        meter = self.new_meter("the teacher")
        for inputs in batches:
            rows = own_rows(inputs, self.accelerator)
            if len(rows["input_ids"]) > 0:
                meter.update(self.teacher.exact, self.teacher, rows)
        return self._totals(meter, self.teacher.exact)

    def _totals(self, meter: DiscrepancyMeter, model: Any) -> dict[str, float]:
        """What a meter has measured of a model on all ranks, and grades of whole rows; empty without predictions."""
        # added up on the CPU: Apple's GPUs have no float64
        results = meter.results(lambda sums: torch.tensor(gathered(sums.tolist()), dtype=torch.float64).sum(0))
        results |= meter.scores(gathered)
        results |= {IS_CONSTANT: True} if meter.is_constant else {}
        return results | self.whole_row_scores(model) if results and self.whole_row_scores else results


def own_rows(inputs: Mapping[str, torch.Tensor], accelerator: Accelerator) -> dict[str, torch.Tensor]:
    """The rows of an evaluation's batch that are not repeated, see [`num_own_rows`]; may be none."""
    state, num_rows = accelerator.gradient_state, len(next(iter(inputs.values())))
    # only the last batch is filled up; the remainder is -1 where the length is unknown
    num_own = num_own_rows(
        max(0, state.remainder) if state.end_of_dataloader else 0,
        batch_size=num_rows,
        rank=accelerator.process_index,
        num_ranks=accelerator.num_processes,
    )
    if num_own == num_rows:
        return dict(inputs)
    # positions of labels point into all rows; those of the first ones are found anew
    return {name: values[:num_own] for name, values in inputs.items() if name != "masked_positions"}


def num_own_rows(remainder: int, *, batch_size: int, rank: int, num_ranks: int) -> int:
    """Rows of a rank's last evaluation batch that are not repeated: accelerate fills the batch up with the first rows.

    Example:
    ```python
    >>> [num_own_rows(6, batch_size=4, rank=rank, num_ranks=2) for rank in (0, 1)]
    [4, 2]

    ```
    """
    # ranks hold consecutive batches: rank r begins at row r · batch_size; 0 stands for all rows
    remainder %= batch_size * num_ranks
    return batch_size if remainder == 0 else max(0, min(batch_size, remainder - rank * batch_size))


def gathered(values: Any) -> list[Any]:
    """The values of every rank, exact; collective."""
    return gather_object([values])


def evaluations_in(log_history: Iterable[Mapping[str, Any]]) -> dict[int, dict[str, float]]:
    """Metrics of all evaluations of a run, by step, without times and prefix; kept fractions come last."""
    from ..export.outcome import TIMINGS  # words of results, which a training step needs not

    evaluations: dict[int, dict[str, float]] = {}
    for entry in log_history:
        values = {
            name.removeprefix(_PREFIX): value
            for name, value in sorted(entry.items(), key=lambda item: ("kept_fraction" in item[0], item[0]))
            if name.startswith(_PREFIX) and not name.endswith(TIMINGS)
        }
        if values:
            # several sets of one step are logged one after the other
            evaluations[entry["step"]] = both_evaluations(evaluations.get(entry["step"], {}), values)
    return evaluations


def both_evaluations(earlier: Mapping[str, float], later: Mapping[str, float]) -> dict[str, float]:
    """Metrics of two evaluations of one step; of a set that both measured the later ones count."""
    # every set has a kl, and is_constant only where answers are alike
    again = {f"{name.removesuffix('kl')}{IS_CONSTANT}" for name in later if name.endswith("kl")}
    return {name: value for name, value in earlier.items() if name not in again} | {**later}


def one_or_all(values: tuple[Any, ...]) -> Any:
    """The only value of a tuple, or the tuple if it has several."""
    return values[0] if len(values) == 1 else values
