"""The run of HomoDistil and of baselines on a fine-tuned teacher: a classifier, a regression, a tagger, an answerer.

`tasks/` reads the rows, `distillation/task_scores.py` measures in the task's words.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, ClassVar

from datasets import Dataset
from transformers import PreTrainedModel

from ..data.blocks import some_blocks
from ..export.usage import pipeline_call
from ..files.hub_errors import HubError
from ..files.messages import join_some
from ..models.architectures import HEADS
from ..models.loading import load_encoder_config
from ..models.tokenizers import check_tokenizer, fitted_length, tokenizer_of_run, without_unused_segments
from ..tasks.answers import answer_grades
from ..tasks.columns import ReadRows, described_rows, find_columns, listed_columns
from ..tasks.encoding import (
    LEAST_ROWS,
    check_number,
    check_rows,
    encode_rows,
    length_of_rows,
    question_rows,
    what_fits,
)
from ..tasks.held_out import apart
from ..tasks.kinds import ANSWERS, CLASSES, LABELS, MASKED_WORDS, TAGS, VALUES, describe_kind, kind_of
from ..tasks.reading import load_rows
from ..training.learning_rate import default_task_rate
from ..training.small_start import load_small_start
from ..training_args import with_settings
from .masked_words import MaskedWordsRun
from .run import RunInputs
from .run_arguments import Log, RunArguments, RunConfig
from .task_start import START_WEIGHTS, check_start_settings, start_plan

LEAST_STEPS = 1000
"""Optimizer steps of a run on few rows, unless steps or epochs are given."""

REPORTED = {
    CLASSES: ("task_accuracy", "macro_f1"),
    LABELS: ("micro_f1", "macro_f1", "exact_rows"),
    VALUES: ("pearson", "spearman", "task_loss"),
    TAGS: ("span_f1", "task_accuracy", "macro_f1"),
    ANSWERS: ("exact_match", "f1"),
}
"""Kind → metrics of its labels that results report, beside KL and agreement."""

_FIRST_TOKENS = " (a word's first token has its tag, its other tokens don't count)"


@dataclass(frozen=True)
class TaskInputs(RunInputs):
    """What such a run is checked against; `kind` is the teacher's."""

    kind: str


class TaskRun(MaskedWordsRun):
    """A run that distils a fine-tuned model on rows of its task, with labels or without."""

    unused: ClassVar[tuple[str, ...]] = (*MaskedWordsRun.unused, "packing", "streaming", "further_pretraining")
    grading: Callable[[PreTrainedModel], dict[str, float]] | None = None
    """Of a model's answers to held-out questions, once the rows are read; None where no answers are known."""
    described: Mapping[str, Any] = {}
    """What was understood of the rows, for the results."""
    place = "a teacher that is fine-tuned for a task"

    def inputs(self, settings: RunConfig) -> TaskInputs:
        """Check plan, tokenizer and length against the teacher's configuration; its weights are not touched."""
        run, training = settings.run, settings.training
        self.check(run)
        if run.start is not None:
            check_start_settings(settings, self.method)
        config = load_encoder_config(run.teacher, revision=run.teacher_revision, token=training.hub_token)
        tokenizer = tokenizer_of_run(
            run.teacher, run.tokenizer, revision=run.teacher_revision, token=training.hub_token
        )
        check_tokenizer(tokenizer, config)
        if run.max_seq_length is not None:
            fitted_length(run.max_seq_length, config, argument="max_seq_length", owner="teacher")
        if run.start is not None:
            plan = start_plan(settings, config, tokenizer)
        else:
            plan = self.trainer_class.plan_of(training, config)
        return TaskInputs(config, without_unused_segments(tokenizer, config), plan, kind_of(config))

    def rows(self, settings: RunConfig, inputs: Any, log: Log) -> tuple[Dataset, Dataset]:
        """Read and tokenize the rows: those to train on, and those to evaluate on; say what was understood."""
        run, config = settings.run, inputs.config
        train = self._read(run, inputs, "train_data")
        log(_what_is_read(run.teacher, inputs, train))
        if run.start is not None:
            log(f"the student starts from {run.start} and keeps its widths")
        train, held_out = self._with_held_out(run, inputs, train, log)
        length = run.max_seq_length
        if length is None:
            length = length_of_rows(train.rows, train.columns, config, inputs.tokenizer)
            log(f"max_seq_length={length}: {what_fits(length, train.columns, config, inputs.tokenizer)}")
        encoded = [
            encode_rows(part.rows, part.columns, config, inputs.tokenizer, max_length=length, argument=part.argument)
            for part in (train, held_out)
        ]
        questions = question_rows(*held_out) if inputs.kind == ANSWERS else None
        if questions is not None:
            self.grading = partial(answer_grades, questions=questions, tokenizer=inputs.tokenizer, max_length=length)
        self.described = described_rows(inputs.kind, [train], [held_out], length)
        # its default is one for blocks of text; a task is measured on all rows that are held out
        if "max_eval_blocks" in settings.given:
            encoded[1] = some_blocks(encoded[1], run.max_eval_blocks)
        return encoded[0], encoded[1]

    def _with_held_out(
        self, run: RunArguments, inputs: TaskInputs, train: ReadRows, log: Log
    ) -> tuple[ReadRows, ReadRows]:
        if run.eval_data:
            held_out = self._read(run, inputs, "eval_data")
            if len(held_out.columns.texts) != len(train.columns.texts):
                raise ValueError(
                    f"eval_data has {held_out.columns.describe()}, train_data {train.columns.describe()}; expected as "
                    "many texts a row in both: name text_columns"
                )
            if held_out.columns != train.columns:
                log(f"eval_data: {held_out.columns.describe()}")
            return train, held_out
        return apart(train, log)

    def _read(self, run: RunArguments, inputs: TaskInputs, argument: str) -> ReadRows:
        split = run.train_split if argument == "train_data" else run.eval_split
        rows = load_rows(getattr(run, argument), split=split, argument=argument)
        check_number(rows, argument, least=LEAST_ROWS)
        texts = listed_columns(run.text_column or None)
        columns = find_columns(
            rows, inputs.config, inputs.kind, text_columns=texts, label_column=run.label_column, argument=argument
        )
        check_rows(rows, columns, argument)
        return ReadRows(rows, columns, argument)

    def arguments(self, settings: RunConfig, inputs: Any, train: Dataset) -> Any:
        """Set steps and rate, where none are given: three passes, but `LEAST_STEPS` at least."""
        training = settings.training
        changes: dict[str, Any] = {}
        if training.max_steps <= 0 and "num_train_epochs" not in settings.given:
            rows_per_step = training.train_batch_size * training.gradient_accumulation_steps * training.world_size
            changes["max_steps"] = max(LEAST_STEPS, math.ceil(3 * len(train) / rows_per_step))
        if training.learning_rate is None:
            # by the width that the student begins with: its start's, else its teacher's
            is_started = settings.run.start is not None
            changes["learning_rate"] = default_task_rate((inputs.plan if is_started else inputs.config).hidden_size)
        if settings.run.start is not None:
            changes |= {name: value for name, value in START_WEIGHTS.items() if name not in settings.given}
        return with_settings(training, **changes)

    def trainer(self, settings: RunConfig, log: Log, **how: Any) -> Any:
        """As [`StudentRun.trainer`], with the metrics of the kind."""
        if settings.run.start is not None:
            how["start"] = load_small_start(settings.run.start, token=settings.training.hub_token, argument="start")
        trainer = super().trainer(settings, log, **how)
        kind = kind_of(trainer.model.config, type(trainer.model).__name__)
        trainer.rows_facts = self.described
        trainer.reported_metrics = ("kl", "agreement", *REPORTED[kind])
        if self.grading is not None:
            trainer.gradings = [(trainer.eval_dataset, self.grading)]
        return trainer

    def loading_lines(self, student: str, results: Mapping[str, Any]) -> str:
        """Python that uses the student in a folder."""
        config = load_encoder_config(student, argument="student")
        kind = kind_of(config)
        if kind == ANSWERS:
            head = HEADS[config.architectures[0]].kind
            lines = f"from transformers import {head.auto_class}, AutoTokenizer\n"
            lines += f"model = {head.auto_class}.from_pretrained({student!r})\n"
            return f"{lines}tokenizer = AutoTokenizer.from_pretrained({student!r})\n{head.question}"
        call = pipeline_call(kind, repr(student), ["…" for _ in results["rows"]["text_columns"]])
        return f"from transformers import pipeline\nprint({call})"


def is_task_model(teacher: str, *, revision: str | None = None, token: str | None = None) -> bool:
    """Whether a folder or Hub name holds a model with a fine-tuned head; False where it can't be read.

    Raises:
        HubError: the Hub refused or can't be reached.
    """
    read = _read_kind if Path(teacher).exists() else _kind_on_hub
    try:
        return read(teacher, revision, token) != MASKED_WORDS
    except HubError:  # another rank may read it, and take the run for another
        raise
    except (OSError, ValueError):
        return False


def _read_kind(teacher: str, revision: str | None, token: str | None) -> str:
    return kind_of(load_encoder_config(teacher, revision=revision, token=token))


_kind_on_hub = cache(_read_kind)  # one config asks several times


def _what_is_read(teacher: str, inputs: TaskInputs, train: ReadRows) -> str:
    """What a teacher predicts, and what was understood of the rows."""
    config, columns = inputs.config, train.columns
    of_scores = " (if it ranks pairs: method=reranker)" if inputs.kind == VALUES and config.num_labels == 1 else ""
    others = [name for name in train.rows.column_names if name not in columns.texts]
    where = f" (if there are some in {join_some(others)}: label_column)" if others else ""
    if columns.labels:
        where = _FIRST_TOKENS if inputs.kind == TAGS else ""
    return f"{teacher} predicts {describe_kind(config, inputs.kind)}{of_scores}; rows: {columns.describe()}{where}"
