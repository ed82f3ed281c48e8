"""Vectors of a teacher, made once and kept on the disk: steps that have them skip the teacher's forward pass.

The caller encodes the rows; files are those of `datasets`, read as they are needed.
"""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import datasets
import torch
from datasets import Dataset, Features, List, Value

VECTOR = "teacher_vector"
_BATCHES_IN_A_PART = 256


def with_vectors(
    rows: Dataset,
    vectors_of: Callable[[list[dict[str, Any]]], torch.Tensor],
    *,
    key: str,
    batch_size: int,
    num_rows: int,
) -> Dataset:
    """Put a vector, float16, beside each of the first rows.

    Parts that are done are found again after an interruption and by later runs that read the same rows of the same
    teacher in the same order, the members of a family or a sweep.

    Args:
        rows: with `input_ids`.
        vectors_of: so many rows at most → `(B, D)`.
        key: stands for everything else that the vectors depend on.
        batch_size: rows at once.
        num_rows: how many of the rows get a vector; the others have None.

    Returns:
        `Dataset`: the rows, with a column `teacher_vector`.
    """

    def add(batch: Mapping[str, list[Any]]) -> dict[str, Any]:
        given = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
        return {VECTOR: list(vectors_of(given).to("cpu", torch.float16).numpy())}

    features = Features({**rows.features, VECTOR: List(Value("float16"))})
    parts, size = [], batch_size * _BATCHES_IN_A_PART
    for start in range(0, num_rows, size):
        part = rows.select(range(start, min(start + size, num_rows)))
        made_of = f"{part._fingerprint} {key} {batch_size}"
        parts.append(
            part.map(
                add,
                batched=True,
                batch_size=batch_size,
                features=features,
                new_fingerprint=hashlib.sha256(made_of.encode()).hexdigest()[:16],
                desc=f"Teacher's vectors of texts {start + 1:,} to {start + len(part):,} of {num_rows:,}",
            )
        )
    if num_rows < len(rows):
        parts.append(rows.select(range(num_rows, len(rows))))
    return datasets.concatenate_datasets(parts)
