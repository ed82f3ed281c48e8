"""HomoDistil and pruning at once with the defaults, on teachers trained elsewhere and text that they draw themselves.

    python -m benchmarks.studies.other_teachers runs/real/sapiens-vh runs/real/rxnfp-mlm

A folder is a masked-LM model, and its name stands in the record. Held-out rows are drawn with another seed. Cells that
are recorded are not run again.
"""

import argparse
import subprocess
import sys
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.quiet import QUIET
from benchmarks.studies.study import Study
from homodistil_hf.experiments.config import run_of
from homodistil_hf.experiments.distill import run as distil
from homodistil_hf.files.provenance import machine_facts
from homodistil_hf.files.strict_json import read_json, write_json
from homodistil_hf.tables import markdown_table

RECORD, PAGE = Path("docs/results/studies/other_teachers.json"), Path("docs/architectures.md")
METHODS, SHARES = ("homodistil", "one_shot"), (0.25, 0.125)
CELLS = [(share, method, False) for share, method in product(SHARES, METHODS)] + [(0.25, "homodistil", True)]
"""Share of the encoder's MACs, method, and whether sequences share rows."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teachers", type=Path, nargs="+")
    parser.add_argument("--max_steps", type=int, default=500)
    parser.add_argument("--num_rows", type=int, default=2000, help="drawn to train on")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/other_teachers"))
    given = parser.parse_args()
    for teacher, (share, method, packing) in product(given.teachers, CELLS):
        cell = {"teacher": teacher.name, "macs": share, "method": method, "packing": packing}
        cell["max_steps"] = given.max_steps
        if cell not in [{name: row[name] for name in cell} for row in _recorded()]:
            files = [_drawn(teacher, given, name) for name in ("train", "eval")]
            row = cell | {"num_rows": given.num_rows} | _run(cell, teacher, files, given.output_dir)
            write_json(RECORD, [*_recorded(), row | {"machine": machine_facts()}])


def _recorded() -> list[dict[str, Any]]:
    return read_json(RECORD, str(RECORD)) if RECORD.is_file() else []


def _drawn(teacher: Path, given: argparse.Namespace, name: str) -> Path:
    """Rows that the teacher draws: to train on, or a tenth as many, with another seed, to evaluate on."""
    file = given.output_dir / teacher.name / f"{name}.parquet"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        seed, count = (0, given.num_rows) if name == "train" else (1, given.num_rows // 10)
        command = [sys.executable, "examples/sample_text.py", "--model", teacher, "--output", file]
        subprocess.run([*map(str, command), "--num_rows", str(count), "--seed", str(seed)], check=True)
    return file


def _run(cell: Mapping[str, Any], teacher: Path, files: Sequence[Path], output_dir: Path) -> dict[str, Any]:
    folder = (
        output_dir
        / cell["teacher"]
        / f"{cell['method']},{cell['macs']},{cell['max_steps']}{',packed' * cell['packing']}"
    )
    values = {"method": cell["method"], "teacher": str(teacher), "student": f"macs={cell['macs']}"}
    values |= {"train_data": str(files[0]), "eval_data": str(files[1])}
    values |= {name: cell[name] for name in ("max_steps", "packing")}
    given = QUIET | values | {"output_dir": str(folder), "overwrite_output_dir": True}
    results = distil(run_of(given, "the study"), print)
    alone, student = results["models"][0], results["evaluation"]
    found = {name: student[name] for name in ("kl", "mlm_accuracy")}
    return found | {"teacher_mlm_accuracy": alone["mlm_accuracy"], "seconds": results["time_s"]}


def tables(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """A row a teacher, size and kind of rows: words right of the teacher, KL and words right of either way."""
    found: dict[tuple[Any, ...], dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["teacher"], row["macs"], row["packing"]), {})[row["method"]] = row
    cells = []
    for (teacher, share, packing), ways in found.items():
        right = f"{next(iter(ways.values()))['teacher_mlm_accuracy']:.1%}"
        name = f"{teacher}, rows shared" if packing else teacher
        shown = [
            f"{way['kl']:.3f}, {way['mlm_accuracy']:.1%}" if (way := ways.get(method)) else "–" for method in METHODS
        ]
        cells.append([name, f"1/{1 / share:.0f}", right, *shown])
    return {"other-teachers": markdown_table(["teacher", "encoder MACs", "it guesses", *METHODS], cells)}


STUDY = Study(RECORD, PAGE, tables)


if __name__ == "__main__":
    main()
