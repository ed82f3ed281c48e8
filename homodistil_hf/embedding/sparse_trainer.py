"""Sparse encoders: a narrower masked-LM model whose vectors of words stay in its teacher's space, the vocabulary.

The student is a copy of the teacher, without a map. Units are scored by a probe of the vectors, see `trainer.py`.

Shapes: B texts, V words.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from transformers import PreTrainedConfig
from typing_extensions import override

from ..distillation.losses import vector_error
from ..distillation.tasks import Inputs, Task
from ..distillation.teacher import FrozenTeacher
from ..export.facts import SPARSE
from ..models.tokenizers import padding_multiple
from ..training.evaluation_loop import gathered, own_rows
from .folder import export_apart
from .metrics import agreement
from .sparse import SparseModel, all_positions, load_sparse_model, write_sparse
from .texts import TextCollator, directions
from .trainer import (
    EmbeddingDistilArguments,
    EmbeddingDistillation,
    EmbeddingDistilTrainer,
    VectorEvaluation,
    check_format,
)

PROBE = Task("probe", has_classes=False)
"""Labels are numbers of random directions, a row each."""


@dataclass
class SparseDistilArguments(EmbeddingDistilArguments):
    """Settings of a sparse encoder's run; as of embedding models, but for the space, which is the vocabulary."""

    no_part: ClassVar = EmbeddingDistilArguments.no_part | {
        "output": "the student has its teacher's words, and so its space; leave it out",
        "nested": "sparse encoders have one size, or a family; leave it out",
    }


class SparseDistillation(EmbeddingDistillation):
    """Compares vectors of words, and hidden states; arguments as [`EmbeddingDistillation`]."""

    model: SparseModel

    def __init__(self, *models: Any, **how: Any):
        super().__init__(*models, **how)
        self.task = PROBE

    @override
    def further_inputs(self, inputs: Inputs) -> dict[str, Any]:
        return all_positions(inputs["input_ids"])

    @override
    def teacher_vectors(self, outputs: Any, inputs: Inputs) -> torch.Tensor:
        with torch.no_grad():
            return self.model.words(self.teacher.fast, outputs, inputs, self.teacher.dtype)

    @override
    def student_vectors(self, outputs: Any, inputs: Inputs) -> torch.Tensor:
        with self.autocast():
            return self.model.words(self.student, outputs, inputs)

    @override
    def probe(self, inputs: Inputs, vectors_BD: torch.Tensor) -> torch.Tensor:
        return directions(inputs["labels"], vectors_BD.shape[1]).to(vectors_BD)


class SparseEvaluation(VectorEvaluation):
    """Keeps the sparse vectors of all rows, 20 bytes a word that is not 0; arguments as [`VectorEvaluation`]."""

    distillation: SparseDistillation
    teacher_active_dims = 0.0
    """Words of a text that are not 0, as [`SparseEvaluation.results`] found them in the teacher's vectors."""

    @override
    def measure(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        rows = own_rows(inputs, self.accelerator)
        if len(rows["input_ids"]) == 0:
            return torch.zeros((), device=self.student.device)
        _, own, teacher = self._vectors(rows)
        self.vectors.append((own.cpu().to_sparse(), teacher.cpu().to_sparse()))
        return vector_error(own, teacher) / len(own)

    @override
    def _vectors(self, rows: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        inputs = {name: rows[name] for name in ("input_ids", "attention_mask") if name in rows}
        forward, words = inputs | all_positions(inputs["input_ids"]), self.distillation.model.words
        with torch.no_grad(), torch.autocast(self.student.device.type, enabled=False):
            # the class's forward: accelerate has wrapped the instance's in autocast
            own = words(self.student, type(self.student).forward(self.student, **forward), inputs)
            return own, own, words(self.teacher.exact, self.teacher(exact=True, **forward), inputs)

    @override
    def results(self) -> dict[str, float]:
        batches = [batch for part in gathered(self.vectors) for batch in part]
        if not batches:
            return {}
        own, teacher = (torch.cat(side).coalesce() for side in zip(*batches, strict=True))
        active, self.teacher_active_dims = (vectors.indices().shape[1] / len(vectors) for vectors in (own, teacher))
        # words that no text has are left out: they change no product
        used = torch.cat([own.indices()[1], teacher.indices()[1]]).unique()
        own, teacher = (vectors.index_select(1, used).to_dense() for vectors in (own, teacher))
        agreed = agreement(own, teacher, similarity=self.distillation.model.similarity)
        return {"loss": float(vector_error(own, teacher)) / len(own)} | agreed | {"active_dims": active}

    @override
    def of_teacher(self, batches: Iterable[Mapping[str, torch.Tensor]]) -> dict[str, float]:
        self.reset()
        for batch in batches:
            self.measure(batch)
        self.results()
        return super().of_teacher(()) | {"active_dims": self.teacher_active_dims}


class SparseDistilTrainer(EmbeddingDistilTrainer):
    """Prunes the masked-LM model of a sparse encoder and distils its vectors; needs unlabelled texts alone.

    The loss is that of [`EmbeddingDistilTrainer`], arguments and errors are, too: `model` is a folder of a
    `SparseEncoder`, a repository of the Hub, or of [`load_sparse_model`]. Of a Router whose queries are looked up in a
    table, documents get the student.

    Example:
    ```python
    args = SparseDistilArguments("out", student="macs=0.25")
    trainer = SparseDistilTrainer("naver/splade-v3", args, train_dataset=rows, eval_dataset=held_out)
    trainer.train()
    trainer.export("small")  # SparseEncoder("small")
    ```
    """

    embedding_model: SparseModel
    method = "sparse"
    arguments_class = SparseDistilArguments
    evaluation_class = SparseEvaluation
    reported_metrics = ("cosine", "neighbours", "neighbours_in_index", "active_dims")
    load = staticmethod(load_sparse_model)
    model_class = SparseModel
    card = replace(EmbeddingDistilTrainer.card, student="pruned sparse encoder")

    @override
    def default_collator(self, task: Task, tokenizer: Any, config: PreTrainedConfig) -> TextCollator:
        how: dict[str, Any] = {"dimension": None, "seed": self.args.seed, "multiple": padding_multiple(config)}
        return TextCollator(self.embedding_model.tokenizer, **how)

    @override
    def make_distillation(self, teacher: FrozenTeacher) -> SparseDistillation:
        return SparseDistillation(
            self.model,
            teacher,
            model=self.embedding_model,
            weights=self.args.loss_weights(),
            kept_heads=self.matched_heads,
            matched_layers=self.matched_layers,
        )

    @override
    def fit_map(self) -> None:
        """Do nothing: there is no map."""

    @torch.random.fork_rng(devices=[])  # copies draw weights first, and a run may go on after an export
    def write_export(self, folder: Path, format: str, allow_partial: bool) -> None:
        """Write a folder of sentence-transformers; arguments as [`DistillationTrainer.write_export`]."""
        check_format(format)
        student: Any = self.dense_student(format=format, allow_partial=allow_partial)
        model = replace(self.embedding_model, name="", encoder=student)
        route = {"query" if model.router is None else "document": model}
        export_apart(
            model, folder, write_sparse, SPARSE, teacher=self.embedding_model, facts=self.run_facts(), **route
        )
