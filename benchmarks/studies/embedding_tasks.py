"""Students of an embedding model on tasks of pairs and of retrieval, alone and in their teacher's index.

    python -m benchmarks.studies.embedding_tasks --model DIR --data DATA --students half=DIR quarter=DIR

DIR is a folder of sentence-transformers, DATA one as `homodistil evaluate --task embedding --data_dir` takes it.
"""

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.studies.study import Study
from homodistil_hf.methods.embedding.evaluate import evaluate_embedding
from homodistil_hf.methods.embedding.folder import ASYMMETRIC, STUDENT, TEACHER
from homodistil_hf.tables import markdown_table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="the teacher")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--students", nargs="+", required=True, metavar="NAME=DIR", help="in the order of the table")
    parser.add_argument("--max_queries", type=int, default=1000)
    options = parser.parse_args()
    settings = {"data_dir": str(options.data), "max_queries": options.max_queries}
    scores = {}
    for name, folder in (entry.split("=", 1) for entry in options.students):
        with tempfile.TemporaryDirectory() as scratch:
            given = {"settings": settings, "output_dir": scratch, "say": print}
            scores[name] = evaluate_embedding(folder, teacher=options.model, **given)["scores"]
    STUDY.write({"max_queries": options.max_queries, "students": scores})
    STUDY.show()


def tasks_table(students: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A row a task and metric: the teacher, then each student's own score and its score in the teacher's index."""
    header = ["", TEACHER, *(title for name in students for title in (name, f"{name}, teacher's index"))]
    cells = []
    for task, metrics in next(iter(students.values())).items():
        for metric, found in metrics.items():
            scores = [scores[task][metric].get(side) for scores in students.values() for side in (STUDENT, ASYMMETRIC)]
            shown = ["–" if score is None else f"{100 * score:.1f}" for score in (found[TEACHER], *scores)]
            cells.append([f"{task}, {metric.replace('_', ' ')}", *shown])
    return markdown_table(header, cells)


STUDY = Study(
    Path("docs/results/embedding_tasks.json"),
    Path("docs/embeddings.md"),
    lambda record: {"tasks": tasks_table(record["students"])},
)


if __name__ == "__main__":
    main()
