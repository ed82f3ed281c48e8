"""A fine-tuned model and text without labels → a folder with the pruned model; `pruning.py` ranks the filters."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from ...data.corpus import load_text
from ...data.samples import drawn, unlabeled_batches
from ...evaluation.evaluated_model import load_model
from ...export.export_folder import FORMATS, check_output, export_student
from ...export.facts import read_export_facts
from ...files.caches import keep_datasets_here
from ...files.field_checks import ROW_LENGTH, make_tuples, refuse_without_part, setting
from ...files.messages import Log, short_repr
from ...models.heads import fastest_device
from ...models.tokenizers import fitted_length
from ...models.widths import widths_of
from ...tasks.glue import GLUE_TASKS, check_tasks, load_glue
from .pruning import GradientFreeSettings, export_facts, num_kept_filters, prune_gradient_free


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
        (), "Text: .txt, .jsonl, .parquet, folders or Hub data sets; this or --task.", text="a name"
    )
    text_column: str | None = setting(None, "Column with the text (default: text).")
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
        "compact", "compact: layers as wide as they are; standard: the stock class.", choices=tuple(FORMATS)
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
    if settings.needs_samples:
        length = fitted_length(settings.max_length, evaluated.model.config, argument="max_length")
        settings = replace(settings, max_length=length)
    batches = _batches(settings, evaluated.tokenizer) if settings.needs_samples else []
    num_filters = sum(layer.intermediate_size for layer in plan.layers)
    num_rows = sum(len(batch["input_ids"]) for batch in batches)
    log(f"{num_kept:,} of {num_filters:,} FFN neurons will be left; {num_rows:,} rows of text")
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


def _batches(settings: PruneSettings, tokenizer: PreTrainedTokenizerBase) -> list[dict[str, torch.Tensor]]:
    if settings.task is None:
        rows = load_text(settings.unlabeled_data, text_column=settings.text_column, argument="unlabeled_data")
        names: tuple[str, ...] = ("text",)
    else:
        (task,) = check_tasks([settings.task])
        rows, names = load_glue(task, settings.data_dir).train, GLUE_TASKS[task].columns.texts
    rows = drawn(rows, settings.num_samples, seed=settings.seed)
    columns = [rows[name][:] for name in names]
    given = {name: getattr(settings, name) for name in ("seed", "max_length", "batch_size")}
    return unlabeled_batches(columns, tokenizer, num_rows=settings.num_samples, **given)
