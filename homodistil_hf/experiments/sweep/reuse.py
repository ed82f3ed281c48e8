"""Runs that another sweep has made already: two sweeps may have a cell of the same method and settings.

Such a record is taken over, with the name of the run that it came from, unless it lacks an evaluation: those need the
student, which stays where it is.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .cells import Cell
from .checks import own_settings, run_settings
from .folder import (
    DONE,
    ERROR,
    EVALUATE,
    TAKEN_FROM,
    SweepFolder,
    missing_evaluations,
    read_record,
    record_head,
    write_record,
)


def take_over(cell: Cell, folder: SweepFolder, evaluate: Mapping[str, Any]) -> str | None:
    """Make a cell's record from that of the same run in a sweep beside this one, if there is one.

    The same run: method and settings are equal, and so is what the package had as defaults at the time.

    Args:
        cell: that has not been begun; this process holds its lock.
        folder: of its sweep.
        evaluate: the evaluations that the record must have, name → settings.

    Returns:
        `str`: where the record comes from, `SWEEP/CELL`; None where no other sweep has such a run.
    """
    own_records = folder.records.resolve()
    for file in sorted(folder.root.resolve().parent.glob("*/results/*.json")):
        record = None if file.parent == own_records else _done(file, cell)
        if record is not None and not missing_evaluations(record, evaluate):
            source = record.get(TAKEN_FROM, f"{file.parent.parent.name}/{file.stem}")
            own = {name: value for name, value in record.items() if name not in (EVALUATE, ERROR)}
            if evaluate:
                own[EVALUATE] = {name: record[EVALUATE][name] for name in evaluate}
            write_record(folder.record(cell), own | record_head(cell) | {TAKEN_FROM: source})
            return source
    return None


def _done(file: Path, cell: Cell) -> dict[str, Any] | None:
    try:
        record = read_record(file)
    except (ValueError, OSError):
        return None  # no record of a sweep, or one of another version: none of this sweep's business
    if record is None or record["status"] != DONE or record.get("digest") != cell.digest:
        return None
    return record if _has_todays_defaults(record, cell) else None


def _has_todays_defaults(record: Mapping[str, Any], cell: Cell) -> bool:
    recorded = record.get("own_settings")
    if not recorded:
        return True  # of a teacher, which is only evaluated
    now = own_settings(run_settings(cell, output_dir="unused").training)
    return all(now.get(name, value) == value for name, value in recorded.items())
