"""GLUE: every task fine-tuned with several seeds, measured by its official metrics, one JSON a seed.

Rows come from `glue_data.py`, one fine-tuning is `finetuning.py`'s, metrics are `metrics.py`'s, files `records.py`'s.
"""

import logging
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset

from ..widths import shown
from .finetuning import FineTuned, fine_tune, fresh_classifier, predict, training_dtype
from .glue_data import GlueData, check_tasks, data_folder, encode, load_glue, training_rows, with_held_out
from .metrics import load_metric, task_score
from .models import EvaluatedModel, load_model
from .publication import publish
from .records import Records
from .settings import GlueSettings

logger = logging.getLogger(__name__)

_MISMATCHED = "validation_mismatched"


def evaluate_glue(
    model: str | Path,
    tasks: str | Sequence[str] = "glue",
    *,
    settings: GlueSettings | Mapping[str, Any] | None = None,
    output_dir: str | Path | None = None,
    say: Callable[[str], None] = logger.info,
) -> dict[str, Any]:
    """Fine-tune a model on GLUE tasks and measure it on their dev sets.

    Each seed is a stock `Trainer` run of stock transformers' sequence classifier with a fresh pooler and output layer.
    A (task, seed) whose result is there already, for the same weights, data and settings, is not run again; one that
    was interrupted starts again. An export's `facts.json` and card are brought up to date.

    Args:
        model: export of either format, finished run, `checkpoint-N`, folder of a stock BERT, or Hub name of one.
        tasks: names, or `"glue"` for all nine.
        settings: [`GlueSettings`], or some of them by name.
        output_dir: folder of the results; default: `evaluations/NAME` beside the model.
        say: takes lines for the user.

    Returns:
        `dict`: what stands in `summary.json`: `model`, `tasks` (name → `score` and `metrics` with `mean` and `std`
        over seeds, `seeds`, `conditions` …) and `discrepancy` if measured earlier. Names of parts end in `_part`.

    Raises:
        ValueError: unknown task or setting, missing data, or no model that can be evaluated.
        OSError: a file or the Hub can't be read, or results can't be written.
        FloatingPointError: a fine-tuning diverged.
    """
    names, settings = check_tasks(tasks), GlueSettings.from_values(settings)
    for name in names:
        load_metric(name)  # tells what is not installed before anything is trained
        if settings.data_dir is not None:
            data_folder(name, settings.data_dir)
    evaluated = load_model(model, output_dir)
    _check_length(settings, evaluated)
    records = Records(evaluated)
    for name in names:
        _TaskRun(records, load_glue(name, settings.data_dir), settings, say).run()
        summary = records.summarize()
        publish(evaluated, summary)
    return summary


@dataclass(frozen=True)
class _TaskRun:
    """One task of one model; `settings.learning_rates` are still to choose from."""

    records: Records
    data: GlueData
    settings: GlueSettings
    say: Callable[[str], None]

    def run(self) -> None:
        """Choose a learning rate if there is a choice, then fine-tune and measure with every seed."""
        conditions: dict[str, Any] = self._conditions()
        if self.settings.learning_rates:
            rates = sorted(set(self.settings.learning_rates))
            chosen = {"learning_rates": rates, "chosen_with_seed": self.settings.seeds[0]}
            conditions |= {"learning_rate": self._best(rates, conditions), **chosen}
        for index, seed in enumerate(self.settings.seeds):
            measure = partial(self._seed_record, seed, conditions)
            depends_on = {"task": self.data.task.name, "conditions": conditions, "seed": seed}
            record, was_there = self.records.measured(f"{self.data.name}.seed-{seed}", depends_on, measure)
            metrics = ", ".join(f"{name} {value:.4f}" for name, value in record["metrics"].items())
            told = "read from an earlier evaluation" if was_there else f"{record['time_s']:.0f} s"
            self.say(f"{self.data.name}, seed {seed} ({index + 1} of {len(self.settings.seeds)}): {metrics} ({told})")

    def _conditions(self) -> dict[str, Any]:
        return {
            **self.settings.compared(),
            "dtype": training_dtype(self.settings.dtype),
            "data_sha256": self.data.sha256,
            "learning_rate": self.settings.learning_rate,
        }

    def _best(self, rates: list[float], conditions: dict[str, Any]) -> float:
        """Try each rate with the first seed on rows without a slice, measure on the slice; the lowest of equals."""
        scores = {}
        for rate in rates:
            tried = {"learning_rate": rate, "seed": self.settings.seeds[0]}
            depends_on = {
                "task": self.data.task.name,
                "conditions": {**conditions, "learning_rate": 0},
                "tried": tried,
            }
            record, _ = self.records.measured(
                f"{self.data.name}.learning-rate-{rate:g}", depends_on, partial(self._tried_record, tried)
            )
            scores[rate] = record["score"]
            self.say(
                f"{self.data.name}, learning rate {rate:g}: {record['score']:.4f} on {record['num_held_out_rows']:,} "
                "rows held out from the training set"
            )
        best = max(scores, key=lambda rate: scores[rate])
        self.say(f"{self.data.name}: learning rate {best:g} it is")
        return best

    def _tried_record(self, tried: dict[str, Any]) -> dict[str, Any]:
        rows, held_out = with_held_out(training_rows(self.data, self.settings.max_train_samples))
        found, _, time_s = self._fine_tuned(rows, {"held_out": held_out}, **tried)
        metrics = found["held_out"]
        score = task_score(self.data.task.name, metrics)
        return {
            "tried": tried,
            "num_held_out_rows": len(held_out),
            "metrics": metrics,
            "score": score,
            "time_s": time_s,
        }

    def _seed_record(self, seed: int, conditions: Mapping[str, Any]) -> dict[str, Any]:
        task, rows = self.data.task.name, training_rows(self.data, self.settings.max_train_samples)
        found, trained, time_s = self._fine_tuned(
            rows, self.data.dev, learning_rate=conditions["learning_rate"], seed=seed
        )
        metrics = {
            name + ("_mismatched" if split == _MISMATCHED else ""): value
            for split, values in found.items()
            for name, value in values.items()
        }
        return {
            "task": task,
            "data": self.data.name,
            "seed": seed,
            "metrics": metrics,
            "score": statistics.fmean(task_score(task, values) for values in found.values()),
            "conditions": dict(conditions),
            "num_train_rows": len(rows),
            "num_available_rows": len(self.data.train),
            "num_dev_rows": {split: len(dev) for split, dev in self.data.dev.items()},
            "num_steps": trained.num_steps,
            "train_loss": trained.train_loss,
            "time_s": time_s,
        }

    def _fine_tuned(
        self, rows: Dataset, measured_on: Mapping[str, Dataset], *, learning_rate: float, seed: int
    ) -> tuple[dict[str, dict[str, float]], FineTuned, float]:
        """Train on `rows`; metrics of each split, what was trained, seconds."""
        start = time.perf_counter()
        model, tokenizer, task = self.records.model.model, self.records.model.tokenizer, self.data.task
        settings = replace(self.settings, learning_rate=learning_rate)
        classifier = fresh_classifier(model.base_model, task.num_labels, dropout=settings.dropout_fraction, seed=seed)
        encoded = encode(rows, task, tokenizer, settings.max_length)
        trained = fine_tune(classifier, encoded, tokenizer, settings=settings, seed=seed)
        found = {}
        for split, dev in measured_on.items():
            logits, labels = predict(trained.model, encode(dev, task, tokenizer, settings.max_length), tokenizer)
            # A similarity is taken as it comes, not clipped to 0 … 5.
            predictions = logits[:, 0] if task.num_labels == 1 else logits.argmax(-1)
            found[split] = load_metric(task.name).compute(predictions=predictions, references=labels)
        return found, trained, round(time.perf_counter() - start, 1)


def _check_length(settings: GlueSettings, evaluated: EvaluatedModel) -> None:
    positions = evaluated.model.config.max_position_embeddings
    if settings.max_length > positions:
        raise ValueError(
            f"max_length={shown(settings.max_length)} is over the model's max_position_embeddings={positions}; "
            f"nearest valid: {positions}"
        )
