"""An embedding model of a layout that is trained here, and its students' questions in its index.

    python -m benchmarks.studies.layout_embeddings nomic --start runs/layouts/nomic_bert/teacher --vectors_of MODEL \
        --data DATA --output_dir runs/layouts/nomic_bert/embedding

MODEL gives texts their vectors. The start learns these, by `homodistil distill --teacher_vectors`, and is the teacher
of a quarter and an eighth. DATA as in `sparse.py`, whose texts these are. A row is a run; rows that are there are not
run again.
"""

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import AutoConfig

from benchmarks.spread import Spread
from benchmarks.studies.sparse import distil, training_texts
from benchmarks.studies.study import Study, record_cells
from homodistil_hf.embedding.evaluate import evaluate_embedding
from homodistil_hf.embedding.model import load_embedding_model
from homodistil_hf.models.widths import widths_of
from homodistil_hf.tables import markdown_table

NUM_TEXTS = 40_000
LONGEST = 400
"""Characters of a text at most: vectors are of whole texts."""
TEACHER = "teacher"
STUDENTS = ("macs=0.25", "macs=0.125", "macs=0.25,layers=6", "macs=0.125,layers=6")
"""What is planned, and the same budgets with all layers."""
RECORD = Path("docs/results/studies/layout_embeddings.jsonl")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("layout", help="its name in the record")
    parser.add_argument("--start", required=True, help="masked-LM model of the layout")
    parser.add_argument("--vectors_of", required=True, help="embedding model that gives texts their vectors")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--record", type=Path, default=RECORD)
    parser.add_argument("--teacher_steps", type=int, default=1500)
    parser.add_argument("--max_steps", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    options.output_dir.mkdir(parents=True, exist_ok=True)
    vectors, texts = options.output_dir / "vectors.parquet", options.output_dir / "texts.parquet"
    if not vectors.is_file():
        rows = [text for text in training_texts(options.data)["text"] if len(text) <= LONGEST][:NUM_TEXTS]
        found = load_embedding_model(options.vectors_of).encode(rows)
        Dataset.from_dict({"text": rows}).to_parquet(texts)
        Dataset.from_dict({"text": rows, "vector": found.numpy()}).to_parquet(vectors)
    teacher = options.output_dir / TEACHER

    def run(cell: dict[str, Any]) -> dict[str, Any]:
        settings = {name: cell[name] for name in ("max_steps", "seed")}
        if cell["student"] == TEACHER:
            distil(teacher, teacher_vectors=vectors, start=options.start, **settings)
            return scores(teacher, options)
        folder = options.output_dir / f"{cell['student']}-{cell['seed']}"
        distil(folder, teacher=teacher / "student", train_data=texts, student=cell["student"], **settings)
        return scores(folder, options)

    shared = {"layout": options.layout}
    students = [
        shared | {"student": student, "max_steps": options.max_steps, "seed": seed}
        for seed in range(options.seeds)
        for student in STUDENTS
    ]
    of_teacher = shared | {"student": TEACHER, "max_steps": options.teacher_steps, "seed": 0}
    record_cells(options.record, [of_teacher, *students], run)


def scores(folder: Path, options: Any) -> dict[str, Any]:
    """Widths of a run's student, and scores on STS-B and QNLI, its questions in its teacher's index among them."""
    others: dict[str, Any] = {TEACHER: options.vectors_of} if folder.name == TEACHER else {}
    found = evaluate_embedding(folder, **others, settings={"data_dir": str(options.data / "glue")})
    return {"shape": shape_of(folder / "student"), "scores": found["scores"]}


def shape_of(student: Path) -> str:
    """Widths of an exported encoder as a short plan."""
    plan = widths_of(AutoConfig.from_pretrained(student))
    heads, channels, neurons = dataclasses.astuple(plan.widest)
    return f"{len(plan.layers)}x{plan.hidden_size}-{heads}x{channels}-{neurons}"


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A row a model and layout: widths, and what is kept of its teacher's scores."""
    runs: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        runs.setdefault((row["layout"], row["student"], row["shape"]), []).append(row["scores"])
    cells = []
    for (layout, student, shape), found in runs.items():
        sides = [("stsb", "spearman", "student"), ("qnli_part", "ndcg_at_10", "asymmetric")]
        kept = [
            Spread.of(one[task][metric][side] / one[task][metric]["teacher"] for one in found)
            for task, metric, side in sides
        ]
        name = "from MiniLM's vectors" if student == TEACHER else student.removeprefix("macs=")
        cells.append([layout, name, shape, *(f"{share:.1%}" for share in kept)])
    return markdown_table(["layout", "MACs", "widths", "STS-B kept", "QNLI kept, in its teacher's index"], cells)


STUDY = Study(RECORD, Path("docs/architectures.md"), lambda rows: {"layout_embeddings": table(rows)})


if __name__ == "__main__":
    main()
