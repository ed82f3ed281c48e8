"""The kind of run of embedding models: the student learns the vectors of texts."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedConfig

from ..data.corpus import hold_out
from ..embedding.card import SPACE, STUDENT, TEACHER, space_tables
from ..embedding.evaluate import QUERIES, costs_of, space_matrix, task_of_texts
from ..embedding.folder import AXES_FILE, axes_in, publish_scores
from ..embedding.model import EmbeddingModel, reduced
from ..embedding.reading import MODULES_FILE, encoder_config, load_embedding_model, read_modules
from ..embedding.trainer import check_for_vectors, check_output
from ..embedding.vectors import TeacherVectors
from ..evaluation.evaluated_model import model_name
from ..files.field_checks import refuse_without_part, setting
from ..files.messages import short_repr
from ..files.model_files import model_file
from ..files.run_names import STUDENT_FOLDER, TABLES
from ..models.architectures import architecture_of
from .kinds import Rows, RunInputs, StudentKind
from .masked_words import set_length
from .settings import Log, RunArguments, RunConfig
from .sources import Source, embedding_source, vectors_source
from .texts import UNUSED, check_sampling, in_batches, inputs_of, models_of, summary_with, training_of


@dataclass
class EmbeddingRunArguments(RunArguments):
    """Settings of [`RunArguments`], and vectors in place of a teacher.

    Raises:
        ValueError: as [`RunArguments`]; also settings that don't go with such vectors, or without them.
    """

    teacher_vectors: list[str] = field(
        default_factory=list,
        metadata={
            "help": "In place of a teacher: files of texts and its vectors (text, vector), which are trained on."
        },
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
            self.train_data = list(self.teacher_vectors)
        super().__post_init__()

    @property
    def needed(self) -> dict[str, str]:
        """As [`RunArguments.needed`]; beside vectors, a start."""
        return {"start": "models/all-MiniLM-L6-v2"} if self.teacher_vectors else super().needed

    @property
    def teacher_name(self) -> str:
        """As [`RunArguments.teacher_name`]; of vectors their files."""
        return ", ".join(self.teacher_vectors) or super().teacher_name


def planned_config(teacher: str) -> PreTrainedConfig:
    """Read that of the encoder of a model of sentence-transformers, whatever head its file names."""
    # the first module is the encoder
    ((_, path), *_) = read_modules(model_file(teacher, MODULES_FILE) or Path(teacher, MODULES_FILE))
    file = model_file(teacher, Path(path, "config.json").as_posix())
    config = encoder_config(file.parent if file else Path(teacher, path), f"teacher={teacher!r}")
    config.architectures = [architecture_of(config).encoder_name]
    return config


def check_inputs(settings: RunConfig) -> RunInputs:
    """Load the teacher and plan the widths."""
    run, training = settings.run, settings.training
    if run.streaming and training.max_steps <= 0:
        raise ValueError(
            f"streaming=True with max_steps={training.max_steps}: a stream has no length, so set max_steps"
        )
    check_sampling(settings)
    source = source_of(settings)
    set_length(settings, source.encoder.config)
    if isinstance(source.model, EmbeddingModel):
        check_output(training.output, source.model)
    return inputs_of(settings, source)


def source_of(settings: RunConfig) -> Source:
    """Load a teacher; members of a chain share it."""
    run, token = settings.run, settings.training.hub_token
    if not run.teacher_vectors:
        return embedding_source(run.teacher, run.text_column, token)
    check_for_vectors(settings.training)
    of_files = run.text_column, run.train_split, run.similarity
    return vectors_source(tuple(run.teacher_vectors), run.start, of_files, token)


def read_rows(settings: RunConfig, inputs: RunInputs, log: Log) -> Rows:
    """Read the text: rows to train on, in batches of about the same length, and rows to evaluate on."""
    run, source = settings.run, inputs.source
    log(_what_is_read(run, source))
    prompts: Sequence[str | None] = run.train_prompts or [None] * len(run.train_data)
    train, held_out = [], []
    for name, prompt in zip(run.train_data, prompts, strict=True):
        documents = source.documents([name], run.train_split, source.train_setting, is_stream=run.streaming)
        label = f"{source.train_setting}={name!r}"
        if not run.eval_data:
            # (train, held out, words) of each column; the part that is held out keeps its source's prompt
            parts = [hold_out(part, label=label) for part in documents]
            log(f"eval_data is not set: {parts[0][2]} of {source.train_setting} are held out")
            documents, kept_back = ([part[side] for part in parts] for side in (0, 1))
            held_out.append(source.rows(kept_back, run, prompt, f"the held-out part of {label}"))
        train.append(source.rows(documents, run, prompt, label))
        # only reading shows whether a stream has rows
        if run.streaming and next(iter(train[-1]), None) is None:
            raise ValueError(f"{label} has no text to train on beside what is held out; name eval_data, or other data")
    if run.eval_data:
        documents = source.documents(run.eval_data, run.eval_split, "eval_data")
        held_out.append(source.rows(documents, run, None, f"eval_data={short_repr(run.eval_data)}"))
    return Rows(*in_batches(settings, source, train, held_out))


def _what_is_read(run: RunArguments, source: Source) -> str:
    """What a teacher is for, and what was understood of the rows."""
    length = min(run.row_length, source.model.settings.max_seq_length)
    column = f" in {run.text_column!r}" if run.text_column else ""
    what = f"{run.teacher} is an embedding model" if run.teacher else f"{run.teacher_name} hold texts and vectors"
    channels = source.model.dimension
    return f"{what} of {channels} channels; rows: paragraphs of text{column}, {length} tokens at most"


def of_members(settings: RunConfig, folders: Sequence[Path]) -> dict[str, Any]:
    """Measure who may encode queries and who the index: the teacher and all members; in their cards, too."""
    if settings.training.output == "student":  # each has a space of its own
        return {}
    source = source_of(settings)
    if (task := task_of_texts(_held_out_texts(settings, source))) is None:
        return {}
    whole = teacher = source.encoder_of(settings.run.eval_data, settings.run.eval_split)
    # the teacher's vectors are shortened to the members' axes, its costs stay those of the whole
    students = [folder / STUDENT_FOLDER for folder in folders]
    if (axes := axes_in(students[0] / AXES_FILE)) is not None:
        teacher = teacher.along(axes) if isinstance(teacher, TeacherVectors) else reduced(teacher, axes)
    members = {folder.parent.name: load_embedding_model(folder) for folder in students}
    matrix = space_matrix({TEACHER: teacher, **members}, [task])
    for folder, member in zip(students, members.values(), strict=True):
        models = costs_of({STUDENT: member, TEACHER: whole}, model_name(folder))
        publish_scores(folder, {"models": models, SPACE: matrix})
    tables = [{"title": title, "headings": headings, "rows": rows} for title, (headings, rows) in space_tables(matrix)]
    return {SPACE: matrix, TABLES: tables}


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


def _forget() -> None:
    for source in (embedding_source, vectors_source):
        source.cache_clear()


KIND = StudentKind(
    inputs=check_inputs,
    rows=read_rows,
    training=training_of,
    models=models_of,
    summary=partial(summary_with, "SentenceTransformer", 'print(model.encode(["…"]).shape)'),
    of_members=of_members,
    arguments=EmbeddingRunArguments,
    unused=(*UNUSED, "label_column"),
    forget=_forget,
)
