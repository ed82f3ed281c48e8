"""Students of an embedding model of one cost and many shapes: how near their vectors end.

    python -m benchmarks.studies.embedding_shapes --teacher MODEL --data DATA --output_dir runs/embedding_shapes

DATA as in `sparse.py`, whose texts these are. A row is a run; rows that are there are not run again.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.studies.sparse import distil, training_texts
from benchmarks.studies.study import Study, record_cells
from homodistil_hf.files.strict_json import read_json_object
from homodistil_hf.models.cost import encoder_macs
from homodistil_hf.models.widths import LayerWidths, WidthPlan
from homodistil_hf.tables import markdown_table

SHAPES = (
    *("5x192-8x24-216", "4x192-8x24-400", "192-8x24-96", "240-10x24-368", "216-9x24-520", "168-7x24-232"),
    *("4x216-9x24-248", "256-8x32-272", "3x256-8x32-272", "160-5x32-280", "5x240-10x24-560"),
)
TEACHER = WidthPlan.uniform(384, 6, LayerWidths(12, 32, 1536))
"""The widths of all-MiniLM-L6-v2."""
NUM_TEXTS = 10_000
RECORD = Path("docs/results/studies/embedding_shapes.jsonl")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--record", type=Path, default=RECORD)
    parser.add_argument("--max_steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    options.output_dir.mkdir(parents=True, exist_ok=True)
    texts = options.output_dir / "texts.parquet"
    if not texts.is_file():
        training_texts(options.data).select(range(NUM_TEXTS)).to_parquet(texts)

    def run(cell: dict[str, Any]) -> dict[str, Any]:
        folder = options.output_dir / "-".join(map(str, cell.values()))
        data = {"train_data": texts, "max_seq_length": 64, "per_device_train_batch_size": 32}
        distil(folder, teacher=options.teacher, save_strategy="no", **data, **cell)
        results = read_json_object(folder / "results.json", "results.json")
        student: Mapping[str, Any] = results["models"][1]
        return {name: student[name] for name in ("cosine", "neighbours", "encoder_macs", "num_parameters")}

    cells = [
        {"student": shape, "max_steps": options.max_steps, "seed": seed}
        for seed in range(options.seeds)
        for shape in SHAPES
    ]
    record_cells(options.record, cells, run)


def tables(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """A row a shape, the nearest first among those of one cost."""
    shares = {row["student"]: row["encoder_macs"] / encoder_macs(TEACHER) for row in rows}
    ordered = sorted(rows, key=lambda row: (-round(shares[row["student"]], 2), -row["cosine"]))
    cells = [
        [
            f"{shares[row['student']]:.2f}",
            row["student"],
            *(f"{100 * row[name]:.1f}" for name in ("cosine", "neighbours")),
        ]
        for row in ordered
    ]
    return {"shapes": markdown_table(["MACs", "widths", "cosine", "neighbours"], cells)}


STUDY = Study(RECORD, Path("docs/embeddings.md"), tables)


if __name__ == "__main__":
    main()
