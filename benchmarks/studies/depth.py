"""Students of fewer layers beside those of all, at equal MACs: layers that leave little by little, or at once.

    python -m benchmarks.studies.depth ../shared/data/teacher --shares 1/8 1/16 --layers 3 4 5 6 --ways gradually
        --data ../shared/data/corpora/wikipedia ../shared/data/corpora/books --set max_seq_length=128

Layers, widths and rates are the defaults otherwise. A folder of data holds train and validation or eval.parquet.
Cells that are recorded are not run again. Of an embedding model widths go at once, and layers as the way says.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.quiet import QUIET
from benchmarks.studies.study import Study, record_cells
from homodistil_hf.evaluation.records import Spread
from homodistil_hf.experiments.config import run_of
from homodistil_hf.experiments.distill import run as distil
from homodistil_hf.tables import markdown_table

GRADUALLY, AT_ONCE = "gradually", "at once"
METRICS = ("kl", "mlm_accuracy", "cosine", "neighbours", "neighbours_in_index")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", type=Path)
    parser.add_argument("--shares", nargs="+", default=["1/4", "1/8"], help="of the encoder's MACs")
    parser.add_argument("--layers", nargs="+", type=int, required=True)
    parser.add_argument("--ways", nargs="+", choices=[GRADUALLY, AT_ONCE], default=[GRADUALLY])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--data", nargs="+", type=Path, required=True)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings other than the defaults")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/depth"))
    given = parser.parse_args()
    settings = {"max_steps": 500} | {
        name: json.loads(value) for name, value in (pair.split("=") for pair in given.set)
    }
    cells = [
        {"teacher": given.teacher.name, "share": share, "layers": layers, "way": way, "seed": seed}
        | {"settings": settings}
        for seed, share, layers, way in product(given.seeds, given.shares, given.layers, given.ways)
    ]
    record_cells(STUDY.record, cells, lambda cell: _run(cell, given))


def _run(cell: Mapping[str, Any], given: argparse.Namespace) -> dict[str, Any]:
    name = ",".join(str(cell[name]).replace("/", "-") for name in ("teacher", "share", "layers", "way", "seed"))
    files = {folder / "train.parquet": next(folder.glob("[ev]*.parquet")) for folder in given.data}
    values = {
        "teacher": str(given.teacher),
        "student": f"macs={float(Fraction(cell['share']))},layers={cell['layers']}",
    }
    values |= {"train_data": [*map(str, files)], "eval_data": [*map(str, files.values())]}
    values |= {"seed": cell["seed"], "output_dir": str(given.output_dir / name), "overwrite_output_dir": True}
    if cell["way"] == AT_ONCE:
        values |= (
            {"layers_end_fraction": 0.0} if (given.teacher / "modules.json").is_file() else {"method": "one_shot"}
        )
    results = distil(run_of(QUIET | values | cell["settings"], "the study"), print)
    found = {name: results["evaluation"][name] for name in METRICS if name in results["evaluation"]}
    return found | {"seconds": results["time_s"]}


def depth_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A row a teacher and size: KL, or the neighbours that an embedding model keeps, by layers and way."""
    found: dict[tuple[str, str], dict[tuple[int, str], list[Mapping[str, Any]]]] = {}
    for row in rows:
        ways = found.setdefault((row["teacher"], row["share"]), {})
        ways.setdefault((row["layers"], row["way"]), []).append(row)
    cells = []
    for (teacher, share), ways in sorted(found.items(), key=lambda item: (item[0][0], -Fraction(item[0][1]))):
        shown = [
            f"{layers}{' at once' * (way == AT_ONCE)}: {Spread.of(map(_distance, group))}"
            for (layers, way), group in sorted(ways.items(), reverse=True)
        ]
        cells.append([teacher, share, "; ".join(shown)])
    return markdown_table(["teacher", "MACs", "layers: KL"], cells)


def _distance(row: Mapping[str, Any]) -> float:
    return row["kl"] if "kl" in row else row["neighbours"]


STUDY = Study(
    Path("docs/results/studies/depth.jsonl"), Path("docs/method.md"), lambda rows: {"depth": depth_table(rows)}
)


if __name__ == "__main__":
    main()
