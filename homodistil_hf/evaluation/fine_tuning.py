"""Fine-tunings: one with its settings, trainer and metrics, the choice of a learning rate, and a task of one's own.

Every model gets the same treatment: its encoder under stock transformers' head, with fresh layers drawn from the seed.
task_runs.py has GLUE and SQuAD. A task of one's own is rows in files; until the model is there, `training/` has the
settings, the tried rates and the checkpoints, by which a fine-tuning that was stopped goes on. Beside a teacher it is
the run of `runs/task.py`.
"""

import json
import logging
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from torch.utils.data import DataLoader
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase, set_seed

from ..data.blocks import drawn
from ..data.read_line import MEASURED_ROWS, read_line
from ..distillation.task_scores import TaskMeter
from ..distillation.tasks import sequence_task, task_of
from ..distillation.teacher import multiplies_bfloat16
from ..files.caches import keep_datasets_here
from ..files.checkpoints import last_checkpoint, model_written
from ..files.folders import check_writable, remove_folder
from ..files.inside import refuse_link_out
from ..files.messages import first_of, short_repr
from ..files.model_files import model_file
from ..files.run_names import MODEL_FOLDER, RESULTS_FILE, SETTINGS_FILE, STUDENT_FOLDER
from ..files.settings import (
    ROW_LENGTH,
    build,
    check_fields,
    checked_values,
    describe_settings,
    make_tuples,
    setting,
    setting_types,
)
from ..files.strict_json import fits, read_json_object, write_json
from ..models.architectures import HEADS
from ..models.architectures.architecture import QUESTION_ANSWERING, SEQUENCE_CLASSIFICATION, TOKEN_CLASSIFICATION
from ..models.architectures.modeling_layerwise import LayerwiseModel
from ..models.conversion import to_stock
from ..models.cost import model_facts
from ..models.equality import tensors_digest
from ..models.heads import PREDICTION_BATCH_SIZE, collator_of, fastest_device, start_at_mean, with_fresh_head
from ..models.loading import MODULES_FILE
from ..models.tokenizers import fitted_length, save_tokenizer
from ..tables import figures_line
from ..tasks.columns import (
    LEAST_ROWS,
    Columns,
    ReadRows,
    check_rows,
    found_rows,
    listed_columns,
    refuse_missing_labels,
    what_is_read,
)
from ..tasks.encoding import as_questions, encode_rows, grading_of, length_of_rows, some_tokens, what_fits
from ..tasks.held_out import apart, keep_aside, warn_of_learned_texts
from ..tasks.kinds import ANSWERS, CLASSES, IS_CONSTANT, TAGS, VALUES, names_of
from ..tasks.labels import read_alike
from ..tasks.metrics import accuracy
from ..tasks.questions import WINDOW_LENGTH
from ..tasks.reading import load_rows
from ..tasks.rows_task import RowsTask, columns_of_rows, report_names, task_of_rows
from ..tasks.tags import tagged_texts
from ..training.exact_trainer import ExactTrainer
from ..training.learning_rate import steps_of_task
from ..training.ranks import refuse_ranks
from ..training.row_checks import rows_digest
from ..training.run_folder import check_same_identity, existing_files, folder_claimed
from ..training_args import ExactArguments
from .evaluated_model import EvaluatedModel, load_model

logger = logging.getLogger(__name__)

DTYPES = ("auto", "bfloat16", "float32")
_Settings = TypeVar("_Settings")
_SHOWN_ONLY = ("seeds", "data_dir", "learning_rate", "learning_rates")
_FineTuning = TypeVar("_FineTuning", bound="FineTuningSettings")
_LOGGING_STEPS = 100
_TRAINING_FOLDER = "training"
_SAVE_STEPS = 500
_OF_A_START = ("resume", "output_dir")  # settings that a resumed run may have otherwise
_MODEL_SHA256 = "model_sha256"
_MAKE_ROOM = "Make room, then go on with resume=true"
LEAST_STEPS = 600
"""Optimizer steps of a fine-tuning on few rows, unless epochs are given, and of the search for a learning rate."""
_LEARNING_RATES = (1e-4, 3e-4, 6e-4)


@dataclass(frozen=True)
class FineTuningSettings:
    """Settings of fine-tuning, the same for every task."""

    learning_rate: float | None = setting(
        None, "Peak learning rate, > 0, then linear to zero; default: chosen, see below.", range="(0, inf)"
    )
    learning_rates: tuple[float, ...] = setting(
        (), "Choose a task's among these, on held-out training rows (default: 1e-4 3e-4 6e-4).", range="(0, inf)"
    )
    num_train_epochs: float | None = setting(
        None, f"Passes over the training rows (default: 3, but {LEAST_STEPS} steps at least).", range="(0, inf)"
    )
    max_train_steps: int | None = setting(None, "Optimizer steps at most, ≥ 1.", least=1)
    batch_size: int = setting(32, "Rows a step, ≥ 1.", least=1)
    max_length: int | None = setting(
        None,
        f"Tokens a row, longer ones are cut; 8 … the positions (default: {ROW_LENGTH}, of SQuAD {WINDOW_LENGTH}).",
        least=8,
    )
    warmup_fraction: float = setting(0.1, "Share of the steps that warm up, in [0, 1).", range="[0, 1)")
    weight_decay: float = setting(0.01, "AdamW's weight decay, ≥ 0.", range="[0, inf)")
    dropout_fraction: float = setting(
        0.1, "Dropout of every model, whatever its config says, in [0, 1).", range="[0, 1)"
    )
    max_train_samples: int | None = setting(None, "Rows of a task to train on, ≥ 8; always the same.", least=8)
    dtype: str = setting("auto", "Of the training: auto, bfloat16 or float32.", choices=DTYPES)
    default_length: ClassVar[int] = ROW_LENGTH
    least_steps: ClassVar[int] = LEAST_STEPS

    def __post_init__(self) -> None:
        make_tuples(self)
        check_fields(self)
        self.check_together()

    def check_together(self) -> None:
        """Refuse values that exclude each other."""
        if self.learning_rate is not None and self.learning_rates:
            raise ValueError(
                f"learning_rate={self.learning_rate:g} and learning_rates={short_repr(self.learning_rates)} exclude "
                "each other; give one rate, or several to choose from"
            )

    def compared(self) -> dict[str, Any]:
        """Settings that two comparable results share; seeds, data and learning rate are compared apart."""
        compared = {name: value for name, value in asdict(self).items() if name not in _SHOWN_ONLY}
        return compared | ({"least_steps": self.least_steps} if self.num_train_epochs is None else {})

    def candidates(self) -> list[float]:
        """The learning rates to choose from, ascending; a single one needs no search."""
        if self.learning_rate is not None:
            return [self.learning_rate]
        return sorted(set(self.learning_rates or _LEARNING_RATES))

    @property
    def row_length(self) -> int:
        """Tokens a row, by default as many as any model may have."""
        return self.max_length or self.default_length

    def num_steps(self, num_rows: int, batch_size: int) -> int:
        """Optimizer steps of one fine-tuning: those of the epochs; by default at least `least_steps`."""
        if self.num_train_epochs is None:
            steps = steps_of_task(num_rows, batch_size, least=self.least_steps)
        else:
            steps = steps_of_task(num_rows, batch_size, passes=self.num_train_epochs)
        return steps if self.max_train_steps is None else min(steps, self.max_train_steps)


@dataclass(frozen=True)
@describe_settings
class GlueSettings(FineTuningSettings):
    """Settings of GLUE fine-tuning, the same for every model of a comparison.

    Raises:
        ValueError: a value is out of range.

    Example:
    ```python
    >>> GlueSettings(learning_rates=[1e-4, 3e-4]).learning_rates
    (0.0001, 0.0003)
    >>> GlueSettings(batch_size=0)
    Traceback (most recent call last):
    ...
    ValueError: batch_size=0 is not a whole number of at least 1; the default is 32

    ```
    """

    data_dir: str | None = setting(
        None, "Folder with rte/ or rte_part/ …, squad_v2/ …; default: the Hub.", text="a folder"
    )
    seeds: tuple[int, ...] = setting((0, 1, 2), "One fine-tuning each (default: 0 1 2).", least=0, most=2**32 - 1)

    def check_together(self) -> None:
        """Also refuse an empty or repeated list of seeds."""
        super().check_together()
        if not self.seeds:
            raise ValueError("seeds=() names no seed; expected at least one, e.g. 0 1 2")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds={short_repr(self.seeds)} has one twice; expected different ones")


@dataclass(frozen=True)
class FineTuned:
    """A trained model, on the device of its training, with its number of optimizer steps and their mean loss."""

    model: PreTrainedModel
    num_steps: int
    train_loss: float


class FineTuningTrainer(ExactTrainer):
    """Trains a model by the loss of its own class, to the weights of a stock `Trainer`; resumes bit for bit.

    Arguments are those of `transformers.Trainer`; `args` is an [`ExactArguments`].
    """

    method = "fine_tuning"

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.run_folder.how_to_resume = "the same command, for finetune with resume=true"

    def count(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Rows of a batch, int64 `(1,)`."""
        return torch.tensor([len(inputs["input_ids"])])

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The loss of a batch with labels; arguments and return as `Trainer.compute_loss`."""
        # As a stock Trainer, which counts `labels`; the positions of answers are none.
        num_labels = None if num_items_in_batch is None or "labels" not in inputs else num_items_in_batch[0]
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_labels)
        # this rank's share of the mean loss over the ranks
        loss = self.scale_and_log(loss / self.accelerator.num_processes, {}, model)
        return (loss, outputs) if return_outputs else loss


def settings_from(kind: type[_Settings], values: _Settings | Mapping[str, Any] | None) -> _Settings:
    """Make settings of a caller's argument: settings, values by name, or None for the defaults."""
    if isinstance(values, kind):
        return values
    if not isinstance(values, Mapping | None):
        raise ValueError(f"settings are {type(values).__name__}; expected {kind.__name__}, or values by name")
    return build(kind, checked_values(values or {}, setting_types(kind), "settings"))


def training_dtype(dtype: str) -> str:
    """Type of the matrix products: for `"auto"`, bfloat16 where the hardware multiplies it, else float32."""
    if dtype != "auto":
        return dtype
    return "bfloat16" if multiplies_bfloat16(fastest_device()) else "float32"


def encoded_rows(
    task: RowsTask,
    rows: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
) -> Dataset:
    """Rows of a task as [`encode_rows`] tokenizes them, with `length`, in tokens."""
    encoded = encode_rows(ReadRows(rows, task.columns), task.config, tokenizer, max_length=max_length)
    return encoded.add_column("length", list(map(len, encoded["input_ids"])))


def fine_tuned(
    evaluated: EvaluatedModel,
    task: RowsTask,
    rows: Dataset,
    *,
    settings: FineTuningSettings,
    seed: int,
    **how: Any,
) -> FineTuned:
    """Fine-tune a fresh head around a model's encoder on rows of a task; other arguments are [`fine_tune`]'s."""
    encoder = evaluated.model.base_model
    encoded = encoded_rows(task, rows, evaluated.tokenizer, settings.row_length)
    head = {ANSWERS: QUESTION_ANSWERING, TAGS: TOKEN_CLASSIFICATION}.get(task.kind, SEQUENCE_CLASSIFICATION)
    model = with_fresh_head(encoder, task.num_labels, head, dropout=settings.dropout_fraction, seed=seed)
    if task.kind != ANSWERS:
        for name in ("id2label", "label2id", "problem_type"):
            setattr(model.config, name, getattr(task.config, name))
        if task.kind == VALUES and task.num_labels == 1:
            start_at_mean(model, encoded["labels"][:])
    return fine_tune(model, encoded, evaluated.tokenizer, settings=settings, seed=seed, **how)


@torch.inference_mode()
def task_metrics(
    model: PreTrainedModel,
    rows: Dataset,
    task: RowsTask,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    *,
    tells_constant: bool = False,
) -> dict[str, float]:
    """The task's metrics of a model on rows, in float32; rates are compared by the first one.

    With `tells_constant` there is `is_constant` among them where all answers or all labels are alike.

    Raises:
        FloatingPointError: logits are not finite.
    """
    if task.kind == ANSWERS:
        grading = grading_of(ReadRows(rows, task.columns, "rows"), tokenizer, max_length)
        grades = grading(model) if grading else {}
        return {name: value for name, value in grades.items() if tells_constant or name != IS_CONSTANT}
    model.eval()
    prediction = task_of(model) if task.kind == TAGS else sequence_task(model.config)
    meter = TaskMeter(prediction, task.names)
    collate = collator_of(tokenizer, model)
    encoded = encoded_rows(task, rows, tokenizer, max_length)
    encoded = encoded.select(np.argsort(encoded["length"][:], kind="stable").tolist()).remove_columns("length")
    for batch in DataLoader(encoded, batch_size=PREDICTION_BATCH_SIZE, collate_fn=collate):
        inputs = prediction.with_positions({name: tensor.to(model.device) for name, tensor in batch.items()})
        with torch.autocast(model.device.type, enabled=False):
            outputs = type(model).forward(model, **prediction.model_inputs(inputs))
        if not bool(outputs["logits"].isfinite().all()):
            raise FloatingPointError("logits are not finite: fine-tuning diverged; lower learning_rate")
        meter.keep(prediction.rows(outputs, inputs), prediction.labels(inputs), inputs)
    scores: dict[str, Any] = meter.scores()
    if tells_constant and meter.is_constant:
        scores |= {IS_CONSTANT: True}
    if not scores or not prediction.has_classes:
        return scores
    right = {"accuracy": accuracy(*meter.known_classes(meter.kept)[:2])}
    return right | scores if task.kind == CLASSES else scores | right


def fine_tune(
    model: PreTrainedModel,
    rows: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    settings: FineTuningSettings,
    seed: int,
    folder: Path | None = None,
    save_steps: int | None = None,
) -> FineTuned:
    """Train a model in place with AdamW, linear warm-up and decay, batches of rows of like length.

    Args:
        model: of [`with_fresh_head`].
        rows: tokenized, with labels.
        tokenizer: pads.
        settings: learning rate, epochs and so on.
        seed: of the order of rows and of dropout.
        folder: of the checkpoint that SIGTERM saves, and at which a training with the same arguments goes on. Default:
            none is kept.
        save_steps: also save so often, and at the end.

    Raises:
        FloatingPointError: too many steps in a row, or the weights, are not finite.
    """
    set_seed(seed)
    with TemporaryDirectory() if folder is None else nullcontext(str(folder)) as place:
        args = training_arguments(
            place, settings, seed, num_rows=len(rows), save_steps=save_steps, overwrite_output_dir=True
        )
        collate = collator_of(tokenizer, model)
        trainer = FineTuningTrainer(model=model, args=args, train_dataset=rows, data_collator=collate)
        try:
            output = trainer.train(last_checkpoint(place))
            trainer.check_finite()
        except FloatingPointError as error:
            raise FloatingPointError(
                f"at learning_rate={trainer.args.learning_rate:g}: fine-tuning diverged; lower learning_rate, or "
                f"train in dtype=float32 ({error})"
            ) from error
    return FineTuned(trainer.accelerator.unwrap_model(model), output.global_step, output.training_loss)


def training_arguments(
    folder: str,
    settings: FineTuningSettings,
    seed: int,
    *,
    num_rows: int,
    save_steps: int | None,
    arguments_class: type[ExactArguments] = ExactArguments,
    **others: Any,
) -> Any:
    """Settings of a fine-tuning on so many rows; `others` are fields of `arguments_class`."""
    arguments = arguments_class(
        output_dir=folder,
        per_device_train_batch_size=settings.batch_size,
        learning_rate=settings.candidates()[0],
        lr_scheduler_type="linear",
        warmup_steps=settings.warmup_fraction,
        weight_decay=settings.weight_decay,
        bf16=training_dtype(settings.dtype) == "bfloat16",
        seed=seed,
        use_cpu=fastest_device().type == "cpu",
        train_sampling_strategy="group_by_length",
        save_strategy="no" if save_steps is None else "steps",
        save_steps=save_steps or 1,
        save_total_limit=2,
        logging_steps=_LOGGING_STEPS,
        dataloader_drop_last=False,  # few rows are all used, the last batch of a pass is smaller
        disable_tqdm=not sys.stderr.isatty(),
        logging_nan_inf_filter=False,  # it would hide a training that diverged
        report_to="none",
        **others,
    )
    arguments.max_steps = settings.num_steps(num_rows, arguments.train_batch_size)
    return arguments


def with_length(settings: _FineTuning, evaluated: EvaluatedModel) -> _FineTuning:
    """The settings with the tokens a row that a model reads; see [`fitted_length`]."""
    default = settings.default_length
    length = fitted_length(settings.max_length, evaluated.model.config, argument="max_length", default=default)
    return replace(settings, max_length=length)


def as_rows_need(
    settings: _FineTuning, part: ReadRows, evaluated: EvaluatedModel, say: Callable[[str], None]
) -> _FineTuning:
    """The settings with the tokens a row that rows of a user's own need; see [`length_of_rows`]."""
    read = evaluated.model.config, evaluated.tokenizer
    length = length_of_rows(part, *read)
    say(f"max_length={length}: {what_fits(length, part.columns, *read)}")
    return replace(settings, max_length=length)


def training_rows(rows: Dataset, max_rows: int | None) -> Dataset:
    """Training rows: all, or always the same `max_rows` of them."""
    return rows if max_rows is None else drawn(rows, max_rows, seed=0)


def chosen_rate(
    evaluated: EvaluatedModel,
    settings: FineTuningSettings,
    rows: Dataset,
    columns: Columns,
    measured: Callable[..., tuple[Mapping[str, Mapping[str, float]], FineTuned]],
    score: Callable[[Mapping[str, float]], float],
    *,
    depends_on: Mapping[str, Any],
    seed: int,
    name: str = "",
    say: Callable[[str], None],
) -> float:
    """The learning rate of the highest score, the first of equals, where there is a choice.

    Each is tried with a few steps on training rows without a slice, and measured on the slice.

    Args:
        evaluated: gets a result for each rate.
        settings: have the rates.
        rows: training rows.
        columns: of the rows.
        measured: `(rows, measured_on, folder, **changes)` fine-tunes with changes of the settings, and returns name →
            metrics of the rows in `measured_on`, and the trained model.
        score: of metrics.
        depends_on: all that a result depends on, but rate and seed.
        seed: of all trials.
        name: of the task, in records and lines for the user.
        say: takes these lines.

    Raises:
        FloatingPointError: all diverge.
    """
    rates, label = settings.candidates(), name and f"{name}: "
    few = min(LEAST_STEPS, settings.max_train_steps or LEAST_STEPS)
    if len(rates) == 1:
        return rates[0]
    rows, held_out, _ = keep_aside(rows, columns)
    say(f"{label}trying {len(rates)} learning rates, {few:,} steps each at most")

    def tried(changes: dict[str, Any], folder: Path) -> dict[str, Any]:
        try:
            metrics = measured(rows, {"held_out": held_out}, folder, max_train_steps=few, **changes)[0]["held_out"]
        except FloatingPointError as error:
            return {"tried": changes, "score": None, "diverged": str(error)}
        return {"tried": changes, "metrics": metrics, "score": score(metrics)}

    scores = {}
    for rate in rates:
        changes = {"learning_rate": rate, "seed": seed}
        of_rate = f"{name and name + '.'}learning-rate-{rate:g}"
        record, _ = evaluated.measured(of_rate, {**depends_on, "tried": changes}, partial(tried, changes))
        result = "diverged" if record["score"] is None else figures_line(record["metrics"])
        say(f"{label}learning rate {rate:g}: {result} on {len(held_out):,} rows held out from the training set")
        if record["score"] is not None:
            scores[rate] = record["score"]
    if not scores:
        raise FloatingPointError(f"{label}learning_rates={rates} all diverge; try lower ones")
    best = max(scores, key=lambda rate: scores[rate])
    say(f"{label}learning rate {best:g} it is")
    return best


# A task of one's own


@dataclass(frozen=True)
class OwnTaskSettings(FineTuningSettings):
    """Settings of [`fine_tune_own`]."""

    model: str = setting(
        "", "What to fine-tune: export, run, folder of a BERT (with a head or none) or Hub name.", text="a name"
    )
    teacher: str | None = setting(
        None, "Fine-tuned for the same labels, to learn from: folder or Hub name.", text="a folder or Hub name"
    )
    train_data: str = setting("", "Labelled rows: a file, folder, glob or Hub data set.", text="a name")
    eval_data: str | None = setting(
        None, "Rows to measure on, of the same columns; default: a tenth of train_data, kept aside.", text="a name"
    )
    text_columns: tuple[str, ...] = setting(
        (), "One, or two for pairs; default: found by usual names, such as text.", text="a name"
    )
    label_column: str | None = setting(
        None,
        "Names or whole numbers, 1.0 too: classes; fractions: a regression; default: found by usual names, as label.",
        text="a name",
    )
    max_length: int | None = setting(
        None, "Tokens a row, longer ones are cut; 8 … the positions (default: 99 of 100 rows fit).", least=8
    )
    output_dir: str = setting("", f"Gets {MODEL_FOLDER}/ and results.json.", text="a name")
    seed: int = setting(0, "Of head, order of rows and dropout.", least=0, most=2**32 - 1)
    resume: bool = setting(False, "Go on with the run in output_dir; one that has ended gives its results again.")

    def __post_init__(self) -> None:
        if isinstance(self.label_column, str):  # a resumed run compares it, and blanks between names say nothing
            object.__setattr__(self, "label_column", ",".join(listed_columns(self.label_column)))
        super().__post_init__()


def fine_tune_own(settings: OwnTaskSettings, say: Callable[[str], None]) -> dict[str, Any]:
    """Choose a rate on held-out training rows, fine-tune, measure, and write the model to `output_dir`.

    Args:
        settings: [`OwnTaskSettings`]. With `resume` a run that was stopped goes on, as if it had never stopped, to the
            last bit: tried rates are read, the training in hand goes on at its last checkpoint.
        say: takes lines for the user.

    Returns:
        `dict`: the content of `results.json`: `metrics` of the evaluation rows (`accuracy` and `macro_f1`, `pearson`
        and `spearman`, or those of another kind), costs of the `model`, `learning_rate`, `settings`.

    Raises:
        ValueError: unreadable rows, a model that can't be fine-tuned, a teacher, a folder that another process works
            in, or one with a fine-tuning that was stopped, without `resume` or of other settings.
        FloatingPointError: every rate diverged.
    """
    if settings.teacher is not None:
        raise ValueError(
            f"teacher={settings.teacher!r} has no part here; use the command, or HomoDistilTrainer with teacher_model"
        )
    check_writable(settings.output_dir, f"output_dir={settings.output_dir!r}")
    refuse_ranks()
    with folder_claimed(settings.output_dir, is_main=True):
        return _fine_tune(settings, say)


def _fine_tune(settings: OwnTaskSettings, say: Callable[[str], None]) -> dict[str, Any]:
    start = time.perf_counter()
    folder = Path(settings.output_dir)
    training = folder / _TRAINING_FOLDER
    refuse_link_out(folder, _TRAINING_FOLDER)
    if (folder / MODEL_FOLDER).exists():
        if settings.resume and (folder / RESULTS_FILE).is_file():
            return _finished(settings, say)
        raise ValueError(f"output_dir={settings.output_dir!r} holds {MODEL_FOLDER}/ already; name another folder")
    earlier = [name for name in existing_files(str(folder)) if name in (RESULTS_FILE, STUDENT_FOLDER)]
    if earlier and not training.is_dir():
        raise ValueError(f"output_dir={settings.output_dir!r} holds another run ({earlier[0]}); name another folder")
    if existing_files(str(training)) and not (training / SETTINGS_FILE).is_file():
        raise ValueError(
            f"output_dir={settings.output_dir!r} holds {_TRAINING_FOLDER}/, which no fine-tuning wrote and which "
            "would be removed; name another folder"
        )
    if training.is_dir() and not settings.resume:
        raise ValueError(
            f"output_dir={settings.output_dir!r} holds a fine-tuning that was stopped; set resume, or name another "
            "folder"
        )
    # everything that may be refused comes before the folder says that a run has begun
    keep_datasets_here()
    evaluated = load_model(settings.model, needs_head=False)
    if (name := type(evaluated.model).__name__) not in HEADS:
        left = "; its pooling and prompts are left out" if model_file(evaluated.source, MODULES_FILE) else ""
        say(f"{settings.model} is a {name}, an encoder without a head: it gets a fresh one for the labels{left}")
    if has_length := settings.max_length is not None:
        settings = with_length(settings, evaluated)
    asked, record = settings, training / SETTINGS_FILE
    check_start(record, asked)  # now by the settings alone, below with what was read
    task, train, dev = own_rows(settings, evaluated.tokenizer, say)
    columns = task.columns
    settings = replace(settings, text_columns=columns.texts, label_column=",".join(columns.labels))
    if not has_length:
        settings = as_rows_need(settings, ReadRows(train, columns), evaluated, say)
    given = check_start(record, asked, model=evaluated.model, rows=train)
    train = training_rows(train, settings.max_train_samples)
    training.mkdir(exist_ok=True)
    write_json(record, given)  # now that nothing was refused

    how = task, evaluated.tokenizer, settings.row_length

    # one fine-tuning, for a trial or for good, and what is measured of it
    def measured(
        rows: Dataset, measured_on: Mapping[str, Dataset], folder: Path, save_steps: int | None = None, **changes: Any
    ) -> tuple[dict[str, dict[str, float]], FineTuned]:
        changed = replace(settings, learning_rates=(), **changes)
        saving: dict[str, Any] = {"folder": folder, "save_steps": save_steps}
        trained = fine_tuned(evaluated, task, rows, settings=changed, seed=settings.seed, **saving)
        return {name: task_metrics(trained.model, dev, *how) for name, dev in measured_on.items()}, trained

    rate = chosen_rate(
        replace(evaluated, results=training),
        settings,
        train,
        columns,
        measured,
        lambda metrics: next(iter(metrics.values())),
        # records of trials have a digest of the model of their own
        depends_on={name: value for name, value in given.items() if name != _MODEL_SHA256}
        | {"rows": rows_digest(train, num_rows=None)},
        seed=settings.seed,
        say=say,
    )
    # train with it on all rows, measure, and write
    _, trained = measured(train, {}, training / "run", save_steps=_SAVE_STEPS, learning_rate=rate)
    metrics = task_metrics(trained.model, dev, *how, tells_constant=True)
    constant = {IS_CONSTANT: True} if metrics.pop(IS_CONSTANT, False) else {}
    results = {"metrics": metrics, "learning_rate": rate, "num_steps": trained.num_steps, **constant}
    results |= {"settings": asdict(settings), "model": model_facts(trained.model)}
    results |= {"num_train_rows": len(train), "num_eval_rows": len(dev)}
    results |= {"time_s": round(time.perf_counter() - start, 1)}
    with model_written(folder / MODEL_FOLDER, remedy=_MAKE_ROOM) as unfinished:
        stock: Any = to_stock(trained.model) if isinstance(trained.model, LayerwiseModel) else trained.model
        stock.save_pretrained(unfinished)
        save_tokenizer(evaluated.tokenizer, unfinished)
        write_json(folder / RESULTS_FILE, results)  # first: the model's folder says that all is done
    remove_folder(training)
    return results


def _finished(settings: OwnTaskSettings, say: Callable[[str], None]) -> dict[str, Any]:
    """The results of a fine-tuning that ended, for one that is resumed with the same settings."""
    folder = Path(settings.output_dir)
    label = f"{RESULTS_FILE} in output_dir={settings.output_dir!r}"
    results = read_json_object(folder / RESULTS_FILE, label)
    if not fits(results, {"metrics": dict, "num_eval_rows": int, "settings": dict}):
        raise ValueError(f"{label} is of no fine-tuning; name another folder")
    # what was found in rows and model stands there for settings that weren't given
    found = {name for name in ("text_columns", "label_column", "max_length") if not getattr(settings, name)}
    now = {name: value for name, value in _as_json(settings).items() if name not in found}
    check_same_identity(settings.output_dir, results["settings"], now)
    remove_folder(folder / _TRAINING_FOLDER)  # of a process that was killed before it did that
    say(f"{folder / MODEL_FOLDER} is there already: the run has ended, and nothing is left to do")
    return results


def own_rows(
    settings: OwnTaskSettings,
    tokenizer: PreTrainedTokenizerBase,
    say: Callable[[str], None],
    model: PreTrainedModel | None = None,
) -> tuple[RowsTask, Dataset, Dataset]:
    """Read the rows that settings name, find their task, and say what was read, in the tokenizer's words.

    Rows to evaluate on are kept aside where none are named. A `model` has kind and labels, else the rows have them;
    beside `eval_data` its rows to train on need none.

    Returns:
        The task, with the columns of the rows to evaluate on, rows to train on, and rows to evaluate on.

    Raises:
        ValueError: rows that can't be read, or labels that are none.
        OSError: a file can't be read.
    """
    rows = load_rows([settings.train_data])
    named: dict[str, Any] = {"text_columns": settings.text_columns, "label_column": settings.label_column}
    # beside a model that answers them, rows to train on need no labels
    columns = columns_of_rows(rows, model=model, needs_labels=model is None or not settings.eval_data, **named)
    train = ReadRows(rows, columns)
    check_rows(train, least=LEAST_ROWS)
    parts = [train]
    if settings.eval_data:
        argument = "eval_data"
        rows = load_rows([settings.eval_data], split="validation", argument=argument)
        named = {"text_columns": columns.texts, "label_column": ",".join(columns.labels) or None}
        config = PreTrainedConfig(num_labels=2) if model is None else model.config
        parts.append(found_rows(rows, config, columns.kind, least=LEAST_ROWS, argument=argument, **named))
        if not (columns := parts[-1].columns).labels:
            raise ValueError(
                f"eval_data={settings.eval_data!r} has no labels to measure by; it has "
                f"{first_of(rows.column_names)}: add a column label, or leave eval_data out where train_data has one"
            )
    if model is None:
        task = task_of_rows({part.argument: part.rows for part in parts}, columns)
        parts = [part._replace(columns=task.columns) for part in parts]
        refuse_missing_labels(parts[0])  # which the loss of a stock class would take for labels
    else:
        task = RowsTask(columns, tuple(names_of(model.config)))
    for part in parts:
        if part.columns.kind == TAGS:
            tagged_texts(part, task.config, tokenizer)
        elif part.columns.kind == ANSWERS:
            as_questions(part)
    train, *others = parts
    if others:
        (held_out,) = others
        warn_of_learned_texts(train, held_out)
    else:
        train, aside = apart(train, logger.info)
        held_out = aside._replace(argument="eval_data")
    report_names(task, train, held_out)
    tokens = some_tokens(train, tokenizer, MEASURED_ROWS)
    of_parts = {"to train on": train.rows, "held out": held_out.rows}
    say(read_line(of_parts, **what_is_read([train, held_out]), tokenizer=tokenizer, tokens=tokens))
    if model is not None:
        train, held_out = read_alike((train, held_out), task.config)
        task = replace(task, columns=held_out.columns)
    return task, train.rows, held_out.rows


def check_start(
    record: Path, settings: OwnTaskSettings, *, model: nn.Module | None = None, rows: Dataset | None = None
) -> dict[str, Any]:
    """Refuse, by a ValueError, to go on otherwise than `record` says: its settings, and digests of model and rows.

    Returns:
        `dict`: what this run's record has to say, as JSON.
    """
    now = _as_json(settings)
    digest = {} if model is None else {_MODEL_SHA256: tensors_digest(model)}
    if rows is not None:
        now |= {"rows": rows_digest(rows)}
    if record.is_file():
        before = read_json_object(record, f"{record.name} in output_dir={settings.output_dir!r}")
        if isinstance(labels := before.get("label_column"), str):  # earlier versions kept the blanks
            before["label_column"] = ",".join(listed_columns(labels))
        check_same_identity(settings.output_dir, before, now)
        if digest and before.get(_MODEL_SHA256) not in (None, digest[_MODEL_SHA256]):  # earlier versions wrote none
            raise ValueError(
                f"model={settings.model!r} has other weights than when the run in output_dir={settings.output_dir!r} "
                "began; resume with those, or name another folder"
            )
    return now | digest


def _as_json(settings: OwnTaskSettings) -> dict[str, Any]:
    """Settings that a resumed run must have alike, as JSON has them."""
    values: dict[str, Any] = json.loads(
        json.dumps({name: value for name, value in asdict(settings).items() if name not in _OF_A_START})
    )
    return values
