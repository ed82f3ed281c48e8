"""SQuAD v1.1 and v2.0: fine-tunes a model to mark answers, lets it answer development questions, grades it.

A context that is too long for one window of tokens is cut into several windows that overlap. The score of a span is
the start logit of its first token plus the end logit of its last token. Rows: task_data.py; formulas: metrics.py;
learning rates and files of results: task_runs.py.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar

import datasets
import numpy as np
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..data.task_rows.questions import Window, check_windows, labelled_inputs, make_windows
from ..files.field_checks import describe_settings, setting
from ..training.raw_rows import RowReader, named_sets
from .evaluated_model import EvaluatedModel, load_model, results_claimed
from .fine_tuning import FineTuned, GlueSettings, fine_tune, forward, fresh_answerer, settings_from
from .metrics import load_metric
from .task_data import check_squad_task, load_squad, squad_files
from .task_runs import evaluate_tasks, with_length

logger = logging.getLogger(__name__)

_QUESTIONS_AT_ONCE = 1000
_EVEN = 0.5  # at this probability "no answer" and the best span have the same score


@dataclass(frozen=True)
@describe_settings
class SquadSettings(GlueSettings):
    """Settings of SQuAD fine-tuning, the same for every model of a comparison.

    Raises:
        ValueError: a value is out of range.

    Example:
    ```python
    >>> SquadSettings(num_best=0)
    Traceback (most recent call last):
    ...
    ValueError: num_best=0 is not a whole number of at least 1; the default is 20

    ```
    """

    max_length: int | None = setting(
        None,
        "Tokens a window, ≥ 8; longer contexts take several (default: 384, or the positions, with shorter questions "
        "and strides).",
        least=8,
    )
    stride: int = setting(128, "Tokens that two windows of a context share, ≥ 0.", least=0)
    max_question_tokens: int = setting(64, "Tokens of a question that are read, ≥ 1.", least=1)
    max_answer_tokens: int = setting(30, "Longest answer, in tokens, ≥ 1.", least=1)
    num_best: int = setting(20, "Spans of each window that compete, ≥ 1.", least=1)
    default_length: ClassVar[int] = 384


@dataclass(frozen=True)
class RankedAnswers:
    """Different answers, the likeliest first, with their scores, and the score of "no answer"."""

    texts: tuple[str, ...]
    scores: tuple[float, ...]
    null_score: float

    @property
    def text(self) -> str:
        """The likeliest answer; empty where no window has a span."""
        return self.texts[0] if self.texts else ""

    @property
    def no_answer_probability(self) -> float:
        """Probability of "no answer" against the likeliest one: 1 / (1 + exp(score - null score)), in [0, 1]."""
        best = self.scores[0] if self.scores else -np.inf
        # 1 / (1 + eˣ) = exp(-log(1 + eˣ)), which doesn't overflow
        return float(np.exp(-np.logaddexp(0.0, best - self.null_score)))


def rank_answers(
    context: str,
    windows: Sequence[Window],
    logits: Sequence[tuple[np.ndarray, np.ndarray]],
    *,
    max_answer_tokens: int = 30,
    num_best: int = 20,
) -> RankedAnswers:
    """Find the best spans over all windows of one question.

    A text that several windows hold counts with its best score. "No answer" counts with its lowest score, because
    every window without the answer scores it high; one window with the answer is enough.

    Args:
        context: the characters that the windows' offsets count.
        windows: all windows of the question.
        logits: for each window, float `(T,)` of starts and of ends, T at least the tokens of the window.
        max_answer_tokens: longest answer, in tokens.
        num_best: spans of each window that compete, and answers that are returned, at most.

    Example:
    ```python
    >>> words = np.array([[0, 3], [4, 7], [8, 11]])
    >>> window = Window(inputs={}, row=0, cls_index=0, first_token=1, offsets=words)
    >>> starts, ends = np.array([1.0, 0.0, 5.0, 0.0]), np.array([1.0, 0.0, 0.0, 4.0])
    >>> ranked = rank_answers("one two six", [window], [(starts, ends)])
    >>> ranked.text, ranked.scores[0], ranked.null_score
    ('two six', 9.0, 2.0)

    ```
    """
    best: dict[str, float] = {}
    for window, (starts, ends) in zip(windows, logits, strict=True):
        for first, last, score in _best_spans(window, starts, ends, max_answer_tokens, num_best):
            text = context[window.offsets[first, 0] : window.offsets[last, 1]].strip()
            best[text] = max(score, best.get(text, -np.inf))
    # a span of white space alone is no answer
    best.pop("", None)
    ranked = sorted(best.items(), key=lambda item: -item[1])[:num_best]
    null_scores = [
        float(starts[window.cls_index]) + float(ends[window.cls_index])
        for window, (starts, ends) in zip(windows, logits, strict=True)
    ]
    return RankedAnswers(tuple(text for text, _ in ranked), tuple(score for _, score in ranked), min(null_scores))


def _best_spans(
    window: Window, starts: np.ndarray, ends: np.ndarray, max_answer_tokens: int, num_best: int
) -> list[tuple[int, int, float]]:
    """First token, last token and score of the best of all spans, not only of those between best starts and ends."""
    num_tokens = len(window.offsets)
    if num_tokens == 0:
        return []
    tokens = slice(window.first_token, window.first_token + num_tokens)
    num_lengths = min(max_answer_tokens, num_tokens)
    # scores[first, extra]: of the span from `first` to `first + extra`; -inf beyond the context.
    scores = np.full((num_tokens, num_lengths), -np.inf)
    for extra in range(num_lengths):
        last = num_tokens - extra
        scores[:last, extra] = starts[tokens][:last].astype(np.float64) + ends[tokens][extra:]
    order = np.argsort(-scores, axis=None, kind="stable")[:num_best]
    firsts, extras = np.unravel_index(order, scores.shape)
    spans = [(int(f), int(f + e), float(scores[f, e])) for f, e in zip(firsts, extras, strict=True)]
    return [span for span in spans if span[2] > -np.inf]


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
    names = [tasks] if isinstance(tasks, str) else list(dict.fromkeys(tasks))
    settings = settings_from(SquadSettings, settings)
    for name in names:
        check_squad_task(name)
        if settings.data_dir is not None:
            squad_files(name, settings.data_dir)
    with results_claimed(model, output_dir):
        evaluated = load_model(model, output_dir)
        settings = _fitted(settings, evaluated)
        check_windows(settings, evaluated.tokenizer)
        rows = (load_squad(name, settings.data_dir) for name in names)
        return evaluate_tasks(evaluated, rows, answer_metrics, settings=settings, say=say)


def _fitted(settings: SquadSettings, evaluated: EvaluatedModel) -> SquadSettings:
    """The settings with windows that a model reads."""
    fitted = with_length(settings, evaluated)
    return fitted if settings.max_length is not None else in_thirds(fitted)


def in_thirds(settings: SquadSettings) -> SquadSettings:
    """The settings with no more than a third of a window for what is shared and for the question, if not given."""
    third = settings.row_length // 3
    given = {name: getattr(settings, name) for name in ("stride", "max_question_tokens")}
    defaults = SquadSettings.__dataclass_fields__
    shorter = {name: min(value, third) for name, value in given.items() if value == defaults[name].default}
    return replace(settings, **shorter)


def answer_grades(
    model: PreTrainedModel, questions: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> dict[str, float]:
    """`f1` and `exact_match` of a model's answers, in percent; of SQuAD 2.0 where a question has none.

    Args:
        model: answers questions.
        questions: with answers, in SQuAD's columns.
        tokenizer: of the model.
        max_length: tokens of a window.
    """
    task = "squad" if all(answers["text"] for answers in questions["answers"]) else "squad_v2"
    windows = in_thirds(SquadSettings(max_length=max_length))
    ranked = answer_questions(model, questions, tokenizer, windows)
    if task == "squad_v2" and all(answers.no_answer_probability > _EVEN for answers in ranked):
        logger.warning("none of %d held-out questions gets an answer: this model has learned nothing", len(ranked))
    graded = grade(task, questions, ranked)
    return {"f1": graded["f1"], "exact_match": graded["exact_match" if task == "squad" else "exact"]}


def gradings_in(
    data: Mapping[str, Any], encoded: Mapping[str, Any], reader: RowReader | None
) -> list[tuple[Any, Callable[[PreTrainedModel], dict[str, float]]]]:
    """Sets of questions with known answers, tokenized, each with the function that grades a model on it.

    Args:
        data: arguments of a trainer: rows of columns, or several sets of them by name.
        encoded: the same, tokenized.
        reader: tokenized them; None where nothing was to tokenize.
    """
    if reader is None:
        return []
    sets = zip(named_sets(data).items(), named_sets(encoded).values(), strict=True)
    found = [(rows, reader.questions(raw, name)) for (name, raw), rows in sets]
    how: dict[str, Any] = {"tokenizer": reader.tokenizer, "max_length": reader.length}
    return [(rows, partial(answer_grades, questions=asked, **how)) for rows, asked in found if asked is not None]


def answer_metrics(
    evaluated: EvaluatedModel,
    task: str,
    rows: Dataset,
    measured_on: Mapping[str, Dataset],
    *,
    settings: SquadSettings,
    seed: int,
    folder: Path | None = None,
) -> tuple[dict[str, dict[str, float]], FineTuned]:
    """Fine-tune once and grade: see [`Measure`]."""
    tokenizer, encoder = evaluated.tokenizer, evaluated.model.base_model
    answerer = fresh_answerer(encoder, dropout=settings.dropout_fraction, seed=seed)
    windows = training_windows(rows, tokenizer, settings)
    trained = fine_tune(answerer, windows, tokenizer, settings=settings, seed=seed, folder=folder)
    found = {
        name: grade(task, dev, answer_questions(trained.model, dev, tokenizer, settings))
        for name, dev in measured_on.items()
    }
    return found, trained


def training_windows(rows: Dataset, tokenizer: PreTrainedTokenizerBase, settings: SquadSettings) -> Dataset:
    """Cut questions into windows to learn from: model inputs, `start_positions`, `end_positions`, `length`."""
    parts = []
    for batch in _batches(rows):
        labelled = [labelled_inputs(window, batch[window.row]) for window in make_windows(batch, tokenizer, settings)]
        parts.append(Dataset.from_list([inputs | {"length": len(inputs["input_ids"])} for inputs in labelled]))
    return datasets.concatenate_datasets(parts)


def answer_questions(
    model: PreTrainedModel, rows: Dataset, tokenizer: PreTrainedTokenizerBase, settings: SquadSettings
) -> list[RankedAnswers]:
    """Let any `AutoModelForQuestionAnswering` answer, in evaluation mode and float32.

    Memory: the windows and logits of 1,000 questions, 8 bytes of logits a token of a window, on the host.

    Raises:
        FloatingPointError: logits are not finite.
    """
    ranked = []
    for batch in _batches(rows):
        windows = make_windows(batch, tokenizer, settings)
        found = zip(windows, _window_logits(model, windows, tokenizer), strict=True)
        # the windows of a question follow each other
        for row, of_row in groupby(found, key=lambda pair: pair[0].row):
            limits = {"max_answer_tokens": settings.max_answer_tokens, "num_best": settings.num_best}
            of_windows, logits = zip(*of_row, strict=True)
            ranked.append(rank_answers(batch[row]["context"], of_windows, logits, **limits))
    return ranked


def grade(task: str, rows: Dataset, ranked: list[RankedAnswers]) -> dict[str, float]:
    """Grade answers by the task's official metrics, in percent; thresholds are in [0, 1].

    In SQuAD v2.0 the prediction is "no answer" where its score is above the best span's: a threshold of 0 on their
    difference. `best_exact` and `best_f1` use the best threshold for these questions. Thresholds are probabilities p,
    which stand for differences of log(p / (1 - p)).
    """
    references = [{"id": row["id"], "answers": row["answers"]} for row in rows]
    given = list(zip(rows["id"], ranked, strict=True))
    if task == "squad":
        predictions = [{"id": identity, "prediction_text": answers.text} for identity, answers in given]
        return load_metric(task).compute(predictions=predictions, references=references)
    predictions = [
        {"id": id_, "prediction_text": answers.text, "no_answer_probability": answers.no_answer_probability}
        for id_, answers in given
    ]
    graded = load_metric(task).compute(predictions=predictions, references=references, no_answer_threshold=_EVEN)
    return {name: value for name, value in graded.items() if not name.endswith("total")}


def _batches(rows: Dataset) -> Iterator[list[dict[str, Any]]]:
    for first in range(0, len(rows), _QUESTIONS_AT_ONCE):
        yield rows.select(range(first, min(first + _QUESTIONS_AT_ONCE, len(rows)))).to_list()


def _window_logits(
    model: PreTrainedModel, windows: list[Window], tokenizer: PreTrainedTokenizerBase
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Logits of starts and ends, float32 `(T,)` each, padding included, in the order of the windows."""
    # windows of like length share a batch
    order = sorted(range(len(windows)), key=lambda index: len(windows[index].inputs["input_ids"]))
    logits: list[tuple[np.ndarray, np.ndarray]] = []
    for outputs in forward(model, [dict(windows[index].inputs) for index in order], tokenizer):
        starts, ends = (outputs[name].float().cpu().numpy() for name in ("start_logits", "end_logits"))
        if not (np.isfinite(starts).all() and np.isfinite(ends).all()):
            raise FloatingPointError(
                f"logits of {type(model).__name__} are not finite: fine-tuning diverged; lower learning_rate, or "
                "train in dtype=float32"
            )
        logits += zip(starts, ends, strict=True)
    # the argsort of a permutation is its inverse
    return [logits[place] for place in np.argsort(order)]
