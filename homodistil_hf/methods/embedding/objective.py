"""What a student's vectors have in common with its teacher's: the terms of the loss, and the map into its space.

Shapes: B texts, H hidden channels, D channels of a vector.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ...distillation.objective import DistillationLoss, Terms
from ...distillation.tasks import Inputs
from ...distillation.teacher import FrozenTeacher
from .model import EmbeddingModel, pooled


def vector_error(student_BD: torch.Tensor, teacher_BD: torch.Tensor) -> torch.Tensor:
    """Σ_b ‖z_s − z_t‖² of vectors of length 1, which is 2 − 2·cos (LEAF, arXiv 2509.12539: its only loss).

    Returns:
        `torch.Tensor`: scalar.
    """
    return (student_BD - teacher_BD).square().sum()


class EmbeddingDistillation(DistillationLoss):
    """Compares vectors, and hidden states as ever.

    The student's pooled states pass `projections.dense`, which starts as the identity and loses a column with each
    hidden channel, and then the teacher's own layers: so its vectors are in the teacher's space from the first step.

    Args:
        student: with its projections, `dense` among them.
        teacher: frozen.
        model: the teacher's embedding model, for its pooling and layers, which are where the student is.
        has_own_space: the vectors wanted are the pooled states themselves, of a space of the student's own; the map is
            there for the loss alone.
        weights: term → factor: `vector`, `hidden`, `embedding`, `attention`, and `probe`, 0 in training.
        kwargs: as in [`DistillationLoss`].
    """

    def __init__(
        self,
        student: Any,
        teacher: FrozenTeacher,
        *,
        model: EmbeddingModel,
        weights: Mapping[str, float],
        has_own_space: bool = False,
        **kwargs: Any,
    ):
        super().__init__(student, teacher, weights={"probe": 0.0} | dict(weights), **kwargs)
        self.model = model
        self.has_own_space = has_own_space

    def terms(self, model: nn.Module, inputs: Inputs, counts: torch.Tensor) -> tuple[Terms, Any]:
        """Each term of the loss on its own, unweighted; arguments as [`DistillationLoss.terms`].

        Returns:
            `(terms, outputs)`: `vector`, `hidden` and `embedding`, and while units are scored `probe` (Σ v·z_s with
            the directions v of the batch) → this batch's share of the average over the global batch.
        """
        inputs = self.task.with_positions(inputs)
        num_texts, num_tokens, _ = counts.clamp(min=1).float().unbind()
        forward: dict[str, Any] = self.task.model_inputs(inputs, self.student, self.teacher.exact)
        forward["output_hidden_states"] = bool(self.weights["hidden"] or self.weights["embedding"])
        mask_BT = inputs.get("attention_mask")
        teacher = self.teacher(**forward)
        teacher_BD = F.normalize(self.model.vectors(teacher.last_hidden_state, mask_BT).clone(), dim=-1)
        student = model(**forward)
        student_BD, _ = self.mapped_and_own(student.last_hidden_state, mask_BT)
        terms = {"vector": vector_error(student_BD, teacher_BD)}
        if self.weights[self.task.name]:
            terms[self.task.name] = (student_BD * inputs["labels"]).sum()
        terms = {name: term / num_texts for name, term in terms.items()}
        if forward["output_hidden_states"]:
            with self.autocast():
                errors = self._state_errors(teacher.hidden_states, student.hidden_states, mask_BT)
            terms |= {name: torch.stack(layers).sum() / num_tokens for name, layers in errors.items()}
        return terms, student

    def mapped_and_own(
        self, states_BTH: torch.Tensor, mask_BT: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Vectors in the teacher's space `(B, D)`, and those that an export gives; others where `has_own_space`."""
        with torch.autocast(states_BTH.device.type, enabled=False):
            own_BH = pooled(states_BTH, mask_BT, self.model.settings.pooling)
            mapped_BD = F.normalize(self.model.behind(self.dense(own_BH)), dim=-1)
            return mapped_BD, F.normalize(own_BH, dim=-1) if self.has_own_space else mapped_BD

    @property
    def dense(self) -> Any:
        """The map from the student's pooled states to the teacher's."""
        return self.student.projections.dense


def fit_dense(products_HH: torch.Tensor, cross_HD: torch.Tensor, *, ridge: float = 1e-3) -> torch.Tensor:
    """The matrix W of least ‖P Wᵀ − T‖² + λ·‖W‖², for the student's pooled states P and the teacher's T.

    Args:
        products_HH: PᵀP, float64.
        cross_HD: PᵀT, float64.
        ridge: λ as a share of the mean of PᵀP's diagonal.

    Returns:
        `torch.Tensor`: `(D, H)`, float64.

    Example:
    ```python
    >>> states = torch.randn(50, 3, dtype=torch.float64)
    >>> found = fit_dense(states.T @ states, 2 * states.T @ states, ridge=0.0)
    >>> torch.allclose(found, 2 * torch.eye(3, dtype=torch.float64))
    True

    ```
    """
    shrinkage = ridge * products_HH.diagonal().mean() * torch.eye(len(products_HH), dtype=torch.float64)
    return torch.linalg.solve(products_HH + shrinkage, cross_HD).T
