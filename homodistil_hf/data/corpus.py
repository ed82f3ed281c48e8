"""Text from local files or the Hub: a data set with one column, `text`, and one document a row; and its split.

sources.py finds and reads the files, blocks.py tokenizes and cuts the documents.
"""

import logging
import math
import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import pyarrow.compute
from datasets import Dataset, Features, IterableDataset, Value

from ..files.messages import join_some, short_repr
from .read_line import columns_words
from .sources import concatenated, local_files, read_source
from .triplets import Triplets, column_types, query_column_in, triplets_in

logger = logging.getLogger(__name__)

TextSource = str | os.PathLike[str]
Documents: TypeAlias = Dataset | IterableDataset
_STRING_TYPES = ("string", "large_string", "string_view", "str")
_TEXT = Features({"text": Value("string")})
QUERIES, DOCUMENTS = "queries", "documents"
"""Sides of rows of a query and texts."""
_REPLACED, _WRITTEN = "\ufffd", ("text", "json", "csv")
_HELD_OUT_EVERY = 20  # one document in 20 …
_MOST_HELD_OUT = 2000  # … but no more than this
_HELD_OUT_OF_STREAM = 1000


def load_text(
    source: TextSource | Sequence[TextSource],
    *,
    text_column: str | None = None,
    split: str = "train",
    streaming: bool = False,
    line_by_line: bool = False,
    side: str | None = None,
    argument: str = "train_data",
) -> Documents:
    r"""Load documents from local files, without the network, or from the Hub.

    Parquet, Arrow, JSON and CSV files hold a document a row, or a query, positives and negatives; text files hold
    documents separated by empty lines.
    Bytes that are no UTF-8 become U+FFFD, with a warning; of a stream the first documents are looked at.

    A folder, also one of `save_to_disk`, means all such files below it but hidden ones. If names contain splits
    (`train-00.parquet`, `validation/a.txt`), only files of `split` are read; a missing split is an error. Single
    files and globs are read whatever split their names contain.

    Args:
        source (`str`, path, or a sequence of those):
            A file, a folder, a glob, or else the name of a Hub data set, with a configuration if it has several:
            `"Salesforce/wikitext:wikitext-103-raw-v1"`. The sources of a sequence follow each other.
        text_column (`str`, *optional*):
            Column with the documents; by default `text`, or the only column of strings, where no lists of strings
            lie beside it.
        split (`str`, defaults to `"train"`): Split to take from a folder or a Hub data set.
        streaming (`bool`, defaults to `False`): Read while iterating, instead of converting everything first.
        line_by_line (`bool`, defaults to `False`): Text files hold a document a line.
        side (`str`, *optional*): `"queries"` or `"documents"`: of rows of a query and texts these alone, a query a
            row. By default all are documents.
        argument (`str`, defaults to `"train_data"`): Name of the setting in messages.

    Returns:
        `Dataset` or, for streaming, `IterableDataset`: one column, `text`, of strings or None.

    Raises:
        FileNotFoundError: a local source does not exist.
        ValueError: an empty or unreadable source, an unknown extension, a folder without files of `split`, a missing
            or ambiguous text column, or another `side`.

    Example:
    ```python
    >>> import tempfile
    >>> from pathlib import Path
    >>> file = Path(tempfile.mkdtemp(), "two.txt")
    >>> _ = file.write_text("First document,\nsecond line.\n\nSecond document.")
    >>> [row["text"] for row in load_text(file, streaming=True)]
    ['First document,\nsecond line.', 'Second document.']

    ```
    """
    if side not in (None, QUERIES, DOCUMENTS):
        raise ValueError(f"side={short_repr(side)}: expected {QUERIES!r}, {DOCUMENTS!r} or None")
    sources = source if isinstance(source, list | tuple) else [source]
    if not sources or not all(isinstance(name, str | os.PathLike) for name in sources):
        raise ValueError(
            f"{argument}={short_repr(source)} names no text; expected a file, folder, glob or Hub data set, or a list "
            "of those"
        )
    parts: list[Any] = []
    names = list(map(os.fspath, sources))
    for name in names:
        label = f"{argument}={name!r}"
        origin = local_files(name, split, label) or name
        tables = read_source(origin, split=split, streaming=streaming, label=label, line_by_line=line_by_line)
        parts += [only_text(table, text_column, label, side) for table in tables]
    # count the documents with U+FFFD in written text; of a stream, which is read later, in its first ones
    written = [part for part in parts if part.info.builder_name in _WRITTEN]
    texts = [
        part.data.column("text")
        if isinstance(part, Dataset)
        else pyarrow.array([row["text"] for row in part.take(_HELD_OUT_OF_STREAM)], pyarrow.string())
        for part in written
    ]
    matches = (pyarrow.compute.sum(pyarrow.compute.match_substring(text, _REPLACED)).as_py() for text in texts)
    if num_replaced := sum(number or 0 for number in matches):
        logger.warning(
            "%s: %d of %d documents hold U+FFFD, usually a sign of another encoding; convert the files to UTF-8 first",
            f"{argument}={join_some(map(repr, names))}",
            num_replaced,
            sum(map(len, texts)),
        )
    kinds = {part.info.builder_name for part in parts}
    joined = concatenated(parts)
    joined.info.builder_name = kinds.pop() if len(kinds) == 1 else None
    joined.info.description = "; ".join(dict.fromkeys(part.info.description for part in parts))
    return joined


def only_text(part: Any, text_column: str | None, label: str, side: str | None = None) -> Any:
    """Keep the column with the documents, under the name `text`; its `info.description` names all columns.

    `side`: as in [`load_text`].
    """
    # a stream that does not declare its columns has a first row
    types = (
        {name: type(value).__name__ for name, value in next(iter(part)).items()}
        if part.features is None
        else column_types(part.features)
    )
    if side == QUERIES and text_column is None:
        text_column = query_column_in(name for name, kind in types.items() if kind in _STRING_TYPES)
    triplets = triplets_in(types, with_pairs=True) if text_column is None else None
    if triplets is not None and not {"text"} & types.keys() - {*triplets.read}:
        read = part.select_columns(triplets.read)
        texts = partial(_each_text, triplets, label, slice(1 if side == DOCUMENTS else 0, 2))
        part = read.map(texts, batched=True, with_indices=True, remove_columns=triplets.read, features=_TEXT)
        shown = [name for name in triplets.read if side != DOCUMENTS or name != triplets.query]
        part.info.description = columns_words(shown, types)
        return part
    strings = [name for name, kind in types.items() if kind in _STRING_TYPES]
    lists = [name for name, feature in (part.features or {}).items() if name not in strings and _has_text(feature)]
    only = strings[0] if len(strings) == 1 and not lists else None
    column = text_column or ("text" if "text" in types else only)
    if column is None or column not in types:
        raise ValueError(
            f"{label}: missing text column (text_column={text_column!r}); set text_column to one of strings among "
            f"{', '.join(f'{name} ({kind})' for name, kind in types.items())}"
        )
    if types[column] not in (*_STRING_TYPES, "NoneType"):
        raise ValueError(
            f"{label}: column {column!r} holds {types[column]}, expected strings; the columns of strings are {strings}"
        )
    part = part.select_columns([column])
    part = part if column == "text" else part.rename_column(column, "text")
    part = part if part.features else part.cast(_TEXT)
    part.info.description = columns_words([column], types)
    return part


def _has_text(feature: Any) -> bool:
    """Whether a column holds strings, or lists or objects of strings."""
    if isinstance(feature, dict):
        return any(map(_has_text, feature.values()))
    return getattr(feature, "dtype", None) in _STRING_TYPES or _has_text(getattr(feature, "feature", {}))


def _each_text(
    triplets: Triplets, label: str, wanted: slice, batch: Mapping[str, list[Any]], places: list[int]
) -> dict[str, list[str]]:
    """Those of a query and a text that are `wanted`, of all pairs in rows, each once."""
    pairs = triplets.pairs_in(batch, places, label)
    return {"text": list(dict.fromkeys(text for pair in pairs for text in pair[wanted]))}


def is_running_text(documents: Dataset | IterableDataset) -> bool:
    """Whether documents are the paragraphs of text files, headings among them, and no rows of tables."""
    return bool(documents.info.builder_name == "text")


def _divided(documents: IterableDataset) -> tuple[IterableDataset, IterableDataset]:
    """A stream without the documents that are held out, whose other shards stay shards, and these documents."""
    num_left, parts, held_out = _HELD_OUT_OF_STREAM, [], []
    for place in range(documents.num_shards):
        part = documents.shard(documents.num_shards, place)
        if num_left:
            num_taken = sum(1 for _ in part.take(num_left))
            held_out.append(part.take(num_taken))
            num_left -= num_taken
            part = part.skip(num_taken)
            if next(iter(part), None) is None:  # all of it is held out
                continue
        parts.append(part)
    left, kept_back = (concatenated(some) for some in (parts or [documents.skip(_HELD_OUT_OF_STREAM)], held_out))
    for one in (left, kept_back):
        one.info.builder_name, one.info.description = documents.info.builder_name, documents.info.description
    return left, kept_back


def hold_out(documents: Documents, *, label: str = "train_data") -> tuple[Documents, Documents, str]:
    """Split documents into those to train on and those to evaluate on, by position and so always alike.

    Of a table every 20th document is held out, of a stream the first ones.

    Returns:
        Documents to train on, documents held out, and their number in words such as `1 of 3 documents`.

    Raises:
        ValueError: there is one document, or none; or a stream has no document after the held-out ones.

    Example:
    ```python
    >>> train, held_out, words = hold_out(Dataset.from_dict({"text": ["a", "b", "c"]}))
    >>> train["text"][:], held_out["text"][:], words
    (['a', 'b'], ['c'], '1 of 3 documents')

    ```
    """
    if isinstance(documents, IterableDataset):
        left, kept_back = _divided(documents)
        if next(iter(left), None) is None:
            raise ValueError(
                f"eval_data is not set and {label}, a stream of at most {_HELD_OUT_OF_STREAM:,} documents, has no "
                "text to train on beside what is held out; name eval_data, or leave out streaming"
            )
        return left, kept_back, f"the first {_HELD_OUT_OF_STREAM:,} documents"
    num_documents = len(documents)
    if num_documents < 2:
        remedy = ""
        if is_running_text(documents):
            lines = sum(bool(line.strip()) for text in documents["text"] for line in text.splitlines())
            remedy = f" of {lines:,} lines, as an empty line parts documents: set line_by_line for one a line"
        raise ValueError(
            f"{label} has {num_documents} document{'s' * (not num_documents)}{remedy}; expected 2 or more, or "
            "documents as eval_data"
        )
    every = min(max(_HELD_OUT_EVERY, math.ceil(num_documents / _MOST_HELD_OUT)), num_documents)
    held_out = range(every - 1, num_documents, every)
    kept = [place for place in range(num_documents) if place not in held_out]
    return documents.select(kept), documents.select(held_out), f"{len(held_out):,} of {num_documents:,} documents"
