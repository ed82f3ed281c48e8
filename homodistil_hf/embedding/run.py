"""The run of an embedding model: the student learns the vectors of texts."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from datasets import Dataset
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..data.corpus import hold_out
from ..evaluation.evaluated_model import model_name
from ..files.messages import short_repr
from ..files.model_files import model_file
from ..files.run_names import STUDENT_FOLDER, TABLES
from ..methods.run import Bundle
from ..methods.run_arguments import Log, RunArguments, RunConfig
from ..models.architectures import architecture_of
from .card import SPACE, STUDENT, TEACHER, space_tables
from .evaluate import QUERIES, costs_of, space_matrix, task_of_texts
from .folder import AXES_FILE, axes_in, publish_scores, write_model
from .model import reduced
from .reading import MODULES_FILE, encoder_config, kind_of_texts, load_embedding_model, read_modules
from .sources import EmbeddingRunArguments, Source, embedding_source, vectors_source
from .text_run import TextInputs, TextRun
from .trainer import check_for_vectors
from .vectors import TeacherVectors


class EmbeddingRun(TextRun):
    """A run that distils an embedding model on texts."""

    unused: ClassVar[tuple[str, ...]] = (*TextRun.unused, "label_column")
    arguments_class: ClassVar[type[RunArguments]] = EmbeddingRunArguments
    loader = "SentenceTransformer"
    example = 'print(model.encode(["…"]).shape)'

    def claims(self, teacher: str, given: Mapping[str, Any]) -> bool:
        """Whether a teacher is one of this method's models, or vectors are given."""
        kind = kind_of_texts(teacher, token=given.get("hub_token")) if teacher else None
        return bool(given.get("teacher_vectors")) or kind == self.method

    def planned_config(self, teacher: str) -> PreTrainedConfig | None:
        """Read that of the encoder of a model of sentence-transformers, whatever head its file names."""
        # the first module is the encoder
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

    def of_members(self, settings: RunConfig, folders: Sequence[Path]) -> dict[str, Any]:
        """Measure who may encode queries and who the index: the teacher and all members; in their cards, too."""
        if settings.training.output == "student":  # each has a space of its own
            return {}
        source = self.source(settings)
        if (task := task_of_texts(_held_out_texts(settings, source))) is None:
            return {}
        teacher = source.encoder_of(settings.run.eval_data, settings.run.eval_split)
        # the teacher's vectors are shortened to the members' axes, its costs stay those of the whole
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

    def rows(self, settings: RunConfig, inputs: TextInputs, log: Log) -> tuple[Any, Dataset]:
        """Read the text: rows to train on, in batches of about the same length, and rows to evaluate on."""
        run, source = settings.run, inputs.source
        log(self.what_is_read(run, source))
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
                raise ValueError(
                    f"{label} has no text to train on beside what is held out; name eval_data, or other data"
                )
        if run.eval_data:
            documents = source.documents(run.eval_data, run.eval_split, "eval_data")
            held_out.append(source.rows(documents, run, None, f"eval_data={short_repr(run.eval_data)}"))
        return self.in_batches(settings, source, train, held_out)

    def what_is_read(self, run: RunArguments, source: Source) -> str:
        """Say what a teacher is for, and what was understood of the rows."""
        length = min(run.row_length, source.model.settings.max_seq_length)
        column = f" in {run.text_column!r}" if run.text_column else ""
        what = f"{run.teacher} is an embedding model" if run.teacher else f"{run.teacher_name} hold texts and vectors"
        channels = source.model.dimension
        return f"{what} of {channels} channels; rows: paragraphs of text{column}, {length} tokens at most"


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
