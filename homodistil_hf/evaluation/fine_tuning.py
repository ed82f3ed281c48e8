"""One fine-tuning: its settings, its trainer, the training, metrics and float32 predictions of the result.

Every model gets the same treatment: its encoder under stock transformers' head, with fresh layers drawn from the seed.
task_runs.py and own_task.py choose rows and rates. Beside a teacher it is HomoDistilTrainer that trains.
"""

import logging
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from torch.utils.data import DataLoader
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)

from ..distillation.task_scores import TaskMeter
from ..distillation.tasks import sequence_task, task_of
from ..distillation.teacher import multiplies_bfloat16
from ..files.checkpoints import last_verified
from ..files.field_checks import ROW_LENGTH, check_fields, describe_settings, make_tuples, setting
from ..files.messages import short_repr
from ..files.settings import build, checked_values, setting_types
from ..models.architectures.architecture import QUESTION_ANSWERING, SEQUENCE_CLASSIFICATION, TOKEN_CLASSIFICATION
from ..models.heads import (
    PREDICTION_BATCH_SIZE,
    collator_of,
    fastest_device,
    start_at_mean,
    with_fresh_head,
)
from ..tasks.encoding import encode_rows, question_rows
from ..tasks.kinds import ANSWERS, CLASSES, TAGS, VALUES
from ..tasks.metrics import IS_CONSTANT, accuracy
from ..tasks.questions import WindowSizes, answer_grades
from ..tasks.rows_task import RowsTask
from ..training.exact_trainer import ExactTrainer
from ..training.learning_rate import steps_of_task
from ..training.run_folder import RunFolder
from ..training_args import ExactArguments
from .evaluated_model import EvaluatedModel

logger = logging.getLogger(__name__)

DTYPES = ("auto", "bfloat16", "float32")
_Settings = TypeVar("_Settings")
_SHOWN_ONLY = ("seeds", "data_dir", "learning_rate", "learning_rates")
_LOGGING_STEPS = 100
LEAST_STEPS = 600
"""Optimizer steps of a fine-tuning on few rows, unless epochs are given, and of the search for a learning rate."""
_LEARNING_RATES = (1e-4, 3e-4, 6e-4)


@dataclass(frozen=True)
class FineTuningSettings:
    """Settings of fine-tuning, the same for every task.

    Raises:
        ValueError: a value is out of range.
    """

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
        f"Tokens a row, longer ones are cut; 8 … the positions (default: {ROW_LENGTH}, or the positions).",
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
        return compared | ({"least_steps": LEAST_STEPS} if self.num_train_epochs is None else {})

    def candidates(self) -> list[float]:
        """The learning rates to choose from, ascending; a single one needs no search."""
        if self.learning_rate is not None:
            return [self.learning_rate]
        return sorted(set(self.learning_rates or _LEARNING_RATES))

    @property
    def row_length(self) -> int:
        """Tokens a row, by default as many as any model may have."""
        return self.max_length or self.default_length

    @property
    def windows(self) -> WindowSizes:
        """The sizes of windows, of questions."""
        return WindowSizes.within(self.row_length)

    def of_length(self: _Settings, length: int) -> _Settings:
        """The settings with `length` tokens a row, where they have none."""
        return replace(self, max_length=length)  # type: ignore[type-var]

    @property
    def num_search_steps(self) -> int:
        """Optimizer steps of each trial of a learning rate: enough to compare rates, cheap on many rows."""
        return min(LEAST_STEPS, self.max_train_steps or LEAST_STEPS)

    def num_steps(self, num_rows: int, batch_size: int) -> int:
        """Optimizer steps of one fine-tuning: those of the epochs; by default at least `LEAST_STEPS`."""
        if self.num_train_epochs is None:
            steps = steps_of_task(num_rows, batch_size, least=LEAST_STEPS)
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
        self.run_folder = RunFolder(self.args)
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
    windows: WindowSizes | None = None,
) -> Dataset:
    """Rows of a task as [`encode_rows`] tokenizes them, with `length`, in tokens."""
    encoded = encode_rows(rows, task.columns, task.config, tokenizer, max_length=max_length, windows=windows)
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
    encoded = encoded_rows(task, rows, evaluated.tokenizer, settings.row_length, settings.windows)
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
    model: PreTrainedModel, rows: Dataset, task: RowsTask, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> dict[str, float]:
    """The task's metrics of a model on rows, in float32; rates are compared by the first one.

    Raises:
        FloatingPointError: logits are not finite.
    """
    if task.kind == ANSWERS:
        questions = question_rows(rows, task.columns, "rows")
        grades = {} if questions is None else answer_grades(model, questions, tokenizer, max_length)
        return {name: value for name, value in grades.items() if name != IS_CONSTANT}
    model.eval()
    prediction = task_of(model) if task.kind == TAGS else sequence_task(task.config)
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
    scores = meter.scores()
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
            output = trainer.train(last_verified(place))
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
