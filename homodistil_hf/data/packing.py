"""One batch of texts → blocks of tokens: tokenize, join with separators, cut. A pure function of texts and tokenizer.

The tokenizer gets pieces of bounded length, a bounded number at a time, so that documents of any size fit into memory.
blocks.py brings the batches and collects the blocks.
"""

import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from datasets import Features, Sequence, Value
from transformers import PreTrainedTokenizerBase

from ..files.messages import short_repr

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")  # half a character, which no tokenizer takes
_CALL_CHARS = 1 << 20  # text a tokenizer call: its encodings take some hundred bytes a token
_PIECE_CHARS = 1 << 15  # longest text the tokenizer sees


@dataclass(frozen=True, eq=False)
class TextPacker:
    """Turns texts into blocks `[CLS] … [SEP]` of equal length; pickled, it is part of cached blocks' fingerprint.

    Args:
        tokenizer: With a class and a separator token.
        max_seq_length: Tokens a block, special ones included; 3 or more.
        text_column: The texts' column, for messages.
        format_version: Raised with every change of the blocks of a text: the fingerprint holds this class's name, not
            its code.
    """

    tokenizer: PreTrainedTokenizerBase
    max_seq_length: int
    text_column: str
    format_version: int = 1

    def __call__(self, texts: Iterable[str | None]) -> dict[str, np.ndarray]:
        """Pack texts into the column `input_ids`, (number of blocks, `max_seq_length`) int32, full blocks only."""
        return {"input_ids": self.cut(self.encode(texts))[0]}

    @property
    def features(self) -> Features:
        """Type of the column `input_ids`."""
        return Features({"input_ids": Sequence(Value("int32"), length=self.max_seq_length)})

    def cut(self, stream: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Cut tokens, int32 (N,), into blocks, int32 (number of blocks, `max_seq_length`), and the tokens left."""
        num_content = self.max_seq_length - 2
        num_blocks = len(stream) // num_content
        blocks = np.empty((num_blocks, self.max_seq_length), dtype=np.int32)
        blocks[:, 0] = self.tokenizer.cls_token_id
        blocks[:, 1:-1] = stream[: num_blocks * num_content].reshape(num_blocks, num_content)
        blocks[:, -1] = self.tokenizer.sep_token_id
        return blocks, stream[num_blocks * num_content :]

    def encode(self, texts: Iterable[str | None]) -> np.ndarray:
        """Tokenize texts into one stream, (number of tokens,) int32, a separator token after each that has any token.

        None and blank texts are skipped; another type than a string is a ValueError.
        """
        # Pieces go to the tokenizer in groups that cut across texts, so a text may end in a later group than it began:
        # `has_tokens` remembers whether the open text has any token yet.
        stream, has_tokens = [np.empty(0, dtype=np.int32)], False
        for group in _groups(self._pieces(texts)):
            ids: list[int] = []
            encoded = self._tokenize([piece for piece, _ in group])
            for piece_ids, (_, is_last) in zip(encoded, group, strict=True):
                ids += piece_ids
                has_tokens = has_tokens or len(piece_ids) > 0
                if is_last and has_tokens:
                    ids.append(self.tokenizer.sep_token_id)
                    has_tokens = False
            stream.append(np.array(ids, dtype=np.int32))
        return np.concatenate(stream)

    def _tokenize(self, pieces: list[str]) -> list[list[int]]:
        return self.tokenizer(
            pieces,
            add_special_tokens=False,
            split_special_tokens=True,  # a literal "[MASK]" in the text is text
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,  # pieces are longer than the model's input by design
        )["input_ids"]

    def _pieces(self, texts: Iterable[str | None]) -> Iterator[tuple[str, bool]]:
        """Yield pieces of bounded length, each with whether it is the last one of its text."""
        for text in texts:
            if text is not None and not isinstance(text, str):
                raise ValueError(
                    f"text_column={self.text_column!r} holds a {type(text).__name__} ({short_repr(text)}), expected "
                    "strings; choose another column or convert it"
                )
            if text is not None and text.strip():
                text = _LONE_SURROGATE.sub("\ufffd", text)
                bounds = _cuts(text)
                yield from ((text[start:end], end == len(text)) for start, end in itertools.pairwise(bounds))


def _cuts(text: str) -> list[int]:
    """Return the bounds of pieces of at most `_PIECE_CHARS`, in front of white space if there is any."""
    bounds = [0]
    while len(text) - bounds[-1] > _PIECE_CHARS:
        start, end = bounds[-1] + 1, bounds[-1] + _PIECE_CHARS
        space = max(text.rfind(" ", start, end), text.rfind("\n", start, end))
        bounds.append(end if space < 0 else space)
    return [*bounds, len(text)]


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
