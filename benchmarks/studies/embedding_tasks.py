"""What students of an embedding model are good for: pairs and retrieval, alone and in their teacher's index.

    python -m benchmarks.studies.embedding_tasks --model DIR --data DATA --students half=DIR quarter=DIR

DIR is a folder of sentence-transformers, DATA one as `homodistil evaluate --task embedding --data_dir` takes it.
Writes docs/results/embedding_tasks.json and its table in docs/embeddings.md.
"""

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.marked_pages import fill_in
from homodistil_hf.files.strict_json import write_json
from homodistil_hf.methods.embedding.card import ASYMMETRIC, STUDENT, TEACHER
from homodistil_hf.methods.embedding.evaluate import evaluate_embedding
from homodistil_hf.tables import markdown_table

RECORD, PAGE = Path("docs/results/embedding_tasks.json"), Path("docs/embeddings.md")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="the teacher")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--students", nargs="+", required=True, metavar="NAME=DIR", help="in the order of the table")
    parser.add_argument("--max_queries", type=int, default=1000)
    options = parser.parse_args()
    settings = {"data_dir": str(options.data), "max_queries": options.max_queries}
    found = {}
    for name, folder in (entry.split("=", 1) for entry in options.students):
        with tempfile.TemporaryDirectory() as scratch:
            told = evaluate_embedding(folder, teacher=options.model, settings=settings, output_dir=scratch, say=print)
        found[name] = told["scores"]
    write_json(RECORD, {"max_queries": options.max_queries, "students": found})
    fill_in(PAGE, {"tasks": tasks_table(found)})


def tasks_table(students: Mapping[str, Mapping[str, Any]]) -> str:
    """A row a task and metric: the teacher, and of each student its own score and that in the teacher's index."""
    first = next(iter(students.values()))
    header = ["", TEACHER, *(title for name in students for title in (name, f"{name}, teacher's index"))]
    cells = []
    for task, metrics in first.items():
        for metric, found in metrics.items():
            scores = [scores[task][metric].get(side) for scores in students.values() for side in (STUDENT, ASYMMETRIC)]
            told = ["–" if score is None else f"{100 * score:.1f}" for score in (found[TEACHER], *scores)]
            cells.append([f"{task}, {metric.replace('_', ' ')}", *told])
    return "\n".join(markdown_table(header, cells))


if __name__ == "__main__":
    main()
