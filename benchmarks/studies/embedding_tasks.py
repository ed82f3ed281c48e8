"""Students of an embedding model on tasks of pairs and of retrieval, alone and in their teacher's index.

The record is of benchmarks/studies/embedding_tasks.py at commit 4419268.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.studies.study import Study
from homodistil_hf.tables import markdown_table

STUDENT, TEACHER, ASYMMETRIC = "student", "teacher", "asymmetric"


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
