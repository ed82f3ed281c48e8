"""Queries of one's own, and the document that each finds first: with the teacher, and with its student.

`evaluation/guarantee.py` bounds the share of queries whose first hit is the same.

Shapes: N queries, M documents, D channels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..data.corpus import is_running_text, load_text
from ..evaluation.guarantee import WORDS, guarantee, length_groups
from ..files.messages import short_repr
from .similarity import COSINE, similarities
from .tasks import RetrievalTask

_ROWS = 256


def load_queries(
    queries: Sequence[str],
    documents: Sequence[str],
    *,
    query_column: str | None = None,
    document_column: str | None = None,
    group_columns: Sequence[str] = (),
    split: str = "validation",
    most: int = 1000,
) -> RetrievalTask:
    """Read queries and the documents that they are looked up in; which document answers a query isn't needed.

    Args:
        queries: files, folders, globs or Hub data sets; a row a query, a line of text files.
        documents: the same, for documents.
        query_column: with the queries.
        document_column: with the documents.
        group_columns: of the queries, such as their language or source.
        split: of folders and data sets.
        most: queries at most, evenly spread over all.

    Raises:
        ValueError: unreadable files, a missing column, or fewer than two documents.
    """
    texts = _texts(queries, "query_column", query_column, split)
    groups = {
        name: [value for one in queries for value in _column(one, "group_columns", name, split)["text"][:]]
        for name in group_columns
    }
    # places of the queries that stay, for texts and groups alike: those with text, `most` of them evenly spread
    rows = [row for row in range(len(texts)) if texts[row]]
    rows = [rows[len(rows) * place // most] for place in range(most)] if len(rows) > most else rows
    index = list(dict.fromkeys(filter(None, _texts(documents, "document_column", document_column, split))))
    if not rows or len(index) < 2:
        raise ValueError(
            f"queries={short_repr(list(queries))} and documents={short_repr(list(documents))} have {len(rows)} and "
            f"{len(index)} texts; expected a query and two documents, or more"
        )
    chosen = {name: [values[row] or "none" for row in rows] for name, values in groups.items()}
    return RetrievalTask("queries", [texts[row] for row in rows], index, None, chosen)


def _texts(source: Sequence[str], setting: str, column: str | None, split: str) -> list[str]:
    found: list[str] = []
    for one in source:
        rows = _column(one, setting, column, split)
        texts = [text or "" for text in rows["text"][:]]
        # a paragraph of a text file may have several lines, a query each; rows of tables stay whole
        found += [line for text in texts for line in text.splitlines()] if is_running_text(rows) else texts
    return [text.strip() for text in found]


def _column(source: str, setting: str, column: str | None, split: str) -> Any:
    argument = "documents" if setting == "document_column" else "queries"
    try:
        return load_text(source, text_column=column, split=split, argument=argument)
    except ValueError as error:  # it calls the column of a text by the name that it has elsewhere
        raise ValueError(str(error).replace("text_column", setting)) from error


def first_hits(queries_ND: torch.Tensor, documents_MD: torch.Tensor, similarity: str = COSINE) -> torch.Tensor:
    """The row of each query's most similar document, `(N,)` int64."""
    # float64, so that rounding seldom decides which hit is first; in blocks, as N × M numbers are many
    queries, documents = queries_ND.double(), documents_MD.double()
    return torch.cat([similarities(part, documents, similarity).argmax(1) for part in queries.split(_ROWS)])


def guarantee_of_hits(
    student_N: torch.Tensor,
    teacher_N: torch.Tensor,
    queries: Sequence[str],
    groups: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Any]:
    """Bound the share of queries whose first hit is the teacher's, over all, by length, and by groups.

    Args:
        student_N: rows of the documents that [`first_hits`] finds by the student's vectors.
        teacher_N: by the teacher's.
        queries: the texts.
        groups: column → its value in each row.

    Returns:
        As [`guarantee`].
    """
    return guarantee((student_N != teacher_N).tolist(), {WORDS: length_groups(queries)} | dict(groups or {}))
