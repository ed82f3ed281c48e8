"""Tags of words, from rows of words or of texts with spans → labels of tokens.

A word's first token has its tag, its other tokens and special ones count for nothing: the usual scheme, which Hugging
Face's examples have. Words of a text with spans are those of the model's tokenizer, cut where spans begin and end:
scripts without spaces have no other words, and two spans may share one (`10` and `km` of "10km").
"""

import itertools
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from ..data.masking import IGNORED_LABEL, UNKNOWN_CLASS
from ..files.messages import short_repr
from ..models.tokenizers import as_it_was
from .columns import ReadRows, class_names, is_missing
from .kinds import names_of
from .labels import as_list, class_numbers
from .metrics import spans_of

logger = logging.getLogger(__name__)

Place = tuple[int, int]
"""Where a part of a text begins and ends, in characters."""
_TYPES = ("label", "type", "tag", "entity", "entity_group", "entity_type", "class", "labels")
_STARTS, _ENDS = ("start", "start_offset", "begin", "start_char"), ("end", "end_offset", "end_char", "stop")
_TEXTS = ("text", "surface", "surface_form", "mention")


class TaggedText(NamedTuple):
    """A text with its words.

    Args:
        text: the text.
        words: where each word begins and ends, in characters.
        tags: a class each, `IGNORED_LABEL` for none, `UNKNOWN_CLASS` where the row has no tags; before they are
            numbered the rows' own, or None.
    """

    text: str
    words: list[Place]
    tags: Any


def tagged_texts(part: ReadRows, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> list[TaggedText]:
    """Texts with the tags of their words.

    Args:
        part: of words and tags, a list each; or of texts and spans, `[start, end, type]` or objects with these.
        config: of the model, whose classes the tags are.
        tokenizer: of the model, with offsets; its words are those of texts with spans.

    Raises:
        ValueError: a tokenizer without offsets, a tag that is none of the model's, or tags that are not one a word.
    """
    if not tokenizer.is_fast:
        raise ValueError(
            f"tokenizer={type(tokenizer).__name__} has no offsets, by which tokens find their words; expected a fast "
            "one, with a tokenizer.json"
        )
    rows, columns, argument, _ = part
    cells = rows[columns.texts[0]][:]
    found = rows[columns.labels[0]][:] if columns.labels else [None] * len(rows)
    where = f"{argument}: column {columns.labels[0]!r}" if columns.labels else argument
    if columns.are_words:
        texts = []
        for cell, row in zip(cells, found, strict=True):
            words = [str(word) for word in entries_of(cell)]
            starts = itertools.accumulate((len(word) + 1 for word in words), initial=0)  # with the space between
            places = [(start, start + len(word)) for word, start in zip(words, starts, strict=False)]
            # an empty list beside words is no tagging
            tags = None if is_missing(row) or (row == [] and words) else entries_of(row)
            texts.append(TaggedText(" ".join(words), places, tags))
    else:
        texts = marked_texts(cells, found, names_of(config), tokenizer, where, part.row)
    for place, (_, places, tags) in enumerate(texts):
        if tags is not None and len(tags) != len(places):
            raise ValueError(
                f"{where} has {len(tags)} tags for {len(places)} words in {part.row(place)}; expected one a word: "
                "correct or drop the row"
            )
    own_names = class_names(rows.features[columns.labels[0]]) if columns.labels else []
    given = in_scheme([one.tags for one in texts], own_names, names_of(config), where)
    # number all tags at once, then deal them out to their rows
    flat = [tag for row in given if row is not None for tag in row if not _is_none(tag)]
    numbers = iter(class_numbers(flat, config, own_names, where))
    return [
        text._replace(
            tags=[UNKNOWN_CLASS] * len(text.words)
            if row is None
            else [IGNORED_LABEL if _is_none(tag) else next(numbers) for tag in row]
        )
        for text, row in zip(texts, given, strict=True)
    ]


def entries_of(cell: Any) -> list[Any]:
    """Entries of a list, of one written as JSON, or the words of a text."""
    return cell.split() if isinstance(cell, str) and not cell.lstrip().startswith("[") else as_list(cell)


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
    scheme, converted = Scheme(names), []
    for tags in known:
        spans = [Span(first, last + 1, kind) for first, last, kind in spans_of(tags)]
        new = scheme.tags(spans, [(place, place + 1) for place in range(len(tags))])
        converted.append([own if "-" in tag else tag or None for tag, own in zip(tags, new, strict=True)])
    found = iter(converted)
    return [None if row is None else next(found) for row in rows]


def _is_none(tag: Any) -> bool:
    return is_missing(tag) or str(tag) == str(IGNORED_LABEL)


def tagged_tokens(
    batch: Mapping[str, Sequence[Any]], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> dict[str, Any]:
    """Tokenize [`TaggedText`]s, a column a field, with `labels`, one a token: a word's first token has its tag."""
    with as_it_was(tokenizer):
        encoded = tokenizer(
            batch["text"],
            truncation=True,
            max_length=max_length,
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
        )
    offsets, special = encoded.pop("offset_mapping"), encoded.pop("special_tokens_mask")
    labels = []
    for words, tags, places, are_special in zip(batch["words"], batch["tags"], offsets, special, strict=True):
        word_of = {place: word for word, (first, last) in enumerate(words) for place in range(first, last)}
        of_row, seen = [], -1
        for (first, last), is_special in zip(places, are_special, strict=True):
            # A token's last character: its first may be the space before the word.
            word = -1 if is_special or last <= first else word_of.get(last - 1, -1)
            of_row.append(tags[word] if word > seen else IGNORED_LABEL)
            seen = max(seen, word)
        labels.append(of_row)
    return {**encoded, "labels": labels}


# Spans of characters, as tools for annotation write them


class Span(NamedTuple):
    """A part of a text, its type, and the words that the row itself has for it; None for what it hasn't."""

    start: Any
    end: Any
    kind: Any
    text: Any = None


def read_span(span: Any) -> Span:
    """Read `[start, end, type]`, or an object with these; all None for anything else."""
    if isinstance(span, Mapping):
        names = (_STARTS, _ENDS, _TYPES, _TEXTS)
        start, end, kind, text = (
            next((span[name] for name in some if span.get(name) is not None), None) for some in names
        )
    elif isinstance(span, list) and len(span) >= 3:
        start, end, kind = (int(part) if isinstance(part, str) and part.isdigit() else part for part in span[:3])
        text = None
    else:
        return Span(None, None, None)
    if isinstance(kind, list) and len(kind) == 1:  # as labels may be
        kind = kind[0]
    return Span(start, end, kind, text)


def marked_texts(
    texts: Sequence[str],
    cells: Sequence[Any],
    names: Collection[str],
    tokenizer: PreTrainedTokenizerBase,
    where: str,
    row: Callable[[int], str],
) -> list[TaggedText]:
    """Words of texts with the tags that spans give them; spans that no token tells apart are counted in a warning.

    Args:
        texts: a text a row.
        cells: a list of spans a row; None where a row has none to learn.
        names: tags of the model, whose scheme is used.
        tokenizer: of the model, with offsets.
        where: begins messages.
        row: place of a row → what messages call it.

    Raises:
        ValueError: with the row: a span outside of its text, of other words than the row says, or of blanks.
    """
    rows = [
        None if is_missing(cell) else [_checked(entry, text, f"{where}: {row(place)}") for entry in as_list(cell)]
        for place, (text, cell) in enumerate(zip(texts, cells, strict=True))
    ]
    words = _words(texts, [{edge for span in spans or () for edge in span[:2]} for spans in rows], tokenizer)
    scheme = Scheme(names)
    tags = [None if spans is None else scheme.tags(spans, of_row) for spans, of_row in zip(rows, words, strict=True)]
    every = [(span, of_row) for spans, of_row in zip(rows, words, strict=True) for span in spans or ()]
    lost = sum(not _inside(span, of_row) for span, of_row in every)
    blank = sum(
        text[end - 1].isspace() or text[start].isspace()
        for text, spans in zip(texts, rows, strict=True)
        for start, end, *_ in spans or ()
    )
    for count, words_of in (
        (lost, "count for nothing, as the tokenizer joins them with what stands beside them"),
        (blank, "begin or end with a blank; do their offsets count characters of this text, an emoji as one?"),
    ):
        if count:
            logger.warning("%s: %s of %s spans %s", where, f"{count:,}", f"{len(every):,}", words_of)
    return [TaggedText(*row) for row in zip(texts, words, tags, strict=True)]


def _checked(entry: Any, text: str, where: str) -> Span:
    """Read a span; a ValueError where it is none of the text's."""
    span = read_span(entry)
    start, end = span.start, span.end
    if not isinstance(start, int) or not isinstance(end, int) or not 0 <= start < end <= len(text):
        remedy = "; tags of words stand beside a list of words, tokens" if isinstance(entry, str) else ""
        raise ValueError(
            f"{where} has the span {short_repr(entry)} in a text of {len(text)} characters; expected start, end "
            f"(behind the last character, counted from 0) and a type{remedy}"
        )
    if not text[start:end].strip():
        raise ValueError(f"{where} has the span {short_repr(entry)}, which covers no word: drop it")
    if isinstance(span.text, str) and span.text.strip() not in ("", text[start:end].strip()):
        raise ValueError(
            f"{where} has the span {short_repr(entry)}, but {short_repr(text[start:end])} stands there; count its "
            "offsets in characters of this text, from 0"
        )
    return span


def _words(texts: Sequence[str], edges: Sequence[set[int]], tokenizer: PreTrainedTokenizerBase) -> list[list[Place]]:
    """The tokenizer's words, cut at the edges, without the parts that no token ends in."""
    with as_it_was(tokenizer):
        encoded = tokenizer(list(texts), add_special_tokens=False, truncation=False, verbose=False)
    return [
        _parts(text, cuts, one.offsets, one.word_ids)
        for text, cuts, one in zip(texts, edges, encoded.encodings, strict=True)
    ]


def _parts(text: str, cuts: set[int], offsets: Sequence[Place], word_ids: Sequence[int | None]) -> list[Place]:
    places: dict[int, Place] = {}
    ends = set()
    for (first, last), word in zip(offsets, word_ids, strict=True):
        if word is not None and first < last:
            begun, ended = places.get(word, (first, last))
            places[word] = min(begun, first), max(ended, last)
            ends.add(last - 1)
    parts, behind = [], 0
    for first, last in sorted(places.values()):
        # a token may begin with the blank before its word, or share a character with the one before
        first = max(first, behind)
        while first < last and text[first].isspace():
            first += 1
        borders = [first, *sorted(cut for cut in cuts if first < cut < last), last]
        parts += [(one, other) for one, other in itertools.pairwise(borders) if ends & {*range(one, other)}]
        behind = max(behind, last)
    return parts


def _inside(span: Span, words: Sequence[Place]) -> list[int]:
    """Numbers of the words that share a character with a span."""
    return [number for number, (first, last) in enumerate(words) if first < span.end and span.start < last]


class Scheme:
    """Spans of characters → names of classes, in the model's scheme: `B-PER`, `I-PER` and, where it has them, ends."""

    def __init__(self, names: Collection[str]):
        self.names = set(names)
        outside = [name for name in names if name.casefold() in ("o", "0", "outside", "none")]
        self.outside = outside[0] if outside else "O"
        # schemes with ends mark last words by E or L, single ones by S or U
        prefixes = {name[:2] for name in names}
        self.last = next((mark for mark in ("E-", "L-") if mark in prefixes), "I-")
        self.only = next((mark for mark in ("S-", "U-") if mark in prefixes), "B-")

    def tags(self, spans: Sequence[Span], words: Sequence[Place]) -> list[str]:
        """A tag a word, which is where it begins and ends in the characters that spans count."""
        tags = [self.outside] * len(words)
        for span in spans:
            inside = _inside(span, words)
            for place in inside:
                mark = "B-" if place == inside[0] else self.last if place == inside[-1] else "I-"
                mark = self.only if len(inside) == 1 else mark
                # some schemes have I- alone
                names = (name for name in (f"{mark}{span.kind}", f"I-{span.kind}") if name in self.names)
                tags[place] = next(names, str(span.kind))
        return tags
