"""The teacher and the students of a sweep, for further measurements."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.sweep.cells import TEACHER
from benchmarks.sweep.folder import SweepFolder, as_cell, read_records, trained
from benchmarks.sweep.tables import SEED, Record, seed_of


@dataclass(frozen=True)
class Model:
    """A teacher or student of a sweep."""

    variant: str
    axes: str  # but for the seed, as in the cell's name: "max_steps=500"; mostly empty
    seed: int | None  # of the student's run
    folder: Path  # of its weights
    evaluations: Path  # folder for measurements


def models_of(sweep_folder: Path, variants: Sequence[str], seeds: Sequence[int] | None = None) -> list[Model]:
    """The teacher, then all students of some variants, of the runs with these seeds or of all."""
    sweep = SweepFolder(sweep_folder)
    records = [
        record
        for record in trained(read_records(sweep.records))
        if record["variant"] in variants and (seeds is None or seed_of(record) in seeds)
    ]
    folders = {record["cell"]: sweep.run(as_cell(record)) for record in records}
    absent = [variant for variant in variants if variant not in {record["variant"] for record in records}]
    absent += [cell for cell, folder in folders.items() if not (folder / "student").is_dir()]
    if absent:
        raise ValueError(
            f"variants={list(variants)}: {sweep_folder} has no student of {', '.join(absent)}; run the sweep first"
        )
    teacher = Path(records[0]["settings"][TEACHER])
    students = []
    for record in sorted(records, key=lambda record: (variants.index(record["variant"]), seed_of(record))):
        parts = [folders[record["cell"]] / name for name in ("student", "evaluations")]
        students.append(Model(record["variant"], other_axes(record), seed_of(record), *parts))
    return [Model(TEACHER, "", None, teacher, sweep_folder / TEACHER / "evaluations"), *students]


def other_axes(record: Record) -> str:
    """`Model.axes` of a record."""
    cell = as_cell(record)
    axes = {axis: value for axis, value in cell.axes.items() if axis != SEED}
    return dataclasses.replace(cell, axes=axes).name.removeprefix(cell.variant).removeprefix(",")
