"""A task of one's own: fine-tunes any model on labelled rows in files, alone or beside a teacher.

Recipe, rates and steps are those of the evaluations, `task_runs.py`.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, Value
from datasets.exceptions import DatasetsError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..export.student_in_folder import RESULTS_FILE
from ..files.caches import keep_datasets_here
from ..files.field_checks import setting
from ..files.messages import short_repr
from ..files.strict_json import write_json
from ..models.architectures.modeling_layerwise import LayerwiseModel
from ..models.conversion import to_stock
from ..models.loading import load_encoder
from .evaluated_model import EvaluatedModel, load_model
from .fine_tuning import FineTuned, FineTuningSettings, predict
from .glue import fine_tuned_classifier
from .task_data import GlueTask, encode
from .task_runs import best_rate, check_length, training_rows, with_held_out

logger = logging.getLogger(__name__)

MODEL_FOLDER = "model"
_READERS: dict[str, Callable[..., Dataset]] = {
    ".parquet": Dataset.from_parquet,
    ".json": Dataset.from_json,
    ".jsonl": Dataset.from_json,
    ".csv": Dataset.from_csv,
}


@dataclass(frozen=True)
class OwnTaskSettings(FineTuningSettings):
    """Settings of [`fine_tune_own`].

    Raises:
        ValueError: a value is missing or out of range.
    """

    model: str = setting("", "What to fine-tune: export, run, folder of a BERT or Hub name.", text="a name")
    teacher: str | None = setting(
        None, "Fine-tuned for the same labels, to learn from: folder or Hub name.", text="a folder or Hub name"
    )
    train_data: str = setting("", "Labelled rows: .parquet, .json, .jsonl or .csv.", text="a name")
    eval_data: str = setting("", "Rows to measure the result on, of the same columns.", text="a name")
    text_columns: tuple[str, ...] = setting(("text",), "One, or two for pairs.", text="a name")
    label_column: str = setting("label", "Names or whole numbers: classes; fractions: a regression.", text="a name")
    output_dir: str = setting("", f"Gets {MODEL_FOLDER}/ and results.json.", text="a name")
    seed: int = setting(0, "Of head, order of rows and dropout.", least=0, most=2**32 - 1)

    def check_together(self) -> None:
        """Also refuse more than two columns of text."""
        super().check_together()
        if len(self.text_columns) not in (1, 2):
            raise ValueError(
                f"text_columns={short_repr(self.text_columns)} are {len(self.text_columns)}; expected 1 or 2"
            )


def fine_tune_own(settings: OwnTaskSettings, say: Callable[[str], None]) -> dict[str, Any]:
    """Choose a rate on held-out training rows, fine-tune, measure, and write the model to `output_dir`.

    Args:
        settings: [`OwnTaskSettings`].
        say: takes lines for the user.

    Returns:
        `dict`: the content of `results.json`: `metrics` of the evaluation rows (`accuracy` and `macro_f1`, or
        `pearson`), `learning_rate`, `num_steps`, `settings`.

    Raises:
        ValueError: unreadable rows, a model that can't be fine-tuned, or a teacher of other labels.
        FloatingPointError: every rate diverged.
    """
    start = time.perf_counter()
    folder = Path(settings.output_dir)
    if (folder / MODEL_FOLDER).exists():
        raise ValueError(f"output_dir={settings.output_dir!r} holds {MODEL_FOLDER}/ already; name another folder")
    folder.mkdir(parents=True, exist_ok=True)  # a folder that can't be made is found before the training
    keep_datasets_here()
    evaluated = load_model(settings.model)
    check_length(settings, evaluated)
    teacher = load_encoder(settings.teacher) if settings.teacher else None
    train, dev, names = rows_of(settings)
    task = GlueTask("own", settings.text_columns, num_labels=len(names) or 1)
    run = _Run(settings, evaluated, task, teacher)
    if teacher is not None:
        _check_teacher(teacher, evaluated.model, names)
    train = training_rows(train, settings.max_train_samples)
    rate = run.best_rate(train, say)
    trained = run.fine_tuned(train, rate, max_train_steps=settings.max_train_steps)
    metrics = run.metrics(trained.model, dev)
    _save(trained.model, evaluated.tokenizer, names, folder / MODEL_FOLDER)
    results = {"metrics": metrics, "learning_rate": rate, "num_steps": trained.num_steps, "settings": asdict(settings)}
    results |= {"num_train_rows": len(train), "num_eval_rows": len(dev)}
    results |= {"time_s": round(time.perf_counter() - start, 1)}
    write_json(folder / RESULTS_FILE, results)
    return results


def _save(model: Any, tokenizer: PreTrainedTokenizerBase, names: list[str], folder: Path) -> None:
    stock = to_stock(model) if isinstance(model, LayerwiseModel) else model
    if names:
        stock.config.id2label = dict(enumerate(names))
        stock.config.label2id = {name: index for index, name in enumerate(names)}
    stock.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@dataclass(frozen=True)
class _Run:
    settings: OwnTaskSettings
    evaluated: EvaluatedModel
    task: GlueTask
    teacher: PreTrainedModel | None

    def best_rate(self, train: Dataset, say: Callable[[str], None]) -> float:
        """Choose as the evaluations do: on held-out rows, after few steps."""
        rates = self.settings.candidates()
        rows, held_out = with_held_out(train)

        def score(rate: float) -> float | None:
            try:
                trained = self.fine_tuned(rows, rate, max_train_steps=self.settings.num_search_steps)
                found = self.metrics(trained.model, held_out)
            except FloatingPointError:
                say(f"learning rate {rate:g}: diverged")
                return None
            say(f"learning rate {rate:g}: {_figures(found)} on {len(held_out):,} held-out training rows")
            return next(iter(found.values()))

        return rates[0] if len(rates) == 1 else best_rate(rates, score)

    def fine_tuned(self, rows: Dataset, rate: float, *, max_train_steps: int | None) -> FineTuned:
        settings = self.settings
        chosen = replace(settings, learning_rate=rate, learning_rates=(), max_train_steps=max_train_steps)
        return fine_tuned_classifier(
            self.evaluated, self.task, rows, settings=chosen, seed=settings.seed, teacher=self.teacher
        )

    def metrics(self, model: PreTrainedModel, rows: Dataset) -> dict[str, float]:
        """Metrics on rows; rates are compared by the first one."""
        return task_metrics(model, rows, self.task, self.evaluated.tokenizer, self.settings.max_length)


def task_metrics(
    model: PreTrainedModel, rows: Dataset, task: GlueTask, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> dict[str, float]:
    """Accuracy and macro F1 of a fine-tuned classifier on rows, or Pearson's correlation of a regression."""
    logits_RC, labels_R = predict(model, encode(rows, task, tokenizer, max_length), tokenizer)
    if task.num_labels > 1:
        given_R = logits_RC.argmax(-1)
        if np.ptp(given_R) == 0 < np.ptp(labels_R):
            logger.warning("all %d rows get one class; lower learning_rate, or train for more steps", len(given_R))
        return _class_metrics(given_R, labels_R)
    is_constant = np.ptp(logits_RC) == 0 or np.ptp(labels_R) == 0
    return {"pearson": 0.0 if is_constant else float(np.corrcoef(logits_RC[:, 0], labels_R)[0, 1])}


def _class_metrics(given: np.ndarray, wanted: np.ndarray) -> dict[str, float]:
    shares = []
    for label in np.union1d(given, wanted):
        both = np.sum((given == label) & (wanted == label))
        shares.append(2 * both / (np.sum(given == label) + np.sum(wanted == label)))
    return {"accuracy": float(np.mean(given == wanted)), "macro_f1": float(np.mean(shares))}


def _figures(metrics: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())


def rows_of(settings: OwnTaskSettings) -> tuple[Dataset, Dataset, list[str]]:
    """Training and evaluation rows, with numbers as `label`, and the names of the classes; none for a regression."""
    parts = [_read(settings, name) for name in ("train_data", "eval_data")]
    labels = [part[settings.label_column][:] for part in parts]
    if any(isinstance(label, float) for label in labels[0]):
        names: list[Any] = []
        numbers = [list(map(float, found)) for found in labels]
    else:
        names = sorted(set(labels[0]))
        if unknown := sorted(set(labels[1]) - set(names)):
            raise ValueError(
                f"eval_data has the label {short_repr(unknown[0])}, which train_data never has; drop its rows"
            )
        if len(names) < 2:
            raise ValueError(f"train_data has the one label {short_repr(names[0])}; expected two or more")
        numbers = [[names.index(label) for label in found] for found in labels]
    columns = list(settings.text_columns)
    train, dev = (
        part.select_columns(columns).add_column("label", found) for part, found in zip(parts, numbers, strict=True)
    )
    return train, dev, list(map(str, names))


def _read(settings: OwnTaskSettings, argument: str) -> Dataset:
    path = Path(getattr(settings, argument)).expanduser()
    label = f"{argument}={str(path)!r}"
    if path.suffix not in _READERS or not path.is_file():
        raise ValueError(f"{label} is no file of {', '.join(_READERS)}; name one with labelled rows")
    try:
        rows = _READERS[path.suffix](str(path))
    except (DatasetsError, OSError, ValueError) as error:
        raise ValueError(f"{label} is unreadable ({type(error).__name__}); check what it holds") from error
    _check_columns(rows, settings, label)
    for column in settings.text_columns:
        if rows.features[column].dtype not in ("string", "large_string"):
            rows = rows.cast_column(column, Value("string"))
    return rows


def _check_columns(rows: Dataset, settings: OwnTaskSettings, label: str) -> None:
    for column in (*settings.text_columns, settings.label_column):
        if column not in rows.column_names:
            raise ValueError(f"{label} lacks the column {column!r}; it has {', '.join(rows.column_names)}")
        if None in rows[column][:]:
            raise ValueError(f"{label} has rows without {column!r}; drop them")
    if len(rows) < 8:
        raise ValueError(f"{label} has {len(rows)} rows; expected 8 or more")


def check_labels(model: PreTrainedModel, names: list[str], *, argument: str) -> None:
    """Refuse a model that was fine-tuned for other labels than the `names` of [`rows_of`]."""
    known = [model.config.id2label[index] for index in range(model.config.num_labels)]
    # transformers names classes LABEL_0 … by default; they fit rows whose labels are these numbers.
    unnamed = [f"LABEL_{name}" for name in names or ["0"]]
    if known not in (names, unnamed):
        raise ValueError(
            f"{argument} has the labels {short_repr(known)}, the rows {short_repr(names)}; fine-tune it on these rows"
        )


def _check_teacher(teacher: PreTrainedModel, model: PreTrainedModel, names: list[str]) -> None:
    if not type(teacher).__name__.endswith("ForSequenceClassification"):
        raise ValueError(
            f"teacher is a {type(teacher).__name__}; expected one that is fine-tuned for the task: fine-tune it first"
        )
    check_labels(teacher, names, argument="teacher")
    for what in ("vocab_size", "num_hidden_layers"):
        given, expected = getattr(teacher.config, what), getattr(model.config, what)
        if given != expected:
            raise ValueError(f"teacher has {what}={given}, model {expected}; choose the one the model was made from")
