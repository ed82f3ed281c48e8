"""A student's vectors compared with its teacher's: terms of the loss, map, agreement, held-out measurement.

trainer.py makes the loss in `make_distillation`; model.py has pooling and further layers.

Shapes: B or N texts, H hidden channels, D channels of a vector.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import nn

from ..distillation.objective import DistillationLoss, Terms
from ..distillation.tasks import Inputs
from ..distillation.teacher import FrozenTeacher
from ..training.evaluation_loop import HeldOutEvaluation
from .metrics import agreement, compared
from .model import EmbeddingModel, pooled
from .texts import VECTOR

_LEAST_SQUARE = 1e-12


def vector_error(student_BD: torch.Tensor, teacher_BD: torch.Tensor) -> torch.Tensor:
    """Σ_b ‖z_s − z_t‖² / ‖z_t‖².

    Of vectors of length 1 it is 2 − 2·cos (LEAF, arXiv 2509.12539: its only loss). Vectors of other lengths, which
    models that compare by dot product or distance have, count alike, whatever their unit of length.

    Returns:
        `torch.Tensor`: scalar.
    """
    squares_B = teacher_BD.square().sum(-1).clamp(min=_LEAST_SQUARE)
    return ((student_BD - teacher_BD).square().sum(-1) / squares_B).sum()


class EmbeddingDistillation(DistillationLoss):
    """Compares vectors, and hidden states as [`DistillationLoss`] does.

    The student's pooled states pass the map `projections.dense`, then the teacher's own layers. The map starts as the
    identity and loses a column with each hidden channel. So vectors are in the teacher's space from the first step.
    Where rows bring their vectors, the map leads to these, and no teacher is asked.

    Args:
        student: with its projections, `dense` among them.
        teacher: frozen.
        model: the teacher's embedding model, for its pooling and layers, which are on the student's device.
        has_own_space: the student's vectors are its pooled states, in a space of its own; only the loss uses the map.
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
        super().__init__(student, teacher, weights=weights, **kwargs)
        self.model = model
        self.has_own_space = has_own_space

    def terms(self, model: nn.Module, inputs: Inputs, counts: torch.Tensor) -> tuple[Terms, Any]:
        """Each term of the loss on its own, unweighted; arguments as [`DistillationLoss.terms`].

        Returns:
            `(terms, outputs)`: `vector`, `hidden` and `embedding`, and while units are scored `probe` (Σ v·z_s with
            the directions v of the batch) → this batch's share of the average over the global batch.
        """
        inputs = self.task.with_positions(inputs)
        # taken out of the batch: no model has such an input
        given_BD = inputs.pop(VECTOR, None)
        num_texts, num_tokens, _ = counts.clamp(min=1).float().unbind()
        forward: dict[str, Any] = self.task.model_inputs(inputs, self.student, self.teacher.exact)
        forward["output_hidden_states"] = bool(self.weights["hidden"] or self.weights["embedding"])
        mask_BT = inputs.get("attention_mask")
        if given_BD is None:
            teacher = self.teacher(**forward)
            # a copy: autograd can't save what the teacher made in inference mode
            teacher_BD = self._compared(self.model.vectors(teacher.last_hidden_state, mask_BT).clone())
        else:
            # given vectors are what the map leads to; layers behind it still apply
            teacher_BD = self._compared(self.model.behind(given_BD))
        student = model(**forward)
        student_BD, _ = self.mapped_and_own(student.last_hidden_state, mask_BT)
        terms = {"vector": vector_error(student_BD, teacher_BD)}
        # the probe, Σ v·z_s: only while units are scored
        if self.weights[self.task.name]:
            terms[self.task.name] = (student_BD * inputs["labels"]).sum()
        terms = {name: term / num_texts for name, term in terms.items()}
        # not with given vectors, which have no states: the trainer has set both weights to 0
        if forward["output_hidden_states"]:
            errors = self._state_errors(teacher.hidden_states, student.hidden_states, mask_BT)
            terms |= {name: error / num_tokens for name, error in errors.items()}
        return terms, student

    def mapped_and_own(
        self, states_BTH: torch.Tensor, mask_BT: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Vectors in the teacher's space `(B, D)`, and an export's vectors, which differ where `has_own_space`."""
        # in float32: near vectors differ by less than lower types round
        with torch.autocast(states_BTH.device.type, enabled=False):
            own_BH = pooled(states_BTH, mask_BT, self.model.settings.pooling)
            mapped_BD = self._compared(self.model.behind(self.dense(own_BH)))
            return mapped_BD, self._compared(own_BH) if self.has_own_space else mapped_BD

    def _compared(self, vectors_BD: torch.Tensor) -> torch.Tensor:
        return compared(vectors_BD, self.model.similarity)

    @property
    def dense(self) -> Any:
        """The map from the student's pooled states to the teacher's."""
        return self.student.projections.dense


def pooled_by_teacher(
    teacher: FrozenTeacher, inputs: Mapping[str, Any], pooling: str, *, exact: bool = True
) -> torch.Tensor:
    """The states that a student's map leads to: the teacher's pooled ones, or the vectors of the rows.

    `exact`: float32 rather than the type that the teacher has in training.
    """
    if VECTOR in inputs:
        return inputs[VECTOR]
    forward = {name: inputs[name] for name in ("input_ids", "attention_mask") if name in inputs}
    states = teacher(exact=exact, **forward).last_hidden_state
    return pooled(states.clone(), inputs.get("attention_mask"), pooling)


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
    # normal equations of the ridge regression: (PᵀP + λI) Wᵀ = PᵀT
    shrinkage = ridge * products_HH.diagonal().mean() * torch.eye(len(products_HH), dtype=torch.float64)
    return torch.linalg.solve(products_HH + shrinkage, cross_HD).T


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

    def reset(self) -> None:
        """Forget the vectors of an earlier evaluation."""
        self.vectors: list[tuple[torch.Tensor, ...]] = []

    def measure(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Mean squared error of a batch's vectors, without rows that repeat another rank's."""
        rows = self._own_rows(inputs)
        if len(rows["input_ids"]) == 0:
            return torch.zeros((), device=self.student.device)
        mapped, own, teacher = self._vectors(rows)
        self.vectors.append((mapped.cpu(), own.cpu(), teacher.cpu()))
        return vector_error(mapped, teacher) / len(own)

    def _vectors(self, rows: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Vectors of the student in the teacher's space, of the student in its own index, and of the teacher."""
        forward = {name: rows[name] for name in ("input_ids", "attention_mask") if name in rows}
        mask_BT = rows.get("attention_mask")
        with torch.no_grad(), torch.autocast(self.student.device.type, enabled=False):
            # the class's forward: accelerate has wrapped the instance's in autocast
            states = type(self.student).forward(self.student, **forward).last_hidden_state
            mapped, own = self.distillation.mapped_and_own(states, mask_BT)
            model = self.distillation.model
            exact = pooled_by_teacher(self.teacher, rows, model.settings.pooling)
            teacher = compared(model.behind(exact), model.similarity)
        return mapped, own, teacher

    def logits(self, inputs: Mapping[str, torch.Tensor], ignore_keys: Sequence[str] | None) -> torch.Tensor:
        """The student's vectors."""
        return self._vectors(inputs)[1]

    def results(self) -> dict[str, float]:
        """[`agreement`] over all rows of all ranks, and `loss`, their vector term."""
        batches = gather_object(self.vectors) if self.accelerator.num_processes > 1 else self.vectors
        if not batches:
            return {}
        mapped, own, teacher = (torch.cat(side) for side in zip(*batches, strict=True))
        is_apart, similarity = self.distillation.has_own_space, self.distillation.model.similarity
        agreed = agreement(own, teacher, has_own_space=is_apart, similarity=similarity)
        return {"loss": float(vector_error(mapped, teacher)) / len(own)} | agreed

    def of_teacher(self, batches: Iterable[Mapping[str, torch.Tensor]]) -> dict[str, float]:
        """The metrics of a perfect student."""
        of_one_space = {} if self.distillation.has_own_space else {"cosine": 1.0, "neighbours_in_index": 1.0}
        return {"loss": 0.0, "neighbours": 1.0, "spread": 1.0} | of_one_space
