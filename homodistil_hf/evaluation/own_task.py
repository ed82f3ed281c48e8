"""A task of one's own: fine-tunes any model on labelled rows in files, alone or beside a teacher.

Recipe, rates and steps are those of the evaluations, `task_runs.py`. Until the model is there, `training/` has the
settings, the tried rates and the checkpoints, by which a fine-tuning that was stopped goes on.
"""

import json
import logging
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, Value
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..data.corpus import local_files
from ..data.csv_files import SEPARATORS
from ..data.task_rows.encoding import length_of_rows
from ..data.task_rows.kinds import CLASSES, VALUES, Columns
from ..data.task_rows.reading import check_columns, load_rows, table_of
from ..distillation.task_scores import class_scores
from ..files.caches import keep_datasets_here
from ..files.checkpoints import model_written
from ..files.field_checks import setting
from ..files.folders import check_writable, remove_folder
from ..files.messages import short_repr
from ..files.run_names import MODEL_FOLDER, RESULTS_FILE, SETTINGS_FILE
from ..files.strict_json import read_json_object, read_json_rows, write_json
from ..models.architectures.modeling_layerwise import LayerwiseModel
from ..models.conversion import to_stock
from ..models.cost import model_facts
from ..models.loading import load_encoder
from ..tables import figures_line
from ..training.checks import check_same_start, existing_files
from ..training.ranks import refuse_ranks
from ..training.run_folder import folder_claimed
from .evaluated_model import EvaluatedModel, load_model
from .fine_tuning import FineTuned, FineTuningSettings, predict
from .glue import fine_tuned_classifier
from .own_kinds import KindTask, check_shape, kind_rows, rows_aside
from .records import Records
from .task_data import GlueTask, encode
from .task_runs import best_rate, training_rows, with_held_out, with_length

logger = logging.getLogger(__name__)

_TRAINING_FOLDER = "training"
_SAVE_STEPS = 500
_OF_A_START = ("resume", "output_dir")  # settings that a resumed run may have otherwise
_MAKE_ROOM = "Make room, then go on with resume=true"
_NAME_COLUMNS = "name text_columns and label_column"
_MOST_CLASSES = 10  # that a line shows
_FEW_ROWS, _MANY_ROWS = 3, 100
_NO_NUMBERS = frozenset(("na", "n/a", "<na>", "nan", "null", "none", "nil", "inf", "-inf", "-", "?"))
"""Words, in lower case, that stand in a CSV file's column of numbers where there is none."""


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
    eval_data: str | None = setting(
        None, "Rows to measure on, of the same columns; default: a tenth of train_data, kept aside.", text="a name"
    )
    text_columns: tuple[str, ...] = setting(("text",), "One, or two for pairs.", text="a name")
    label_column: str = setting(
        "label", "Names or whole numbers, 1.0 too: classes; fractions: a regression.", text="a name"
    )
    output_dir: str = setting("", f"Gets {MODEL_FOLDER}/ and results.json.", text="a name")
    seed: int = setting(0, "Of head, order of rows and dropout.", least=0, most=2**32 - 1)
    resume: bool = setting(False, "Go on with the run in output_dir.")

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
        settings: [`OwnTaskSettings`]. With `resume` a run that was stopped goes on, as if it had never stopped, to the
            last bit: tried rates are read, the training in hand goes on at its last checkpoint.
        say: takes lines for the user.

    Returns:
        `dict`: the content of `results.json`: `metrics` of the evaluation rows (`accuracy` and `macro_f1`, `pearson`,
        or those of another kind, see own_kinds.py) and costs of the `model`, `teacher_metrics` and those of the
        `teacher`, `learning_rate`, `settings`.

    Raises:
        ValueError: unreadable rows, a model that can't be fine-tuned, a teacher of other labels, a folder that another
            process works in, or one with a fine-tuning that was stopped, without `resume` or of other settings.
        FloatingPointError: every rate diverged.
    """
    check_writable(settings.output_dir, f"output_dir={settings.output_dir!r}")
    refuse_ranks()
    with folder_claimed(settings.output_dir, is_main=True):
        return _fine_tune(settings, say)


def _fine_tune(settings: OwnTaskSettings, say: Callable[[str], None]) -> dict[str, Any]:
    start = time.perf_counter()
    folder = Path(settings.output_dir)
    training = folder / _TRAINING_FOLDER
    if (folder / MODEL_FOLDER).exists():
        raise ValueError(f"output_dir={settings.output_dir!r} holds {MODEL_FOLDER}/ already; name another folder")
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
    keep_datasets_here()
    evaluated = load_model(settings.model)
    has_length = settings.max_length is not None
    settings = with_length(settings, evaluated)
    given = check_start(training / SETTINGS_FILE, settings)
    teacher = load_encoder(settings.teacher) if settings.teacher else None
    settings, task, train, dev, names = _task_rows(settings, evaluated, teacher, has_length=has_length)
    if teacher is not None:
        if isinstance(task, KindTask):
            task.check_teacher(teacher, evaluated.model)
        else:
            _check_teacher(teacher, evaluated.model, names, are_numbered=are_numbered(train))
    train = training_rows(train, settings.max_train_samples)
    training.mkdir(exist_ok=True)
    write_json(training / SETTINGS_FILE, given)  # now that nothing was refused
    run = _Run(settings, given, replace(evaluated, results=training), task, teacher)
    rate = run.best_rate(train, say)
    num_steps = settings.num_steps(len(train), settings.batch_size)
    say(f"training at learning rate {rate:g}: {num_steps:,} steps on {len(train):,} rows")
    trained = run.fine_tuned(
        train, rate, max_train_steps=settings.max_train_steps, folder=training / "run", save_steps=_SAVE_STEPS
    )
    metrics = run.metrics(trained.model, dev)
    results = {"metrics": metrics, "learning_rate": rate, "num_steps": trained.num_steps, "settings": asdict(settings)}
    results |= {"model": model_facts(trained.model)}
    if teacher is not None:
        results |= {"teacher": model_facts(teacher), "teacher_metrics": run.metrics(teacher, dev)}
    results |= {"num_train_rows": len(train), "num_eval_rows": len(dev)}
    results |= {"time_s": round(time.perf_counter() - start, 1)}
    with model_written(folder / MODEL_FOLDER, remedy=_MAKE_ROOM) as aside:
        _save(trained.model, evaluated.tokenizer, names, aside)
        write_json(folder / RESULTS_FILE, results)  # first: the model's folder says that all is done
    remove_folder(training)
    return results


def _task_rows(
    settings: OwnTaskSettings, evaluated: EvaluatedModel, teacher: PreTrainedModel | None, *, has_length: bool
) -> tuple[OwnTaskSettings, GlueTask | KindTask, Dataset, Dataset, list[str]]:
    """The task of the rows and the rows; the settings with the columns that were found, and the rows' length."""
    found = kind_rows(settings, None if teacher is None else teacher.config)
    if isinstance(found, tuple):
        task, train, dev = found
        if not has_length:
            length = length_of_rows(train, task.columns, evaluated.model.config, evaluated.tokenizer)
            settings = replace(settings, max_length=length)
        return settings, task, train, dev, list(task.names)
    if found is not None:
        settings = replace(settings, text_columns=found.texts, label_column=found.labels[0])
    train, dev, names = rows_of(settings)
    return settings, GlueTask("own", settings.text_columns, num_labels=len(names) or 1), train, dev, names


def check_start(record: Path, settings: OwnTaskSettings) -> dict[str, Any]:
    """Refuse, by a ValueError, to go on with other settings than those in `record`; those of this run, as JSON."""
    now: dict[str, Any] = json.loads(
        json.dumps({name: value for name, value in asdict(settings).items() if name not in _OF_A_START})
    )
    if record.is_file():
        before = read_json_object(record, f"{record.name} in output_dir={settings.output_dir!r}")
        check_same_start(settings.output_dir, before, now)
    return now


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
    given: Mapping[str, Any]
    evaluated: EvaluatedModel
    task: GlueTask | KindTask
    teacher: PreTrainedModel | None

    def best_rate(self, train: Dataset, say: Callable[[str], None]) -> float:
        """Choose as the evaluations do: on held-out rows, after few steps."""
        rates = self.settings.candidates()
        rows, held_out = with_held_out(train, getattr(self.task, "group_column", None))
        records = Records(self.evaluated)

        def score(rate: float) -> float | None:
            place = f"rate {rates.index(rate) + 1} of {len(rates)}, {rate:g}"
            say(f"{place}: training")
            measure = partial(self._tried, rate, rows, held_out)
            record, _ = records.measured(f"learning-rate-{rate}", self.given, measure)
            if not (found := record["metrics"]):
                say(f"{place}: diverged")
                return None
            say(f"{place}: {figures_line(found)} on {len(held_out):,} held-out training rows")
            return next(iter(found.values()))

        if len(rates) == 1:
            return rates[0]
        short = replace(self.settings, max_train_steps=self.settings.num_search_steps)
        num_steps = short.num_steps(len(rows), short.batch_size)
        say(f"trying {len(rates)} learning rates, {num_steps:,} steps each")
        return best_rate(rates, score)

    def _tried(self, rate: float, rows: Dataset, held_out: Dataset, folder: Path) -> dict[str, Any]:
        try:
            trained = self.fine_tuned(rows, rate, max_train_steps=self.settings.num_search_steps, folder=folder)
            return {"metrics": self.metrics(trained.model, held_out)}
        except FloatingPointError:
            return {"metrics": None}

    def fine_tuned(self, rows: Dataset, rate: float, *, max_train_steps: int | None, **saving: Any) -> FineTuned:
        settings = self.settings
        chosen = replace(settings, learning_rate=rate, learning_rates=(), max_train_steps=max_train_steps)
        how = {"settings": chosen, "seed": settings.seed, "teacher": self.teacher, **saving}
        if isinstance(self.task, KindTask):
            return self.task.fine_tuned(self.evaluated, rows, **how)
        return fine_tuned_classifier(self.evaluated, self.task, rows, **how)

    def metrics(self, model: PreTrainedModel, rows: Dataset) -> dict[str, float]:
        """Metrics on rows; rates are compared by the first one."""
        how = self.evaluated.tokenizer, self.settings.row_length
        if isinstance(self.task, KindTask):
            return self.task.metrics(model, rows, *how)
        return task_metrics(model, rows, self.task, *how)


def task_metrics(
    model: PreTrainedModel, rows: Dataset, task: GlueTask, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> dict[str, float]:
    """Accuracy and macro F1 of a fine-tuned classifier on rows, or Pearson's correlation of a regression."""
    logits_RC, labels_R = predict(model, encode(rows, task, tokenizer, max_length), tokenizer)
    if task.num_labels > 1:
        given_R = logits_RC.argmax(-1)
        if np.ptp(given_R) == 0 < np.ptp(labels_R):
            logger.warning("all %d rows get one class; lower learning_rate, or train for more steps", len(given_R))
        return class_scores(given_R, labels_R)
    is_constant = np.ptp(logits_RC) == 0 or np.ptp(labels_R) == 0
    return {"pearson": 0.0 if is_constant else float(np.corrcoef(logits_RC[:, 0], labels_R)[0, 1])}


def rows_of(settings: OwnTaskSettings) -> tuple[Dataset, Dataset, list[str]]:
    """Training and evaluation rows, with numbers as `label`, and the names of the classes; none for a regression.

    Names of a `ClassLabel` column are the classes, in its order, and in the rows' features again.
    """
    parts = _parts(settings)
    labels = {argument: _labels(part, settings.label_column, argument) for argument, part in parts.items()}
    features = (part.features[settings.label_column] for part in parts.values())
    known = next((feature.names for feature in features if isinstance(feature, ClassLabel)), None)
    names: list[str] = []
    if _are_numbers(labels):
        numbers: dict[str, list[Any]] = {argument: list(map(float, found)) for argument, found in labels.items()}
    else:
        if len(found := set(labels["train_data"])) < 2:
            raise ValueError(f"train_data has the one label {short_repr(*found)}; expected two or more")
        names = known or list(map(str, sorted(found)))
        numbers = {argument: _class_numbers(found, names, known, argument) for argument, found in labels.items()}
        for argument, part in parts.items():
            _warn_of_classes(
                part[settings.label_column][0], labels[argument][0], f"{argument}: {settings.label_column}"
            )
    columns = list(settings.text_columns)
    train, dev = (part.select_columns(columns).add_column("label", numbers[name]) for name, part in parts.items())
    if known is not None:
        train, dev = (part.cast_column("label", ClassLabel(names=names)) for part in (train, dev))
    if names:
        _report_classes(names, train["label"][:], dev["label"][:])
    return train, dev, names


def _parts(settings: OwnTaskSettings) -> dict[str, Dataset]:
    """Rows to train on and rows to evaluate on, which are kept aside where no others are named."""
    train = _read(settings, "train_data")
    if settings.eval_data:
        return {"train_data": train, "eval_data": _read(settings, "eval_data")}
    is_value = _are_numbers({"train_data": _labels(train, settings.label_column, "train_data")})
    columns = Columns(VALUES if is_value else CLASSES, settings.text_columns, (settings.label_column,))
    return dict(zip(("train_data", "eval_data"), rows_aside(train, columns), strict=True))


def _report_classes(names: list[str], labels: list[int], dev_labels: list[int]) -> None:
    """Log the classes with their training rows; warn of those that a misspelt label may have made."""
    counts, dev_counts = Counter(labels), Counter(dev_labels)
    logger.info("%d classes: %s", len(names), _listed(f"{name} {counts[i]:,}" for i, name in enumerate(names)))
    has_many = max(counts.values()) >= _MANY_ROWS
    doubtful = [
        f"{short_repr(name)} ({_rows_at(counts[i], labels, i)} of train_data, {dev_counts[i]:,} of eval_data)"
        for i, name in enumerate(names)
        if not dev_counts[i] or (has_many and counts[i] < _FEW_ROWS)
    ]
    if doubtful:
        logger.warning(
            "few rows, or none of eval_data, have the class %s; correct or drop them, or add rows", _listed(doubtful)
        )


def _rows_at(count: int, labels: Sequence[Any], label: Any) -> str:
    """How many rows have a label, and the number of the first, counted from 1."""
    first = f", the first is row {labels.index(label) + 1:,}" if count else ""
    return f"{count:,} row{'s' * (count != 1)}{first}"


def _listed(parts: Iterable[str]) -> str:
    shown = list(parts)
    return ", ".join(shown[:_MOST_CLASSES] + ["…"] * (len(shown) > _MOST_CLASSES))


def _warn_of_classes(stored: Any, label: Any, where: str) -> None:
    if isinstance(stored, float | Decimal) and isinstance(label, int):
        logger.warning("%s has whole numbers such as %s; they are classes", where, stored)


def are_numbered(rows: Dataset) -> bool:
    """Whether a feature numbers the classes of rows of [`rows_of`], so that they may go by their numbers as well."""
    return isinstance(rows.features["label"], ClassLabel)


def _labels(rows: Dataset, column: str, argument: str) -> list[Any]:
    """Labels as names, whole numbers or fractions; whole numbers are `int`, however they are stored."""
    labels, feature = rows[column][:], rows.features[column]
    if isinstance(feature, ClassLabel):
        if min(labels) < 0:
            raise ValueError(
                f"{argument} has rows with {column}={min(labels)}, which is none of its classes; drop them"
            )
        return [feature.names[label] for label in labels]
    if not all(isinstance(label, float | Decimal) for label in labels):
        return labels
    if broken := [label for label in labels if not math.isfinite(label)]:
        raise ValueError(f"{argument} has rows with {column}={broken[0]}; drop them")
    return list(map(float if any(label % 1 for label in labels) else int, labels))


def _are_numbers(labels: Mapping[str, list[Any]]) -> bool:
    """Whether all labels are numbers, and some of them fractions."""
    kinds = {type(label) for found in labels.values() for label in found}
    return float in kinds and kinds <= {float, int}


def _class_numbers(labels: list[Any], names: list[str], known: list[str] | None, argument: str) -> list[int]:
    numbers: dict[Any, int] = {name: number for number, name in enumerate(names)}
    if known is not None:  # rows of the other file may have its numbers without its names
        numbers = dict(enumerate(range(len(names)))) | numbers
    found = [numbers.get(label, numbers.get(str(label))) for label in labels]
    if None in found:
        unknown = labels[found.index(None)]
        other = "train_data" if argument == "eval_data" else "eval_data"
        raise ValueError(
            f"{argument} has the label {short_repr(unknown)}, which {other} never has "
            f"({_rows_at(labels.count(unknown), labels, unknown)}); correct or drop them"
        )
    return [number for number in found if number is not None]


def _read(settings: OwnTaskSettings, argument: str) -> Dataset:
    path = Path(os.path.expanduser(getattr(settings, argument)))
    label = f"{argument}={str(path)!r}"
    if not path.is_dir() and (path.suffix not in _ENDINGS or not path.is_file()):
        raise ValueError(
            f"{label} is no file of {', '.join(_ENDINGS)} and no folder of them; name one with labelled rows"
        )
    columns = (*settings.text_columns, settings.label_column)
    split = _SPLITS[argument]
    files = local_files(str(path), split, label)
    is_csv = any(file.suffix.lower() in SEPARATORS for file in files)
    if path.suffix in (".json", ".jsonl"):  # `load_rows` would take labels of several types for words
        rows = Dataset(table_of(read_json_rows(path, label), columns, label, remedy=_NAME_COLUMNS))
    else:
        rows = load_rows(list(map(str, files)), split=split, argument=argument)
        check_columns(rows.column_names, columns, label, remedy=_NAME_COLUMNS)
    _check_values(rows.select_columns(list(dict.fromkeys(columns))), label, missing="" if is_csv else None)
    if is_csv:
        parsed = _parsed(rows[settings.label_column][:], f"{label} has rows with {settings.label_column}")
        rows = rows.remove_columns(settings.label_column).add_column(settings.label_column, parsed)
    for column in settings.text_columns:
        if rows.features[column].dtype not in ("string", "large_string"):
            rows = rows.cast_column(column, Value("string"))
    return rows


_ENDINGS = (".parquet", ".json", ".jsonl", ".csv", ".tsv", ".arrow")
_SPLITS = {"train_data": "train", "eval_data": "validation"}


def _parsed(words: list[str], where: str) -> list[Any]:
    """A CSV column's labels: booleans or numbers where all of them are; else names."""
    if {word.lower() for word in words} <= {"true", "false"}:
        return [word.lower() == "true" for word in words]
    kinds = {kind for word in set(words) if (kind := _kind(word)) is not str}
    others = [word for word in words if _kind(word) is str]
    if kinds and others and {word.lower() for word in others} <= _NO_NUMBERS:
        raise ValueError(f"{where}={others[0]!r} beside numbers; drop them")
    if others or not kinds:
        return words
    return list(map(float if float in kinds else int, words))


def _kind(word: str) -> type:
    """The type of a label that is written as a word: int, float or str."""
    for kind in (int, float):
        try:
            return kind if math.isfinite(kind(word)) and "_" not in word else str
        except (ValueError, OverflowError):
            continue
    return str


def _check_values(rows: Dataset, label: str, *, missing: str | None) -> None:
    for column, feature in rows.features.items():
        if not isinstance(feature, Value | ClassLabel):
            raise ValueError(f"{label} has lists in {column!r}; expected one text or label a row")
        values = rows[column][:]
        if None in values or missing in values:
            raise ValueError(f"{label} has rows without {column!r}; drop them")
    if len(rows) < 8:
        raise ValueError(f"{label} has {len(rows)} rows; expected 8 or more")


def check_labels(model: PreTrainedModel, names: list[str], *, argument: str, are_numbered: bool = False) -> None:
    """Refuse a model that was fine-tuned for other labels than the `names` of [`rows_of`].

    Args:
        model: a sequence classifier.
        names: of the classes; none for a regression.
        argument: name of the model in messages.
        are_numbered: whether the classes may go by their numbers in the model.
    """
    known = [model.config.id2label[index] for index in range(model.config.num_labels)]
    # transformers names classes LABEL_0 … by default; they fit rows whose labels are these numbers.
    allowed = [names, [f"LABEL_{name}" for name in names or ["0"]]]
    if are_numbered:
        numbers = list(map(str, range(len(names))))
        allowed += [numbers, [f"LABEL_{number}" for number in numbers]]
    if known not in allowed:
        raise ValueError(
            f"{argument} has the labels {short_repr(known)}, the rows {short_repr(names)}; fine-tune it on these rows"
        )
    task = "single_label_classification" if names else "regression"
    if (given := model.config.problem_type) not in (None, task):
        raise ValueError(
            f"{argument} has problem_type={given!r}, the rows are for {task!r}; fine-tune it on these rows"
        )


def _check_teacher(teacher: PreTrainedModel, model: PreTrainedModel, names: list[str], *, are_numbered: bool) -> None:
    if not type(teacher).__name__.endswith("ForSequenceClassification"):
        raise ValueError(
            f"teacher is a {type(teacher).__name__}; expected one that is fine-tuned for the task: fine-tune it first"
        )
    check_labels(teacher, names, argument="teacher", are_numbered=are_numbered)
    check_shape(teacher, model)
