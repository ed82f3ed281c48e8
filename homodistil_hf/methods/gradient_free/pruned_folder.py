"""A fine-tuned model and text without labels → a folder with the pruned model; `pruning.py` ranks the filters."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ...data.blocks import drawn
from ...data.corpus import load_text
from ...data.read_line import columns_words, read_line
from ...data.samples import padded_batches, unlabeled_batches
from ...data.sources import local_files
from ...evaluation.evaluated_model import EvaluatedModel, load_model
from ...export.export_folder import FORMATS, check_output, export_student
from ...export.facts import read_export_facts
from ...files.caches import keep_datasets_here
from ...files.messages import Log, short_repr
from ...files.settings import ROW_LENGTH, make_tuples, refuse_without_part, setting
from ...models.heads import fastest_device
from ...models.tokenizers import fitted_length
from ...models.widths import widths_of
from ...tasks.columns import Columns, ReadRows, found_rows, listed_columns
from ...tasks.encoding import encode_rows, texts_by_column
from ...tasks.glue import GLUE_TASKS, check_tasks, load_task
from ...tasks.kinds import ANSWERS, MASKED_WORDS, task_kind_of
from ...tasks.reading import is_conll, load_rows
from .pruning import GradientFreeSettings, export_facts, num_kept_filters, prune_gradient_free

_ARGUMENT = "unlabeled_data"


@dataclass(frozen=True)
class PruneSettings(GradientFreeSettings):
    """Settings of [`prune_to_folder`].

    Raises:
        ValueError: a value is missing or out of range.
    """

    model: str = setting("", "Fine-tuned model: folder, export, run or Hub name.", text="a name")
    output_dir: str = setting("", "Folder to write: model, tokenizer, facts.json and card.", text="a name")
    macs: float = setting(0.6, "Share of the encoder's MACs to keep, in (0, 1].")
    unlabeled_data: tuple[str, ...] = setting(
        (), "Text or the task's rows: files, folders or Hub data sets; this or --task.", text="a name"
    )
    text_column: str | None = setting(
        None, "Column with the text, or two with a comma between them (default: those that distill reads)."
    )
    task: str | None = setting(None, "GLUE task whose training sentences are the text.")
    data_dir: str | None = setting(None, "Folder with the task's rows (default: the Hub).")
    num_samples: int = setting(2048, "Rows of text to draw, ≥ 1.", least=1)
    max_length: int | None = setting(
        None,
        f"Tokens a row, 8 … the positions; longer texts are several (default: {ROW_LENGTH}, or the positions).",
        least=8,
    )
    batch_size: int = setting(32, "Rows a forward pass, ≥ 1.", least=1)
    seed: int = setting(0, "Of the rows that are drawn, ≥ 0.", least=0)
    format: str = setting(
        "standard",
        "standard: the stock class, padded to the widest layer; compact: unpadded, needs trust_remote_code.",
        choices=tuple(FORMATS),
    )

    def __post_init__(self) -> None:
        make_tuples(self)
        super().__post_init__()
        # one source where text is read, none where it isn't; True is 1
        num_sources = bool(self.unlabeled_data) + (self.task is not None)
        if num_sources != self.needs_samples:
            reason = "name one of them, text or a GLUE task" if self.needs_samples else "no text is read, name neither"
            raise ValueError(
                f"unlabeled_data={short_repr(self.unlabeled_data)} and task={short_repr(self.task)}: {reason}"
            )
        if self.needs_samples:
            name, source = ("data_dir", "task") if self.task is None else ("text_column", "unlabeled_data")
            refuse_without_part(self, {name: f"it belongs to {source}, leave it out"})
        else:
            names = ("text_column", "data_dir", "num_samples", "max_length", "batch_size", "seed")
            refuse_without_part(self, dict.fromkeys(names, "no text is read; leave it out"))


def prune_to_folder(settings: PruneSettings, log: Log, *, overwrite: bool = False) -> dict[str, Any]:
    """Prune a fine-tuned model on text without labels, and export what is left.

    Args:
        settings: [`PruneSettings`].
        log: takes lines for the user.
        overwrite: replace an earlier export in `output_dir`.

    Returns:
        `dict`: what the export's `facts.json` holds.

    Raises:
        ValueError: an unsupported model, no text, a budget out of reach, or a folder that is not free.
        OSError: something can't be read or written.
        FloatingPointError: the model's activations are not finite.
    """
    check_output(settings.output_dir, overwrite=overwrite, argument="output_dir")
    if settings.task is not None:
        check_tasks([settings.task])
    keep_datasets_here()
    evaluated = load_model(settings.model)
    plan = widths_of(evaluated.model.config)
    num_kept = num_kept_filters(plan, settings.macs)
    if settings.format == "standard":
        plan.padded()  # refused now rather than after the pruning
    batches = []
    if settings.needs_samples:
        length = fitted_length(settings.max_length, evaluated.model.config, argument="max_length")
        settings = replace(settings, max_length=length)
        batches = _batches(settings, evaluated, length, log)
    num_filters = sum(layer.intermediate_size for layer in plan.layers)
    log(f"{num_kept:,} of {num_filters:,} FFN neurons will be left")
    model = evaluated.model.to(fastest_device())
    student = prune_gradient_free(model, batches, settings.macs, settings=settings)
    folder = export_student(
        student.cpu(),
        settings.output_dir,
        settings.format,
        tokenizer=evaluated.tokenizer,
        teacher=model.cpu(),
        facts=export_facts(settings, batches),
        overwrite=overwrite,
    )
    return read_export_facts(Path(folder))


def _batches(
    settings: PruneSettings, evaluated: EvaluatedModel, length: int, log: Log
) -> list[dict[str, torch.Tensor]]:
    whole = _rows(settings, evaluated)
    rows, columns, *_ = whole
    is_text = columns.kind == MASKED_WORDS
    words = rows.info.description if is_text else columns_words(columns.texts, rows.column_names)
    part = whole._replace(rows=drawn(rows, settings.num_samples, seed=settings.seed))
    log(read_line({f"of {len(rows):,} without labels": part.rows}, words))
    sizes = {"num_rows": settings.num_samples, "seed": settings.seed, "batch_size": settings.batch_size}
    tokenizer = evaluated.tokenizer
    if columns.kind != ANSWERS:
        return unlabeled_batches(texts_by_column(part), tokenizer, max_length=length, **sizes)
    windows = encode_rows(part, evaluated.model.config, tokenizer, max_length=length)
    names = [name for name in tokenizer.model_input_names if name in windows.column_names]
    return padded_batches({name: windows[name][:] for name in names}, tokenizer, **sizes)


def _rows(settings: PruneSettings, evaluated: EvaluatedModel) -> ReadRows:
    """Rows that `distill` of the model reads, with their columns of texts; of sources of mere text its documents."""
    if settings.task is not None:
        (task,) = check_tasks([settings.task])
        columns = GLUE_TASKS[task].columns
        return ReadRows(load_task(task, settings.data_dir).train, replace(columns, labels=()))
    config, named = evaluated.model.config, listed_columns(settings.text_column)
    kind = task_kind_of(config, type(evaluated.model).__name__)
    if kind != MASKED_WORDS and not _are_documents(settings.unlabeled_data):
        rows = load_rows(settings.unlabeled_data, argument=_ARGUMENT)
        # an answerer may be pruned on any text
        if kind != ANSWERS or len(named) == 2 or {"question", "context"} <= {*map(str.lower, rows.column_names)}:
            part = found_rows(rows, config, kind, text_columns=named, argument=_ARGUMENT)
            return part._replace(columns=replace(part.columns, labels=()))
    text = load_text(settings.unlabeled_data, text_column=settings.text_column, argument=_ARGUMENT)
    return ReadRows(text, Columns(MASKED_WORDS, ("text",)))


def _are_documents(sources: Sequence[str]) -> bool:
    """Whether all files are of text, none of words with their tags."""
    files = [file for name in sources for file in local_files(name, "train", f"{_ARGUMENT}={name!r}")]
    return bool(files) and all(file.suffix.lower() == ".txt" and not is_conll(file) for file in files)
