"""The meter for held-out data: a student's distance from its teacher and from the labels, batch by batch.

It runs in float32 for every training type. It reduces every batch to sums, so that no tensor of batch × length ×
vocabulary is gathered from the ranks.
"""

from collections.abc import Callable
from typing import Any

import torch

from ..models.architectures.modeling_layerwise import LayerwiseModel
from .tasks import Inputs, Task
from .teacher import FrozenTeacher


class DiscrepancyMeter:
    """Sums over an evaluation set.

    Args:
        task: the student's kind of prediction.
    """

    num_sums = 4
    is_constant = False
    """Whether all classes that a model gave were alike, or all labels; known where these are kept."""

    def __init__(self, task: Task):
        self.task = task
        self.sums = torch.zeros(self.num_sums, dtype=torch.float64)

    @torch.no_grad()
    def update(self, student: LayerwiseModel, teacher: FrozenTeacher, inputs: Inputs) -> torch.Tensor:
        """Measure one batch.

        Args:
            student: in evaluation mode. Its class's forward is called: the instance's may be wrapped in autocast.
            teacher: frozen; its exact form is used.
            inputs: a batch with labels, on the models' device.

        Returns:
            `torch.Tensor`: mean loss of the batch's predictions.
        """
        inputs = self.task.with_positions(inputs)
        forward = self.task.model_inputs(inputs, student, teacher.exact)
        with torch.autocast(student.device.type, enabled=False):
            outputs = type(student).forward(student, **forward)
        teacher_rows = self.task.rows(teacher(exact=True, **forward), inputs)
        rows, labels = self.task.rows(outputs, inputs), self.task.labels(inputs)
        sums = self.batch_sums(rows, teacher_rows, labels)
        self.keep(rows, labels, inputs)
        self.sums += torch.stack(sums).cpu()  # float64 there only: Apple's devices have none
        return (sums[0] / sums[3].clamp(min=1)).float()

    def batch_sums(
        self, rows: torch.Tensor, teacher_rows: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Return `num_sums` scalars of a batch: loss, KL, right predictions, predictions; a subclass may append some.

        Args:
            rows: the student's logits `(R, C)`.
            teacher_rows: the teacher's.
            labels: `(R,)`, or `(R, C)` for regression and multi-label tasks.
        """
        loss, kl = self.task.terms(rows, teacher_rows, labels)
        count = loss.new_full((), len(labels))
        correct = (rows.argmax(-1) == labels).sum() if self.task.has_classes else torch.zeros_like(count)
        return loss, kl, correct, count

    def keep(self, rows: torch.Tensor, labels: torch.Tensor, inputs: Inputs) -> None:
        """Note what metrics need beside sums; nothing here. `inputs` have their `masked_positions`."""

    def scores(self, gather: Callable[[Any], list[Any]] = lambda value: [value]) -> dict[str, float]:
        """Metrics of what `keep` noted; `gather` brings a value of all ranks together."""
        return {}

    def results(self, reduce: Callable[[torch.Tensor], torch.Tensor] = lambda sums: sums) -> dict[str, float]:
        """Return averages over all measured batches.

        Args:
            reduce: sums a tensor over ranks.

        Returns:
            `dict`: `kl` (nats a prediction), `mlm_loss` or `task_loss`, and `mlm_accuracy` or `task_accuracy` (in
            [0, 1]; not for regression and multi-label tasks). Empty without predictions.
        """
        loss, kl, correct, count = reduce(self.sums).tolist()[:4]
        if count == 0:
            return {}
        results = {"kl": kl / count, f"{self.task.name}_loss": loss / count}
        if self.task.has_classes:
            results[f"{self.task.name}_accuracy"] = correct / count
        return results
