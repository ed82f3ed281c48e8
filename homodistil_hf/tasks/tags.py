"""Tags of words, from rows of words or of texts with spans → labels of tokens.

A word's first token has its tag, its other tokens and special ones count for nothing: the usual scheme, which Hugging
Face's examples have.
"""

import itertools
import logging
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from datasets import Dataset
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from ..data.masking import IGNORED_LABEL, UNKNOWN_CLASS
from ..models.tokenizers import as_it_was
from .columns import Columns, class_names, is_missing
from .kinds import names_of
from .labels import as_list, class_numbers
from .spans import Scheme, Span, marked_texts

logger = logging.getLogger(__name__)


class TaggedText(NamedTuple):
    """A text with its words.

    Args:
        text: the text.
        words: where each word begins and ends, in characters.
        tags: a class each; `IGNORED_LABEL` for none, `UNKNOWN_CLASS` where the row has no tags.
    """

    text: str
    words: list[tuple[int, int]]
    tags: list[int]


def tagged_texts(
    rows: Dataset, columns: Columns, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, argument: str
) -> list[TaggedText]:
    """Texts with the tags of their words.

    Args:
        rows: of words and tags, a list each; or of texts and spans, `[start, end, type]` or objects with these.
        columns: those that were found.
        config: of the model, whose classes the tags are.
        tokenizer: of the model, with offsets; its words are those of texts with spans.
        argument: the user's name for the rows in messages.

    Raises:
        ValueError: a tokenizer without offsets, a tag that is none of the model's, or tags that are not one a word.
    """
    if not tokenizer.is_fast:
        raise ValueError(
            f"tokenizer={type(tokenizer).__name__} has no offsets, by which tokens find their words; expected a fast "
            "one, with a tokenizer.json"
        )
    cells = rows[columns.texts[0]][:]
    found = rows[columns.labels[0]][:] if columns.labels else [None] * len(rows)
    where = f"{argument}: column {columns.labels[0]!r}" if columns.labels else argument
    if columns.are_words:
        texts = []
        for cell in cells:
            words = [str(word) for word in entries_of(cell)]
            starts = itertools.accumulate((len(word) + 1 for word in words), initial=0)  # with the space between
            places = [(start, start + len(word)) for word, start in zip(words, starts, strict=False)]
            texts.append((" ".join(words), places))
        # an empty list beside words is no tagging
        tags = [
            None if is_missing(row) or (row == [] and words) else entries_of(row)
            for row, (_, words) in zip(found, texts, strict=True)
        ]
    else:
        marked = marked_texts(cells, found, names_of(config), tokenizer, where)
        texts = [(one.text, one.words) for one in marked]
        tags = [one.tags for one in marked]
    own_names = class_names(rows.features[columns.labels[0]]) if columns.labels else []
    numbers = _numbers(tags, [len(words) for _, words in texts], config, own_names, where)
    return [TaggedText(text, words, of_row) for (text, words), of_row in zip(texts, numbers, strict=True)]


def entries_of(cell: Any) -> list[Any]:
    """Entries of a list, of one written as JSON, or the words of a text."""
    return cell.split() if isinstance(cell, str) and not cell.lstrip().startswith("[") else as_list(cell)


def _numbers(
    tags: Sequence[list[Any] | None],
    num_words: Sequence[int],
    config: PreTrainedConfig,
    own_names: Sequence[str],
    where: str,
) -> list[list[int]]:
    for place, (row, expected) in enumerate(zip(tags, num_words, strict=True), 1):
        if row is not None and len(row) != expected:
            raise ValueError(
                f"{where} has {len(row)} tags for {expected} words in row {place:,}; expected one a word: correct or "
                "drop the row"
            )
    tags = in_scheme(tags, own_names, names_of(config), where)
    # number all tags at once, then deal them out to their rows
    flat = [tag for row in tags if row is not None for tag in row if not _is_none(tag)]
    numbers = iter(class_numbers(flat, config, own_names, where))
    return [
        [UNKNOWN_CLASS] * expected
        if row is None
        else [IGNORED_LABEL if _is_none(tag) else next(numbers) for tag in row]
        for row, expected in zip(tags, num_words, strict=True)
    ]


_SCHEMES = {"BILOU": "LU", "BIOES": "ES"}
"""Schemes with marks of their own: for a span's last word, and for its only one."""


def scheme_of(rows: Iterable[Sequence[str]]) -> str | None:
    """The scheme of tags, by their marks: BILOU, BIOES, BIO, IOB1, IO; None for any other.

    IOB1 has `B-` only where a span follows one of its own type. IO has `I-` alone.
    """
    marks, begins, goes_on = set(), False, False
    for row in rows:
        last = ""
        for tag in row:
            mark, _, kind = tag.partition("-")
            if kind:
                marks.add(mark)
                begins |= mark == "B" and kind != last
                goes_on |= mark == "I" and kind != last
            last = kind
    if marks <= {*"BI"}:
        # IOB1's first words have I-, which no span in BIO begins with
        return ("IOB1" if "B" in marks else "IO") if goes_on and not begins else "BIO" if marks else None
    return next((name for name, own in _SCHEMES.items() if marks & {*own} and marks <= {*"BI", *own}), None)


def in_scheme(
    rows: Sequence[list[Any] | None], own_names: Sequence[str], names: Sequence[str], where: str
) -> Sequence[list[Any] | None]:
    """Tags in the scheme of a model's names: BIO, BILOU or BIOES; as they are where either scheme is another."""
    named = [
        [own_names[tag] if isinstance(tag, int) and 0 <= tag < len(own_names) else tag for tag in row]
        for row in rows
        if row is not None
    ]
    known = [["" if _is_none(tag) else tag for tag in row] for row in named]
    if not all(isinstance(tag, str) for row in known for tag in row):
        return rows
    given, wanted = scheme_of(known), scheme_of([name] for name in names if name[:2] != "I-")
    if given in (None, wanted) or wanted is None:
        return rows
    logger.warning("%s has tags of the scheme %s, which are read as the model's, %s", where, given, wanted)
    scheme, found = Scheme(names), iter(known)
    return [None if row is None else _converted(next(found), scheme) for row in rows]


def _converted(tags: Sequence[str], scheme: Scheme) -> list[str | None]:
    spans: list[Span] = []
    is_open = False
    for place, tag in enumerate(tags):
        mark, _, kind = tag.partition("-")
        if kind and is_open and mark not in "BSU" and spans[-1].kind == kind:
            spans[-1] = spans[-1]._replace(end=place + 1)
        elif kind:
            spans.append(Span(place, place + 1, kind))
        is_open = bool(kind) and mark in "BI"
    converted = scheme.tags(spans, [(place, place + 1) for place in range(len(tags))])
    return [new if "-" in tag else tag or None for tag, new in zip(tags, converted, strict=True)]


def _is_none(tag: Any) -> bool:
    return is_missing(tag) or tag == IGNORED_LABEL


def tagged_tokens(texts: Sequence[TaggedText], tokenizer: PreTrainedTokenizerBase, max_length: int) -> dict[str, Any]:
    """Tokenize texts, cut behind `max_length` tokens, with `labels`, one a token: a word's first token has its tag."""
    with as_it_was(tokenizer):
        encoded = tokenizer(
            [one.text for one in texts],
            truncation=True,
            max_length=max_length,
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
        )
    offsets, special = encoded.pop("offset_mapping"), encoded.pop("special_tokens_mask")
    labels = []
    for text, places, are_special in zip(texts, offsets, special, strict=True):
        word_of = {place: word for word, (first, last) in enumerate(text.words) for place in range(first, last)}
        of_row, seen = [], -1
        for (first, last), is_special in zip(places, are_special, strict=True):
            # A token's last character: its first may be the space before the word.
            word = -1 if is_special or last <= first else word_of.get(last - 1, -1)
            of_row.append(text.tags[word] if word > seen else IGNORED_LABEL)
            seen = max(seen, word)
        labels.append(of_row)
    return {**encoded, "labels": labels}
