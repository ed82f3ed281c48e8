"""Documents → blocks of exactly `max_seq_length` tokens without padding, as a table or as a stream.

A batch of texts is tokenized, joined with separators and cut, by a pure function of texts and tokenizer. The tokenizer
gets pieces of bounded length, a bounded number at a time, so that documents of any size fit into memory. corpus.py
finds the documents, masking.py masks tokens.
"""

import itertools
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow.compute
from datasets import Dataset, Features, IterableDataset, Sequence, Value
from transformers import PreTrainedTokenizerBase

from ..files.messages import short_repr
from ..models.tokenizers import check_vocabulary
from .shards import MOST_LANES, SHARDS_A_LANE

_CALL_CHARS = 1 << 20  # text a tokenizer call: its encodings take some hundred bytes a token
_PIECE_CHARS = 1 << 15  # longest text the tokenizer sees

logger = logging.getLogger(__name__)

_MIN_SEQ_LENGTH = 8
_BATCH_SIZE_BYTES = 4 << 20  # text a map batch: some thousand blocks; the last, incomplete one is lost
_STREAM_DOCUMENTS = 64  # documents a step of a stream


@dataclass(frozen=True, eq=False)
class TextPacker:
    """Turns texts into blocks `[CLS] … [SEP]`; pickled, it is part of cached blocks' fingerprint.

    Args:
        tokenizer: With a class and a separator token.
        max_seq_length: Tokens a block, special ones included; 3 or more.
        text_column: The texts' column, for messages.
        packs: Whether texts share blocks, all of equal length; else each text is a row of its own.
        format_version: Raised with every change of the blocks of a text: the fingerprint holds this class's name, not
            its code.
    """

    tokenizer: PreTrainedTokenizerBase
    max_seq_length: int
    text_column: str
    packs: bool = True
    format_version: int = 2

    def __call__(self, texts: Iterable[str | None]) -> dict[str, Any]:
        """Turn texts into the column `input_ids`, as [`cut`] has it."""
        return {"input_ids": self.cut(self.encode(texts))[0]}

    @property
    def features(self) -> Features:
        """Type of the column `input_ids`: uint16 where the vocabulary's ids fit, which halves a corpus on disk."""
        ids = "uint16" if max(self.tokenizer.get_vocab().values()) < 1 << 16 else "int32"
        return Features({"input_ids": Sequence(Value(ids), length=self.max_seq_length if self.packs else -1)})

    def cut(self, stream: np.ndarray) -> tuple[Any, np.ndarray]:
        """Cut tokens, int32 (N,), into blocks, int32 (number of blocks, `max_seq_length`), and the tokens left.

        Where texts share no blocks these are a list of rows of their own lengths, and nothing is left.
        """
        if not self.packs:
            return list(self._rows(stream)), stream[:0]
        # the class and the separator token take two places of a block
        num_content = self.max_seq_length - 2
        num_blocks = len(stream) // num_content
        blocks = np.empty((num_blocks, self.max_seq_length), dtype=np.int32)
        blocks[:, 0] = self.tokenizer.cls_token_id
        blocks[:, 1:-1] = stream[: num_blocks * num_content].reshape(num_blocks, num_content)
        blocks[:, -1] = self.tokenizer.sep_token_id
        return blocks, stream[num_blocks * num_content :]

    def _rows(self, stream: np.ndarray) -> Iterator[np.ndarray]:
        """Texts as rows `[CLS] … [SEP]`; a longer one makes several."""
        ends, num_content = np.flatnonzero(stream == self.tokenizer.sep_token_id), self.max_seq_length - 2
        for text in np.split(stream, ends + 1)[:-1]:  # a separator ends each text
            # without the separator that ends the text: each row gets one of its own
            for start in range(0, len(text) - 1, num_content):
                piece = text[start : min(start + num_content, len(text) - 1)]
                yield np.array([self.tokenizer.cls_token_id, *piece, self.tokenizer.sep_token_id], dtype=np.int32)

    def encode(self, texts: Iterable[str | None]) -> np.ndarray:
        """Tokenize texts into one stream, (number of tokens,) int32, a separator token after each that has any token.

        None and blank texts are skipped; another type than a string is a ValueError. A literal "[MASK]" is text, or
        left out where the tokenizer reads it as the mask all the same. A tokenizer without a separator, whose texts
        can't share blocks but may be counted, puts none.
        """
        separator = [] if self.tokenizer.sep_token_id is None else [self.tokenizer.sep_token_id]
        # Pieces go to the tokenizer in groups that cut across texts, so a text may end in a later group than it began:
        # `has_tokens` remembers whether the open text has any token yet.
        stream, has_tokens, literal = [np.empty(0, dtype=np.int32)], False, self._read_literally()
        for group in _groups(self._pieces(texts)):
            ids: list[int] = []
            encoded = self.tokenizer(
                [piece for piece, _ in group],
                add_special_tokens=False,
                split_special_tokens=True,  # a literal "[MASK]" in the text is text
                return_attention_mask=False,
                return_token_type_ids=False,
                verbose=False,  # pieces are longer than the model's input by design
            )["input_ids"]
            for piece_ids, (_, is_last) in zip(encoded, group, strict=True):
                read = [one for one in piece_ids if one not in literal] if literal else piece_ids
                ids += read
                has_tokens = has_tokens or len(read) > 0
                if is_last and has_tokens:
                    ids += separator
                    has_tokens = False
            stream.append(np.array(ids, dtype=np.int32))
        return np.concatenate(stream)

    def _read_literally(self) -> set[int]:
        """Special tokens that a text becomes although none are looked for: pieces of the vocabulary."""
        named = (
            getattr(self.tokenizer, f"{name}_token", None) for name in ("bos", "cls", "eos", "mask", "pad", "sep")
        )
        if not (words := [*filter(None, named)]):
            return set()
        read = self.tokenizer(words, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return {*self.tokenizer.convert_tokens_to_ids(words)} & {one for ids in read for one in ids}

    def _pieces(self, texts: Iterable[str | None]) -> Iterator[tuple[str, bool]]:
        """Yield pieces of bounded length, each with whether it is the last one of its text."""
        for text in texts:
            if text is not None and not isinstance(text, str):
                raise ValueError(
                    f"text_column={self.text_column!r} holds a {type(text).__name__} ({short_repr(text)}), expected "
                    "strings; choose another column or convert it"
                )
            if text is not None and text.strip():
                start = 0
                while len(text) - start > _PIECE_CHARS:
                    # in front of white space if there is any; behind the start, whose own space would be found again
                    window = range(start + _PIECE_CHARS - 1, start, -1)
                    end = next((place for place in window if text[place].isspace()), start + _PIECE_CHARS)
                    yield text[start:end], False
                    start = end
                yield text[start:], True


def _groups(pieces: Iterable[tuple[str, bool]]) -> Iterator[list[tuple[str, bool]]]:
    group, num_chars = [], 0
    for piece in pieces:
        group.append(piece)
        num_chars += len(piece[0])
        if num_chars >= _CALL_CHARS:
            yield group
            group, num_chars = [], 0
    if group:
        yield group


def tokenize_to_blocks(
    dataset: Dataset | IterableDataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_seq_length: int,
    text_column: str = "text",
    num_proc: int | None = None,
    max_positions: int | None = None,
    packing: bool = True,
) -> Dataset | IterableDataset:
    """Tokenize documents and cut them into full blocks, or into rows of their own.

    All documents make one stream of tokens, with a separator token after each. A block is a piece of the stream
    between the class and the separator token: `[CLS] … [SEP] … [SEP]`. Empty documents leave no trace, and literal
    special tokens in the text are plain text.

    A table is tokenized in parallel, in batches of about 4 MB of text, and cached by `datasets` under a fingerprint of
    text, tokenizer and settings. A batch loses its last, incomplete block: half a block on average, of some thousand
    blocks. A stream loses one at its very end; one of 16 shards or more, such as files, which ranks read apart, one at
    the end of each.

    Args:
        dataset (`Dataset` or `IterableDataset`): Documents, one a row.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): Tokenizer with a class and a separator token.
        max_seq_length (`int`): Tokens a block, special ones included. From 8 to the longest length that tokenizer and
            teacher can read.
        text_column (`str`, defaults to `"text"`): Column of strings; None and blank strings are skipped.
        num_proc (`int`, *optional*): Processes for a table; by default one, whose tokenizer uses all cores.
        max_positions (`int`, *optional*): Longest sequence the teacher can read, in tokens.
        packing (`bool`, defaults to `True`): Whether documents share blocks. Without it each is a row `[CLS] … [SEP]`
            of its own, or several where it is longer, for teachers of one sequence a row, such as protein models.

    Returns:
        `Dataset` or `IterableDataset`: `input_ids` (`max_seq_length` uint16, fewer without `packing` and
        of a small file of a stream; int32 for a vocabulary above 65,536) and `example_id` (int64: 0, 1, 2, …; of the
        i-th of n shards i, i + n, i + 2·n, …).

    Raises:
        ValueError: a length, column, number of processes or tokenizer that can't work; text too short for one block.

    Example:
    ```python
    >>> from transformers import BertTokenizer
    >>> tokenizer = BertTokenizer(vocab={t: i for i, t in enumerate("[PAD] [UNK] [CLS] [SEP] [MASK] a b c".split())})
    >>> documents = Dataset.from_dict({"text": ["a b c a", "b c", "a a a a a a"]})
    >>> blocks = tokenize_to_blocks(documents.to_iterable_dataset(), tokenizer, max_seq_length=8)
    >>> [tokenizer.decode(row["input_ids"]) for row in blocks]
    ['[CLS] a b c a [SEP] b [SEP]', '[CLS] c [SEP] a a a a [SEP]']

    ```
    """
    limits = {"tokenizer's model_max_length": tokenizer.model_max_length, "teacher's positions": max_positions}
    owner, limit = min(((owner, limit) for owner, limit in limits.items() if limit), key=lambda item: item[1])
    if max_seq_length > limit:
        raise ValueError(
            f"max_seq_length={max_seq_length} is over the {owner} ({limit}); expected {_MIN_SEQ_LENGTH} … {limit}"
        )
    if max_seq_length < _MIN_SEQ_LENGTH:
        raise ValueError(f"max_seq_length={max_seq_length} is too short; expected {_MIN_SEQ_LENGTH} or more")
    if num_proc is not None and (type(num_proc) is not int or num_proc < 1):
        raise ValueError(f"num_proc={num_proc!r} is no number of processes; expected 1 or more")
    check_vocabulary(tokenizer)
    for token, word in (("cls_token", "class"), ("sep_token", "separator")):
        if getattr(tokenizer, f"{token}_id") is None:
            raise ValueError(
                f"tokenizer {type(tokenizer).__name__} has no {word} token ({token}), which every block needs; "
                "use the tokenizer that was saved with the teacher"
            )
    packer = TextPacker(tokenizer, max_seq_length, text_column, packing)
    if not isinstance(dataset, IterableDataset):
        return _pack_table(dataset, packer, num_proc)
    is_dealt, most = dataset.num_shards >= 2 * SHARDS_A_LANE, SHARDS_A_LANE * MOST_LANES
    places = list(range(min(dataset.num_shards, most) if is_dealt else 1))
    shards = [dataset.shard(len(places), place, contiguous=False) for place in places] if is_dealt else [dataset]
    # of lists, each shard gets its entries
    how = {"shards": shards, "places": places, "num_shards": len(places), "packer": packer}
    features = Features({**packer.features, "example_id": Value("int64")})
    blocks = IterableDataset.from_generator(_stream_rows, features=features, gen_kwargs=how)
    next(iter(blocks))  # raises errors now rather than at the first step of the training
    return blocks


def some_blocks(blocks: Dataset | IterableDataset, num_blocks: int) -> Dataset:
    """Return `num_blocks` blocks for evaluation: spread evenly over a table, or the first ones of a stream.

    The first blocks of a table would all come from the first of several sources.

    Example:
    ```python
    >>> some_blocks(Dataset.from_dict({"example_id": range(10)}), 4)["example_id"][:]
    [0, 2, 5, 7]

    ```
    """
    if isinstance(blocks, IterableDataset):
        return Dataset.from_list(list(blocks.take(num_blocks)), features=blocks.features)
    num_blocks = min(num_blocks, len(blocks))
    # block ⌊i · all / wanted⌋ for each i: equal distances from the first one on
    return blocks.select([index * len(blocks) // num_blocks for index in range(num_blocks)])


def drawn(rows: Dataset, num_rows: int, *, seed: int) -> Dataset:
    """Draw `num_rows` rows without replacement, the same for a seed, in their order; all rows if there are fewer."""
    return rows if num_rows >= len(rows) else rows.select(drawn_indices(len(rows), num_rows, seed))


def drawn_indices(num_all: int, num_rows: int, seed: int) -> list[int]:
    """Places of rows that [`drawn`] takes."""
    # RandomState draws the same in all versions of numpy
    return sorted(np.random.RandomState(seed).permutation(num_all)[:num_rows].tolist())


def repeat_stream(blocks: IterableDataset) -> IterableDataset:
    """Repeat a stream of blocks without end; `example_id` keeps counting, so that every pass gets new masks.

    Shuffle the result, not the input, to get another order in each pass.
    """
    numbered = partial(_numbered, num_shards=blocks.num_shards)
    return blocks.repeat(None).map(numbered, with_indices=True, features=blocks.features)


def _numbered(row: dict[str, Any], index: int, *, num_shards: int) -> dict[str, Any]:
    # shards may be read apart, and each counts for itself
    return row | {"example_id": index * num_shards + row["example_id"] % num_shards}


def _pack_table(documents: Dataset, packer: TextPacker, num_proc: int | None) -> Dataset:
    _check_text_column(documents.column_names, packer)
    batch_size = _batch_size(documents, packer.text_column)
    # no more processes than batches, whose number is rounded up
    num_proc = min(num_proc or 1, max(1, -(-len(documents) // batch_size)))
    blocks = documents.map(
        packer,
        batched=True,
        batch_size=batch_size,
        input_columns=[packer.text_column],
        remove_columns=documents.column_names,
        features=packer.features,
        num_proc=num_proc if num_proc > 1 else None,
        desc=f"Tokenizing into blocks of {packer.max_seq_length}",
    )
    if len(blocks) == 0:
        num_tokens = sum(len(packer.encode(batch[packer.text_column])) for batch in documents.iter(batch_size))
        raise _too_short(num_tokens, packer)
    return blocks.add_column("example_id", np.arange(len(blocks), dtype=np.int64))


def _batch_size(documents: Dataset, text_column: str) -> int:
    """Return the number of documents with about `_BATCH_SIZE_BYTES` of text, from the mean length of the column."""
    feature = documents.features[text_column]
    if feature not in (Value("string"), Value("large_string")):
        raise ValueError(
            f"text_column={text_column!r} holds {feature}, expected strings; choose another column or convert it"
        )
    mean_bytes = pyarrow.compute.mean(pyarrow.compute.binary_length(documents.data.column(text_column))).as_py()
    return max(1, round(_BATCH_SIZE_BYTES / max(mean_bytes or 1.0, 1.0)))


def _stream_rows(
    shards: list[IterableDataset], places: list[int], num_shards: int, packer: TextPacker
) -> Iterator[dict[str, Any]]:
    for documents, place in zip(shards, places, strict=True):
        ids, left = itertools.count(place, num_shards), np.empty(0, dtype=np.int32)
        for batch in documents.iter(_STREAM_DOCUMENTS):
            _check_text_column(list(batch), packer)
            # the tokens that a step leaves begin the first block of the next one
            blocks, left = packer.cut(np.concatenate([left, packer.encode(batch[packer.text_column])]))
            for block in blocks:
                yield {"input_ids": block, "example_id": next(ids)}
        if (example_id := next(ids)) == place:
            if num_shards == 1:
                raise _too_short(len(left), packer)
            # a short row of a small file; without a row it would be repeated for ever
            start, end = packer.tokenizer.cls_token_id, packer.tokenizer.sep_token_id
            yield {"input_ids": np.array([start, *left, end], dtype=np.int32), "example_id": example_id}


def _too_short(num_tokens: int, packer: TextPacker) -> ValueError:
    needed = f"max_seq_length={packer.max_seq_length} needs {packer.max_seq_length - 2} for one block"
    return ValueError(
        f"the text has {num_tokens} tokens, but {needed}, besides two special ones; give more text or a smaller length"
    )


def _check_text_column(columns: list[str], packer: TextPacker) -> None:
    if packer.text_column not in columns:
        raise ValueError(f"text_column={packer.text_column!r} is missing; expected one of the columns {columns}")
