"""The kind of run of HomoDistil and baselines on a fine-tuned teacher: classifier, regression, tagger, answerer.

`tasks/` reads the rows, `distillation/task_scores.py` measures in the task's words.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedConfig, PreTrainedModel

from ..data.blocks import some_blocks
from ..data.read_line import read_line
from ..distillation.tasks import activation_name
from ..export.card import pipeline_call
from ..export.facts import read_export_facts
from ..files.messages import join_some, short_repr
from ..homodistil_args import refuse_at_kept_widths
from ..models.architectures import HEADS, architecture_of, max_tokens
from ..models.loading import load_encoder_config
from ..models.tokenizers import (
    as_heads_read,
    check_tokenizer,
    fitted_length,
    load_tokenizer,
    tokenizer_of_run,
)
from ..models.widths import WidthPlan, widths_of
from ..tasks.columns import LEAST_ROWS, ReadRows, described_rows, found_rows, listed_columns, what_is_read
from ..tasks.encoding import encode_rows, grading_of, length_of_rows, what_fits
from ..tasks.held_out import apart, warn_of_learned_texts
from ..tasks.kinds import ANSWERS, CLASSES, LABELS, TAGS, VALUES, describe_kind, task_kind_of
from ..tasks.labels import read_alike
from ..tasks.reading import load_rows
from ..training.learning_rate import default_task_rate, steps_of_task
from ..training.small_start import BESIDE_A_TEACHER, class_name_of, folder_of_start, is_of_a_task, load_small_start
from ..training_args import with_settings
from . import masked_words
from .kinds import Rows, RunInputs, StudentKind, method_plan
from .settings import Log, RunArguments, RunConfig

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

_ANOTHER = "start from a student that was made from the teacher, or from the model that it was fine-tuned from"


def check_inputs(settings: RunConfig) -> RunInputs:
    """Check tokenizer and length against the teacher's configuration; its weights are not touched."""
    run, training = settings.run, settings.training
    KIND.check(run)  # again: a teacher of the Hub is known only now
    if run.start is not None:
        if run.method != "homodistil":
            raise ValueError(f"start={run.start!r} has no place with method={run.method!r}; leave out one of them")
        refuse_at_kept_widths(settings.given, f"start={run.start!r}")
    config = load_encoder_config(run.teacher, revision=run.teacher_revision, token=training.hub_token)
    tokenizer = tokenizer_of_run(run.teacher, run.tokenizer, revision=run.teacher_revision, token=training.hub_token)
    check_tokenizer(tokenizer, config)
    if run.max_seq_length is not None:
        fitted_length(run.max_seq_length, config, argument="max_seq_length", owner="teacher")
    return RunInputs(config, as_heads_read(tokenizer, config))


def read_rows(settings: RunConfig, inputs: RunInputs, log: Log) -> Rows:
    """Read and tokenize the rows: those to train on, and those to evaluate on; say what was understood."""
    run, config, kind = settings.run, inputs.config, task_kind_of(inputs.config)
    train = _read(run, config, "train_data")
    columns = train.columns
    of_scores = " (if it ranks pairs: method=reranker)" if kind == VALUES and config.num_labels == 1 else ""
    others = [name for name in train.rows.column_names if name not in columns.texts]
    has_others = others and not columns.labels
    where = f" (if there are some in {join_some(others)}: label_column)" if has_others else ""
    if (activation := activation_name(config)) is not None:
        of_scores += f", {activation} of its output, as its sentence-transformers settings say"
    log(f"{run.teacher} predicts {describe_kind(config, kind)}{of_scores}; rows: {columns.describe()}{where}")
    if run.start is not None:
        own = class_name_of(run.start, settings.training.hub_token, "start")
        head = "" if is_of_a_task(own) else ", with a fresh head"
        log(f"the student starts from {run.start} and keeps its widths{head}")
    if not run.eval_data:
        train, held_out = apart(train, log)
    else:
        held_out = _read(run, config, "eval_data")
        if len(held_out.columns.texts) != len(train.columns.texts):
            raise ValueError(
                f"eval_data has {held_out.columns.describe()}, train_data {train.columns.describe()}; expected as "
                "many texts a row in both: name text_columns"
            )
        warn_of_learned_texts(train, held_out)
        if held_out.columns != train.columns:
            log(f"eval_data: {held_out.columns.describe()}")
    length = row_length(settings, inputs, [train], log)
    read = read_alike((train, held_out), config)
    encoded = [encode_rows(part, config, inputs.tokenizer, max_length=length) for part in read]
    parts = dict(zip(("to train on", "held out"), encoded, strict=True))
    log(read_line(parts, **what_is_read([train, held_out]), tokenizer=inputs.tokenizer))
    # its default is one for blocks of text; a task is measured on all rows that are held out
    if "max_eval_blocks" in settings.given:
        encoded[1] = some_blocks(encoded[1], run.max_eval_blocks)
    return Rows(
        encoded[0],
        encoded[1],
        facts=described_rows(kind, [train], [held_out], length),
        grading=grading_of(held_out, inputs.tokenizer, length),
        metrics=("kl", "agreement", *REPORTED[kind]),
    )


def row_length(settings: RunConfig, inputs: RunInputs, train: Sequence[ReadRows], log: Log) -> int:
    """Return the given length, else the one that the rows of the longest source need."""
    if (given := settings.run.max_seq_length) is not None:
        return int(given)
    config, tokenizer = inputs.config, inputs.tokenizer
    length = max(length_of_rows(part, config, tokenizer) for part in train)
    log(f"max_seq_length={length}: {what_fits(length, train[0].columns, config, tokenizer)}")
    return length


def _read(run: RunArguments, config: PreTrainedConfig, argument: str) -> ReadRows:
    split = run.train_split if argument == "train_data" else run.eval_split
    rows = load_rows(getattr(run, argument), split=split, argument=argument)
    texts = listed_columns(run.text_column or None)
    named = {"text_columns": texts, "label_column": run.label_column, "argument": argument}
    return found_rows(rows, config, task_kind_of(config), least=LEAST_ROWS, **named)


def training_of(settings: RunConfig, inputs: RunInputs, train: Dataset) -> Any:
    """Set steps, rate and order, where none are given: three passes, but `LEAST_STEPS` at least, by length."""
    training, is_started = settings.training, settings.run.start is not None
    changes: dict[str, Any] = {}
    if training.max_steps <= 0 and "num_train_epochs" not in settings.given:
        changes["max_steps"] = steps_of_task(len(train), training.rows_per_step, least=LEAST_STEPS)
    if training.learning_rate is None:
        # by the width that the student begins with: its start's, else its teacher's
        begins = plan_student(settings, inputs) if is_started else inputs.config
        changes["learning_rate"] = default_task_rate(begins.hidden_size)
    if "train_sampling_strategy" not in settings.given:
        changes["train_sampling_strategy"] = "group_by_length"
    if is_started:
        changes |= {name: value for name, value in BESIDE_A_TEACHER.items() if name not in settings.given}
    return with_settings(training, **changes)


def load_models(settings: RunConfig, inputs: RunInputs) -> tuple[PreTrainedModel | None, PreTrainedModel]:
    """Load the small model that the student starts as, if one is named, and the teacher."""
    start, token = settings.run.start, settings.training.hub_token
    small = None if start is None else load_small_start(start, token=token, argument="start")
    return small, masked_words.load_models(settings, inputs)[1]


def _loading_lines(student: str, results: Mapping[str, Any]) -> str:
    config = load_encoder_config(student, argument="student")
    kind = task_kind_of(config)
    if kind == ANSWERS:
        head = HEADS[config.architectures[0]].kind
        lines = f"from transformers import {head.auto_class}, AutoTokenizer\n"
        lines += f"model = {head.auto_class}.from_pretrained({student!r})\n"
        return f"{lines}tokenizer = AutoTokenizer.from_pretrained({student!r})\n{head.question}"
    call = pipeline_call(kind, repr(student), ["…" for _ in results["rows"]["text_columns"]], activation_name(config))
    return f"from transformers import pipeline\nprint({call})"


# The small model that a run starts from


def plan_student(settings: RunConfig, inputs: RunInputs) -> WidthPlan:
    """Widths of the start, once its configuration is compared with the teacher's; without one, the method's.

    Raises:
        ValueError: no smaller model, or one of another task or architecture, other words, layers or positions.
        OSError: it can't be read.
    """
    run, training, teacher = settings.run, settings.training, inputs.config
    start, token = run.start, training.hub_token
    if start is None:
        return method_plan(settings, inputs)
    folder, is_export = folder_of_start(start)
    config = load_encoder_config(folder, token=token, argument="start", needs_head=False)
    # first the configurations, then words, positions and widths
    compared = {"architecture": [architecture_of(one).name for one in (config, teacher)]}
    if is_of_a_task(config.architectures[0]):  # else it gets a head of the teacher's kind
        compared["class"] = [HEADS[one.architectures[0]].stock_name for one in (config, teacher)]
        compared["num_labels"] = [config.num_labels, teacher.num_labels]
    compared["vocab_size"] = [config.vocab_size, teacher.vocab_size]
    # states are compared layer by layer unless hidden_weight=0 is given: here its default is 1
    has_more = config.num_hidden_layers > teacher.num_hidden_layers
    if has_more and (training.hidden_weight or "hidden_weight" not in settings.given):
        compared["num_hidden_layers"] = [config.num_hidden_layers, teacher.num_hidden_layers]
    for what, (own, other) in compared.items():
        if own != other:
            remedy = ", or set hidden_weight=0" if what == "num_hidden_layers" else ""
            raise ValueError(
                f"start={start!r} has {what}={own}, the teacher {run.teacher!r} {other}; {_ANOTHER}{remedy}"
            )
    # words by rising id; a tokenizer may end before vocab_size, so only the ids of both are compared
    both = (load_tokenizer(folder, token=token, argument="start"), inputs.tokenizer)
    words, others = (sorted(one.get_vocab().items(), key=lambda item: item[1]) for one in both)
    for (word, number), (other, _) in zip(words, others, strict=False):
        if word != other:
            raise ValueError(
                f"start={start!r} reads {short_repr(word)} as token {number}, the teacher {run.teacher!r} "
                f"{short_repr(other)}; {_ANOTHER}"
            )
    if (most := max_tokens(config)) < (run.max_seq_length or max_tokens(teacher)):
        raise ValueError(f"start={start!r} reads {most} tokens, fewer than the teacher; set max_seq_length={most}")
    # a standard export may be padded to its stock class; its facts hold the widths without padding
    forms = read_export_facts(Path(folder))["forms"] if is_export else None
    plan = WidthPlan.from_dict(forms["compact"]["plan"], config.num_hidden_layers) if forms else widths_of(config)
    if plan == widths_of(teacher) and "class" in compared:
        raise ValueError(
            f"start={start!r} is as wide as the teacher {run.teacher!r}; start from a smaller model, or set "
            "student=macs=0.25 instead"
        )
    return plan


KIND = StudentKind(
    inputs=check_inputs,
    plan=plan_student,
    rows=read_rows,
    training=training_of,
    models=load_models,
    summary=partial(masked_words.summary_with, _loading_lines),
    unused=(*masked_words.KIND.unused, "packing", "line_by_line", "streaming", "further_pretraining"),
    place="a teacher that is fine-tuned for a task",
)
