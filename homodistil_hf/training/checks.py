"""Validation of arguments, output folder, data and batches, and of the settings that a run is resumed with.

`pin_data_order` also fixes the settings on which the order of the data depends.
"""

import copy
import logging
import os
from collections.abc import Iterator, Mapping, Sequence, Sized
from typing import Any, NoReturn, Protocol

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch.utils.data import IterableDataset
from transformers import PreTrainedTokenizerBase, TrainingArguments

from ..data.blocks import check_tokenizer
from ..data.masking import IGNORED_LABEL
from ..distillation.tasks import Task
from ..export.run_records import LOG_FILES
from ..files.checkpoints import STAGING_NAME, sorted_checkpoints
from ..files.field_checks import refuse_without_part
from ..files.folders import TRIAL_SUFFIX
from ..files.locks import is_of_a_lock
from ..files.messages import nearest_name, short_repr
from ..models.architectures import has_segments, max_tokens
from ..models.tokenizers import check_ids
from ..training_args import DistillationArguments, ExactArguments, with_settings

logger = logging.getLogger(__name__)

_NUM_ROWS = 10_000
"""Rows of a table whose tokens are looked at: one with an index (`shuffle`, `select`) is read row by row."""

_LABEL_COLUMNS = ("label_ids", "label", "labels")
"""Columns that transformers' collators make labels of; the first that is there wins."""

_TRAINED_ON = "train_dataset"
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

_OF_TRAINER = (
    *("bf16", "fp16", "torch_compile", "seed", "data_seed", "max_steps", "num_train_epochs"),
    *("lr_scheduler_type", "lr_scheduler_kwargs", "train_sampling_strategy", "optim", "optim_args"),
    *("learning_rate", "warmup_steps", "adam_beta1", "adam_beta2", "adam_epsilon", "weight_decay", "max_grad_norm"),
)
"""Settings of Trainer that change the steps to come; `torch_compile` makes masks be chosen at fewer moments."""

_LOADING = (
    ("use_seedable_sampler", False, "every rank must draw its rows in a seeded order"),
    ("dispatch_batches", True, "every rank must make its own batches"),
    ("even_batches", False, "the last batches of a pass would be those of some ranks only, which then drift apart"),
    ("split_batches", True, "the rows of a step would depend on the number of ranks"),
)
"""Setting of data loading, the value that is refused, and why."""


class FolderSettings(Protocol):
    """The settings of a run's folder, which `TrainingArguments` has."""

    output_dir: Any
    overwrite_output_dir: bool
    save_total_limit: int | None
    hub_token: str | None

    @property
    def should_save(self) -> bool:
        """Whether this process writes."""


def own_arguments(args: Any, arguments_class: type[ExactArguments]) -> Any:
    """The run's own copy of its settings, as nothing is written into the caller's object.

    Args:
        args: what the trainer was given.
        arguments_class: of the method.

    Raises:
        ValueError: settings of another class, or one that only shows to be impossible here.
    """
    if not isinstance(args, arguments_class):
        raise ValueError(
            f"args is a {type(args).__name__}, which hasn't all settings of this method; make it a "
            f"{arguments_class.__name__}"
        )
    for name in ("fp16_full_eval", "bf16_full_eval"):
        if getattr(args, name):
            raise ValueError(f"{name}=True would round the student's weights for good; evaluation is in float32")
    return with_settings(args, accelerator_config=copy.copy(args.accelerator_config))


def refuse_replacements(*, model_init: Any, compute_loss_func: Any) -> None:
    """Refuse functions of Trainer's that would replace what this package does."""
    if compute_loss_func is not None:
        raise ValueError(
            f"compute_loss_func={compute_loss_func!r} would replace the distillation loss; leave it out, "
            "and weight the loss's terms with the settings that end in _weight"
        )
    if model_init is not None:
        raise ValueError(
            f"model_init={model_init!r} would replace the student, which starts from model; leave it out, and try "
            "settings with homodistil distill"
        )


def refuse_settings_without_part(args: DistillationArguments, task: Task, *, masks_words: bool) -> None:
    """Refuse settings that change nothing for a model of this task, unless they have their default.

    Args:
        args: the run's settings.
        task: of the student.
        masks_words: whether the run's own collator masks words.
    """
    if task.name == "mlm":
        remedies = {"task_weight": "masked words are its task, whose factor is mlm_weight"}
    else:
        remedies = {"mlm_weight": "its own loss has the factor task_weight"}
    if not task.is_pretraining:
        remedies["mlm_probability"] = "no words are masked; leave it out"
    elif not masks_words:
        remedies["mlm_probability"] = "the given data_collator masks words; set it there"
    refuse_without_part(args, remedies)


def refuse_search(*args: Any, **kwargs: Any) -> NoReturn:
    """Refuse Trainer's search, which makes a model for each trial, where this package's students start from one."""
    raise ValueError(
        "hyperparameter_search would make a new model for each trial, but a student starts from the trainer's; try "
        "settings with homodistil distill"
    )


def check_best_metric(args: TrainingArguments, metrics: Mapping[str, Any]) -> None:
    """Refuse, by a ValueError at the first evaluation, a `metric_for_best_model` that no evaluation has."""
    wanted = str(args.metric_for_best_model)
    known = [name.removeprefix("eval_") for name in metrics]
    if args.metric_for_best_model is not None and wanted.removeprefix("eval_") not in known:
        nearest = nearest_name(wanted, known)
        raise ValueError(f"metric_for_best_model={wanted!r} is in no evaluation; nearest valid: {nearest!r}")


def pin_data_order(args: TrainingArguments) -> None:
    """Make the rows of a step a function of the settings alone, on any number of ranks; changes `args` in place.

    Raises:
        ValueError: a setting by which rows would depend on a global state or on the number of ranks.
    """
    loading = args.accelerator_config
    if args.train_sampling_strategy not in ("random", "sequential"):
        raise ValueError(
            f"train_sampling_strategy={args.train_sampling_strategy!r} draws from the global random state, so a "
            "resumed run would see other batches; use 'random' or 'sequential'"
        )
    if not getattr(args, "dataloader_in_order", True):  # which transformers 5.14 doesn't have
        raise ValueError(
            "dataloader_in_order=False hands out batches in the order in which workers finish, so a resumed run would "
            "see others; leave it out"
        )
    for name, refused, reason in _LOADING:
        if bool(getattr(loading, name)) is refused:
            raise ValueError(f"accelerator_config has {name}={refused}; {reason}: leave it out")
    loading.dispatch_batches = False
    # A transfer from pinned memory to a GPU need not hold up the host.
    loading.non_blocking = loading.non_blocking or (args.dataloader_pin_memory and args.device.type == "cuda")
    if args.data_seed is None:
        args.data_seed = args.seed


def check_output_dir(output_dir: str) -> None:
    """Create the folder of a run, and refuse one that can't be created or written."""
    try:
        os.makedirs(output_dir, exist_ok=True)
        writable = os.access(output_dir, os.W_OK | os.X_OK)
    except OSError as error:
        raise ValueError(
            f"output_dir={output_dir!r} can't be created ({error.strerror}); name a folder that you may write"
        ) from error
    if not writable:
        raise ValueError(f"output_dir={output_dir!r} can't be written; change its permissions or name another folder")


def existing_files(output_dir: str) -> list[str]:
    """Sorted names in an output folder, without what killed processes leave and other ranks try to write there.

    Logs and report of an earlier run are none of them: the next run writes its own.
    """
    names = os.listdir(output_dir) if os.path.isdir(output_dir) else []
    names = [name for name in names if not name.endswith(TRIAL_SUFFIX) and name not in LOG_FILES]
    return sorted(name for name in names if name != STAGING_NAME and not is_of_a_lock(name))


def check_free(args: FolderSettings, earlier_files: Sequence[str], *, has_begun: bool = False) -> None:
    """Refuse to mix a new run with an older one's files, unless it may overwrite them.

    Args:
        args: settings of the new run.
        earlier_files: names in its folder.
        has_begun: whether the older run can go on though it has no checkpoint.
    """
    if earlier_files and not args.overwrite_output_dir:
        goes_on = has_begun or sorted_checkpoints(args.output_dir)
        remedy = "go on with resume_from_checkpoint=last, " if goes_on else ""
        raise ValueError(
            f"output_dir={args.output_dir!r} is not empty ({', '.join(earlier_files[:3])}); {remedy}set "
            "overwrite_output_dir, or name another folder"
        )


def check_same_start(output_dir: str, recorded: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse, by a ValueError, to go on with a run that began with other values; both are name → JSON value."""
    for name, value in now.items():
        if recorded.get(name) != value:
            raise ValueError(
                f"{name}={short_repr(value)} is not what the run in output_dir={output_dir!r} began with, "
                f"{short_repr(recorded.get(name))}; resume with that, or name another folder"
            )


def check_data(data: Mapping[str, Any], tokenizer: Any, config: Any, *, removes_columns: bool = False) -> None:
    """Check the data before training starts.

    Args:
        data: argument name → data set, or a mapping of them; None and streams are let pass.
        tokenizer: compared with the teacher's vocabulary if it is a tokenizer.
        config: the student's configuration.
        removes_columns: whether Trainer removes the columns that the model does not take.

    Raises:
        ValueError: an empty data set, rows that are not tokenized, sequences longer than the teacher's positions, a
            tokenizer of another vocabulary, a transform whose columns would be removed.
    """
    if isinstance(tokenizer, PreTrainedTokenizerBase):
        check_tokenizer(tokenizer, config)
    for name, rows in _parts(data):
        _check_rows(name, rows, config)
        if removes_columns and _tokenizes_late(rows):
            raise ValueError(
                f"{name} makes input_ids by a transform of its columns {', '.join(rows.column_names)}, which Trainer "
                "would remove; set remove_unused_columns=False"
            )


def _tokenizes_late(rows: Any) -> bool:
    """Whether the rows of a table have `input_ids` from a transform alone."""
    return isinstance(rows, datasets.Dataset) and "input_ids" not in rows.column_names


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


def check_source(dataset: Any, *, is_training: Any, num_workers: int) -> None:
    """[`check_kind`], with a warning of a stream that every worker of the data loader reads.

    Streams of `datasets` divide their shards.
    """
    name = "train_dataset" if is_training else "the data set to evaluate on"
    check_kind(name, dataset)
    is_foreign = isinstance(dataset, IterableDataset) and not isinstance(dataset, datasets.IterableDataset)
    if is_foreign and num_workers > 1:
        logger.warning(
            "dataloader_num_workers=%d: each worker reads all rows of %s, a %s, unless its __iter__ divides them "
            "by torch.utils.data.get_worker_info(); set it to 1 if it does not",
            num_workers,
            name,
            type(dataset).__name__,
        )


def _parts(data: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, dataset in data.items():
        # Several sets are evaluated by name, but a run trains on one.
        has_parts = isinstance(dataset, dict) and name != _TRAINED_ON
        parts = dataset if has_parts else {"": dataset}
        for part, rows in parts.items():
            label = f"{name}[{part!r}]" if part else name
            check_kind(label, rows)
            yield label, rows


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
        raise ValueError(
            f"{name} has rows of {', '.join(map(str, first)) or 'nothing'}, but no input_ids; tokenize it first "
            "(masked words: homodistil_hf.tokenize_to_blocks)"
        )
    is_table = isinstance(rows, datasets.Dataset) and not _tokenizes_late(rows)
    try:
        tokens = _head(rows) if is_table else [first["input_ids"]] if isinstance(first, Mapping) else []
        longest = pc.max(pc.list_value_length(tokens)).as_py() or 0 if is_table else max(map(len, tokens), default=0)
    except (TypeError, NotImplementedError) as error:  # Arrow raises the latter for values without a length
        raise ValueError(
            f"{name} has a row with input_ids={short_repr(first['input_ids'])}; expected a list of token ids "
            "(masked words: homodistil_hf.tokenize_to_blocks)"
        ) from error
    _check_length(name, longest, config)
    if is_table and longest:
        ids = pc.min_max(pc.list_flatten(tokens))
        check_ids(name, ids["min"].as_py(), ids["max"].as_py(), config.vocab_size)


def _head(rows: datasets.Dataset) -> Any:
    """`input_ids` of a table's first rows, as Arrow has them."""
    return rows.select_columns("input_ids").with_format("arrow")[:_NUM_ROWS]["input_ids"]


def _check_length(name: str, length: int, config: Any) -> None:
    if length > (limit := max_tokens(config)):
        raise ValueError(
            f"{name} has sequences of {length} tokens, above the teacher's positions={limit}; set "
            "max_seq_length to at most that"
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
    for name, rows in _parts(data):
        # streams, lists and rows that a transform makes are seen in their batches
        if not isinstance(rows, datasets.Dataset) or rows.format["type"] == "custom":
            continue
        is_there = [column in rows.column_names for column in names]
        has_labels = any(is_there) if names is _LABEL_COLUMNS else all(is_there)
        if not has_labels and (evaluates or name == "train_dataset"):
            raise ValueError(
                f"{name} has the columns {', '.join(rows.column_names)}, but not {', '.join(task.required_labels)}; "
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
    known = {name.casefold(): number for number, name in enumerate(class_names)}
    # a column of tags is a list around the feature with the names
    for number, name in enumerate(getattr(getattr(feature, "feature", feature), "names", ())):
        expected = known.get(name.casefold(), number)
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
            f"a training batch has {', '.join(sorted(batch))}, but not {', '.join(missing)}; check the columns of "
            f"train_dataset and the data_collator ({type(collator).__name__})"
        )


def settings_that_matter(args: ExactArguments, *, is_stream: bool = False) -> dict[str, Any]:
    """What a run has to be resumed with, to go on as if it had not been interrupted: name → JSON value.

    Args:
        args: the run's settings.
        is_stream: whether the rows are a stream, of which each worker shuffles the shards of its own.
    """
    values, unread = args.to_dict(), "num_train_epochs" if args.max_steps > 0 else None
    # own settings and those of Trainer that count, less those that later steps don't read
    names = {*own_settings(args), *_OF_TRAINER} - args.without_later_effect - {unread}
    names |= {"dataloader_num_workers"} if is_stream else set()
    return {name: values[name] for name in sorted(names & values.keys())}


def own_settings(args: ExactArguments) -> dict[str, Any]:
    """The settings that this package's classes declare, of all that have a part in the run: name → JSON value."""
    kinds = [kind for kind in type(args).__mro__ if issubclass(kind, ExactArguments)]
    names = {name for kind in kinds for name in vars(kind).get("__annotations__", ())}
    return {name: value for name, value in sorted(args.to_dict().items()) if name in names}


def warn_of_other_settings(now: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    """Warn of each setting whose value differs from the checkpoint's; names of one side only are let pass."""
    for name in now:
        if name in saved and now[name] != saved[name]:
            logger.warning(
                "resumed with %s=%s, the checkpoint has %s: the run will differ from an uninterrupted one; set it as "
                "it was to go on exactly",
                name,
                short_repr(now[name]),
                short_repr(saved[name]),
            )
