"""Documents → the number of occurrences of each token; selection.py chooses tokens by them."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from datasets import Dataset, Features, Sequence, Value
from transformers import PreTrainedTokenizerBase

from ..data.packing import TextPacker

_BATCH = 1000
_FEATURES = Features({"ids": Sequence(Value("int32")), "counts": Sequence(Value("int64"))})


@dataclass(frozen=True, eq=False)
class _Counter:
    """Turns texts into one row of token ids and counts; pickled, it is part of cached counts' fingerprint."""

    packer: TextPacker

    def __call__(self, texts: Iterable[str | None]) -> dict[str, list[np.ndarray]]:
        ids, counts = np.unique(self.packer.encode(texts), return_counts=True)
        return {"ids": [ids], "counts": [counts]}


def count_tokens(
    documents: Dataset, tokenizer: PreTrainedTokenizerBase, *, text_column: str = "text", num_proc: int | None = None
) -> np.ndarray:
    """Count the tokens of all documents; separators that stand between documents in blocks are counted too.

    `datasets` shows the progress, and caches the counts under a fingerprint of text and tokenizer.

    Args:
        documents: one a row.
        tokenizer: the teacher's.
        text_column: column of strings; None and blank ones are skipped.
        num_proc: processes; by default one, whose tokenizer uses all cores.

    Returns:
        int64 `(largest id + 1,)`.

    Raises:
        ValueError: a missing column, or no token at all.
    """
    if text_column not in documents.column_names:
        raise ValueError(f"text_column={text_column!r} is missing; expected one of {documents.column_names}")
    counted = documents.map(
        _Counter(TextPacker(tokenizer, 0, text_column)),
        batched=True,
        batch_size=_BATCH,
        input_columns=[text_column],
        remove_columns=documents.column_names,
        features=_FEATURES,
        num_proc=num_proc if num_proc and num_proc > 1 else None,
        desc="Counting tokens",
    )
    counts = np.zeros(max(len(tokenizer), max(tokenizer.get_vocab().values()) + 1), dtype=np.int64)
    for row in counted.with_format("numpy"):
        counts[row["ids"]] += row["counts"]
    if not counts.any():
        raise ValueError(f"the text has no token in {len(documents)} documents; give more text")
    return counts
