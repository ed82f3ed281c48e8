"""A model on a task: chooses a learning rate, runs every seed, writes a record each and a summary of all records.

It also caps the number of rows and holds rows out. The caller's `Measure` fine-tunes and grades.
"""

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
from datasets import Dataset

from ..data.samples import drawn
from ..models.tokenizers import fitted_length
from ..tables import figures_line
from .evaluated_model import EvaluatedModel
from .fine_tuning import LEAST_STEPS, FineTuned, FineTuningSettings, GlueSettings, training_dtype
from .metrics import constant_score, task_score
from .records import Records
from .task_data import TaskData

MISMATCHED = "validation_mismatched"
_HELD_OUT_FRACTION = 0.1
_MAX_HELD_OUT = 1000
_ROWS_SEED, _SLICE_SEED = 0, 1
_Settings = TypeVar("_Settings", bound=FineTuningSettings)


Measure: TypeAlias = Callable[..., tuple[dict[str, dict[str, float]], FineTuned]]
"""`(evaluated, task, rows, measured_on, *, settings, seed, folder)` fine-tunes a copy of a model and measures it.

`measured_on` is name → rows, `folder` as in [`fine_tune`]; it returns name → metrics, and the trained model.
"""


def with_length(settings: _Settings, evaluated: EvaluatedModel) -> _Settings:
    """The settings with the tokens a row that a model reads; see [`fitted_length`]."""
    default = settings.default_length
    length = fitted_length(settings.max_length, evaluated.model.config, argument="max_length", default=default)
    return replace(settings, max_length=length)


def evaluate_tasks(
    evaluated: EvaluatedModel,
    tasks: Iterable[TaskData],
    measure: Measure,
    *,
    settings: GlueSettings,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Measure a model on tasks, one after the other; after each the summary, facts and card are up to date."""
    records = Records(evaluated)
    summary: dict[str, Any] = {}
    for rows in tasks:
        _TaskRun(records, rows, measure, settings, say).run()
        summary = records.summarize()
        evaluated.publish(summary)
    return summary


def training_rows(rows: Dataset, max_rows: int | None) -> Dataset:
    """Training rows: all, or always the same `max_rows` of them."""
    return rows if max_rows is None else drawn(rows, max_rows, seed=_ROWS_SEED)


def with_held_out(rows: Dataset, group_column: str | None = None) -> tuple[Dataset, Dataset]:
    """Split training rows into those to learn from and a slice to choose settings on: a tenth, 1,000 at most.

    The slice is always the same. Rows with one value in `group_column` stay together, which may make it larger.
    """
    # Whole groups are drawn, in an order of their own, until the slice has its rows.
    groups: dict[Any, list[int]] = {}
    for index, value in enumerate(rows[group_column][:] if group_column else range(len(rows))):
        groups.setdefault(value, []).append(index)
    members = list(groups.values())
    order = [members[place] for place in np.random.RandomState(_SLICE_SEED).permutation(len(members))]
    num_wanted = max(1, min(_MAX_HELD_OUT, round(_HELD_OUT_FRACTION * len(rows))))
    held_out: list[int] = []
    while order and len(held_out) < num_wanted:
        held_out += order.pop(0)
    return rows.select(sorted(chain.from_iterable(order))), rows.select(sorted(held_out))


def best_rate(rates: Sequence[float], score: Callable[[float], float | None], *, label: str = "") -> float:
    """The learning rate of the highest score, the first of equals; `score` gives None where training diverged.

    Raises:
        FloatingPointError: all diverge.
    """
    scores = {rate: found for rate in rates if (found := score(rate)) is not None}
    if not scores:
        raise FloatingPointError(f"{label}learning_rates={list(rates)} all diverge; try lower ones")
    return max(scores, key=lambda rate: scores[rate])


@dataclass(frozen=True)
class _TaskRun:
    """One task of one model, with a learning rate that is given or chosen on held-out rows."""

    records: Records
    data: TaskData
    measure: Measure
    settings: GlueSettings
    say: Callable[[str], None]

    def run(self) -> None:
        """Choose a learning rate if there is a choice, then fine-tune and measure with every seed."""
        conditions: dict[str, Any] = {
            **self.settings.compared(),
            "dtype": training_dtype(self.settings.dtype),
            "data_sha256": self.data.sha256,
        }
        rates = self.settings.candidates()
        if len(rates) == 1:
            conditions |= {"learning_rate": rates[0]}
        else:
            chosen = {"learning_rates": rates, "chosen_with_seed": self.settings.seeds[0]}
            chosen |= {"chosen_in_steps": LEAST_STEPS}
            conditions |= {"learning_rate": self._best(rates, conditions), **chosen}
        for index, seed in enumerate(self.settings.seeds):
            depends_on = {"task": self.data.task, "conditions": conditions, "seed": seed}
            record, was_there = self.records.measured(
                f"{self.data.name}.seed-{seed}", depends_on, partial(self._seed_record, seed, conditions)
            )
            metrics = figures_line(record["metrics"])
            source = "read from an earlier evaluation" if was_there else f"{record['time_s']:.0f} s"
            self.say(
                f"{self.data.name}, seed {seed} ({index + 1} of {len(self.settings.seeds)}): {metrics} ({source})"
            )

    def _best(self, rates: list[float], conditions: dict[str, Any]) -> float:
        """Try each rate with the first seed on rows without a slice, and measure on the slice."""

        def score(rate: float) -> float | None:
            tried = {"learning_rate": rate, "seed": self.settings.seeds[0]}
            depends_on = {"task": self.data.task, "conditions": conditions | {"learning_rate": None}, "tried": tried}
            measure = partial(self._tried_record, tried)
            record, _ = self.records.measured(f"{self.data.name}.learning-rate-{rate:g}", depends_on, measure)
            result = "diverged" if record["score"] is None else f"{record['score']:.4f}"
            held_out = f"{record['num_held_out_rows']:,} rows held out from the training set"
            self.say(f"{self.data.name}, learning rate {rate:g}: {result} on {held_out}")
            return record["score"]

        num_steps = self.settings.num_search_steps
        self.say(f"{self.data.name}: trying {len(rates)} learning rates, {num_steps:,} steps each at most")
        best = best_rate(rates, score, label=f"{self.data.name}: ")
        self.say(f"{self.data.name}: learning rate {best:g} it is")
        return best

    def _tried_record(self, tried: dict[str, Any], folder: Path) -> dict[str, Any]:
        rows = training_rows(self.data.train, self.settings.max_train_samples)
        rows, held_out = with_held_out(rows, self.data.group_column)
        record = {"tried": tried, "num_held_out_rows": len(held_out)}
        changes = {"max_train_steps": self.settings.num_search_steps, **tried}
        try:
            found, _, time_s = self._fine_tuned(rows, {"held_out": held_out}, folder=folder, **changes)
        except FloatingPointError as error:
            return record | {"score": None, "diverged": str(error)}
        metrics = found["held_out"]
        return record | {"metrics": metrics, "score": task_score(self.data.task, metrics), "time_s": time_s}

    def _seed_record(self, seed: int, conditions: Mapping[str, Any], folder: Path) -> dict[str, Any]:
        task, rows = self.data.task, training_rows(self.data.train, self.settings.max_train_samples)
        found, trained, time_s = self._fine_tuned(
            rows, self.data.dev, folder=folder, learning_rate=conditions["learning_rate"], seed=seed
        )
        metrics = {
            name + ("_mismatched" if split == MISMATCHED else ""): value
            for split, values in found.items()
            for name, value in values.items()
        }
        return {
            "task": task,
            "data": self.data.name,
            "seed": seed,
            "metrics": metrics,
            "score": statistics.fmean(task_score(task, values) for values in found.values()),
            "constant_score": constant_score(self.data),
            "conditions": dict(conditions),
            "num_train_rows": len(rows),
            "num_available_rows": len(self.data.train),
            "num_dev_rows": {split: len(dev) for split, dev in self.data.dev.items()},
            "num_steps": trained.num_steps,
            "train_loss": trained.train_loss,
            "time_s": time_s,
        }

    def _fine_tuned(
        self, rows: Dataset, measured_on: Mapping[str, Dataset], *, folder: Path, seed: int, **changes: Any
    ) -> tuple[dict[str, dict[str, float]], FineTuned, float]:
        """The results of `measure`, and seconds; `changes` are of the settings, a learning rate among them."""
        start = time.perf_counter()
        settings = replace(self.settings, learning_rates=(), **changes)
        found, trained = self.measure(
            self.records.model, self.data.task, rows, measured_on, settings=settings, seed=seed, folder=folder
        )
        return found, trained, round(time.perf_counter() - start, 1)
