"""Runs of embedding models and rerankers: vectors or scores in place of words, rows of any length."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import datasets
from datasets import Dataset
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ...data.blocks import some_blocks
from ...data.corpus import hold_out
from ...data.task_rows.columns import ReadRows, has_values, pair_in, ranks_pairs
from ...data.task_rows.encoding import LEAST_ROWS, length_of_rows, what_fits
from ...data.task_rows.held_out import apart
from ...data.task_rows.reading import load_rows
from ...evaluation.evaluated_model import model_name
from ...export.run_records import TABLES
from ...files.caches import keep_datasets_here
from ...files.checkpoints import PROJECTIONS_FILE
from ...files.messages import join_some, short_repr
from ...files.model_files import model_file
from ...files.run_names import STUDENT_FOLDER
from ...files.tensors import load_tensors
from ...models.architectures import architecture_of
from ...models.conversion import to_student
from ...models.cost import MODEL_COSTS
from ...models.widths import widths_of
from ...tables import aligned_lines, cell
from ...training.pair import resolve_student
from ...training_args import with_settings
from ..fewer_layers import Layers
from ..masked_words import set_length
from ..run import Bundle, RunInputs, StudentRun, with_projections
from ..run_arguments import Log, RunArguments, RunConfig
from .card import SPACE, STUDENT, TEACHER, space_tables
from .evaluate import costs_of
from .folder import AXES_FILE, axes_in, publish_scores, write_model
from .model import EmbeddingModel, reduced
from .pairs import Grading, PairReader, pairs_in
from .reading import (
    MODULES_FILE,
    encoder_config,
    is_embedding_folder,
    kind_of_texts,
    load_embedding_model,
    read_modules,
)
from .sources import (
    EmbeddingRunArguments,
    Source,
    VectorsSource,
    embedding_source,
    reranking_source,
    vectors_source,
)
from .space import QUERIES, space_matrix, task_of_texts
from .texts import by_length, mixed
from .trainer import check_for_vectors, check_output
from .vectors import TeacherVectors

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
class EmbeddingInputs(RunInputs):
    """What such a run is checked against; `source` has the teacher's weights, as its folder is read as a whole."""

    source: Source


class EmbeddingRun(StudentRun):
    """A run that distils an embedding model on texts."""

    unused: ClassVar[tuple[str, ...]] = (
        "tokenizer",
        "teacher_revision",
        "further_pretraining",
        "label_column",
        "packing",
    )
    arguments_class: ClassVar[type[RunArguments]] = EmbeddingRunArguments
    loader = "SentenceTransformer"
    """The class of sentence-transformers that loads a student."""
    example = 'print(model.encode(["…"]).shape)'
    """Python that uses it."""

    def claims(self, teacher: str, given: Mapping[str, Any]) -> bool:
        """Whether a teacher is one of this method's models, or vectors are given."""
        kind = kind_of_texts(teacher, token=given.get("hub_token")) if teacher else None
        return bool(given.get("teacher_vectors")) or kind == self.method

    def read(self, values: Mapping[str, Any], label: str, flags: Sequence[str] = ()) -> RunConfig:
        """As [`StudentRun.read`]; the teacher is loaded anew, once for all members of a chain."""
        for source in (embedding_source, vectors_source, reranking_source):
            source.cache_clear()
        return super().read(values, label, flags)

    def planned_config(self, teacher: str) -> PreTrainedConfig | None:
        """Read that of the encoder of a model of sentence-transformers, whatever head its file names."""
        ((_, path), *_) = read_modules(model_file(teacher, MODULES_FILE) or Path(teacher, MODULES_FILE))
        file = model_file(teacher, Path(path, "config.json").as_posix())
        config = encoder_config(file.parent if file else Path(teacher, path), f"teacher={teacher!r}")
        config.architectures = [architecture_of(config).encoder_name]
        return config

    def bundle(self, model: str, *, token: str | None = None) -> Bundle | None:
        """Load a folder of sentence-transformers."""
        whole = load_embedding_model(model, token=token)

        def write(encoder: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
            write_model(replace(whole, encoder=encoder, tokenizer=tokenizer), folder)

        whole.encoder.config.architectures = [type(whole.encoder).__name__]
        prompts = list(whole.settings.prompts.values())
        return Bundle(whole.encoder, whole.tokenizer, prompts, whole.settings.lowers, write)

    def check_stream(self, settings: RunConfig) -> None:
        """Refuse, by a ValueError, a stream without an end."""
        if settings.run.streaming and settings.training.max_steps <= 0:
            raise ValueError(
                f"streaming=True with max_steps={settings.training.max_steps}: a stream has no length, so set "
                "max_steps"
            )

    def source(self, settings: RunConfig) -> Source:
        """Load a teacher."""
        run, token = settings.run, settings.training.hub_token
        if not run.teacher_vectors:
            return embedding_source(run.teacher, run.text_column, token)
        check_for_vectors(settings.training)
        of_files = run.text_column, run.train_split, run.similarity
        return vectors_source(tuple(run.teacher_vectors), run.start, of_files, token)

    def inputs(self, settings: RunConfig) -> EmbeddingInputs:
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
        if settings.training.student is None and layers is None and isinstance(source, VectorsSource):
            return EmbeddingInputs(config, source.tokenizer, widths_of(config), source)
        if layers is None:
            plan = self.trainer_class.plan_of(settings.training, config)
        else:
            plan = resolve_student(settings.training, config, has_all_layers=False)
        return EmbeddingInputs(config, source.tokenizer, plan, source)

    def set_length(self, settings: RunConfig, config: PreTrainedConfig) -> None:
        """Lower a default length of rows to what the teacher reads; as [`set_length`]."""
        set_length(settings, config)

    def arguments(self, settings: RunConfig, inputs: EmbeddingInputs, train: Any) -> Any:
        """Rows are read in their order: `by_length` has shuffled them."""
        return with_settings(settings.training, train_sampling_strategy="sequential")

    def teacher(self, settings: RunConfig, inputs: EmbeddingInputs) -> Any:
        """The model that was checked."""
        return inputs.source.model

    def chain_problems(self, settings: RunConfig) -> list[tuple[str, Any, str]]:
        """Also `layers`, because a student that starts as another student has the other's layers."""
        layers = getattr(settings.training, "layers", None)
        problems = super().chain_problems(settings)
        return problems if layers is None else [*problems, ("layers", layers, "name one student, or no layers")]

    def of_members(self, settings: RunConfig, folders: Sequence[Path]) -> dict[str, Any]:
        """Measure who may encode queries and who the index: the teacher and all members; in their cards, too."""
        if settings.training.output == "student":  # each has a space of its own
            return {}
        source = self.source(settings)
        if (task := task_of_texts(_held_out_texts(settings, source))) is None:
            return {}
        teacher = source.encoder_of(settings.run.eval_data, settings.run.eval_split)
        known = teacher
        students = [folder / STUDENT_FOLDER for folder in folders]
        if (axes := axes_in(students[0] / AXES_FILE)) is not None:
            teacher = teacher.along(axes) if isinstance(teacher, TeacherVectors) else reduced(teacher, axes)
        members = {folder.parent.name: load_embedding_model(folder) for folder in students}
        found = space_matrix({TEACHER: teacher, **members}, [task])
        for folder, member in zip(students, members.values(), strict=True):
            models = costs_of({STUDENT: member, TEACHER: known}, model_name(folder))
            publish_scores(folder, {"models": models, SPACE: found})
        tables = [
            {"title": title, "headings": headings, "rows": rows} for title, (headings, rows) in space_tables(found)
        ]
        return {SPACE: found, TABLES: tables}

    def load_start(self, folder: Path) -> Any:
        """Load a finished member of a chain, with its map and projections."""
        student = folder / STUDENT_FOLDER
        if not is_embedding_folder(student):
            return super().load_start(folder)
        encoder = to_student(load_embedding_model(student, argument="folder").encoder, needs_head=False)
        return with_projections(encoder, load_tensors(folder / PROJECTIONS_FILE))

    def rows(self, settings: RunConfig, inputs: EmbeddingInputs, log: Log) -> tuple[Any, Dataset]:
        """Read the text: rows to train on, in batches of about the same length, and rows to evaluate on."""
        run, source = settings.run, inputs.source
        log(self.what_is_read(run, source))
        prompts: Sequence[str | None] = run.train_prompts or [None] * len(run.train_data)
        train, held_out = [], []
        for name, prompt in zip(run.train_data, prompts, strict=True):
            documents = source.documents([name], run.train_split, source.train_setting, is_stream=run.streaming)
            label = f"{source.train_setting}={name!r}"
            if not run.eval_data:
                parts = [hold_out(part, label=label) for part in documents]
                log(f"eval_data is not set: {parts[0][2]} of {source.train_setting} are held out")
                documents, kept_back = ([part[side] for part in parts] for side in (0, 1))
                held_out.append(source.rows(kept_back, run, prompt, f"the held-out part of {label}"))
            train.append(source.rows(documents, run, prompt, label))
            if run.streaming and next(iter(train[-1]), None) is None:
                raise ValueError(
                    f"{label} has no text to train on beside what is held out; name eval_data, or other data"
                )
        if run.eval_data:
            documents = source.documents(run.eval_data, run.eval_split, "eval_data")
            held_out.append(source.rows(documents, run, None, f"eval_data={short_repr(run.eval_data)}"))
        return self.in_batches(settings, source, train, held_out)

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
        evaluated = [some_blocks(part, run.max_eval_blocks) for part in held_out]
        return by_length(rows, batch_size=batch_size, seed=training.seed), some_blocks(
            datasets.concatenate_datasets(evaluated), run.max_eval_blocks
        )

    def what_is_read(self, run: RunArguments, source: Source) -> str:
        """Say what a teacher is for, and what was understood of the rows."""
        length = min(run.row_length, source.model.settings.max_seq_length)
        column = f" in {run.text_column!r}" if run.text_column else ""
        what = f"{run.teacher} is an embedding model" if run.teacher else f"{run.teacher_name} hold texts and vectors"
        channels = source.model.dimension
        return f"{what} of {channels} channels; rows: paragraphs of text{column}, {length} tokens at most"

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


class RerankerRun(EmbeddingRun):
    """A run that distils a reranker on pairs of texts."""

    unused = (
        *(name for name in EmbeddingRun.unused if name != "label_column"),
        "train_prompts",
        "vocabulary",
        "start",
    )
    loader = "CrossEncoder"
    example = 'print(model.predict([("…", "…")]))'
    arguments_class = RunArguments
    grading: Grading | None = None
    """Of a model's order of the held-out pairs, once the rows are read; None without labels."""
    described: Mapping[str, Any] = {}
    """What was understood of the rows, for the results."""

    def of_members(self, settings: RunConfig, folders: Sequence[Path]) -> dict[str, Any]:
        """Rerankers have no space to share."""
        return {}

    def planned_config(self, teacher: str) -> None:
        """A reranker is planned as other classifiers."""

    def bundle(self, model: str, *, token: str | None = None) -> None:
        """A reranker is an encoder, a head and a tokenizer, as other classifiers."""

    def claims(self, teacher: str, given: Mapping[str, Any]) -> bool:
        """Whether a teacher has one output, and its rows are pairs to rank: it may be a regression, too."""
        if not teacher or given.get("label_column") or given.get("method") is not None:
            return False
        if kind_of_texts(teacher, token=given.get("hub_token")) != self.method:
            return False
        columns = _column_names(given)
        named = given.get("text_column") or given.get("text_columns") or ()
        texts = [name for name in (named.split(",") if isinstance(named, str) else named) if name.strip()]
        return len(texts) == 2 and not has_values(columns) if texts or not columns else ranks_pairs(columns)

    def check_stream(self, settings: RunConfig) -> None:
        """Refuse, by a ValueError, any stream."""
        if settings.run.streaming:
            raise ValueError(f"streaming=True with method={self.method!r}: pairs can't be streamed; leave it out")

    def set_length(self, settings: RunConfig, config: PreTrainedConfig) -> None:
        """Check a length that is given; a default follows from the rows."""
        if settings.run.max_seq_length is not None:
            set_length(settings, config)

    def rows(self, settings: RunConfig, inputs: EmbeddingInputs, log: Log) -> tuple[Any, Dataset]:
        """Read pairs: rows to train on, in batches of about the same length, and rows to evaluate on."""
        run, source = settings.run, inputs.source
        names = {name: f"train_data={name!r}" for name in run.train_data}
        names = names if len(names) > 1 else dict.fromkeys(names, "train_data")
        train = [self._read([name], run.train_split, names[name], run, source) for name in run.train_data]
        log(_pairs_read(run.teacher, train[0]))
        if run.eval_data:
            name = f"eval_data={short_repr(run.eval_data)}"
            held_out = [self._read(run.eval_data, run.eval_split, name, run, source)]
        else:
            train, held_out = map(
                list, zip(*(apart(part, log, together=part.columns.texts[0]) for part in train), strict=True)
            )
        if run.max_seq_length is None:
            config, tokenizer = inputs.config, inputs.tokenizer
            length = max(length_of_rows(part.rows, part.columns, config, tokenizer) for part in train)
            log(f"max_seq_length={length}: {what_fits(length, train[0].columns, config, tokenizer)}")
            run = replace(run, max_seq_length=length)
        self.grading = PairReader(inputs.config, inputs.tokenizer, run.row_length).grading(held_out)
        self.described = {
            "kind": "scores of pairs",
            "text_columns": list(train[0].columns.texts),
            "label_columns": list(train[0].columns.labels),
            "max_seq_length": run.row_length,
            "num_train_rows": sum(len(part.rows) for part in train),
            "num_eval_rows": sum(len(part.rows) for part in held_out),
        }
        encoded = [[source.rows([part], run, None, part.argument) for part in parts] for parts in (train, held_out)]
        return self.in_batches(settings, source, *encoded)

    def _read(self, data: list[str], split: str, name: str, run: RunArguments, source: Source) -> ReadRows:
        (rows,) = source.documents(data, split, name.partition("=")[0])
        texts = [column for column in source.columns if column]
        return pairs_in(rows, texts=texts, label_column=run.label_column, argument=name, least=LEAST_ROWS)

    def trainer(self, settings: RunConfig, log: Log, **how: Any) -> Any:
        """As [`StudentRun.trainer`], with what labels measure."""
        trainer = super().trainer(settings, log, **how)
        trainer.rows_facts = self.described
        if self.grading is not None:
            trainer.gradings = [(trainer.eval_dataset, self.grading)]
        return trainer

    def source(self, settings: RunConfig) -> Source:
        """Load a teacher."""
        run = settings.run
        columns = run.text_column or ",".join(pair_in(_column_names(vars(run))))
        return reranking_source(run.teacher, columns or None, settings.training.hub_token)


def _pairs_read(teacher: str, pairs: ReadRows) -> str:
    """What was understood of a teacher, which may be another kind, and of its rows."""
    columns, rows = pairs.columns, pairs.rows
    others = [name for name in rows.column_names if name not in columns.texts]
    labels = f" (if there are some in {join_some(others)}: method=reranker and label_column)" if others else ""
    if columns.labels:
        labels = ", which the order is measured by"
    return (
        f"{teacher} scores pairs of texts: a reranker (if it is a regression: method=homodistil); rows: "
        f"{columns.describe()}{labels}"
    )


def _column_names(given: Mapping[str, Any]) -> list[str]:
    """Columns of local rows; none where they can't be read, which is told later."""
    sources = given.get("train_data") or []
    sources = [sources] if isinstance(sources, str) else sources  # as JSON may have it
    if not all(map(os.path.exists, sources)):
        return []
    keep_datasets_here()
    try:
        return load_rows(sources, split=given.get("train_split") or "train").column_names
    except (OSError, ValueError):
        return []


def _held_out_texts(settings: RunConfig, source: Source) -> list[str]:
    run, most = settings.run, 2 * QUERIES
    if run.eval_data:
        return source.some_texts(source.documents(run.eval_data, run.eval_split, "eval_data")[0], most)
    if run.streaming:
        return []
    texts: list[str] = []
    for name in run.train_data:
        label = f"{source.train_setting}={name!r}"
        documents = source.documents([name], run.train_split, source.train_setting)[0]
        texts += source.some_texts(hold_out(documents, label=label)[1], -(-most // len(run.train_data)))
    return texts
