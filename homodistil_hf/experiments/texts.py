"""One run of `homodistil distill` with a model of texts: vectors or scores in place of words, rows of any length."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import datasets
import torch
from datasets import Dataset
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..data.blocks import some_blocks
from ..data.corpus import load_text
from ..export.student_in_folder import STUDENT_FOLDER
from ..files.caches import keep_datasets_here
from ..files.checkpoints import PROJECTIONS_FILE
from ..files.messages import short_repr
from ..files.tensors import load_tensors
from ..methods.embedding.model import EmbeddingModel, is_embedding_folder, load_embedding_model
from ..methods.embedding.pairs import tokenize_pairs
from ..methods.embedding.reranker import RerankerDistilTrainer
from ..methods.embedding.texts import LEAST_CHARACTERS, by_length, mixed, tokenize_texts
from ..methods.embedding.trainer import EmbeddingDistilTrainer, check_output
from ..methods.fewer_layers import Layers
from ..methods.registry import TEXT_METHODS
from ..models.architectures import max_tokens
from ..models.conversion import to_student
from ..models.loading import load_encoder
from ..models.tokenizers import load_tokenizer
from ..models.widths import WidthPlan
from ..training.student_plan import resolve_student
from ..training_args import with_settings
from .config import RunArguments, RunConfig
from .distill import Say, check_output_folder, hold_out, train_to_the_end
from .family_members import load_member, with_projections

_FOREIGN = ("tokenizer", "teacher_revision")


@dataclass(frozen=True)
class _Teacher:
    """Who is distilled, and how its texts are read.

    Args:
        model: as the trainer takes it.
        encoder: the transformers model in it.
        tokenizer: of the encoder.
        columns: of the text.
        rows: documents, a data set a column, the settings of the run, the name of a prompt, what the user calls the
            documents → rows.
    """

    model: Any
    encoder: Any
    tokenizer: PreTrainedTokenizerBase
    columns: tuple[str | None, ...]
    rows: Callable[[list[Any], RunArguments, str | None, str], Any]


@dataclass(frozen=True)
class TextSources:
    """What is checked before any text is read: who is distilled, and the widths.

    Args:
        teacher: with its weights.
        plan: of the student.
    """

    teacher: _Teacher
    plan: WidthPlan

    @property
    def config(self) -> PreTrainedConfig:
        """The teacher's."""
        return self.teacher.encoder.config


def distill_texts(settings: RunConfig, say: Say) -> dict[str, Any]:
    """Run a distillation of an embedding model or a reranker from settings to export; arguments as [`distill`].

    Returns:
        `dict`: what was written to `results.json`, on the main process.

    Raises:
        ValueError: something about the settings, the data or the teacher can't work.
        OSError: a file can't be read or written.
    """
    since = time.perf_counter()
    checkpoint = check_output_folder(settings)
    trainer = make_text_trainer(settings, say)
    return train_to_the_end(trainer, settings, checkpoint, since=since)


def check_text_sources(settings: RunConfig) -> TextSources:
    """Load the teacher and plan the widths; errors are those that [`distill_texts`] raises before it reads text."""
    run = settings.run
    refuse_foreign(settings)
    if run.vocabulary:
        raise ValueError(
            f"vocabulary={short_repr(run.vocabulary)} goes before a run of `homodistil distill` with an embedding "
            "model alone; trim the teacher first, with homodistil trim, and name its folder as the teacher"
        )
    teacher = _loaded(run.method, run.teacher, run.text_column)
    config = teacher.encoder.config
    if run.max_seq_length > (limit := max_tokens(config)):
        raise ValueError(
            f"max_seq_length={run.max_seq_length} is over the teacher's positions={limit}; nearest valid: {limit}"
        )
    if isinstance(teacher.model, EmbeddingModel):
        check_output(settings.training.output, teacher.model)
    if (layers := getattr(settings.training, "layers", None)) is not None:
        Layers(layers).of(config.num_hidden_layers)
    return TextSources(teacher, resolve_student(settings.training, config, has_all_layers=layers is None))


def make_text_trainer(
    settings: RunConfig, say: Say, *, sources: TextSources | None = None, start: PreTrainedModel | None = None
) -> Any:
    """Check a run, read its text and make its trainer; arguments as [`make_trainer`]."""
    run = settings.run
    training = with_settings(settings.training, train_sampling_strategy="sequential")  # by_length has shuffled
    training.dataloader_pin_memory &= torch.accelerator.is_available()  # torch warns otherwise
    sources = sources or check_text_sources(settings)
    teacher = sources.teacher
    keep_datasets_here()
    with training.main_process_first(desc="reading the text"):
        train, held_out = _texts(settings, teacher, say if training.process_index == 0 else lambda line: None)
    return TEXT_METHODS[run.method](
        start or teacher.model,
        training,
        teacher_model=teacher.model if start else None,
        plan=sources.plan,
        train_dataset=train,
        eval_dataset=held_out,
        processing_class=teacher.tokenizer,
    )


def load_text_start(folder: Path) -> Any:
    """Load a finished member of a family as what the next one starts as, with its map and projections."""
    student = folder / STUDENT_FOLDER
    if not is_embedding_folder(student):
        return load_member(folder)
    encoder = to_student(AutoModel.from_pretrained(student, dtype=torch.float32), needs_head=False)
    return with_projections(encoder, load_tensors(folder / PROJECTIONS_FILE))


def _embedding_teacher(name: str, text_column: str | None) -> _Teacher:
    model = load_embedding_model(name)

    def rows(parts: list[Any], run: RunArguments, prompt: str | None, argument: str) -> Any:
        if prompt and prompt not in model.settings.prompts:
            known = ", ".join(model.settings.prompts) or "none"
            raise ValueError(f"train_prompts has {prompt!r}, but the teacher's prompts are {known}; name one of those")
        return tokenize_texts(
            parts[0],
            model.tokenizer,
            max_length=min(run.max_seq_length, model.settings.max_seq_length),
            prepare=partial(model.prepared, prompt_name=prompt),
            # A source whose prompt is named may be one of queries, or of titles.
            least_characters=LEAST_CHARACTERS if prompt is None else 1,
            num_proc=run.preprocessing_num_workers,
            argument=argument,
        )

    return _Teacher(model, model.encoder, model.tokenizer, (text_column,), rows)


def _reranking_teacher(name: str, text_column: str | None) -> _Teacher:
    columns = tuple(column.strip() for column in (text_column or "").split(","))
    if len(columns) != 2 or not all(columns):
        raise ValueError(
            f"text_column={short_repr(text_column)}: a reranker reads pairs; name two columns, such as "
            "'question,passage'"
        )
    model, tokenizer = load_encoder(name), load_tokenizer(name)

    def rows(parts: list[Any], run: RunArguments, prompt: str | None, argument: str) -> Any:
        named = [part.rename_column("text", side) for side, part in zip(("first", "second"), parts, strict=True)]
        return tokenize_pairs(
            datasets.concatenate_datasets(named, axis=1),
            tokenizer,
            max_length=run.max_seq_length,
            num_proc=run.preprocessing_num_workers,
            argument=argument,
        )

    return _Teacher(model, model, tokenizer, columns, rows)


_TEACHERS: dict[str, Callable[[str, str | None], _Teacher]] = {
    EmbeddingDistilTrainer.method: _embedding_teacher,
    RerankerDistilTrainer.method: _reranking_teacher,
}


@lru_cache(maxsize=1)  # the members of a family have one teacher
def _loaded(method: str, name: str, text_column: str | None) -> _Teacher:
    return _TEACHERS[method](name, text_column)


def refuse_foreign(settings: RunConfig) -> None:
    """Refuse settings that have no place in a run of these methods."""
    run = settings.run
    for name in _FOREIGN:
        if value := getattr(run, name):
            raise ValueError(f"{name}={short_repr(value)} has no place with method={run.method!r}; leave it out")
    if run.streaming and (settings.training.max_steps <= 0 or run.method == RerankerDistilTrainer.method):
        raise ValueError(
            f"streaming=True with method={run.method!r} and max_steps={settings.training.max_steps}: a stream has no "
            "length, so set max_steps; pairs can't be streamed"
        )
    if run.further_settings:
        raise ValueError(
            f"further_pretraining={short_repr(run.further_settings)} needs a masked-LM teacher; leave it out"
        )


def _texts(settings: RunConfig, teacher: _Teacher, say: Say) -> tuple[Any, Dataset]:
    """Rows to train on, in batches of about the same length, and rows to evaluate on."""
    run, training = settings.run, settings.training
    prompts: Sequence[str | None] = run.train_prompts or [None] * len(run.train_data)
    train, held_out = [], []
    for source, prompt in zip(run.train_data, prompts, strict=True):
        documents = _columns([source], run.train_split, "train_data", teacher, is_stream=run.streaming)
        label = f"train_data={source!r}"
        if not run.eval_data:
            parts = [hold_out(part, say if number == 0 else _silent) for number, part in enumerate(documents)]
            documents, kept_back = ([part[side] for part in parts] for side in (0, 1))
            held_out.append(teacher.rows(kept_back, run, prompt, label))
        train.append(teacher.rows(documents, run, prompt, label))
        if run.streaming and next(iter(train[-1]), None) is None:
            raise ValueError(f"{label} has no text to train on beside what is held out; name eval_data, or other data")
    if run.eval_data:
        documents = _columns(run.eval_data, run.eval_split, "eval_data", teacher)
        held_out.append(teacher.rows(documents, run, None, f"eval_data={short_repr(run.eval_data)}"))
    batch_size = training.train_batch_size * training.gradient_accumulation_steps * training.world_size
    rows = mixed(train, run.train_weights or [1.0] * len(train), seed=training.seed)
    if not run.streaming and len(rows) < batch_size:
        raise ValueError(
            f"train_data={short_repr(run.train_data)} has {len(rows)} rows, fewer than the {batch_size} of a step; "
            "lower per_device_train_batch_size, or name more text"
        )
    evaluated = [some_blocks(part, run.max_eval_blocks) for part in held_out]
    return by_length(rows, batch_size=batch_size, seed=training.seed), some_blocks(
        datasets.concatenate_datasets(evaluated), run.max_eval_blocks
    )


def _columns(data: list[str], split: str, argument: str, teacher: _Teacher, *, is_stream: bool = False) -> list[Any]:
    settings: dict[str, Any] = {"split": split, "argument": argument, "streaming": is_stream}
    return [load_text(data, text_column=name, **settings) for name in teacher.columns]


def _silent(line: str) -> None:
    """Of two columns, one has told already."""
