"""What runs of embedding models and rerankers share: texts of any length, read in batches of about the same length."""

from collections.abc import Mapping
from typing import Any

import datasets

from ..data.blocks import some_blocks
from ..data.lengths import by_length
from ..embedding.texts import mixed
from ..files.messages import short_repr
from ..training_args import with_settings
from .kinds import RunInputs
from .settings import RunConfig

UNUSED = ("tokenizer", "teacher_revision", "further_pretraining", "packing", "line_by_line")
"""Settings that have no part in runs of whole texts."""


def training_of(settings: RunConfig, inputs: RunInputs, train: Any) -> Any:
    """Rows are read in their order: `by_length` has shuffled them, and put those of like length side by side."""
    return with_settings(settings.training, train_sampling_strategy="sequential")


def models_of(settings: RunConfig, inputs: RunInputs) -> tuple[None, Any]:
    """The teacher that was checked; the student starts as its copy."""
    return None, inputs.teacher


def in_batches(settings: RunConfig, train: list[Any], held_out: list[Any]) -> dict[str, Any]:
    """Rows of all sources: mixed, in batches of about the same length, and some to evaluate on.

    Returns:
        What rows are for, in the words of [`read_line`] → rows to train on, and rows to evaluate on.
    """
    run, training = settings.run, settings.training
    batch_size = training.train_batch_size * training.gradient_accumulation_steps * training.world_size
    rows = mixed(train, run.train_weights or [1.0] * len(train), seed=training.seed)
    if not run.streaming and len(rows) < batch_size:
        raise ValueError(
            f"{run.train_setting}={short_repr(run.train_data)} has {len(rows)} rows, fewer than the "
            f"{batch_size} of a step; lower per_device_train_batch_size, or name more text"
        )
    # at most so many of each source, which makes tables of streams; of all together an even choice
    evaluated = [some_blocks(part, run.max_eval_blocks) for part in held_out]
    batches = by_length(rows, batch_size=batch_size, seed=training.seed)
    is_whole = run.streaming or len(batches) == len(rows)
    purpose = "to train on" if is_whole else f"of {len(rows):,} to train on, in whole batches"
    return {purpose: batches, "held out": some_blocks(datasets.concatenate_datasets(evaluated), run.max_eval_blocks)}


def library_lines(loader: str, example: str, student: str, results: Mapping[str, Any]) -> str:
    """Python that loads a student in a folder by a class of sentence-transformers, and uses it."""
    return f"from sentence_transformers import {loader}\nmodel = {loader}({student!r})\n{example}"
