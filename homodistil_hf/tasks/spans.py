"""Spans of characters, as tools for annotation write them → words of a text and a tag each.

Words are those of the model's tokenizer, cut where spans begin and end: scripts without spaces have no other words,
and two spans may share one (`10` and `km` of "10km"). `tags.py` numbers the tags.
"""

import itertools
import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from ..files.messages import short_repr
from ..models.tokenizers import as_it_was
from .columns import is_missing
from .labels import as_list

logger = logging.getLogger(__name__)

Place = tuple[int, int]
"""Where a part of a text begins and ends, in characters."""
_TYPES = ("label", "type", "tag", "entity", "entity_group", "entity_type", "class", "labels")
_STARTS, _ENDS = ("start", "start_offset", "begin", "start_char"), ("end", "end_offset", "end_char", "stop")
_TEXTS = ("text", "surface", "surface_form", "mention")
_NEAR = 64  # characters that an offset may be wrong by, as it is counted by another program


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


class MarkedText(NamedTuple):
    """A text, its words, and the name of a tag for each; no tags where the row has no spans to learn."""

    text: str
    words: list[Place]
    tags: list[str] | None


def marked_texts(
    texts: Sequence[str],
    cells: Sequence[Any],
    names: Collection[str],
    tokenizer: PreTrainedTokenizerBase,
    where: str,
) -> list[MarkedText]:
    """Words of texts with the tags that spans give them; spans that no token tells apart are counted in a warning.

    Args:
        texts: a text a row.
        cells: a list of spans a row; None where a row has none to learn.
        names: tags of the model, whose scheme is used.
        tokenizer: of the model, with offsets.
        where: begins messages.

    Raises:
        ValueError: with the row: a span outside of its text, of other words than the row says, or of blanks.
    """
    moved = 0
    rows: list[list[Span] | None] = []
    for number, (text, cell) in enumerate(zip(texts, cells, strict=True), 1):
        if is_missing(cell):
            rows.append(None)
            continue
        spans = []
        for entry in as_list(cell):
            span = read_span(entry)
            _check(span, entry, text, f"{where}: row {number:,}")
            placed = _placed(span, entry, text, f"{where}: row {number:,}")
            moved += placed != span
            spans.append(placed)
        rows.append(spans)
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
        (moved, "were moved to where their own text stands; their offsets count other characters"),
        (blank, "begin or end with a blank; do their offsets count characters of this text, an emoji as one?"),
    ):
        if count:
            logger.warning("%s: %s of %s spans %s", where, f"{count:,}", f"{len(every):,}", words_of)
    return [MarkedText(*row) for row in zip(texts, words, tags, strict=True)]


def _check(span: Span, entry: Any, text: str, where: str) -> None:
    start, end = span.start, span.end
    if not isinstance(start, int) or not isinstance(end, int) or not 0 <= start < end <= len(text):
        remedy = "; tags of words stand beside a list of words, tokens" if isinstance(entry, str) else ""
        raise ValueError(
            f"{where} has the span {short_repr(entry)} in a text of {len(text)} characters; expected start, end "
            f"(behind the last character, counted from 0) and a type{remedy}"
        )
    if not text[start:end].strip():
        raise ValueError(f"{where} has the span {short_repr(entry)}, which covers no word: drop it")


def _placed(span: Span, entry: Any, text: str, where: str) -> Span:
    """The span at the place of its own text: there, or at the only such place near by."""
    wanted = span.text
    if not isinstance(wanted, str) or not wanted.strip() or text[span.start : span.end].strip() == wanted.strip():
        return span
    first, last = max(0, span.start - _NEAR), span.end + _NEAR
    near = text[first:last]
    if near.count(wanted) != 1:
        raise ValueError(
            f"{where} has the span {short_repr(entry)}, but {short_repr(text[span.start : span.end])} stands there; "
            "count its offsets in characters of this text, from 0"
        )
    start = first + near.index(wanted)
    return span._replace(start=start, end=start + len(wanted))


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
                tags[place] = self._named(self.only if len(inside) == 1 else mark, str(span.kind))
        return tags

    def _named(self, mark: str, kind: str) -> str:
        for name in (f"{mark}{kind}", f"I-{kind}"):  # some schemes have I- alone
            if name in self.names:
                return name
        return kind
