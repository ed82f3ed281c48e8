"""Multi-vector encoders: a narrower encoder whose token vectors stay in its teacher's space.

The student is that of `trainer.py`, with its map on each token in front of the teacher's own layers. Labels name the
tokens that have a vector: everything that is one a text there is one a token here.

Shapes: B texts, T tokens, M tokens that have a vector, D channels.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from transformers import PreTrainedConfig
from typing_extensions import override

from ..data.masking import IGNORED_LABEL
from ..distillation.losses import vector_error
from ..distillation.tasks import ONE_A_TOKEN, Inputs, Task
from ..export.facts import MULTI_VECTOR
from ..models.tokenizers import padding_multiple
from ..training.evaluation_loop import gathered, own_rows
from .folder import ROUTES, export_apart, student_model
from .metrics import mean_maxsim, nearest_alike, pair_similarities
from .multi_vector import MultiVectorModel, Reading, load_multi_vector_model, num_vectors, write_multi_vector
from .texts import directions, row_numbers
from .trainer import (
    EmbeddingDistilArguments,
    EmbeddingDistillation,
    EmbeddingDistilTrainer,
    VectorEvaluation,
    check_format,
)

NUM_TEXTS = 256
"""Held-out texts that are compared with each other."""


@dataclass
class MultiVectorDistilArguments(EmbeddingDistilArguments):
    """Settings of a multi-vector encoder's run; as of embedding models, but for the space, which is the teacher's."""

    no_part: ClassVar = EmbeddingDistilArguments.no_part | {
        "output": "token vectors stay in the teacher's space; leave it out",
        "nested": "encoders of token vectors have one size, or a family; leave it out",
    }


@dataclass
class TokenCollator:
    """Rows → a padded batch with a number for each token that has a vector, from which its direction is drawn.

    It is a function of the row's tokens, the token's place and the seed alone, as in [`TextCollator`].

    Args:
        reading: makes rows of documents of those that are `input_ids` alone.
        seed: of the numbers.
        multiple: of padded lengths.
    """

    reading: Reading
    seed: int = 0
    multiple: int | None = 8

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Rows → `input_ids`, `attention_mask` and `labels`, int64 `(B, T)`, -100 for tokens without a vector."""
        batch = self.reading.padded(
            [row if "labels" in row else self.reading.row(list(row["input_ids"])) for row in rows], self.multiple
        )
        has_vector_BT = batch["labels"] != IGNORED_LABEL
        numbers_BT = row_numbers(rows, self.seed) + has_vector_BT.cumsum(1)
        return {**batch, "labels": torch.where(has_vector_BT, numbers_BT, IGNORED_LABEL)}


class MultiVectorDistillation(EmbeddingDistillation):
    """Compares vectors of tokens, and hidden states; arguments as [`EmbeddingDistillation`]."""

    def __init__(self, *models: Any, **how: Any):
        super().__init__(*models, **how)
        # a label a token: those that count have a vector
        self.task = Task("probe", num_values=ONE_A_TOKEN)

    @override
    def probe(self, inputs: Inputs, vectors_BD: torch.Tensor) -> torch.Tensor:
        return directions(self.task.labels(inputs), vectors_BD.shape[1]).to(vectors_BD)


class MultiVectorEvaluation(VectorEvaluation):
    """Keeps the vectors of some texts, to compare them by MaxSim; arguments as [`VectorEvaluation`]."""

    @override
    def reset(self) -> None:
        self.vectors: list[tuple[torch.Tensor, ...]] = []
        self.sums = torch.zeros(3, dtype=torch.float64)

    @override
    def measure(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        rows = own_rows(inputs, self.accelerator)
        if len(rows["input_ids"]) == 0:
            return torch.zeros((), device=self.student.device)
        _, own, teacher = self._vectors(rows)
        error, cosine = vector_error(own, teacher), pair_similarities(own, teacher).sum()
        self.sums += torch.tensor([error, cosine, len(own)], dtype=torch.float64)
        counts = num_vectors(rows["labels"])
        room = NUM_TEXTS // self.accelerator.num_processes - len(self.vectors)
        pairs = zip(own.cpu().split(counts), teacher.cpu().split(counts), strict=True)
        self.vectors += [pair for pair in pairs if len(pair[0])][:room]
        return error / len(own)

    @override
    def results(self) -> dict[str, float]:
        """`loss` and `cosine` of all vectors, and how alike the nearest texts are, by MaxSim."""
        error, cosines, count = torch.tensor(gathered(self.sums.tolist()), dtype=torch.float64).sum(0).tolist()
        if not count:
            return {}
        found = {"loss": error / count, "cosine": cosines / count}
        own, teacher = zip(*(pair for part in gathered(self.vectors) for pair in part), strict=True)
        return found | (nearest_alike(own, teacher, mean_maxsim) if len(own) > 1 else {})


class MultiVectorDistilTrainer(EmbeddingDistilTrainer):
    """Prunes the encoder of a multi-vector encoder (ColBERT) and distils its token vectors; needs texts alone.

    The loss is that of [`EmbeddingDistilTrainer`] with a vector for each token, arguments and errors are, too: `model`
    is a folder of a `MultiVectorEncoder`, a repository of the Hub, or of [`load_multi_vector_model`]. Where the
    teacher reads queries otherwise than documents, half of the texts are read as queries.

    Example:
    ```python
    args = MultiVectorDistilArguments("out", student="macs=0.25")
    trainer = MultiVectorDistilTrainer("my-colbert", args, train_dataset=rows, eval_dataset=held_out)
    trainer.train()
    trainer.export("small")  # MultiVectorEncoder("small")
    ```
    """

    embedding_model: MultiVectorModel
    method = "multi_vector"
    arguments_class = MultiVectorDistilArguments
    num_fit_vectors = 1 << 16
    distillation_class = MultiVectorDistillation
    evaluation_class = MultiVectorEvaluation
    load = staticmethod(load_multi_vector_model)
    model_class = MultiVectorModel
    card = replace(EmbeddingDistilTrainer.card, student="pruned multi-vector encoder")

    @override
    def default_collator(self, task: Task, tokenizer: Any, config: PreTrainedConfig) -> TokenCollator:
        return TokenCollator(self.embedding_model.reading, seed=self.args.seed, multiple=padding_multiple(config))

    @torch.random.fork_rng(devices=[])  # copies draw weights first, and a run may go on after an export
    def write_export(self, folder: Path, format: str, allow_partial: bool) -> None:
        """Write a folder of sentence-transformers; arguments as [`DistillationTrainer.write_export`]."""
        check_format(format)
        dense = copy.deepcopy(self.distillation.dense).cpu().requires_grad_(False)
        student: Any = self.dense_student(format=format, allow_partial=allow_partial)
        model: Any = student_model(student, dense, self.embedding_model)
        routes: dict[str, Any] = {route: replace(model, route=route) for route in ROUTES}
        how: dict[str, Any] = {"teacher": self.embedding_model, "facts": self.run_facts()}
        export_apart(model, folder, write_multi_vector, MULTI_VECTOR, **how, **routes)
