"""Held-out texts of Trainer's evaluation loop: the student's vectors beside the teacher's, in float32."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from accelerate.utils import gather_object

from ...training.evaluation_loop import HeldOutEvaluation
from .objective import EmbeddingDistillation, vector_error
from .scores import agreement


class VectorEvaluation(HeldOutEvaluation):
    """Keeps the vectors of all rows, and compares them at the end.

    Memory: three float32 vectors a row, on the host: 9 MB for 1,024 rows of 768 channels. A rank holds all ranks'.

    Args:
        distillation: loss of the run, with student, teacher and map.
        kwargs: as in [`HeldOutEvaluation`].
    """

    def __init__(self, distillation: EmbeddingDistillation, **kwargs: Any):
        self.distillation = distillation
        super().__init__(teacher=distillation.teacher, task=distillation.task, **kwargs)

    def start(self) -> None:
        """Forget the vectors of an earlier evaluation."""
        self.vectors: list[tuple[torch.Tensor, ...]] = []

    def measure(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Mean squared error of a batch's vectors, without rows that repeat another rank's."""
        rows = self._own_rows(inputs)
        if len(rows["input_ids"]) == 0:
            return torch.zeros((), device=self.student.device)
        mapped, own, teacher = found = self._vectors(rows)
        self.vectors.append(tuple(vectors.cpu() for vectors in found))
        return vector_error(mapped, teacher) / len(own)

    def _vectors(self, rows: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Vectors of the student in the teacher's space, of the student in its own index, and of the teacher."""
        forward = {name: rows[name] for name in ("input_ids", "attention_mask") if name in rows}
        mask_BT = rows.get("attention_mask")
        with torch.no_grad(), torch.autocast(self.student.device.type, enabled=False):
            states = type(self.student).forward(self.student, **forward).last_hidden_state
            mapped, own = self.distillation.mapped_and_own(states, mask_BT)
            exact = self.teacher(exact=True, **forward).last_hidden_state
            teacher = torch.nn.functional.normalize(self.distillation.model.vectors(exact, mask_BT), dim=-1)
        return mapped, own, teacher

    def logits(self, inputs: Mapping[str, torch.Tensor], ignore_keys: Sequence[str] | None) -> torch.Tensor:
        """The student's vectors."""
        return self._vectors(inputs)[1]

    def results(self) -> dict[str, float]:
        """[`agreement`] over all rows of all ranks, and `loss`, their vector term."""
        found = self.vectors
        if self.accelerator.num_processes > 1:
            found = gather_object(found)
        if not found:
            return {}
        mapped, own, teacher = (torch.cat(parts) for parts in zip(*found, strict=True))
        return {"loss": float(vector_error(mapped, teacher)) / len(own)} | agreement(
            own, teacher, has_own_space=self.distillation.has_own_space
        )

    def of_teacher(self, batches: Iterable[Mapping[str, torch.Tensor]]) -> dict[str, float]:
        """The metrics of a perfect student."""
        return {"loss": 0.0, "cosine": 1.0, "neighbours": 1.0, "neighbours_in_index": 1.0, "spread": 1.0}
