"""Results on disk: one JSON a measurement, and a summary that is always made anew from those files.

A record carries a digest of everything that its numbers depend on: weights, tokenizer, data, settings. If the digest
is the same, a measurement is read instead of repeated; else the record is replaced.
"""

import glob
import hashlib
import json
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeAlias

from ..files.folders import remove_folder
from ..files.provenance import version_facts
from ..files.strict_json import read_json_object, write_json
from .evaluated_model import EvaluatedModel

SUMMARY_FILE = "summary.json"
DISCREPANCY = "discrepancy"
DISCREPANCY_METRICS = ("kl", "agreement", "mlm_loss", "mlm_accuracy", "pseudo_perplexity")
Record: TypeAlias = dict[str, Any]
_PER_SEED = ("seed", "metrics", "score", "time_s", "finished", "versions", "train_loss", "model", "sha256")


@dataclass(frozen=True)
class Spread:
    """Mean, standard deviation with n − 1 (None for a single value) and number of several measurements.

    Example:
    ```python
    >>> print(Spread.of([0.1, 0.2, 0.3]), "|", Spread.of([0.25]))
    0.200 ± 0.100 (3) | 0.250
    >>> print(f"{Spread.of([0.1, 0.2, 0.3]):+.1%}")
    +20.0% ± 10.0% (3)

    ```
    """

    mean: float
    std: float | None
    n: int

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        """Summarise one or more values."""
        values = list(values)
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))

    def facts(self) -> dict[str, float | None]:
        """`mean` and `std`, for a summary."""
        return {"mean": self.mean, "std": self.std}

    def __str__(self) -> str:
        return f"{self:.3f}"

    def __format__(self, format_spec: str) -> str:
        """The mean, with the spread (without a `+`) and the number of measurements where there are several."""
        form = format_spec or ".3f"
        mean = format(self.mean, form)
        return mean if self.std is None else f"{mean} ± {format(self.std, form.lstrip('+'))} ({self.n})"


@dataclass(frozen=True)
class Records:
    """The results of one model."""

    model: EvaluatedModel

    def measured(
        self, name: str, depends_on: Mapping[str, Any], measure: Callable[[Path], Mapping[str, Any]]
    ) -> tuple[Record, bool]:
        """Read a result, or measure and write it.

        Args:
            name: of the measurement, e.g. `rte.seed-0`; the file's name without `.json`.
            depends_on: settings and digests of the data, plain values. The model's own digest is added.
            measure: returns the result, plain values. It gets a folder for what it needs to go on after a stop. The
                folder is removed once there is a result.

        Returns:
            `tuple[dict, bool]`: the record; whether it was read.
        """
        digested = json.dumps({**depends_on, "model": self.model.sha256}, sort_keys=True)
        sha256 = hashlib.sha256(digested.encode("utf-8")).hexdigest()
        path = self.model.results / f"{name}.json"
        if (earlier := _read_record(path)) and earlier.get("sha256") == sha256:
            return earlier, True
        # the digest in its name: only the same measurement goes on there
        going_on = self.model.results / f".{name}-{sha256[:16]}"
        for other in self.model.results.glob(f".{glob.escape(name)}-*"):
            if other != going_on:
                remove_folder(other)  # of other settings, data or weights
        record = {
            "model": {"name": self.model.name, "sha256": self.model.sha256},
            **measure(going_on),
            "sha256": sha256,
            "versions": version_facts(),
            "finished": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
        }
        self.model.results.mkdir(parents=True, exist_ok=True)
        # the record first, or a kill in between would lose the work
        write_json(path, record)
        remove_folder(going_on)
        return record, False

    def summarize(self) -> dict[str, Any]:
        """Sum up all records of this model as it is now, and write `summary.json`.

        It holds `model` (name, digest, costs), `tasks` (name → mean, standard deviation, conditions), and
        `discrepancy` if it was measured.
        """
        tasks: dict[str, list[Record]] = {}
        summary: dict[str, Any] = {"model": {**self.model.costs(), "sha256": self.model.sha256}}
        for path in sorted(self.model.results.glob("*.json")):
            record = _read_record(path)
            measured = record.get("model")
            # records of other weights stay, but don't count
            if not isinstance(measured, dict) or measured.get("sha256") != self.model.sha256:
                continue
            if "seed" in record:
                tasks.setdefault(record["data"], []).append(record)
            elif path.stem == DISCREPANCY:
                left_out = ("model", "sha256", "versions", "finished")
                summary[DISCREPANCY] = {key: value for key, value in record.items() if key not in left_out}
        summary["tasks"] = {name: _summary(records) for name, records in tasks.items()}
        self.model.results.mkdir(parents=True, exist_ok=True)
        write_json(self.model.results / SUMMARY_FILE, summary)
        return summary


def read_summary(folder: Path) -> dict[str, Any] | None:
    """Read the summary of [`Records.summarize`]; None where the folder has none."""
    path = folder / SUMMARY_FILE
    if not path.is_file():
        return None
    summary = read_json_object(path, f"{SUMMARY_FILE} in folder={str(folder)!r}")
    if not isinstance(summary.get("tasks"), dict) or not isinstance(summary.get("model"), dict):
        raise ValueError(f"{SUMMARY_FILE} in folder={str(folder)!r} is no summary of evaluations; evaluate again")
    return summary


def _summary(records: list[Record]) -> dict[str, Any]:
    newest = max(records, key=lambda record: record["finished"])
    # Seeds of one result share its settings; records of other settings are an earlier run's.
    same = [record for record in records if record["conditions"] == newest["conditions"]]
    same.sort(key=lambda record: record["seed"])
    conditions = {key: value for key, value in newest.items() if key not in _PER_SEED}
    return {
        "score": Spread.of(record["score"] for record in same).facts(),
        "metrics": {name: Spread.of(record["metrics"][name] for record in same).facts() for name in newest["metrics"]},
        "seeds": [record["seed"] for record in same],
        "scores": [record["score"] for record in same],
        **conditions,
    }


def _read_record(path: Path) -> Record:
    if not path.is_file():
        return {}
    try:
        return read_json_object(path, path.name)
    except ValueError:  # cut off, or no record: measured again
        return {}
