"""GLUE and SQuAD: fine-tunes a model on every task with several seeds, and grades it by the task's official metrics.

Each task has a learning rate, given or chosen on held-out rows. Every seed has a record, see evaluated_model.py. The
metrics are also modules of `evaluate`. Rows: `tasks/glue.py`; formulas: `tasks/metrics.py`.
"""

import logging
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np
from datasets import Dataset, Features, List, Value
from transformers import PreTrainedModel

from ..data.read_line import columns_words, read_line
from ..files.settings import describe_settings
from ..models.heads import logits_of_rows
from ..tables import figures_line
from ..tasks.glue import (
    BENCHMARK_TASKS,
    GLUE_TASKS,
    SQUAD_TASKS,
    TaskData,
    check_task,
    check_tasks,
    load_task,
    task_files,
)
from ..tasks.kinds import VALUES
from ..tasks.metrics import (
    accuracy,
    best_threshold,
    class_f1,
    exact_match,
    matthews_correlation,
    normalize_answer,
    pearson,
    spearman,
    token_f1,
)
from ..tasks.questions import EVEN, WINDOW_LENGTH, Answer, answer_questions
from .evaluated_model import EvaluatedModel, load_model, results_claimed
from .fine_tuning import (
    LEAST_STEPS,
    FineTuned,
    GlueSettings,
    chosen_rate,
    encoded_rows,
    fine_tuned,
    settings_from,
    training_dtype,
    training_rows,
    with_length,
)

if TYPE_CHECKING:
    import evaluate

logger = logging.getLogger(__name__)

MISMATCHED = "validation_mismatched"
_GLUE_FORMULAS = {
    "accuracy": accuracy,
    "f1": class_f1,
    "matthews_correlation": matthews_correlation,
    "pearson": pearson,
    "spearmanr": spearman,
}
_ANSWER = {"id": Value("string"), "prediction_text": Value("string")}
_ANSWERS = {"text": List(Value("string")), "answer_start": List(Value("int32"))}
Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
@describe_settings
class SquadSettings(GlueSettings):
    """Settings of SQuAD fine-tuning, the same for every model of a comparison."""

    default_length: ClassVar[int] = WINDOW_LENGTH


Measure: TypeAlias = Callable[..., tuple[dict[str, dict[str, float]], FineTuned]]
"""`(evaluated, task, rows, measured_on, *, settings, seed, folder)` fine-tunes a copy of a model and measures it.

`measured_on` is name → rows, `folder` as in [`fine_tune`]; it returns name → metrics, and the trained model.
"""


def evaluate_glue(
    model: str | Path,
    tasks: str | Sequence[str] = "glue",
    *,
    settings: GlueSettings | Mapping[str, Any] | None = None,
    output_dir: str | Path | None = None,
    say: Callable[[str], None] = logger.info,
) -> dict[str, Any]:
    """Fine-tune a model on GLUE tasks and measure it on their dev sets.

    Each seed is a training of stock transformers' sequence classifier with a fresh pooler and output layer.
    A finished (task, seed) of the same weights, data and settings is read, not run again; one that SIGTERM stopped
    goes on. An export's `facts.json` and card are brought up to date.

    Args:
        model: export of either format, finished run, `checkpoint-N`, or folder or Hub name of a stock model.
        tasks: names, or `"glue"` for all nine.
        settings: [`GlueSettings`], or some of them by name.
        output_dir: folder of the results; default: `evaluations/NAME` beside the model.
        say: takes lines for the user.

    Returns:
        `dict`: the content of `summary.json`: `model`, `tasks` (name → `score` and `metrics` with `mean` and `std`
        over seeds, `seeds`, `conditions` …) and `discrepancy` if measured earlier. A task measured on part of its data
        has a name that ends in `_part`.

    Raises:
        ValueError: unknown task or setting, missing data, or no model that can be evaluated.
        OSError: a file or the Hub can't be read, or results can't be written.
        FloatingPointError: a fine-tuning diverged.
    """
    return _evaluate(model, check_tasks(tasks), settings_from(GlueSettings, settings), output_dir, say)


def official_metrics(
    evaluated: EvaluatedModel,
    task: str,
    rows: Dataset,
    measured_on: Mapping[str, Dataset],
    *,
    settings: GlueSettings,
    seed: int,
    folder: Path | None = None,
) -> tuple[dict[str, dict[str, float]], FineTuned]:
    """Fine-tune once and measure, or grade answers: see [`Measure`]."""
    trained = fine_tuned(evaluated, BENCHMARK_TASKS[task], rows, settings=settings, seed=seed, folder=folder)
    if not isinstance(settings, SquadSettings):
        return glue_metrics(trained.model, evaluated.tokenizer, task, measured_on, settings.row_length), trained
    answered = partial(answer_questions, trained.model, tokenizer=evaluated.tokenizer, length=settings.row_length)
    return {name: grade(task, dev, answered(dev)) for name, dev in measured_on.items()}, trained


def glue_metrics(
    model: PreTrainedModel, tokenizer: Any, task: str, measured_on: Mapping[str, Dataset], max_length: int
) -> dict[str, dict[str, float]]:
    """Measure a fine-tuned model on sets of rows by name. A predicted similarity is not clipped to 0 … 5."""
    described, metrics = GLUE_TASKS[task], {}
    for name, dev in measured_on.items():
        encoded = encoded_rows(described, dev, tokenizer, max_length).remove_columns(["labels", "length"])
        rows_C = [logits for (logits,) in logits_of_rows(model, encoded, tokenizer, "logits")]
        given = [float(logits[0]) if described.kind == VALUES else int(logits.argmax()) for logits in rows_C]
        metrics[name] = official_scores(task, given, dev["label"][:])
    return metrics


def evaluate_squad(
    model: str | Path,
    tasks: str | Sequence[str] = "squad_v2",
    *,
    settings: SquadSettings | Mapping[str, Any] | None = None,
    output_dir: str | Path | None = None,
    say: Callable[[str], None] = logger.info,
) -> dict[str, Any]:
    """Fine-tune a model on SQuAD with several seeds and grade its answers to the development questions.

    Finished seeds, return value and errors are as in [`evaluate_glue`]; metrics are those of [`grade`].

    Args:
        model: see [`evaluate_glue`].
        tasks: `"squad"` (v1.1), `"squad_v2"`, or both.
        settings: [`SquadSettings`], or some of them by name.
        output_dir: folder of the results; default: `evaluations/NAME` beside the model.
        say: takes lines for the user.
    """
    return _evaluate(model, check_tasks(tasks, SQUAD_TASKS), settings_from(SquadSettings, settings), output_dir, say)


def _evaluate(
    model: str | Path,
    tasks: Sequence[str],
    settings: GlueSettings,
    output_dir: str | Path | None,
    say: Callable[[str], None],
) -> dict[str, Any]:
    if settings.data_dir is not None:  # missing data are refused before any model is loaded
        for task in tasks:
            task_files(task, settings.data_dir)
    with results_claimed(model, output_dir):
        evaluated = load_model(model, output_dir, needs_head=False)
        settings = with_length(settings, evaluated)
        rows = (load_task(task, settings.data_dir) for task in tasks)
        return evaluate_tasks(evaluated, rows, official_metrics, settings=settings, say=say)


def grade(task: str, rows: Dataset, answers: list[Answer]) -> dict[str, float]:
    """Grade answers by the task's official metrics, in percent; thresholds are in [0, 1].

    In SQuAD v2.0 the prediction is "no answer" where its score is above the best span's: a threshold of 0 on their
    difference. `best_exact` and `best_f1` use the best threshold for these questions. Thresholds are probabilities p,
    which stand for differences of log(p / (1 - p)).
    """
    predictions = [
        {
            "id": identity,
            "prediction_text": answer.text,
            "no_answer_probability": answer.no_answer_probability,
        }
        for identity, answer in zip(rows["id"], answers, strict=True)
    ]
    threshold = {} if task == "squad" else {"no_answer_threshold": EVEN}
    graded = official_scores(task, predictions, rows.to_list(), **threshold)
    return {name: value for name, value in graded.items() if not name.endswith("total")}


def evaluate_tasks(
    evaluated: EvaluatedModel,
    tasks: Iterable[TaskData],
    measure: Measure,
    *,
    settings: GlueSettings,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Measure a model on tasks, one after the other; after each the summary, facts and card are up to date."""
    summary: dict[str, Any] = {}
    for data in tasks:
        _evaluate_task(evaluated, data, measure, settings, say)
        summary = evaluated.summarize()
        evaluated.publish(summary)
    return summary


def _evaluate_task(
    evaluated: EvaluatedModel, data: TaskData, measure: Measure, settings: GlueSettings, say: Callable[[str], None]
) -> None:
    """Choose a learning rate if there is a choice, then fine-tune and measure with every seed."""
    task, name, seeds, rates = data.task, data.name, settings.seeds, settings.candidates()
    train, columns = training_rows(data.train, settings.max_train_samples), BENCHMARK_TASKS[task].columns
    words = columns_words((*columns.texts, *columns.labels), train.column_names)
    say(
        f"{name}: {read_line({'to train on': train} | {f'in {split}': dev for split, dev in data.dev.items()}, words)}"
    )
    conditions = settings.compared() | {"dtype": training_dtype(settings.dtype), "data_sha256": data.sha256}

    # one fine-tuning: results and the trained model; `changes` are of the settings, a learning rate among them
    def measured(
        rows: Dataset, measured_on: Mapping[str, Dataset], folder: Path, *, seed: int, **changes: Any
    ) -> tuple[dict[str, dict[str, float]], FineTuned]:
        changed = replace(settings, learning_rates=(), **changes)
        return measure(evaluated, task, rows, measured_on, settings=changed, seed=seed, folder=folder)

    rate = chosen_rate(
        evaluated,
        settings,
        train,
        columns,
        measured,
        partial(task_score, task),
        depends_on={"task": task, "conditions": conditions | {"learning_rate": None}},
        seed=seeds[0],
        name=name,
        say=say,
    )
    conditions |= {"learning_rate": rate}
    if len(rates) > 1:
        steps = min(LEAST_STEPS, settings.max_train_steps or LEAST_STEPS)
        conditions |= {"learning_rates": rates, "chosen_with_seed": seeds[0], "chosen_in_steps": steps}

    def seed_record(seed: int, folder: Path) -> dict[str, Any]:
        start = time.perf_counter()
        results, trained = measured(train, data.dev, folder, learning_rate=rate, seed=seed)
        return {
            "task": task,
            "data": name,
            "seed": seed,
            "metrics": {
                metric + ("_mismatched" if split == MISMATCHED else ""): value
                for split, values in results.items()
                for metric, value in values.items()
            },
            "score": statistics.fmean(task_score(task, values) for values in results.values()),
            "constant_score": constant_score(data),
            "conditions": conditions,
            "num_train_rows": len(train),
            "num_available_rows": len(data.train),
            "num_dev_rows": {split: len(dev) for split, dev in data.dev.items()},
            "num_steps": trained.num_steps,
            "train_loss": trained.train_loss,
            "time_s": round(time.perf_counter() - start, 1),
        }

    for index, seed in enumerate(seeds, 1):
        depends_on = {"task": task, "conditions": conditions, "seed": seed}
        record, was_there = evaluated.measured(f"{name}.seed-{seed}", depends_on, partial(seed_record, seed))
        source = "read from an earlier evaluation" if was_there else f"{record['time_s']:.0f} s"
        say(f"{name}, seed {seed} ({index} of {len(seeds)}): {figures_line(record['metrics'])} ({source})")


# The official metrics


def load_metric(task: str) -> "evaluate.Metric":
    """Load the official metric of a task; nothing is downloaded. GLUE's values are in [-1, 1], SQuAD's in percent.

    Inputs and results are named as those of the Hub's `glue`, `squad` and `squad_v2`.

    Raises:
        ValueError: `task` is unknown.

    Example:
    ```python
    >>> load_metric("cola").compute(predictions=[1, 0, 1, 1], references=[1, 0, 0, 1])
    {'matthews_correlation': 0.57735...}
    >>> load_metric("squad").compute(
    ...     predictions=[{"id": "1", "prediction_text": "in 1976"}],
    ...     references=[{"id": "1", "answers": {"text": ["1976"], "answer_start": [97]}}],
    ... )
    {'exact_match': 0.0, 'f1': 66.66...}

    ```
    """
    check_task(task, BENCHMARK_TASKS)
    import evaluate  # takes half a second, and evaluations do without

    if task in SQUAD_TASKS:
        wanted: Any = {"id": Value("string"), "answers": _ANSWERS}
        given: Any = _ANSWER | ({} if task == "squad" else {"no_answer_probability": Value("float64")})
    else:
        given = wanted = Value("float64" if task == "stsb" else "int64")

    class OfficialMetric(evaluate.Metric):
        def _info(self) -> evaluate.MetricInfo:
            features = Features({"predictions": given, "references": wanted})
            return evaluate.MetricInfo(f"The official metrics of {task}.", citation="", features=features)

        def _compute(self, predictions: Any, references: Any, **options: float) -> dict[str, float]:
            return official_scores(task, predictions, references, **options)

    return OfficialMetric(task, keep_in_memory=True)


def official_scores(task: str, predictions: Any, references: Any, **options: float) -> dict[str, float]:
    """Measure predictions by the official metrics of a task, with inputs and results as in [`load_metric`].

    An undefined score of GLUE is 0, as in scikit-learn: a correlation with a constant, and an F1 without any positive.

    Raises:
        ValueError: no predictions, or some that have no score.
    """
    if len(predictions) == 0:
        raise ValueError(f"predictions of {task} are empty; expected at least one")
    if task in SQUAD_TASKS:
        return (_first_version if task == "squad" else _second_version)(predictions, references, **options)
    given, wanted = np.asarray(predictions), np.asarray(references)
    for name, values in (("predictions", given), ("references", wanted)):
        if not np.isfinite(values).all():
            bad = values[~np.isfinite(values)][0]
            raise ValueError(f"{name} of {task} hold {bad}; expected finite numbers: has it diverged?")
    return {name: _GLUE_FORMULAS[name](given, wanted) for name in GLUE_TASKS[task].metrics}


def _first_version(predictions: Rows, references: Rows) -> dict[str, float]:
    """SQuAD v1.1: `exact_match` and `f1`."""
    rows = _paired(predictions, references)
    if without := [reference["id"] for _, reference in rows if not reference["answers"]["text"]]:
        raise ValueError(f"references: question id={without[0]!r} has no answer; use the metric squad_v2")
    pairs = [(row["prediction_text"], reference["answers"]["text"]) for row, reference in rows]
    return {
        "exact_match": _percent([exact_match(text, golds) for text, golds in pairs]),
        "f1": _percent([token_f1(text, golds, both_empty=0.0) for text, golds in pairs]),
    }


def _second_version(predictions: Rows, references: Rows, no_answer_threshold: float = 1.0) -> dict[str, float]:
    """SQuAD v2.0: `exact` and `f1`; `HasAns_…` and `NoAns_…`, of questions with and without an answer.

    Above `no_answer_threshold` an answer counts as none. `best_exact` and `best_f1` are the scores at the best
    thresholds, `…_thresh` these thresholds.
    """
    pairs = _paired(predictions, references)
    texts = [row["prediction_text"] for row, _ in pairs]
    probabilities = np.array([row["no_answer_probability"] for row, _ in pairs])
    outside = probabilities[~((probabilities >= 0) & (probabilities <= 1))]
    if len(outside):
        raise ValueError(f"no_answer_probability={outside[0]} is not in [0, 1]; of a score s, give 1 / (1 + exp(-s))")
    has_answer = np.array([bool(reference["answers"]["text"]) for _, reference in pairs])
    # Right answers that are not empty once normalised; else the empty one.
    golds = [[text for text in row["answers"]["text"] if normalize_answer(text)] or [""] for _, row in pairs]
    rows = list(zip(texts, golds, strict=True))
    formulas: dict[str, Any] = {"exact": exact_match, "f1": token_f1}
    scores = {name: np.array([formula(*row) for row in rows]) for name, formula in formulas.items()}
    counted = {
        name: np.where(probabilities > no_answer_threshold, ~has_answer, values) for name, values in scores.items()
    }
    results: dict[str, float] = {}
    for prefix, chosen in (("", np.ones_like(has_answer)), ("HasAns_", has_answer), ("NoAns_", ~has_answer)):
        if chosen.any():
            results |= {f"{prefix}{name}": _percent(values[chosen]) for name, values in counted.items()}
            results[f"{prefix}total"] = int(chosen.sum())
    is_answered = np.array([bool(text) for text in texts])
    for name, values in scores.items():
        best, threshold = best_threshold(values, probabilities, has_answer=has_answer, is_answered=is_answered)
        results |= {f"best_{name}": 100 * best, f"best_{name}_thresh": threshold}
    return results


def _percent(scores: Sequence[float] | np.ndarray) -> float:
    return float(100 * np.sum(scores) / len(scores))


def _paired(predictions: Rows, references: Rows) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Each reference's prediction, by id."""
    by_id = {row["id"]: row for row in predictions}
    if missing := [row["id"] for row in references if row["id"] not in by_id]:
        raise ValueError(f"predictions lack id={missing[0]!r} of the references; predict an empty text for no answer")
    return [(by_id[reference["id"]], reference) for reference in references]


def task_score(task: str, results: Mapping[str, float]) -> float:
    """The mean of a task's main metrics, in [-1, 1] with 1 for a perfect model; SQuAD's percents become fractions."""
    names = BENCHMARK_TASKS[task].metrics
    return sum(results[name] for name in names) / len(names) / (100 if task in SQUAD_TASKS else 1)


def constant_score(data: TaskData) -> float:
    """Score of a model that has learned nothing: one answer for every dev row, as [`task_score`].

    The answer is the training rows' most frequent label, their mean for a similarity, none for a question of SQuAD.
    """
    scores = []
    for dev in data.dev.values():
        if data.task in GLUE_TASKS:
            labels, references = data.train["label"][:], dev["label"][:]
            constant = statistics.fmean(labels) if GLUE_TASKS[data.task].kind == VALUES else statistics.mode(labels)
            predictions = [constant] * len(dev)
        else:
            references = dev.select_columns(["id", "answers"]).to_list()
            predictions = [
                {"id": row["id"], "prediction_text": "", "no_answer_probability": 1.0} for row in references
            ]
        scores.append(task_score(data.task, official_scores(data.task, predictions, references)))
    return statistics.fmean(scores)
