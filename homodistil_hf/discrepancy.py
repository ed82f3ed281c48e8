"""How far a student is from its teacher, and from the labels, on held-out data.

Always in float32, whatever training runs in, and reduced batch by batch: nothing of size batch × length × vocabulary
is gathered.
"""

from collections.abc import Callable

import torch

from .modeling import HomoBertPreTrainedModel
from .tasks import Inputs, Task
from .teacher import FrozenTeacher


class DiscrepancyMeter:
    """Sums over an evaluation set.

    Args:
        task: what is predicted.
    """

    def __init__(self, task: Task):
        self.task = task
        self.sums = torch.zeros(4, dtype=torch.float64)

    @torch.no_grad()
    def update(self, student: HomoBertPreTrainedModel, teacher: FrozenTeacher, inputs: Inputs) -> torch.Tensor:
        """Measure one batch.

        Args:
            student: in evaluation mode; its class's forward is called, so no autocast wrapper is in between.
            teacher: frozen; its exact form is used.
            inputs: a batch with labels, on the models' device.

        Returns:
            `torch.Tensor`: mean loss of the batch's predictions.
        """
        forward = self.task.model_inputs(inputs)
        with torch.autocast(student.device.type, enabled=False):
            outputs = type(student).forward(student, **forward)
        rows = self.task.rows(outputs, inputs)
        labels = self.task.labels(inputs)
        loss, kl = self.task.terms(rows, self.task.rows(teacher(exact=True, **forward), inputs), labels)
        count = self.task.num_predictions(inputs)
        correct = (rows.argmax(-1) == labels).sum() if self.task.has_classes else torch.zeros_like(count)
        self.sums += torch.stack([value.double() for value in (loss, kl, correct, count)]).cpu()
        return (loss / count.clamp(min=1)).float()

    def results(self, reduce: Callable[[torch.Tensor], torch.Tensor] = lambda sums: sums) -> dict[str, float]:
        """Averages over everything measured.

        Args:
            reduce: sums over ranks.

        Returns:
            `dict`: `kl` (nats a prediction), `mlm_loss` or `task_loss`, and `mlm_accuracy` or `task_accuracy` (in
            [0, 1]; not for regression and multi-label tasks). Empty when nothing was predicted.
        """
        loss, kl, correct, count = reduce(self.sums).tolist()
        if count == 0:
            return {}
        results = {"kl": kl / count, f"{self.task.name}_loss": loss / count}
        if self.task.has_classes:
            results[f"{self.task.name}_accuracy"] = correct / count
        return results
