"""Rows, labels and batches of a trainer: looked at before training as far as that is fast, the rest batch by batch."""

import hashlib
import logging
from collections.abc import Mapping, Sequence, Sized
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch.utils.data import IterableDataset
from transformers import PreTrainedTokenizerBase

from ..data.masking import IGNORED_LABEL
from ..distillation.tasks import Task
from ..files.messages import first_of, join_some, short_repr
from ..models.architectures import has_segments, max_tokens
from ..models.tokenizers import check_ids, check_tokenizer
from .raw_rows import named_sets

logger = logging.getLogger(__name__)

_NUM_ROWS = 10_000
"""Rows of a table whose tokens are looked at: one with an index (`shuffle`, `select`) is read row by row."""

_LABEL_COLUMNS = ("label_ids", "label", "labels")
"""Columns that transformers' collators make labels of; the first that is there wins."""

_REMEDIES = {
    "DatasetDict": "one of its parts, such as {name}['train']",
    "IterableDatasetDict": "one of its parts, such as {name}['train']",
    "BatchEncoding": "datasets.Dataset.from_dict(dict({name}))",
    "dict": "datasets.Dataset.from_dict({name}) where it has columns, or one of its values where those are data sets",
    "DataFrame": "datasets.Dataset.from_pandas({name})",
    "Table": "datasets.Dataset({name})",
    "DataLoader": "its data set, {name}.dataset, and its collate_fn as data_collator",
    "Tensor": "datasets.Dataset.from_dict({{'input_ids': {name}.tolist()}})",
    "ndarray": "datasets.Dataset.from_dict({{'input_ids': {name}.tolist()}})",
    "str": "homodistil_hf.tokenize_to_blocks(homodistil_hf.load_text([{name}]), tokenizer)",
    "PurePath": "homodistil_hf.tokenize_to_blocks(homodistil_hf.load_text([str({name})]), tokenizer)",
}
"""Class, or parent class, of something that has rows, but gives none of them → the remedy."""

_DIGESTED_AT_ONCE = 1000


def check_data(data: Mapping[str, Any], tokenizer: Any, config: Any) -> None:
    """Check the data before training starts.

    Args:
        data: argument name → data set, or a mapping of them; None and streams are let pass.
        tokenizer: compared with the teacher's vocabulary if it is a tokenizer.
        config: the student's configuration.

    Raises:
        ValueError: an empty data set, rows that are not tokenized, sequences longer than the teacher's positions, or a
            tokenizer of another vocabulary.
    """
    if isinstance(tokenizer, PreTrainedTokenizerBase):
        check_tokenizer(tokenizer, config)
    check_kind("train_dataset", data.get("train_dataset"))  # a run trains on one set, but evaluates several by name
    for name, rows in named_sets(data).items():
        check_kind(name, rows)
        _check_rows(name, rows, config)


def check_kind(name: str, dataset: Any) -> None:
    """Refuse, by a ValueError that names what to give, an object that Trainer can't draw rows from."""
    # by the names of all parent classes: pandas need not be imported, and a PosixPath is a PurePath
    words = {kind.__name__ for kind in type(dataset).__mro__}
    remedy = next((remedy for kind, remedy in _REMEDIES.items() if kind in words), None)
    is_drawn = isinstance(dataset, IterableDataset | datasets.IterableDataset) or hasattr(type(dataset), "__getitem__")
    if remedy is None and dataset is not None and not is_drawn:
        remedy = "datasets.IterableDataset.from_generator(function), or a list of rows"
    if remedy is not None:
        raise ValueError(
            f"{name} is a {type(dataset).__name__}; expected rows, as a datasets.Dataset has them: give "
            f"{remedy.format(name=name)}"
        )


def _check_rows(name: str, rows: Any, config: Any) -> None:
    if not isinstance(rows, Sized) or isinstance(rows, IterableDataset):
        return
    if len(rows) == 0:
        raise ValueError(f"{name} is empty (0 rows); check its filters, split and path")
    table: Any = rows
    first = table[0]
    # A collator of the user's own may take other rows, but not a column for a set by name.
    if isinstance(first, str) or (isinstance(rows, list) and "[" in name and not isinstance(first, Mapping)):
        raise ValueError(
            f"{name} has a row {short_repr(first)}; expected mappings with input_ids: columns become rows with "
            "datasets.Dataset.from_dict, texts with homodistil_hf.tokenize_to_blocks"
        )
    if isinstance(first, Mapping) and "input_ids" not in first:
        as_table = f"it as datasets.Dataset.from_list({name}) and " if isinstance(rows, list) else ""
        raise ValueError(
            f"{name} has rows of {first_of(map(str, first)) or 'nothing'}, but no input_ids; tokenize it first "
            f"(masked words: homodistil_hf.tokenize_to_blocks), or give {as_table}its tokenizer as processing_class, "
            "without a data_collator"
        )
    # a transform may make input_ids of other columns
    is_table = isinstance(rows, datasets.Dataset) and "input_ids" in rows.column_names
    try:
        if is_table:
            tokens = table.select_columns("input_ids").with_format("arrow")[:_NUM_ROWS]["input_ids"]
            longest = pc.max(pc.list_value_length(tokens)).as_py() or 0
        else:
            longest = len(first["input_ids"]) if isinstance(first, Mapping) else 0
    except (TypeError, NotImplementedError) as error:  # Arrow raises the latter for values without a length
        raise ValueError(
            f"{name} has a row with input_ids={short_repr(first['input_ids'])}; expected a list of token ids "
            "(masked words: homodistil_hf.tokenize_to_blocks)"
        ) from error
    _check_length(name, longest, config)
    if is_table and longest:
        ids = pc.min_max(pc.list_flatten(tokens))
        check_ids(name, ids["min"].as_py(), ids["max"].as_py(), config.vocab_size)


def _check_length(name: str, length: int, config: Any) -> None:
    if length > (limit := max_tokens(config)):
        raise ValueError(
            f"{name} has sequences of {length} tokens, above the teacher's positions={limit}; set "
            "max_seq_length to at most that, in a script the max_length of what tokenizes them"
        )


def check_label_rows(
    data: Mapping[str, Any], task: Task, collator: Any, *, class_names: Sequence[str] = (), evaluates: bool = False
) -> None:
    """Look at all labels of tables before training; answers' places, streams and lists are seen batch by batch.

    Args:
        data: as in [`check_data`].
        task: of the student.
        collator: of the data; None: Trainer's. What a user's own makes of a row is seen in its batches alone.
        class_names: of the model, by number.
        evaluates: whether the run evaluates, for which rows need labels; those of training always do.

    Raises:
        ValueError: labels that are missing, no numbers, out of the task's range, too many or too few for their row,
            or numbered otherwise than the model's classes.
    """
    is_stock = collator is None or getattr(collator, "__module__", "").startswith("transformers.")
    if task.is_pretraining or not is_stock:
        return
    # labels in one column may have any of the names, while an answer needs all its columns
    names = _LABEL_COLUMNS if task.required_labels == ("labels",) else task.required_labels
    for name, rows in named_sets(data).items():
        # streams, lists and rows that a transform makes are seen in their batches
        if not isinstance(rows, datasets.Dataset) or rows.format["type"] == "custom":
            continue
        is_there = [column in rows.column_names for column in names]
        has_labels = any(is_there) if names is _LABEL_COLUMNS else all(is_there)
        if not has_labels and (evaluates or name == "train_dataset"):
            raise ValueError(
                f"{name} has the columns {first_of(rows.column_names)}, but not {', '.join(task.required_labels)}; "
                "rename the column that holds the labels"
            )
        if has_labels and names is _LABEL_COLUMNS:
            column = names[is_there.index(True)]
            _check_class_names(f"column {column!r} of {name}", rows.features[column], class_names)
            num_tokens = pc.list_value_length(rows.data.column("input_ids"))
            _check_label_column(
                f"column {column!r} of {name}",
                _chosen_rows(rows, rows.data.column(column)),
                _chosen_rows(rows, num_tokens),
                task,
            )


def _check_class_names(where: str, feature: Any, class_names: Sequence[str]) -> None:
    """Refuse rows that number a class of the model otherwise; names of one side only are let pass."""
    numbers = {name.casefold(): number for number, name in enumerate(class_names)}
    # a column of tags is a list around the feature with the names
    for number, name in enumerate(getattr(getattr(feature, "feature", feature), "names", ())):
        expected = numbers.get(name.casefold(), number)
        if expected != number:
            raise ValueError(
                f"{where} has {name!r} as class {number}, the model as class {expected}; number the rows as the model "
                "does: rows.align_labels_with_mapping(model.config.label2id, column)"
            )


def _chosen_rows(rows: datasets.Dataset, column: pa.ChunkedArray) -> pa.ChunkedArray:
    """What `shuffle` and `select` left of a table's column, in the table's own order: any other takes seconds."""
    if rows._indices is None:
        return column
    # a mask over the table's rows, as _indices may name them in any order
    is_chosen_R = np.zeros(len(column), dtype=bool)
    is_chosen_R[rows._indices.column(0).to_numpy()] = True
    return column if is_chosen_R.all() else column.filter(pa.array(is_chosen_R))


def _check_label_column(where: str, labels: pa.ChunkedArray, num_tokens: pa.ChunkedArray, task: Task) -> None:
    is_listed = pa.types.is_nested(labels.type)
    num_missing, values = labels.null_count, pc.list_flatten(labels) if is_listed else labels
    if num_missing or values.null_count:
        raise ValueError(f"{where} has rows without a label; drop them")
    if not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type) or pa.types.is_boolean(values.type)):
        raise ValueError(
            f"{where} holds values of type {values.type}; expected numbers, such as 0 for the first class"
        )
    # (tokens, labels) of all rows, each pair once: a table has far fewer pairs than rows
    sizes = {"tokens": num_tokens} | ({"labels": pc.list_value_length(labels)} if is_listed else {})
    different = pa.table(sizes).group_by([*sizes]).aggregate([]).to_pylist()
    for num_labels, row_tokens in sorted((size.get("labels", 1), size["tokens"]) for size in different):
        task.check_count(num_labels, row_tokens, where)
    counts = False
    for chunk in values.chunks:
        numbers = torch.tensor(chunk.to_numpy(zero_copy_only=False))
        task.check_values(numbers, where)
        counts = counts or bool((numbers != IGNORED_LABEL).any())
    if task.has_classes and not counts:
        raise ValueError(f"{where} has no label but {IGNORED_LABEL}, which counts for none; check how labels are made")


def rows_digest(rows: Any, *, num_rows: int | None = 1024) -> str | None:
    """Tell a `Dataset`'s rows from others: their number, and a digest of so many, evenly spread; None: of all.

    None of a stream, or of rows of any other kind, which may be other ones whenever they are read.
    """
    if not isinstance(rows, datasets.Dataset):
        return None
    places = np.linspace(0, len(rows) - 1, num=min(num_rows or len(rows), len(rows)), dtype=int)
    digest, whole = hashlib.sha256(), rows.with_format("arrow")  # so images are not decoded
    for start in range(0, len(places), _DIGESTED_AT_ONCE):
        part = whole[places[start : start + _DIGESTED_AT_ONCE]].to_pylist()
        # images have the path of the file that they were read from
        told = [{name: _without_path(cell) for name, cell in row.items()} for row in part]
        digest.update(repr(told).encode("utf-8"))
    return f"{len(rows):,} rows, digest {digest.hexdigest()[:8]}"


def _without_path(cell: Any) -> Any:
    is_file = isinstance(cell, dict) and cell.keys() == {"bytes", "path"} and cell["bytes"] is not None
    return {"bytes": cell["bytes"]} if is_file else cell


def checked_batch(batch: Mapping[str, Any], config: Any) -> dict[str, Any]:
    """Return a batch without segments that the model lacks, after a look at its `input_ids` `(B, T)`.

    Shapes are read everywhere, token ids on the CPU alone, as no other device should be waited for.

    Raises:
        ValueError: sequences over the teacher's positions, or token ids that it doesn't have.
    """
    if "input_ids" in batch:
        tokens_BT = batch["input_ids"]
        _check_length("a batch", tokens_BT.shape[-1], config)
        if tokens_BT.device.type == "cpu" and tokens_BT.numel():
            check_ids("a batch", int(tokens_BT.min()), int(tokens_BT.max()), config.vocab_size)
    return {name: value for name, value in batch.items() if name != "token_type_ids" or has_segments(config)}


def check_labels(batch: Mapping[str, Any], task: Task, collator: Any) -> None:
    """Refuse a training batch without the labels that a task needs; `Task.with_positions` looks at them."""
    missing = [name for name in task.required_labels if name not in batch]
    if missing:
        raise ValueError(
            f"a training batch has {join_some(batch)}, but not {', '.join(missing)}; check the columns of "
            f"train_dataset and the data_collator ({type(collator).__name__})"
        )
