"""The tokens that stay: a user's vocabulary, and the number of occurrences of each token in documents."""

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset, Features, Sequence, Value
from transformers import PreTrainedTokenizerBase

from ..data.blocks import TextPacker
from ..files.messages import nearest_valid, short_repr

_MULTIPLE = 8  # the number of tokens becomes a multiple of this, unless the user names a number
KEEP, MIN_COUNT, COVERAGE = "keep", "min_count", "coverage"
_EXPECTED = f"{KEEP}=16384, {MIN_COUNT}=5, {COVERAGE}=0.999, or a file with a token a line"
_SHARE = re.compile(r"[01]?\.?\d+")
_ROUNDING = 1e-6  # of a share times a count
_BATCH = 1000
_TEXT = "text"
_FEATURES = Features({"ids": Sequence(Value("int32")), "counts": Sequence(Value("int64"))})


@dataclass(frozen=True)
class Vocabulary:
    """The wanted tokens: the most frequent ones, those with enough occurrences, those of a text, or those of a list.

    Args:
        text: the user's own.
        keep: number of tokens.
        min_count: least number of occurrences of a token.
        coverage: least share of the text's tokens that stay, in (0, 1].
        tokens: the tokens themselves.
    """

    text: str
    keep: int | None = None
    min_count: int | None = None
    coverage: float | None = None
    tokens: tuple[str, ...] | None = None

    @classmethod
    def parse(cls, text: str) -> "Vocabulary":
        """Read `keep=N`, `min_count=N`, `coverage=SHARE`, or the name of a file with a token a line.

        Raises:
            ValueError: something else.

        Example:
        ```python
        >>> Vocabulary.parse("keep=16384").keep
        16384
        >>> Vocabulary.parse("keep=many")
        Traceback (most recent call last):
        ...
        ValueError: vocabulary='keep=many' is no vocabulary; expected keep=16384, min_count=5, coverage=0.999, or a
        file with a token a line

        ```
        """
        name, is_given, number = text.partition("=")
        if is_given and name in (KEEP, MIN_COUNT) and number.isdecimal() and int(number) > 0:
            return cls(text, keep=int(number)) if name == KEEP else cls(text, min_count=int(number))
        if name == COVERAGE and _SHARE.fullmatch(number) and 0 < float(number) <= 1:
            return cls(text, coverage=float(number))
        if os.path.isfile(text):
            # Not `splitlines`: characters that it divides by, such as U+2028, may be tokens.
            lines = Path(text).read_text(encoding="utf-8-sig", errors="replace").split("\n")
            if not any(lines):
                raise ValueError(f"vocabulary={text!r} is a file without a token; expected one a line")
            return cls(text, tokens=tuple(line for line in lines if line))
        raise ValueError(f"vocabulary={short_repr(text)} is no vocabulary; expected {_EXPECTED}")


def select(
    vocabulary: Vocabulary,
    ids: dict[str, int],
    required: set[int],
    needs: Callable[[int], set[int]],
    counts: np.ndarray,
) -> list[int]:
    """Choose the tokens that stay.

    Args:
        vocabulary: the wanted tokens.
        ids: token → id.
        required: ids that always stay.
        needs: id → the ids of a token and of all tokens that it is merged from.
        counts: int64, occurrences of each id; unused for a list of tokens.

    Returns:
        Ids, ascending: the required and the most frequent ids; of equally frequent ids the lower comes first. `keep`
        is met exactly. `min_count` and `coverage` are filled up to a multiple of eight with the next most frequent
        ids.

    Raises:
        ValueError: fewer tokens wanted than always stay, more than exist, or an unknown token.
    """
    kept = set().union(*(needs(token) for token in required))
    if vocabulary.tokens is not None:
        if unknown := [token for token in vocabulary.tokens if token not in ids]:
            raise ValueError(
                f"vocabulary={vocabulary.text!r} has the token {short_repr(unknown[0])}, which the tokenizer doesn't "
                f"have; {nearest_valid(unknown[0], ids)}"
            )
        return sorted(kept.union(*(needs(ids[token]) for token in vocabulary.tokens)))
    known = np.array(sorted(set(ids.values())))
    # stable, so that the lower of two equally frequent ids comes first
    by_count = known[np.argsort(-counts[known], kind="stable")].tolist()
    most = vocabulary.keep
    if vocabulary.min_count is not None or vocabulary.coverage is not None:
        if vocabulary.coverage is None:
            enough = [token for token in by_count if counts[token] >= (vocabulary.min_count or 0)]
        else:
            others = [token for token in by_count if token not in kept]
            # covered[n]: occurrences of the kept tokens and of the n most frequent others
            covered = counts[sorted(kept)].sum() + np.concatenate([[0], np.cumsum(counts[others])])
            enough = others[: int(np.searchsorted(covered, vocabulary.coverage * counts.sum() - _ROUNDING))]
        kept = kept.union(*map(needs, enough))
        # up to the next multiple, if there are so many tokens
        most = min(-(-len(kept) // _MULTIPLE) * _MULTIPLE, len(known))
    elif most is not None and not len(kept) <= most <= len(known):
        nearest = len(kept) if most < len(kept) else len(known)
        why = f"{len(kept):,} always stay" if most < len(kept) else "there are no more"
        raise ValueError(f"vocabulary={vocabulary.text!r} is out of reach, as {why}; nearest valid: {KEEP}={nearest}")
    # Fill up from the most frequent on. A token comes with all that it is merged from, so one that would bring too
    # many is passed over for the next.
    for token in by_count:
        if len(kept) == most:
            break
        if token not in kept and len(kept) + len(more := needs(token) - kept) <= (most or 0):
            kept.update(more)
    return sorted(kept)


def _counted(texts: Iterable[str | None], packer: TextPacker) -> dict[str, list[np.ndarray]]:
    """Turn texts into one row of token ids and counts."""
    ids, counts = np.unique(packer.encode(texts), return_counts=True)
    return {"ids": [ids], "counts": [counts]}


def count_tokens(documents: Dataset, tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """Count the tokens of all documents; separators that stand between documents in blocks are counted too.

    `datasets` shows the progress, and caches the counts under a fingerprint of text and tokenizer.

    Documents are strings in the column `text`, of which None and blank ones are skipped.

    Returns:
        int64 `(largest id + 1,)`.

    Raises:
        ValueError: no token at all.
    """
    counted = documents.map(
        _counted,
        fn_kwargs={"packer": TextPacker(tokenizer, 0, _TEXT)},
        batched=True,
        batch_size=_BATCH,
        input_columns=[_TEXT],
        remove_columns=documents.column_names,
        features=_FEATURES,
        desc="Counting tokens",
    )
    # ids may have gaps, so the largest can exceed the number of tokens
    counts = np.zeros(max(len(tokenizer), max(tokenizer.get_vocab().values()) + 1), dtype=np.int64)
    for row in counted.with_format("numpy"):
        counts[row["ids"]] += row["counts"]
    if not counts.any():
        raise ValueError(f"the text has no token in {len(documents)} documents; give more text")
    return counts
