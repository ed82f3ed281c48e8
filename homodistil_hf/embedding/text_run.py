"""What runs of embedding models and rerankers share: texts of any length, read in batches of about the same length."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import datasets
from transformers import PreTrainedConfig

from ..data.blocks import some_blocks
from ..files.checkpoints import PROJECTIONS_FILE
from ..files.messages import short_repr
from ..files.run_names import STUDENT_FOLDER
from ..files.tensors import load_tensors
from ..methods.fewer_layers import Layers
from ..methods.masked_words import set_length
from ..methods.run import RunInputs, StudentRun, with_projections
from ..methods.run_arguments import RunConfig
from ..models.conversion import to_student
from ..models.cost import MODEL_COSTS
from ..models.widths import widths_of
from ..tables import aligned_lines, cell
from ..training.pair import resolve_student
from ..training_args import with_settings
from .card import SPACE, space_tables
from .model import EmbeddingModel
from .reading import is_embedding_folder, load_embedding_model
from .sources import Source, VectorsSource, embedding_source, reranking_source, vectors_source
from .texts import by_length, mixed
from .trainer import check_output

_METRICS = {
    "cosine": "cosine",
    "neighbours": "10 nearest",
    "neighbours_in_index": "… in the teacher's index",
    "correlation": "correlation of scores",
    "ndcg_at_10": "nDCG@10",
    "mrr_at_10": "MRR@10",
    "spearman": "Spearman, labels",
}


@dataclass(frozen=True)
class TextInputs(RunInputs):
    """What such a run is checked against; `source` has the teacher's weights, as its folder is read as a whole."""

    source: Source


class TextRun(StudentRun):
    """A run whose student learns what a teacher makes of whole texts: vectors or scores in place of words."""

    unused: ClassVar[tuple[str, ...]] = ("tokenizer", "teacher_revision", "further_pretraining", "packing")
    loader: ClassVar[str]
    """The class of sentence-transformers that loads a student."""
    example: ClassVar[str]
    """Python that uses it."""

    def read(self, values: Mapping[str, Any], label: str, flags: Sequence[str] = ()) -> RunConfig:
        """As [`StudentRun.read`]; the teacher is loaded anew, once for all members of a chain."""
        for source in (embedding_source, vectors_source, reranking_source):
            source.cache_clear()
        return super().read(values, label, flags)

    def check_stream(self, settings: RunConfig) -> None:
        """Refuse, by a ValueError, a stream that can't be read."""
        raise NotImplementedError

    def source(self, settings: RunConfig) -> Source:
        """Load a teacher."""
        raise NotImplementedError

    def inputs(self, settings: RunConfig) -> TextInputs:
        """Load the teacher and plan the widths."""
        self.check_stream(settings)
        if (strategy := settings.training.train_sampling_strategy) not in ("random", "sequential"):
            raise ValueError(
                f"train_sampling_strategy={strategy!r} has no part in this run, whose batches have texts of about the "
                "same length; leave it out"
            )
        source = self.source(settings)
        config = source.encoder.config
        self.set_length(settings, config)
        if isinstance(source.model, EmbeddingModel):
            check_output(settings.training.output, source.model)
        if (layers := getattr(settings.training, "layers", None)) is not None:
            Layers(layers).of(config.num_hidden_layers)
        # given vectors and no size: the student keeps the widths of its start
        if settings.training.student is None and layers is None and isinstance(source, VectorsSource):
            return TextInputs(config, source.tokenizer, widths_of(config), source)
        if layers is None:
            plan = self.trainer_class.plan_of(settings.training, config)
        else:
            plan = resolve_student(settings.training, config, has_all_layers=False)
        return TextInputs(config, source.tokenizer, plan, source)

    def set_length(self, settings: RunConfig, config: PreTrainedConfig) -> None:
        """Lower a default length of rows to what the teacher reads; as [`set_length`]."""
        set_length(settings, config)

    def arguments(self, settings: RunConfig, inputs: TextInputs, train: Any) -> Any:
        """Rows are read in their order: `by_length` has shuffled them."""
        return with_settings(settings.training, train_sampling_strategy="sequential")

    def teacher(self, settings: RunConfig, inputs: TextInputs) -> Any:
        """The model that was checked."""
        return inputs.source.model

    def chain_problems(self, settings: RunConfig) -> list[tuple[str, Any, str]]:
        """Also `layers`, because a student that starts as another student has the other's layers."""
        layers = getattr(settings.training, "layers", None)
        problems = super().chain_problems(settings)
        return problems if layers is None else [*problems, ("layers", layers, "name one student, or no layers")]

    def load_start(self, folder: Path) -> Any:
        """Load a finished member of a chain, with its map and projections."""
        student = folder / STUDENT_FOLDER
        if not is_embedding_folder(student):
            return super().load_start(folder)
        encoder = to_student(load_embedding_model(student, argument="folder").encoder, needs_head=False)
        return with_projections(encoder, load_tensors(folder / PROJECTIONS_FILE))

    def in_batches(self, settings: RunConfig, source: Source, train: list[Any], held_out: list[Any]) -> Any:
        """Rows of all sources: mixed, in batches of about the same length, and some to evaluate on."""
        run, training = settings.run, settings.training
        batch_size = training.train_batch_size * training.gradient_accumulation_steps * training.world_size
        rows = mixed(train, run.train_weights or [1.0] * len(train), seed=training.seed)
        if not run.streaming and len(rows) < batch_size:
            raise ValueError(
                f"{source.train_setting}={short_repr(run.train_data)} has {len(rows)} rows, fewer than the "
                f"{batch_size} of a step; lower per_device_train_batch_size, or name more text"
            )
        # at most so many of each source, which makes tables of streams; of all together an even choice
        evaluated = [some_blocks(part, run.max_eval_blocks) for part in held_out]
        return by_length(rows, batch_size=batch_size, seed=training.seed), some_blocks(
            datasets.concatenate_datasets(evaluated), run.max_eval_blocks
        )

    def summary(self, results: Mapping[str, Any], output_dir: str) -> str:
        """Describe how a run ended, and how its student is loaded."""
        folders = [f"{member['folder']}/student" for member in results.get("members", ())] or ["student"]
        # A student with a space of its own has fewer of them than its teacher.
        metrics = [name for name in _METRICS if all(found.get(name) is not None for found in results["models"])]
        table = [["model", "parameters", "encoder MACs", "bytes", *(_METRICS[name] for name in metrics)]]
        for found in results["models"]:
            costs = [cell(found.get(cost), "{:,}") for cost in MODEL_COSTS]
            table.append([found["name"], *costs, *(cell(found.get(name), "{:.3f}") for name in metrics)])
        folder = output_dir.rstrip("/")
        lines = aligned_lines(table)
        for title, (headings, cells) in space_tables(results.get(SPACE, {})):
            lines += ["", title, *aligned_lines([headings, *cells])]
        tables = "\n".join(lines)
        return f"""
{tables}

{results["num_steps"]:,} steps, {results["time_s"]:,.0f} s; see {folder}/results.json. The student:

  from sentence_transformers import {self.loader}
  model = {self.loader}({f"{folder}/{folders[-1]}"!r})
  {self.example}"""
