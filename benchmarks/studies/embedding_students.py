"""Students of an embedding model: tasks and the teacher's index; size, speed and int8; plain ones beside a Dense.

The records are of benchmarks/studies/embedding_tasks.py at commit 4419268, embedding_speed.py at commit f5db6bb and
plain.py at commit COMMIT.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.studies.study import Study
from homodistil_hf.tables import markdown_table

STUDENT, TEACHER, ASYMMETRIC = "student", "teacher", "asymmetric"
FORMS = ("torch", "onnxruntime", "onnxruntime, int8")
BATCH_SIZES = (1, 32)
PAGE = Path("docs/embeddings.md")


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


def speed_table(models: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A row a model and form."""
    cells = [
        [name, form, f"{100 * one['stsb']:.1f}", f"{one['size_bytes'] / 1e6:.1f}"]
        + [f"{one[f'sentences_per_s, {size} at once']:,.0f}" for size in BATCH_SIZES]
        for name, found in models.items()
        for form, one in found.items()
        if form in FORMS
    ]
    header = ["model", "run by", "STS-B", "MB", *(f"sentences/s, {size} at once" for size in BATCH_SIZES)]
    return markdown_table(header, cells)


def plain_table(models: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A row a model: the teacher's scores stand beside every student's."""
    scores = {
        "STS-B": ("stsb", "spearman"),
        "QNLI": ("qnli_part", "ndcg_at_10"),
        "SQuAD": ("squad_part", "ndcg_at_10"),
    }
    some, cells = next(one["scores"] for one in models.values() if "scores" in one), []
    for name, one in models.items():
        measured, side = (some, TEACHER) if name == TEACHER else (one["scores"], STUDENT)
        agreed = one.get("agreement", {"cosine": 1.0, "neighbours_in_index": 1.0})
        shares = [measured[task][metric][side] for task, metric in scores.values()]
        shares += [agreed["cosine"], agreed["neighbours_in_index"]]
        costs = [f"{one['size_bytes'] / 1e6:.1f}", *(f"{one[f'ms, {size} at once']:.1f}" for size in BATCH_SIZES)]
        cells.append([name, f"{one['macs']:.2f}", *(f"{100 * share:.1f}" for share in shares), *costs])
    times = [f"ms, {size} at once" for size in BATCH_SIZES]
    return markdown_table(["model", "MACs", *scores, "cosine", "neighbours", "MB", *times], cells)


TASKS = Study(
    Path("docs/results/embedding_tasks.json"), PAGE, lambda record: {"tasks": tasks_table(record["students"])}
)
SPEED = Study(Path("docs/results/embedding_speed.json"), PAGE, lambda record: {"speed": speed_table(record["models"])})
PLAIN = Study(Path("docs/results/embedding_plain.json"), PAGE, lambda record: {"plain": plain_table(record["models"])})
