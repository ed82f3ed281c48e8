"""A cascade: a small student encodes each query, and where its first two hits are close, the teacher encodes it again.

Both look up in one index, the teacher's, so nothing but the query is encoded twice. `cascade_curve.py` measures which
share of queries has to go to the teacher for a wanted agreement.

Shapes: N queries, M documents, D channels.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch

from .model import EmbeddingModel
from .reading import load_embedding_model
from .similarity import similarities

_ROWS = 256


class Hits(NamedTuple):
    """The best documents of each query.

    Args:
        rows: `(N, k)` int64, most similar first.
        similarities: `(N, k)`, of the model that answered.
        asked: `(N,)` bool, whether the teacher answered.
    """

    rows: torch.Tensor
    similarities: torch.Tensor
    asked: torch.Tensor


@dataclass(frozen=True)
class Cascade:
    """Answers queries with a student, and with its teacher where the student is in doubt.

    Args:
        student: of the teacher's space: folder, Hub name or loaded.
        teacher: folder, Hub name or loaded.
        documents: their vectors by the teacher, `(M, D)`, two or more.
        margin: the teacher answers where the similarity of the first hit is ahead of the second's by less; 0: never,
            infinity: always. `homodistil cascade` finds one for a wanted agreement.

    Raises:
        ValueError: vectors of another length, or fewer than two documents.

    Example:
    ```python
    teacher = load_embedding_model("all-MiniLM-L6-v2")
    cascade = Cascade("runs/embeddings/student", teacher, teacher.encode(texts, prompt_name="document"), margin=0.04)
    cascade.search(["Who wrote this?"], k=3).rows
    ```
    """

    student: EmbeddingModel
    teacher: EmbeddingModel
    documents: torch.Tensor = field(repr=False)
    margin: float = 0.0

    def __post_init__(self) -> None:
        for name in ("student", "teacher"):
            if isinstance(model := getattr(self, name), str | Path):
                object.__setattr__(self, name, load_embedding_model(model, argument=name))
        lengths = {"student": self.student.dimension, "teacher": self.teacher.dimension}
        if set(lengths.values()) != {self.documents.shape[-1]} or self.documents.dim() != 2:
            raise ValueError(
                f"documents has the shape {tuple(self.documents.shape)}, and vectors have the lengths {lengths}; a "
                "cascade needs one space: the teacher's vectors of all documents, and a student of output='teacher'"
            )
        if len(self.documents) < 2:
            raise ValueError(f"documents has {len(self.documents)} rows; a margin is between two of them, or more")

    def search(self, queries: list[str], k: int = 10) -> Hits:
        """Find the best documents of each query; the prompt called `query` stands before it, where there is one."""
        # two hits at least: the margin is between them
        most = min(max(k, 2), len(self.documents))
        found, rows = best(self.student.encode(queries, prompt_name="query"), self.documents, most, self.similarity)
        asked = found[:, 0] - found[:, 1] < self.margin
        if asked.any():
            # queries in doubt: the teacher's hits, in the same index, take the place of the student's
            again = [query for query, is_asked in zip(queries, asked.tolist(), strict=True) if is_asked]
            vectors = self.teacher.encode(again, prompt_name="query")
            found[asked], rows[asked] = best(vectors, self.documents, most, self.similarity)
        return Hits(rows[:, :k], found[:, :k], asked)

    @property
    def similarity(self) -> str:
        """The function that vectors are compared by, the teacher's."""
        return self.teacher.similarity


def best(
    queries_ND: torch.Tensor, documents_MD: torch.Tensor, k: int, similarity: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Similarities and rows of the k best documents of each query, `(N, k)` both; in blocks of queries."""
    found = [similarities(part, documents_MD, similarity).topk(k) for part in queries_ND.split(_ROWS)]
    return torch.cat([one.values for one in found]), torch.cat([one.indices for one in found])
