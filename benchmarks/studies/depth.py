"""Width against depth: narrower students of an embedding model, and others of fewer, whole layers, alike in cost.

    python -m benchmarks.studies.depth MODEL --students macs=0.5 macs=0.5,layers=3 --data DATA --output_dir runs/depth

Of a model of six layers `macs=0.5,layers=3` leaves three whole ones: those that are missed most, as the planner keeps
them. All students of a model learn from the same texts. DATA as in `sparse.py`, whose texts these are. A row is a run;
rows that are there are not run again.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.spread import Spread
from benchmarks.studies.layout_embeddings import shape_of
from benchmarks.studies.sparse import distil, training_texts
from benchmarks.studies.study import record_cells
from homodistil_hf.embedding.evaluate import evaluate_embedding
from homodistil_hf.files.strict_json import read_json_object
from homodistil_hf.tables import markdown_table

RECORD = Path("docs/results/studies/depth.jsonl")
SIDES = {"STS-B kept": ("stsb", "spearman", "student"), "QNLI kept": ("qnli_part", "ndcg_at_10", "asymmetric")}
"""Heading → task, metric and the side that counts: in retrieval the student's questions in the teacher's index."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", type=Path)
    parser.add_argument("--students", nargs="+", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--record", type=Path, default=RECORD)
    parser.add_argument("--max_steps", type=int, default=1000)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--set", type=json.loads, default={}, metavar="JSON", help="settings other than the defaults")
    options = parser.parse_args()
    options.output_dir.mkdir(parents=True, exist_ok=True)
    texts = options.output_dir / "texts.parquet"
    if not texts.is_file():
        training_texts(options.data).to_parquet(texts)

    def run(cell: dict[str, Any]) -> dict[str, Any]:
        name = "-".join(str(cell[part]) for part in ("teacher", "student", "max_steps", "seed"))
        folder = options.output_dir / name
        given = {name: cell[name] for name in ("student", "max_steps", "seed")} | options.set
        given |= {"max_seq_length": 64, "per_device_train_batch_size": 64, "bf16": True}
        distil(folder, teacher=options.teacher, train_data=texts, **given)
        return measured(folder, options.data / "glue")

    shared = {"teacher": options.teacher.name, "max_steps": options.max_steps, "settings": options.set}
    cells = [shared | {"student": student, "seed": seed} for seed in options.seeds for student in options.students]
    record_cells(options.record, cells, run)


def measured(folder: Path, tasks: Path) -> dict[str, Any]:
    """Widths and cost of a run's student, its nearness on held-out texts, and its scores beside its teacher's."""
    found = evaluate_embedding(folder, settings={"data_dir": str(tasks)})
    results = read_json_object(folder / "results.json", "results.json")
    return {
        "shape": shape_of(folder / "student"),
        "models": found["models"],
        "evaluation": results["evaluation"],
        "scores": {task: found["scores"][task][metric] for task, metric, _ in SIDES.values()},
        "seconds": results["time_s"],
    }


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A row a model, share and shape: what is kept of its teacher's scores."""
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        models = row["models"]
        share = f"{models['student']['encoder_macs'] / models['teacher']['encoder_macs']:.2f}"
        groups.setdefault((row["teacher"], share, row["shape"]), []).append(row)
    cells = []
    for (teacher, share, shape), runs in groups.items():
        kept = [
            Spread.of(100 * run["scores"][task][side] / run["scores"][task]["teacher"] for run in runs)
            for task, _, side in SIDES.values()
        ]
        kept.append(Spread.of(100 * run["evaluation"]["neighbours_in_index"] for run in runs))
        size = runs[0]["models"]["student"]["size_bytes"] / 1e6
        cells.append([teacher, share, shape, f"{size:.0f}", *(f"{share:.1f}" for share in kept)])
    return markdown_table(["teacher", "MACs", "student", "MB", *SIDES, "neighbours"], cells)


if __name__ == "__main__":
    main()
