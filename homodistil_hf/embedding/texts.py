"""Texts, alone or in pairs, as rows: cut, tokenized, put beside texts of like length.

`data/corpus.py` reads the texts.
"""

import itertools
import random
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import datasets
import torch
from datasets import Features, IterableDataset, List, Value
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase
from typing_extensions import override

from ..data.blocks import some_blocks
from ..data.corpus import is_running_text, only_text
from ..data.lengths import Rows
from ..models.tokenizers import check_padding, check_vocabulary, rows_of_texts
from ..training.raw_rows import RawReader

LEAST_CHARACTERS = 20
"""Length of a paragraph that makes a row, in text that has others; headings are shorter."""
VECTOR = "vector"
"""Column of rows, and input of batches, that holds a text's vector where it is given rather than computed."""
RowsOf: TypeAlias = Callable[[list[str]], dict[str, list[list[int]]]]
"""Texts → columns of lists; a text may have several rows."""


def paragraphs(text: str | None, least_characters: int = LEAST_CHARACTERS) -> list[str]:
    r"""The paragraphs of a text, divided by line breaks, that are not too short.

    Example:
    ```python
    >>> paragraphs("Heading\n A line that is longer than that.\n")
    ['A line that is longer than that.']

    ```
    """
    lines = (line.strip() for line in (text or "").splitlines())
    return [line for line in lines if len(line) >= least_characters]


def paragraphs_of(documents: Rows, least_characters: int | None = None) -> Callable[[str | None], list[str]]:
    """Return text → its paragraphs, as [`paragraphs`]; a row of a table that has short ones alone keeps them.

    Such a row is a sentence, maybe in a script of few characters. In text files it is a heading.
    """
    if least_characters is not None or is_running_text(documents):
        return partial(paragraphs, least_characters=least_characters or LEAST_CHARACTERS)
    return lambda text: paragraphs(text) or paragraphs(text, 1)


def some_paragraphs(documents: Rows, most: int) -> list[str]:
    """Paragraphs of all documents: the first of each, then the second of each, and so on, `most` at most."""
    read = paragraphs_of(documents)
    rows = (read(row["text"]) for row in some_blocks(documents, most))
    # documents as rows, read by columns; places that short documents don't have are None
    by_place = itertools.chain.from_iterable(itertools.zip_longest(*rows))
    return list(itertools.islice(filter(None, by_place), most))


def tokenize_texts(
    documents: Rows,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    prepare: Callable[[str], str] = str,
    rows_of: RowsOf | None = None,
    least_characters: int | None = None,
    num_proc: int | None = None,
    argument: str = "the data",
) -> Rows:
    """Documents → a row a paragraph: sentences, passages, headings that are long enough.

    Args:
        documents: with a column `text`; paragraphs are divided by line breaks. A stream gives a stream.
        tokenizer: of the encoder.
        max_length: tokens at most, special ones included; the rest of a paragraph makes rows of its own.
        prepare: applied to each paragraph first (prompts, lower case).
        rows_of: makes the rows in place of the three above, as a model's `rows_of` does.
        least_characters: shorter paragraphs are left out; default: as in [`paragraphs_of`].
        num_proc: processes, for a table.
        argument: name of the documents in messages.

    Returns:
        `Dataset` or `IterableDataset`: `input_ids`, lists of different lengths.

    Raises:
        ValueError: no paragraph is long enough, or the tokenizer has no vocabulary.
    """
    check_vocabulary(tokenizer)
    read = paragraphs_of(documents, least_characters)

    if rows_of is None:
        rows_of = partial(prepared_rows, tokenizer=tokenizer, max_length=max_length, prepare=prepare)
    names = list(rows_of(["a"]))

    def rows(batch: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
        wanted = [line for text in batch["text"] for line in read(text)]
        return rows_of(wanted) if wanted else {name: [] for name in names}

    if isinstance(documents, IterableDataset):
        features = Features({name: List(Value("int64")) for name in names})
        return documents.map(rows, batched=True, remove_columns=documents.column_names, features=features)
    how: dict[str, Any] = {"num_proc": num_proc, "desc": "Tokenizing texts"}
    table = documents.map(rows, batched=True, remove_columns=documents.column_names, **how)
    if not len(table):
        raise ValueError(
            f"{argument}: no paragraph of {least_characters or LEAST_CHARACTERS} characters or more; name other data, "
            "or a prompt for them (train_prompts), which takes lines of any length"
        )
    return table


def prepared_rows(
    texts: list[str], *, tokenizer: PreTrainedTokenizerBase, max_length: int, prepare: Callable[[str], str]
) -> dict[str, list[list[int]]]:
    """Tokenize texts, each prepared first; what `max_length` cuts off makes rows of its own."""
    return {"input_ids": rows_of_texts(tokenizer, list(map(prepare, texts)), max_length)["input_ids"]}


@dataclass(frozen=True)
class TextReader(RawReader):
    """Reads texts in a column for an embedding model, `length` tokens at most, as `rows_of` tokenizes them."""

    tokenizer: PreTrainedTokenizerBase
    length: int
    rows_of: RowsOf

    @override
    def encoded(self, rows: datasets.Dataset, argument: str, part: Any) -> Any:
        if not len(rows):
            return rows
        texts = only_text(rows, None, argument)
        table = tokenize_texts(texts, self.tokenizer, max_length=self.length, rows_of=self.rows_of, argument=argument)
        table.info.description = texts.info.description
        return table


def mixed(sources: Sequence[Rows], weights: Sequence[float], *, seed: int = 0) -> Rows:
    """Mix rows of several sources by weights.

    Args:
        sources: tables, or streams.
        weights: > 0. A table's weight is its number of passes in one pass over the mixture: 0.5 takes half of its
            rows, 2 takes each row twice. A stream's weight is its share of the rows, relative to the others'.
        seed: seed of the chosen rows.

    Returns:
        `Dataset` or `IterableDataset`, like the sources; streams are repeated without end.

    Example:
    ```python
    >>> tables = [datasets.Dataset.from_dict({"input_ids": [[n]] * 4}) for n in (1, 2)]
    >>> sum(mixed(tables, [1.5, 0.25])["input_ids"], [])
    [1, 1, 1, 1, 1, 1, 2]

    ```
    """
    if isinstance(sources[0], IterableDataset):
        # streams have no length: each is repeated, and every row is drawn from one of them by its share
        endless = [stream.repeat(None) for stream in sources]
        shares = [weight / sum(weights) for weight in weights]
        return endless[0] if len(endless) == 1 else datasets.interleave_datasets(endless, shares, seed=seed)
    draw = random.Random(seed)
    weighted = []
    for table, weight in zip(sources, weights, strict=True):
        # of weight 2.25: each row twice, and a quarter of the rows, drawn without replacement, a third time
        whole = list(range(len(table)))
        some = draw.sample(whole, round(weight % 1 * len(whole)))
        weighted.append(table if weight == 1 else table.select(whole * int(weight) + sorted(some)))
    return datasets.concatenate_datasets(weighted)


@dataclass
class TextCollator:
    """Rows → a padded batch with a random direction for each row, to score units with.

    A direction is a function of the row's tokens and the seed alone. So it is the same in a resumed run and on any
    number of ranks.

    Args:
        tokenizer: pads.
        dimension: channels of a vector; None: labels are the numbers that [`directions`] are drawn by, `(B, 1)`.
        seed: of the directions.
        multiple: of padded lengths, see [`padding_multiple`].
    """

    tokenizer: PreTrainedTokenizerBase
    dimension: int | None
    seed: int = 0
    multiple: int | None = 8

    def __post_init__(self) -> None:
        check_padding(self.tokenizer)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Rows with `input_ids` → `input_ids` and `attention_mask` `(B, T)`, `labels` `(B, D)` of length 1.

        `token_type_ids`, which pairs of texts may have, are padded as well; a `vector` of each row is kept, float32.
        """
        names = [name for name in ("input_ids", "token_type_ids") if name in rows[0]]
        inputs = self.tokenizer.pad(
            [{name: list(row[name]) for name in names} for row in rows],
            pad_to_multiple_of=self.multiple,
            return_tensors="pt",
        )
        batch = {name: inputs[name] for name in (*names, "attention_mask")}
        if VECTOR in rows[0]:
            batch[VECTOR] = torch.stack([torch.as_tensor(row[VECTOR], dtype=torch.float32) for row in rows])
        numbers_B1 = row_numbers(rows, self.seed)
        return batch | {"labels": numbers_B1 if self.dimension is None else directions(numbers_B1, self.dimension)}


def row_numbers(rows: Sequence[Mapping[str, Any]], seed: int) -> torch.Tensor:
    """A number of each row, `(B, 1)`, a function of its tokens and the seed alone."""
    # a checksum of the tokens that starts at the seed; `hash` of bytes would differ between processes
    tokens = (torch.tensor(row["input_ids"]).numpy().tobytes() for row in rows)
    return torch.tensor([[zlib.crc32(of_row, seed)] for of_row in tokens])


def directions(numbers_B1: torch.Tensor, dimension: int) -> torch.Tensor:
    """Random directions, `(B, dimension)` of length 1, each a function of its number; on the CPU."""
    generators = (torch.Generator().manual_seed(number) for number in numbers_B1.flatten().tolist())
    drawn = [torch.randn(dimension, generator=generator) for generator in generators]
    return F.normalize(torch.stack(drawn), dim=-1)
