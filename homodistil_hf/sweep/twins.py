"""Runs that another sweep has made already: two sweeps may have a cell of the same method and settings.

Such a record is taken over, with the name of the run that it came from, unless it lacks an evaluation: those need the
student, which stays where it is.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .cells import Cell
from .records import DONE, ERROR, EVALUATE, SweepFolder, missing_evaluations, read_record, record_head, write_record

TAKEN_FROM = "taken_from"
"""Key of the run that a record was taken over from, as `SWEEP/CELL`."""


def take_over(cell: Cell, folder: SweepFolder, evaluate: Mapping[str, Any]) -> str | None:
    """Make a cell's record from that of the same run in a sweep beside this one, if there is one.

    Args:
        cell: that has no record yet.
        folder: of its sweep.
        evaluate: the evaluations that the record must have, name → settings.

    Returns:
        `str`: where the record comes from, `SWEEP/CELL`; None where no other sweep has such a run.
    """
    for file in sorted(folder.root.parent.glob("*/results/*.json")):
        record = None if file.parent == folder.records else _done(file, cell.digest)
        if record is not None and not missing_evaluations(record, evaluate):
            source = record.get(TAKEN_FROM, f"{file.parent.parent.name}/{file.stem}")
            own = {name: value for name, value in record.items() if name not in (EVALUATE, ERROR)}
            if evaluate:
                own[EVALUATE] = {name: record[EVALUATE][name] for name in evaluate}
            write_record(folder.record(cell), own | record_head(cell) | {TAKEN_FROM: source})
            return source
    return None


def _done(file: Path, digest: str) -> dict[str, Any] | None:
    try:
        record = read_record(file)
    except (ValueError, OSError):
        return None  # no record of a sweep, or one of another version: none of this sweep's business
    return record if record is not None and record["status"] == DONE and record.get("digest") == digest else None
