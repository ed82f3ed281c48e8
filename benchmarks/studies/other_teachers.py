"""Students of teachers trained elsewhere, with the defaults: pruned gradually or at once, of all layers or of fewer.

    python examples/sample_text.py --model runs/rxnfp-mlm --num_rows 2000 --output runs/rxnfp/train.parquet
    python examples/sample_text.py --model runs/rxnfp-mlm --num_rows 200 --seed 1 --output runs/rxnfp/eval.parquet
    python -m benchmarks.studies.other_teachers runs/rxnfp-mlm --layers 12 8 6 --data runs/rxnfp --set packing=false

A folder of data holds train and validation or eval.parquet. Cells that are recorded are not run again. Widths of an
embedding model go at once, layers as the way says.
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
from homodistil_hf.runs.config import run_of
from homodistil_hf.runs.distill import run as distil
from homodistil_hf.tables import markdown_table

from ..spread import Spread

GRADUALLY, AT_ONCE = "gradually", "at once"
ALONE = "teacher_mlm_accuracy"
TITLES = {
    **{"teacher": "English, 6 × 384", "rxnfp-mlm": "rxnfp, 12 × 256", "sapiens-vh": "Sapiens, 4 × 128"},
    "antiberty": "AntiBERTy, 8 × 512",
}
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
    parser.add_argument("--output_dir", type=Path, default=Path("runs/other_teachers"))
    given = parser.parse_args()
    settings = {"max_steps": 500} | {
        name: json.loads(value) for name, value in (pair.split("=", 1) for pair in given.set)
    }
    # embedding models have no other way
    ways = [AT_ONCE] if _is_embedding_model(given.teacher) else given.ways
    cells = [
        {"teacher": given.teacher.name, "share": share, "layers": layers, "way": way, "seed": seed}
        | {"settings": settings}
        for seed, share, layers, way in product(given.seeds, given.shares, given.layers, ways)
    ]
    record_cells(RECORD, cells, lambda cell: _run(cell, given))


def _is_embedding_model(folder: Path) -> bool:
    return (folder / "modules.json").is_file()


def _run(cell: Mapping[str, Any], given: argparse.Namespace) -> dict[str, Any]:
    name = ",".join(str(cell[name]).replace("/", "-") for name in ("teacher", "share", "layers", "way", "seed"))
    files = {folder / "train.parquet": next(folder.glob("[ev]*.parquet")) for folder in given.data}
    values = {
        "teacher": str(given.teacher),
        "student": f"macs={float(Fraction(cell['share']))},layers={cell['layers']}",
    }
    values |= {"train_data": [*map(str, files)], "eval_data": [*map(str, files.values())]}
    values |= {"seed": cell["seed"], "output_dir": str(given.output_dir / name), "overwrite_output_dir": True}
    if cell["way"] == AT_ONCE and not _is_embedding_model(given.teacher):
        values["method"] = "one_shot"
    results = distil(run_of(QUIET | values | cell["settings"], "the study"), print)
    found = {name: results["evaluation"][name] for name in METRICS if name in results["evaluation"]}
    if "mlm_accuracy" in found:
        found[ALONE] = results["models"][0]["mlm_accuracy"]
    return found | {"seconds": results["time_s"]}


def depth_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A row a teacher and number of steps: KL by the share of its MACs, by layers and way."""
    cells: dict[tuple[str, int], dict[str, str]] = {}
    for (teacher, share, packing, steps), ways in _by_size([row for row in rows if "kl" in row]):
        if len({layers for layers, _ in ways}) > 1 and not packing:
            shown = [
                f"{layers}: {Spread.of(row['kl'] for row in group)}"
                for (layers, way), group in sorted(ways.items(), reverse=True)
                if way == GRADUALLY
            ]
            cells.setdefault((teacher, steps), {})[share] = "; ".join(shown)
    shares = sorted({share for row in cells.values() for share in row}, key=Fraction, reverse=True)
    lines = [
        [TITLES.get(teacher, teacher), f"{steps:,}", *(row.get(share, "–") for share in shares)]
        for (teacher, steps), row in cells.items()
    ]
    return markdown_table(["layers: KL", "steps", *shares], lines)


def embedding_depth_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A row a length and size of embedding students: the nearest texts that they keep, by layers."""
    found: dict[tuple[int, Fraction], dict[int, list[float]]] = {}
    for row in sorted(rows, key=lambda row: -row["layers"]):
        if "kl" not in row and row["way"] == AT_ONCE:
            by_layers = found.setdefault((row["settings"]["max_steps"], -Fraction(row["share"])), {})
            by_layers.setdefault(row["layers"], []).append(100 * row["neighbours_in_index"])
    cells = [
        [
            f"{-share}",
            f"{steps:,}",
            "; ".join(f"{layers}: {Spread.of(kept):.1f}" for layers, kept in by_layers.items()),
        ]
        for (steps, share), by_layers in sorted(found.items())
    ]
    return markdown_table(["MACs", "steps", "layers: neighbours"], cells)


def ways_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A row a teacher and size: KL, and words right, of the teacher and of either way with the fewest layers."""
    cells = []
    right = {(row["teacher"], row["settings"].get("packing", False)): row[ALONE] for row in rows[::-1] if ALONE in row}
    for (teacher, share, packing, steps), ways in _by_size([row for row in rows if "kl" in row]):
        both = [layers for layers, way in ways if way == GRADUALLY and (layers, AT_ONCE) in ways]
        if both and steps == 500:
            layers = min(both)
            found = [ways[layers, way][0] for way in (GRADUALLY, AT_ONCE)]
            shown = [f"{row['kl']:.3f}, {row['mlm_accuracy']:.1%}" for row in found]
            name = f"{TITLES.get(teacher, teacher).partition(',')[0]}, {right[teacher, packing]:.1%}"
            cells.append([name, share, str(layers), *shown])
    return markdown_table(["teacher, right", "MACs", "layers", "homodistil", "one_shot"], cells)


def _by_size(
    rows: Sequence[Mapping[str, Any]],
) -> list[tuple[tuple[str, str, bool, int], dict[tuple[int, str], list[Any]]]]:
    """Rows by layers and way, of each teacher, share, whether texts share rows, and steps; large sizes first."""
    found: dict[tuple[str, str, bool, int], dict[tuple[int, str], list[Any]]] = {}
    for row in rows:
        settings = row["settings"]
        key = (row["teacher"], row["share"], settings.get("packing", False), settings["max_steps"])
        found.setdefault(key, {}).setdefault((row["layers"], row["way"]), []).append(row)
    return sorted(found.items(), key=lambda item: (item[0][0], item[0][2], item[0][3], -Fraction(item[0][1])))


RECORD = Path("docs/results/studies/other_teachers.jsonl")
DEPTH = Study(RECORD, Path("docs/method.md"), lambda rows: {"depth": depth_table(rows)})
EMBEDDINGS = Study(RECORD, Path("docs/embeddings.md"), lambda rows: {"depth": embedding_depth_table(rows)})
WAYS = Study(RECORD, Path("docs/architectures.md"), lambda rows: {"other-teachers": ways_table(rows)})


if __name__ == "__main__":
    main()
