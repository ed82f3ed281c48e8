"""Students of other architectures: held-out KL, pruned at once and gradually; narrow attention against square.

    python -m benchmarks.sweep benchmarks/studies/layouts.json
    python -m benchmarks.studies.architectures runs/sweeps/layouts/results    # writes docs/results/layouts.json

Rows of the first table are of benchmarks/families.py at commit 7db6fe1, which trains the teachers, and of the sweep
beside it. `layout_teachers.py` trains those of the second.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.spread import Spread
from benchmarks.studies.study import Study
from homodistil_hf.tables import markdown_table

LAYOUTS = Path("docs/results/layouts.json")
SHARES = {"quarter": "1/4", "eighth": "1/8"}
WAYS = {
    "": "default",
    "square": "attention as wide as the hidden size",
    "once": "pruned at once",
}
"""Last part of a cell's name → heading."""


def students_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A row a cell of the sweep: held-out KL at the first evaluation and at the end."""
    steps = sorted({int(step) for row in rows for step in row["kl"]})
    steps = [steps[0], steps[-1]]
    cells = []
    for row in rows:
        architecture, _, way = row["cell"].partition(",")[0].partition("_")
        curve = (f"{row['kl'][str(step)]:.3f}" for step in steps)
        words = " → ".join(f"{share:.1%}" for share in row["accuracy"])
        cells.append([f"`{architecture}`", "gradually" if way else "at once", *curve, words])
    header = ["architecture", "pruned", *(f"KL, step {step}" for step in steps), "right words"]
    return markdown_table(header, cells)


def layouts_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A row a teacher and budget: KL at the end by widths and way, over seeds."""
    found: dict[tuple[str, str], dict[str, list[Mapping[str, Any]]]] = {}
    for row in rows:
        layout, share, *way = row["cell"].partition(",")[0].split("_")
        found.setdefault((layout, share), {}).setdefault("".join(way), []).append(row)
    cells = []
    for (layout, share), ways in found.items():
        of_ways = [ways.get(way, []) for way in WAYS]
        shown = [f"{Spread.of(row['kl'] for row in runs)} {runs[0]['student']}" if runs else "–" for runs in of_ways]
        cells.append([layout, SHARES[share], *shown])
    return markdown_table(["layout", "MACs", *(f"KL, {way}" for way in WAYS.values())], cells)


STUDY = Study(
    Path("docs/results/architectures.json"),
    Path("docs/architectures.md"),
    lambda record: {"runs": students_table(record["rows"])},
)
LAYOUT_STUDY = Study(LAYOUTS, Path("docs/architectures.md"), lambda record: {"layouts": layouts_table(record["rows"])})


def main() -> None:
    records = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(Path(sys.argv[1]).glob("*.json"))]
    rows = [
        {"cell": one["cell"], "student": one["settings"]["student"], "num_steps": one["settings"]["max_steps"]}
        | {"kl": round(one["evaluation"]["kl"], 5), "words": round(one["evaluation"]["mlm_accuracy"], 4)}
        | {name: one["models"]["student"][name] for name in ("encoder_macs", "num_parameters")}
        for one in records
        if one["status"] == "done"
    ]
    LAYOUTS.write_text(json.dumps({"rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
