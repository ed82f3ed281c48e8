"""What runs of embedding models and rerankers share: texts of any length, read in batches of about the same length."""

from collections.abc import Mapping
from typing import Any

import datasets

from ..data.blocks import some_blocks
from ..data.lengths import by_length
from ..embedding.card import SPACE, space_tables
from ..embedding.texts import mixed
from ..files.messages import short_repr
from ..models.cost import MODEL_COSTS
from ..tables import aligned_lines, cell
from ..training_args import with_settings
from .kinds import RunInputs
from .settings import RunConfig

_METRICS = {
    "cosine": "cosine",
    "neighbours": "10 nearest",
    "neighbours_in_index": "… in the teacher's index",
    "correlation": "correlation of scores",
    "ndcg_at_10": "nDCG@10",
    "mrr_at_10": "MRR@10",
    "spearman": "Spearman, labels",
}
UNUSED = ("tokenizer", "teacher_revision", "further_pretraining", "packing", "line_by_line")
"""Settings that have no part in runs of whole texts."""


def check_sampling(settings: RunConfig) -> None:
    """Refuse, by a ValueError, an order of rows other than that of batches of about the same length."""
    if (strategy := settings.training.train_sampling_strategy) not in ("random", "sequential"):
        raise ValueError(
            f"train_sampling_strategy={strategy!r} has no part in this run, whose batches have texts of about the "
            "same length; leave it out"
        )


def training_of(settings: RunConfig, inputs: RunInputs, train: Any) -> Any:
    """Rows are read in their order: `by_length` has shuffled them."""
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


def summary_with(loader: str, example: str, results: Mapping[str, Any], output_dir: str) -> str:
    """Describe how a run ended, and how its student is loaded.

    Args:
        loader: class of sentence-transformers that loads it.
        example: Python that uses it.
        results: of the run.
        output_dir: of the run.
    """
    folders = [f"{member['folder']}/student" for member in results.get("members", ())] or ["student"]
    # A student with a space of its own has fewer of them than its teacher.
    metrics = [name for name in _METRICS if all(model.get(name) is not None for model in results["models"])]
    table = [["model", "parameters", "encoder MACs", "bytes", *(_METRICS[name] for name in metrics)]]
    for model in results["models"]:
        costs = [cell(model.get(cost), "{:,}") for cost in MODEL_COSTS]
        table.append([model["name"], *costs, *(cell(model.get(name), "{:.3f}") for name in metrics)])
    folder = output_dir.rstrip("/")
    lines = aligned_lines(table)
    for title, (headings, cells) in space_tables(results.get(SPACE, {})):
        lines += ["", title, *aligned_lines([headings, *cells])]
    tables = "\n".join(lines)
    return f"""
{tables}

{results["num_steps"]:,} steps, {results["time_s"]:,.0f} s; see {folder}/results.json. The student:

  from sentence_transformers import {loader}
  model = {loader}({f"{folder}/{folders[-1]}"!r})
  {example}"""
