"""The kind of run of embedding models: the student learns the vectors of texts; and what `reranker.py` has, too."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import datasets
from transformers import PreTrainedConfig

from ..data.blocks import some_blocks
from ..data.corpus import hold_out, load_text
from ..data.lengths import by_length
from ..data.read_line import read_line
from ..embedding.card import SPACE, STUDENT, TEACHER, space_tables
from ..embedding.evaluate import QUERIES, costs_of, space_matrix, task_of_texts
from ..embedding.folder import (
    AXES_FILE,
    axes_in,
    load_nested_embedding,
    publish_scores,
    read_embedding_facts,
)
from ..embedding.model import (
    BITS_TYPE,
    MODULES_FILE,
    SETTINGS_FILE,
    EmbeddingModel,
    encoder_config,
    load_embedding_model,
    name_unused,
    pooling_in,
    reduced,
    student_modules,
)
from ..embedding.texts import mixed, some_paragraphs, tokenize_texts
from ..embedding.trainer import check_for_vectors, check_output
from ..embedding.vectors import TeacherVectors, learner_of, load_teacher_vectors, tokenize_vectors
from ..evaluation.evaluated_model import model_name
from ..export.nested import member_names
from ..files.messages import first_of, short_repr
from ..files.model_files import model_file
from ..files.run_names import STUDENT_FOLDER, TABLES
from ..files.settings import refuse_without_part, setting
from ..models.architectures import architecture_of
from ..models.loading import refuse_architecture
from ..models.widths import WidthPlan, widths_of
from ..training_args import with_settings
from .kinds import Rows, RunInputs, StudentKind, method_plan
from .masked_words import check_stream, set_length, summary_with
from .settings import Log, RunArguments, RunConfig

UNUSED = ("tokenizer", "teacher_revision", "further_pretraining", "packing", "line_by_line", "train_sampling_strategy")
"""Settings that have no part in runs of whole texts, which `by_length` has put in their order."""


@dataclass
class EmbeddingRunArguments(RunArguments):
    """Settings of [`RunArguments`], and vectors in place of a teacher.

    Raises:
        ValueError: as [`RunArguments`]; also settings that don't go with such vectors, or without them.
    """

    teacher_vectors: list[str] = setting(
        [], "In place of a teacher: files of texts and its vectors (text, vector), which are trained on."
    )
    start: str | None = setting(None, "Beside teacher_vectors: what the student starts from, a small encoder.")
    similarity: Literal["cosine", "dot", "euclidean", "manhattan"] = setting(
        "cosine", "Beside teacher_vectors: what vectors are compared by."
    )

    def __post_init__(self) -> None:
        if not self.teacher_vectors:
            remedy = "it belongs to teacher_vectors: the student of a teacher's model starts as its copy; leave it out"
            refuse_without_part(self, dict.fromkeys(("start", "similarity"), remedy))
        else:
            remedies = {
                "teacher": "teacher_vectors has its vectors: leave one of them out",
                "streaming": "vectors are read at once; leave it out",
                "vocabulary": "trim that of start first, by `homodistil trim`, and name the trimmed folder as start",
            }
            # a copy of these settings has the same files there already
            if self.train_data and self.train_data != self.teacher_vectors:
                remedies["train_data"] = "the texts of teacher_vectors are trained on; leave it out"
            refuse_without_part(self, remedies, run="a run with teacher_vectors")
            self.train_data, self.train_setting = list(self.teacher_vectors), "teacher_vectors"
            self.needed = {"start": "models/all-MiniLM-L6-v2"}
        super().__post_init__()


def planned_config(teacher: str) -> PreTrainedConfig:
    """Read that of the encoder of a model of sentence-transformers, whatever head its file names."""
    label = f"teacher={teacher!r}"
    modules = student_modules(model_file(teacher, MODULES_FILE) or Path(teacher, MODULES_FILE), label)
    name_unused(teacher, [path for _, path in modules], label)
    if (file := model_file(teacher, Path(modules[1][1], "config.json").as_posix())) is not None:
        pooling_in(file, label)
    return config_in(teacher, modules[0][1], label)


def config_in(teacher: str, path: str, label: str) -> PreTrainedConfig:
    """Read that of the encoder in a folder `path` of a teacher."""
    file = model_file(teacher, Path(path, "config.json").as_posix())
    config = encoder_config(file.parent if file else Path(teacher, path), label)
    config.architectures = [architecture_of(config).encoder.stock_name]
    return config


def check_inputs(settings: RunConfig) -> RunInputs:
    """Load the teacher, or what a student of given vectors starts from."""
    run, training = settings.run, settings.training
    check_stream(settings)
    if run.teacher_vectors:
        check_for_vectors(training)
        target = _vectors(run, run.teacher_vectors, run.train_split, "teacher_vectors")
        teacher: EmbeddingModel = learner_of(run.start, target, token=training.hub_token)
    else:
        teacher = load_embedding_model(run.teacher, token=training.hub_token)
    config = teacher.encoder.config
    if config.model_type == BITS_TYPE:
        refuse_architecture(type(teacher.encoder).__name__, "start" if run.teacher_vectors else "teacher")
    owner = "start" if run.teacher_vectors else "teacher"
    set_length(settings, config, allowed=teacher.settings.max_seq_length, owner=owner)
    check_output(training.output, teacher)
    return RunInputs(config, teacher.tokenizer, teacher)


def plan_student(settings: RunConfig, inputs: RunInputs) -> WidthPlan:
    """The widths of the method; those of the start where vectors are given and no size."""
    training, config = settings.training, inputs.config
    if training.student is None and inputs.teacher.target is not None:
        return widths_of(config)
    return method_plan(settings, inputs)


def training_of(settings: RunConfig, inputs: RunInputs, train: Any) -> Any:
    """Rows are read in their order: `by_length` has shuffled them, and put those of like length side by side."""
    return with_settings(settings.training, train_sampling_strategy="sequential")


def read_rows(settings: RunConfig, inputs: RunInputs, log: Log) -> Rows:
    """Read the text: rows to train on, in batches of about the same length, and rows to evaluate on."""
    run, teacher = settings.run, inputs.teacher
    length = run.row_length
    column = f" in {run.text_column!r}" if run.text_column else ""
    files = ", ".join(run.teacher_vectors)
    what = f"{files} hold texts and vectors" if files else f"{run.teacher} is {teacher.kind}"
    rows = "whole texts" if files else "paragraphs of text"
    log(f"{what} of {teacher.dimension} channels; rows: {rows}{column}, {length} tokens at most")
    prompts: Sequence[str | None] = run.train_prompts or [None] * len(run.train_data)
    train, held_out = [], []
    for name, prompt in zip(run.train_data, prompts, strict=True):
        documents, label = _documents(teacher, run, [name]), f"{run.train_setting}={name!r}"
        if not run.eval_data:
            # the part that is held out keeps its source's prompt
            documents, kept_back, words = hold_out(documents, label=label)
            log(f"eval_data is not set: {words} of {run.train_setting} are held out")
            held_out.append(_tokenized(teacher, run, kept_back, prompt, f"the held-out part of {label}"))
        train.append(_tokenized(teacher, run, documents, prompt, label))
    if run.eval_data:
        documents = _documents(teacher, run, run.eval_data, is_held_out=True)
        held_out.append(_tokenized(teacher, run, documents, None, f"eval_data={short_repr(run.eval_data)}"))
    parts = in_batches(settings, train, held_out)
    log(read_line(parts, documents.info.description, tokenizer=teacher.tokenizer))
    rows, evaluated = parts.values()
    return Rows(rows, evaluated, {"max_seq_length": length})


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


def _documents(
    teacher: EmbeddingModel, run: EmbeddingRunArguments, data: list[str], *, is_held_out: bool = False
) -> Any:
    """Read files of text; where vectors are given, with a column of vectors."""
    split, argument = (run.eval_split, "eval_data") if is_held_out else (run.train_split, run.train_setting)
    if teacher.target is None:
        how: dict[str, Any] = {"split": split, "argument": argument, "streaming": run.streaming and not is_held_out}
        # a document a paragraph, so that rows are held out, and not whole texts
        return load_text(data, text_column=run.text_column, line_by_line=True, **how)
    return _vectors(run, data, split, argument).documents


def _vectors(run: EmbeddingRunArguments, data: list[str], split: str, argument: str) -> TeacherVectors:
    how: dict[str, Any] = {"text_column": run.text_column, "similarity": run.similarity}
    return load_teacher_vectors(data, split=split, argument=argument, **how)


def _tokenized(
    teacher: EmbeddingModel, run: EmbeddingRunArguments, documents: Any, prompt: str | None, argument: str
) -> Any:
    """Texts as rows, the prompt of a name before each; a ValueError where the teacher has no such prompt."""
    if prompt and prompt not in (prompts := teacher.prompts):
        raise ValueError(
            f"train_prompts has {prompt!r}, but the teacher's prompts are {first_of(prompts) if prompts else 'none'}; "
            "name one of those, leave it out, or give the texts that it was trained with in its "
            f'{SETTINGS_FILE}, such as {{"prompts": {{"query": "query: "}}}}'
        )
    length = run.row_length
    settings: dict[str, Any] = {
        "tokenizer": teacher.tokenizer,
        "max_length": length,
        "num_proc": run.preprocessing_num_workers,
        "argument": argument,
    }
    if teacher.target is not None:
        return tokenize_vectors(documents, **settings, prepare=partial(teacher.settings.prepared, prompt_name=prompt))
    rows_of = teacher.rows_of(length, prompt)
    # A source whose prompt is named may be one of queries, or of titles.
    return tokenize_texts(documents, **settings, rows_of=rows_of, least_characters=None if prompt is None else 1)


def of_members(settings: RunConfig, inputs: RunInputs, folders: Sequence[Path]) -> dict[str, Any]:
    """Measure who may encode queries and who the index: the teacher and all members; in their cards, too."""
    run = settings.run
    if settings.training.output == "student":  # each has a space of its own
        return {}
    model = inputs.teacher
    if (task := task_of_texts(held_out_texts(run, model))) is None:
        return {}
    whole: EmbeddingModel | TeacherVectors = model
    if model.target is not None:
        held_out = run.eval_data and _vectors(run, run.eval_data, run.eval_split, "eval_data")
        whole = held_out or model.target
    # the teacher's vectors are shortened to the members' axes, its costs stay those of the whole
    teacher, students = whole, [folder / STUDENT_FOLDER for folder in folders]
    if (axes := axes_in(students[0] / AXES_FILE)) is not None:
        teacher = whole.along(axes) if isinstance(whole, TeacherVectors) else reduced(whole, axes)
    if len(students) == 1:  # all sizes of a nested student
        members = {name: load_nested_embedding(students[0], name)[0] for name in member_names(students[0])}
    else:
        members = {folder.parent.name: load_embedding_model(folder) for folder in students}
    matrix = space_matrix({TEACHER: teacher, **members}, [task])
    for folder, member in zip(students, members.values(), strict=False):
        models = costs_of({STUDENT: member, TEACHER: whole}, model_name(folder))
        publish_scores(folder, {"models": models, SPACE: matrix}, read_embedding_facts(folder))
    tables = [{"title": title, "headings": headings, "rows": rows} for title, (headings, rows) in space_tables(matrix)]
    return {SPACE: matrix, TABLES: tables}


def held_out_texts(run: EmbeddingRunArguments, teacher: EmbeddingModel) -> list[str]:
    """Some held-out texts of all sources, of given vectors the first ones, whole; none of a stream."""
    most = 2 * QUERIES
    if run.eval_data:
        parts = [_documents(teacher, run, run.eval_data, is_held_out=True)]
    elif run.streaming:
        return []
    else:
        parts = [
            hold_out(_documents(teacher, run, [name]), label=f"{run.train_setting}={name!r}")[1]
            for name in run.train_data
        ]
        most = -(-most // len(parts))
    is_given = teacher.target is not None
    return [text for part in parts for text in (part["text"][:most] if is_given else some_paragraphs(part, most))]


def library_lines(loader: str, example: str, student: str, results: Mapping[str, Any]) -> str:
    """Python that loads a student in a folder by a class of sentence-transformers, and uses it."""
    return f"from sentence_transformers import {loader}\nmodel = {loader}({student!r})\n{example}"


def loaded_by(load: Callable[..., EmbeddingModel], settings: RunConfig) -> RunInputs:
    """Load the teacher of a run that has text alone."""
    check_stream(settings)
    teacher = load(settings.run.teacher, token=settings.training.hub_token)
    set_length(settings, teacher.encoder.config)
    return RunInputs(teacher.encoder.config, teacher.tokenizer, teacher)


def kind_of_class(loader: str, example: str, load: Callable[..., EmbeddingModel]) -> StudentKind:
    """The kind of models of another class of sentence-transformers, with the texts and batches of embedding models."""
    return replace(
        KIND,
        inputs=partial(loaded_by, load),
        summary=partial(summary_with, partial(library_lines, loader, example)),
        of_members=None,
        unused=(*KIND.unused, "teacher_vectors", "start", "similarity", "vocabulary"),
    )


KIND = StudentKind(
    inputs=check_inputs,
    plan=plan_student,
    rows=read_rows,
    training=training_of,
    summary=partial(summary_with, partial(library_lines, "SentenceTransformer", 'print(model.encode(["…"]).shape)')),
    of_members=of_members,
    arguments=EmbeddingRunArguments,
    unused=(*UNUSED, "label_column"),
)
