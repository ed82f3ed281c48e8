"""The files of a sweep: a folder, a record and a lock a cell, and how far each has come.

Two processes never train the same cell. `tables.py` computes with the records.
"""

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from benchmarks.sweep.cells import METRICS, TEACHER, Cell
from homodistil_hf.files.checkpoints import sorted_checkpoints
from homodistil_hf.files.folders import write_text
from homodistil_hf.files.messages import short_repr
from homodistil_hf.files.strict_json import fits, is_int, parse_json, read_json_object

FORMAT = 1
DONE, FAILED, IMPOSSIBLE = "done", "failed", "impossible"
"""Values of a record's `status`."""

ERROR = "error"
"""Key of what went wrong with a cell, or with an evaluation of one that is done."""

EVALUATE = "evaluate"
"""Key of what a sweep's evaluations gave for a cell."""

CELL_FILE = "cell.json"
RECORDS_SUFFIX = ".jsonl"

SEED = "seed"
_NUMBER = int | float
_COSTS = dict.fromkeys(("num_parameters", "encoder_macs"), _NUMBER)
_HEAD: dict[str, Any] = {**dict.fromkeys(("cell", "variant", "method", "digest"), str), "axes": {}, "settings": {}}
_SHAPES: dict[str, dict[str, Any]] = {FAILED: {ERROR: str}, IMPOSSIBLE: {"reason": str}}
_TRAINED: dict[str, Any] = {
    "evaluation": dict.fromkeys(METRICS, _NUMBER),
    "teacher_evaluation": dict.fromkeys(("mlm_accuracy", "mlm_loss"), _NUMBER),
    **dict.fromkeys(("num_steps", "num_tokens", "seconds", "evaluation_seconds"), _NUMBER),
    "evaluations": [{"step": _NUMBER}],
}
_OPTIONAL: dict[str, Any] = {ERROR: str, EVALUATE: {...: {"settings": {}, "results": {}}}}
"""Keys of records → what they hold, as [`fits`] takes it: of all, by status, of trained students, where they are."""


@dataclass(frozen=True)
class SweepFolder:
    """Where a sweep keeps what it makes, below its `output_dir`: the methods name a path each, of one of its cells."""

    root: Path

    @property
    def records(self) -> Path:
        """Folder of the records."""
        return self.root / "results"

    def run(self, cell: Cell) -> Path:
        """Folder of checkpoints and student."""
        return self.root / cell.name

    def record(self, cell: Cell) -> Path:
        """File of the record."""
        return self.records / f"{cell.name}.json"

    def lock(self, cell: Cell) -> Path:
        """File of the lock."""
        return self.root / "locks" / f"{cell.name}.lock"

    def log(self, cell: Cell) -> Path:
        """File with what the cell's processes said."""
        return self.root / "logs" / f"{cell.name}.log"


@contextmanager
def held(lock_file: Path) -> Iterator[bool]:
    """Hold the lock of a cell while inside, unless another holder keeps it; yield whether it is ours."""
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(lock_file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        # before the lock is free: a process that waits with the removed file sees that
        lock_file.unlink(missing_ok=True)
        lock.release()


def state_of(cell: Cell, folder: SweepFolder, evaluate: Mapping[str, Any]) -> str:
    """How far a cell has come, where finished ones have all evaluations in `evaluate`.

    Returns:
        `str`: `"running"` (in some process), `"changed"` (was run with other settings), `"done"`, `"trained"` (some
        evaluations are missing), `"failed"`, `"impossible"`, `"stopped"` (has a checkpoint to go on with) or
        `"waiting"`.
    """
    if folder.lock(cell).is_file():
        with held(folder.lock(cell)) as is_free:
            if not is_free:
                return "running"
    record, marker = read_record(folder.record(cell)), folder.run(cell) / CELL_FILE
    # a cell that has no record yet may have begun with other settings, which its marker holds
    begun = record or {}
    if record is None and marker.is_file():
        begun = read_json_object(marker, f"{CELL_FILE} of cell {cell.name!r}")
    if begun.get("digest", cell.digest) != cell.digest:
        return "changed"
    if record is None:
        return "stopped" if sorted_checkpoints(folder.run(cell)) else "waiting"
    if record["status"] == DONE and missing_evaluations(record, evaluate):
        return FAILED if ERROR in record else "trained"
    return record["status"]


def missing_evaluations(record: Mapping[str, Any], evaluate: Mapping[str, Any]) -> list[str]:
    """Names of the evaluations (name → settings) that a record lacks, or has with other settings."""
    present = record.get(EVALUATE, {})
    return [name for name, settings in evaluate.items() if present.get(name, {}).get("settings") != settings]


def write_record(file: Path, record: Mapping[str, Any]) -> None:
    """Write the record of one cell; its folder is made."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(record, indent=1, allow_nan=False) + "\n")


def write_records(file: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write the records of a sweep to `SWEEP.jsonl`, one a line; its folder is made."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, "".join(json.dumps(record, allow_nan=False) + "\n" for record in records))


def read_record(file: Path) -> dict[str, Any] | None:
    """The record of one cell, or None where there is no file; a ValueError where it holds something else."""
    label = f"record {file.name!r}"
    return _checked(read_json_object(file, label), label) if file.is_file() else None


def read_records(path: Path) -> list[dict[str, Any]]:
    """Read the records of a sweep: `SWEEP.jsonl`, a record a line, or a folder of `CELL.json`; either may be absent.

    Raises:
        ValueError: a file or line holds something else.
    """
    if path.suffix != RECORDS_SUFFIX:
        files = sorted(path.glob("*.json"))
        records = ((read_record(file), f"record {file.name!r}") for file in files)
        return [_measured(record, label) for record, label in records if record is not None]
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    labels = (f"line {number} of {path.name!r}" for number in itertools.count(1))
    return [
        _measured(_checked(parse_json(line, label), label), label) for line, label in zip(lines, labels, strict=False)
    ]


def record_head(cell: Cell) -> dict[str, Any]:
    """What every record begins with."""
    return {
        "format": FORMAT,
        "cell": cell.name,
        "variant": cell.variant,
        "axes": dict(cell.axes),
        "method": cell.method,
        "settings": dict(cell.settings),
        "digest": cell.digest,
    }


def as_cell(record: Mapping[str, Any]) -> Cell:
    """The cell that a record is of."""
    return Cell(**{name: record[name] for name in ("variant", "axes", "method", "settings")})


def trained(records: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The records of students that are done."""
    return [record for record in records if record["status"] == DONE and record["method"] != TEACHER]


def _checked(record: Any, label: str) -> dict[str, Any]:
    found: dict[str, Any] = record if isinstance(record, dict) else {}
    if found.get("format") != FORMAT or found.get("status") not in (DONE, FAILED, IMPOSSIBLE):
        raise ValueError(
            f"{label} has format={short_repr(found.get('format'))} and status={short_repr(found.get('status'))}; "
            "expected one that a sweep of this version wrote: remove it"
        )
    shapes = _HEAD | _SHAPES.get(found["status"], {}) | {key: _OPTIONAL[key] for key in _OPTIONAL.keys() & found}
    _check_shapes(found, shapes, label)
    if as_cell(found).name != found["cell"]:
        raise _edited(label, "axes", found["axes"])
    if not is_int(found["settings"].get(SEED, 0)):
        raise _edited(label, "settings", found["settings"])
    return found


def _measured(record: dict[str, Any], label: str) -> dict[str, Any]:
    """Also check the figures of a student that is done, which tables are computed from."""
    if record["status"] == DONE and record["method"] != TEACHER:
        models = record.get("models")
        named = {"teacher", "student", *(models if isinstance(models, dict) else ())}
        _check_shapes(record, _TRAINED | {"models": dict.fromkeys(named, _COSTS)}, label)
        if record["models"]["teacher"]["encoder_macs"] <= 0:
            raise _edited(label, "models", models)
    return record


def _check_shapes(record: Mapping[str, Any], shapes: Mapping[str, Any], label: str) -> None:
    for key, shape in shapes.items():
        if key not in record or not fits(record[key], shape):
            raise _edited(label, key, record.get(key))


def _edited(label: str, key: str, value: Any) -> ValueError:
    return ValueError(
        f"{label} has {key}={short_repr(value)}, which no sweep of this version wrote: remove it, and the sweep goes "
        "on with that cell"
    )
