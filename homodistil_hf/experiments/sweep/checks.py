"""Every cell is checked before the first is trained: its settings, its method's, and whether it can exist at all."""

import json
from collections.abc import Iterable
from typing import Any

from ...files.messages import short_repr
from ...methods.masked_words import MaskedWordsRun
from ...methods.registry import METHODS, RUNS, run_named
from ...methods.run import RunInputs
from ...methods.run_arguments import RunConfig
from ...models.widths import widths_of
from ..config import run_of
from ..student import student_run
from .cells import TEACHER, Cell

_DECIDES_SOURCES = (
    *("teacher", "teacher_revision", "tokenizer", "streaming", "max_seq_length"),
    *("student", "width_multiple"),
)


def run_settings(cell: Cell, output_dir: str, **others: Any) -> RunConfig:
    """The settings of a cell's run in `output_dir`; a ValueError where no run can have them."""
    if not isinstance(run_named(cell.method), MaskedWordsRun):
        names = ", ".join(name for name in METHODS if name not in RUNS)
        raise ValueError(
            f"cell {cell.name!r} has method={cell.method!r}, whose students can't be compared with the others' by a "
            f"sweep; use one of {names}"
        )
    decided = {"method": cell.method, "disable_tqdm": True, "output_dir": output_dir}
    values = {**cell.settings, **decided, **others}
    settings = run_of(values, f"cell {cell.name!r}")
    if settings.members:
        raise ValueError(
            f"cell {cell.name!r} has the list student={short_repr(cell.settings['student'])}; name one student"
        )
    return settings


def check_cells(cells: Iterable[Cell]) -> dict[str, str]:
    """Check cells without reading text or weights: name of each that can't exist → why.

    Raises:
        ValueError: settings that can't work; the message begins with the cell.
        OSError: a teacher or tokenizer can't be read.
    """
    sources: dict[str, RunInputs] = {}
    reasons = {}
    for cell in (cell for cell in cells if cell.method != TEACHER):
        try:
            reason = _impossible_reason(cell, sources)
        except ValueError as error:
            label = f"cell {cell.name!r}"
            raise ValueError(str(error) if label in str(error) else f"{label}: {error}") from error
        if reason is not None:
            reasons[cell.name] = reason
    return reasons


def _impossible_reason(cell: Cell, known: dict[str, RunInputs]) -> str | None:
    settings = run_settings(cell, "runs/checked")
    key = json.dumps([cell.method, *(cell.settings.get(name) for name in _DECIDES_SOURCES)])
    if key not in known:
        known[key] = student_run(settings).inputs(settings)
    return METHODS[cell.method].impossible_reason(known[key].plan, widths_of(known[key].config))
