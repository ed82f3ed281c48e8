"""Vectors of a teacher that can't be run here, such as a service's: read from files, checked, looked up by their text.

`run.py` reads them where a run has `teacher_vectors`; `trainer.py` trains a student towards them.

Shapes: N texts, D channels.
"""

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from ..data.read_line import columns_words
from ..files.caches import keep_datasets_here
from ..files.messages import short_repr
from ..files.provenance import public_name
from ..models.architectures import max_tokens
from ..models.loading import MODULES_FILE, load_encoder
from ..models.tokenizers import COPY, as_it_was, check_vocabulary, load_tokenizer
from ..tasks.columns import Columns, ReadRows, check_rows
from ..tasks.reading import check_columns, load_rows
from .metrics import COSINE
from .model import EmbeddingModel, PoolingSettings, listed, load_embedding_model
from .texts import VECTOR

logger = logging.getLogger(__name__)

_LENGTH_TOLERANCE = 1e-2
"""Lengths of vectors that differ from 1 by less are 1: services round, and compute in lower types."""
_SAME = 0.99
"""Least cosine of two vectors of one text: services don't give the same one twice."""
_VECTOR_FILES = (".parquet", ".arrow", ".json", ".jsonl")
_LISTS = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)


@dataclass(frozen=True)
class TeacherVectors:
    """Texts and their vectors by a teacher; memory: 4 bytes a channel.

    Args:
        name: of the files.
        texts: each once.
        vectors: float32 `(N, D)`.
        similarity: what they are compared by, of `SIMILARITIES`.
        columns: what was read of the files, of [`columns_words`].
    """

    name: str
    texts: list[str] = field(repr=False)
    vectors: torch.Tensor = field(repr=False)
    similarity: str = COSINE
    columns: str = field(default="", repr=False)

    @property
    def dimension(self) -> int:
        """Channels of a vector."""
        return self.vectors.shape[1]

    @cached_property
    def normalizes(self) -> bool:
        """Whether all vectors have length 1, but for rounding."""
        return bool((self.vectors.norm(dim=1) - 1).abs().max() < _LENGTH_TOLERANCE)

    @cached_property
    def sha256(self) -> str:
        """Digest of texts and vectors."""
        digest = hashlib.sha256("\0".join(self.texts).encode("utf-8", "replace"))
        digest.update(self.vectors.numpy().tobytes())
        return digest.hexdigest()

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {text: row for row, text in enumerate(self.texts)}

    @property
    def documents(self) -> Dataset:
        """A table with the columns `text` and `vector`."""
        documents = Dataset.from_dict({"text": self.texts, VECTOR: self.vectors.numpy()})
        documents.info.description = self.columns
        return documents

    def along(self, axes_ND: torch.Tensor) -> "TeacherVectors":
        """The vectors along N axes, as a student of `output=N` learns them."""
        vectors = self.vectors @ axes_ND.T
        return replace(self, vectors=F.normalize(vectors, dim=-1) if self.normalizes else vectors)

    def encode(self, texts: Iterable[str], *, prompt_name: str | None = None) -> torch.Tensor:
        """Look up the vectors of texts, `(len(texts), D)`; prompts have no part in it.

        Raises:
            ValueError: a text without a vector.
        """
        texts = listed(texts)
        if missing := [text for text in texts if text not in self._rows]:
            raise ValueError(
                f"{self.name} has no vectors of {len(missing):,} of {len(texts):,} texts, such as "
                f"{short_repr(missing[0])}; its model isn't here, so name texts that it has, or add theirs"
            )
        return self.vectors[[self._rows[text] for text in texts]]


Encoder: TypeAlias = EmbeddingModel | TeacherVectors
"""A model, or a table of vectors: `encode` gives the vectors of texts."""


def learner_of(
    start: str | Path | EmbeddingModel, target: TeacherVectors, *, token: str | None = None
) -> EmbeddingModel:
    """Make the start of a student of given vectors: encoder, tokenizer and pooling of a local model.

    Args:
        start: folder or Hub name of sentence-transformers, folder of an encoder, whose states are averaged, or a
            loaded model.
        target: the vectors.
        token: of the Hub.

    Raises:
        ValueError: no such model, or one that a student can't start from.
    """
    name = str(start)
    if isinstance(start, EmbeddingModel):
        model = start
    elif Path(name, MODULES_FILE).is_file() or not Path(name).is_dir():
        model = load_embedding_model(name, argument="start", token=token)
    else:
        encoder = load_encoder(name, token=token, argument="start", needs_head=False)
        tokenizer = load_tokenizer(name, token=token, argument="start", remedy=COPY)
        settings = PoolingSettings(max_seq_length=max_tokens(encoder.config))
        encoder = getattr(encoder, encoder.base_model_prefix, encoder).eval()
        model = EmbeddingModel(encoder, tokenizer, settings, name=name)
    similarity = target.similarity if target.similarity != COSINE else None
    settings = replace(model.settings, normalizes=target.normalizes, similarity=similarity, truncate_dim=None)
    return replace(model, settings=settings, dense=(), target=target)


def load_teacher_vectors(
    sources: str | Path | Sequence[str | Path],
    *,
    text_column: str | None = None,
    split: str = "train",
    similarity: str = COSINE,
    argument: str = "teacher_vectors",
) -> TeacherVectors:
    """Read the vectors that a teacher gave texts.

    Args:
        sources: files (.parquet, .jsonl …), folders, globs or Hub data sets, with a column `vector`: lists of numbers
            of one length.
        text_column: column with the texts; default: `text`.
        split: of folders and Hub data sets.
        similarity: what vectors are compared by, of `SIMILARITIES`.
        argument: the user's name for them in messages.

    Returns:
        [`TeacherVectors`]; of a text that is there twice the first row counts.

    Raises:
        ValueError: a missing column, texts that are empty, vectors that are missing, of different lengths, not finite,
            too large or 0, or two different ones of one text.
        OSError: a file can't be read.
    """
    names = [str(name) for name in ([sources] if isinstance(sources, str | Path) else sources)]
    label = f"{argument}={names[0]!r}" if len(names) == 1 else f"{argument}={short_repr(names)}"
    column = text_column or "text"
    keep_datasets_here()
    table = load_rows(names, split=split, argument=argument)
    remedy = f"a row has a text and its {VECTOR}: rename columns, or name that of the texts (text_column)"
    check_columns(table.column_names, [column, VECTOR], label, remedy=remedy)
    check_rows(ReadRows(table, Columns("texts", (column,)), label))
    texts = table[column][:]
    vectors = _vectors(table.data.column(VECTOR), f"{label}: column {VECTOR!r}")
    # a text's first row counts
    first: dict[str, int] = {}
    for row, text in enumerate(texts):
        if (earlier := first.setdefault(text, row)) == row:
            continue
        one, other = vectors[earlier].astype(float), vectors[row].astype(float)
        # cosine below `_SAME`, without a division
        if one @ other < _SAME * np.linalg.norm(one) * np.linalg.norm(other):
            raise ValueError(
                f"{label} has two different vectors of one text, {short_repr(text)}, in the rows {earlier} and "
                f"{row}; they are of two models, or of two prompts: keep one kind"
            )
    if len(first) < len(texts):
        logger.info("%s: %d rows repeat a text, and are left out", label, len(texts) - len(first))
    name = ", ".join(map(public_name, names))
    kept = torch.from_numpy(vectors[list(first.values())])  # a copy, as torch takes no arrays that are read-only
    return TeacherVectors(name, list(first), kept, similarity, columns_words([column, VECTOR], table.column_names))


def load_teacher(name_or_path: str | Path, *, similarity: str) -> Encoder:
    """Load a teacher to compare with: a model, or a file of vectors, compared by the student's similarity."""
    file = Path(name_or_path)
    if file.suffix.lower() in _VECTOR_FILES and file.is_file():
        return load_teacher_vectors(file, similarity=similarity, argument="teacher")
    return load_embedding_model(name_or_path)


def _vectors(column: pa.ChunkedArray, label: str) -> np.ndarray:
    """Check a column; float32 `(N, D)`."""
    values = column.type.value_type if any(is_kind(column.type) for is_kind in _LISTS) else None
    if values is None or not (pa.types.is_floating(values) or pa.types.is_integer(values)):
        raise ValueError(f"{label} holds values of type {column.type}; expected a list of numbers in each row")
    # a missing list counts as one of length 0
    sizes = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
    size = int(sizes[0])
    if size == 0 or (sizes != size).any():
        row = int((sizes != size).argmax())
        raise ValueError(
            f"{label} has {size} numbers in row 0 and {int(sizes[row])} in row {row}; expected as many in each, of "
            "one model"
        )
    # all lists have one length, so their numbers, one list behind the other, are a matrix
    numbers = pc.cast(pc.list_flatten(column), pa.float32(), safe=False).combine_chunks()
    vectors = numbers.to_numpy(zero_copy_only=False).reshape(-1, size).astype(np.float32, copy=False)
    # missing numbers have become NaN, squares of large ones are infinite
    squares = np.einsum("nd,nd->n", vectors, vectors)
    for problem, is_wrong in {
        "a number that is missing, too large or not finite": ~np.isfinite(squares),
        "only zeros": squares == 0,
    }.items():
        if is_wrong.any():
            row = int(is_wrong.argmax())
            raise ValueError(f"{label} has {problem} in row {row}; encode such texts again, or leave them out")
    return vectors


def tokenize_vectors(
    documents: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    prepare: Callable[[str], str] = str,
    num_proc: int | None = None,
    argument: str = "teacher_vectors",
) -> Dataset:
    """Texts with vectors → a row a text; a vector is that of the whole text, so a longer one is cut, and not divided.

    Args:
        documents: with the columns `text` and `vector`.
        tokenizer: of the student's start.
        max_length: tokens at most, special ones included.
        prepare: applied to each text first (prompts, lower case).
        num_proc: processes.
        argument: name of the documents in messages.

    Returns:
        `Dataset`: `input_ids` and `vector`.
    """
    check_vocabulary(tokenizer)

    def rows(batch: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
        with as_it_was(tokenizer):
            encoded = tokenizer(list(map(prepare, batch["text"])), truncation=True, max_length=max_length)
        return {"input_ids": encoded["input_ids"]}

    table = documents.map(rows, batched=True, remove_columns=["text"], num_proc=num_proc, desc="Tokenizing texts")
    # a row of full length was cut, unless it fits exactly; a few are no reason to warn
    num_full = sum(len(ids) == max_length for ids in table["input_ids"])
    if num_full > len(table) // 100:
        logger.warning(
            "%s: %d of %d texts are cut at max_seq_length=%d tokens, but their vectors are of the whole; raise it "
            "where the start reads more",
            argument,
            num_full,
            len(table),
            max_length,
        )
    return table
