"""Students of embedding models people use: what they keep of retrieval and of STS-B, beside other small models.

The records are of benchmarks/studies/retrieval.py and retrieval_rivals.py at commit a3e4be6e. That of a family's space
is what `homodistil evaluate --others` writes, by the command in docs/embeddings.md.
"""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.studies.study import Study
from homodistil_hf.tables import markdown_table

from ..spread import Spread

FOLDER, PAGE = Path("docs/results/studies"), Path("docs/embeddings.md")
MINILM, MPNET, E5 = "all-MiniLM-L6-v2", "all-mpnet-base-v2", "multilingual-e5-small-q4"
TASKS = {"stsb": "student", "qnli_part": "asymmetric", "squad_part": "asymmetric"}
"""Task → the side that counts: in retrieval the student's questions in the teacher's index."""
RUNS = {
    "half": (MINILM, 1000),
    "half, 2,000 steps": (MINILM, 2000),
    "quarter": (MINILM, 1000),
    "quarter, 2,000 steps": (MINILM, 2000),
    "mpnet quarter": (MPNET, 1000),
    "mpnet quarter, 2,000 steps": (MPNET, 2000),
    "mpnet eighth": (MPNET, 1000),
    "e5 trimmed": (E5, 0),
    "e5 quarter": (E5, 1000),
    "e5 quarter, 2,000 steps": (E5, 2000),
}
"""Run → teacher and steps; all other runs tried texts and rates."""
STUDENTS = {
    MINILM: ("half", "teacher"),
    "half": ("half, 2,000 steps", "student"),
    "quarter": ("quarter, 2,000 steps", "student"),
    MPNET: ("mpnet quarter", "teacher"),
    "quarter of mpnet": ("mpnet quarter, 2,000 steps", "student"),
    "eighth of mpnet": ("mpnet eighth", "student"),
}
"""Model in the table of rivals → the run that has measured it, and its side there."""


def tables(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Mark → table: what students keep, and what they learn best from."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["run"], []).append(row)
    kept = ["STS-B", "QNLI", "SQuAD", "first hits"]
    students = [
        [teacher, f"{steps:,}", f"{_macs(found[name][0]):.2f}", *_kept(found[name]), _minutes(found[name])]
        for name, (teacher, steps) in RUNS.items()
        if name in found
    ]
    tried = [[name, *_kept(runs)[:-1], _alike(runs)] for name, runs in found.items() if name not in RUNS]
    return {
        "retrieval": markdown_table(["teacher", "steps", "MACs", *kept, "minutes"], students),
        "tried": markdown_table(["", *kept[:-1], "neighbours"], tried),
    }


def _kept(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Share of the teacher's score of each task, and of first hits on QNLI that are the teacher's, %."""
    shares: list[list[float]] = []
    for task, side in TASKS.items():
        scores = [run["scores"][task] for run in runs if task in run["scores"]]
        shares.append([100 * score[side] / score["teacher"] for score in scores])
    shares.append([100 * run["first_hits"]["qnli_part"] for run in runs if run["first_hits"]])
    return [f"{Spread.of(values):.1f}" if values else "–" for values in shares]


def _alike(runs: Sequence[Mapping[str, Any]]) -> str:
    """Nearest texts in the teacher's index that are the teacher's, on held-out sentences, %."""
    return f"{Spread.of([100 * run['evaluation']['neighbours_in_index'] for run in runs]):.1f}"


def _macs(run: Mapping[str, Any]) -> float:
    models = run["models"]
    return float(models["student"]["encoder_macs"] / models["teacher"]["encoder_macs"])


def _minutes(runs: Sequence[Mapping[str, Any]]) -> str:
    return f"{statistics.fmean(run['time_s'] for run in runs) / 60:.0f}"


def space_table(found: dict[str, Any]) -> dict[str, list[str]]:
    """nDCG@10 × 100 of what `homodistil evaluate --others` has paired, of QNLI and SQuAD: teacher and a family."""
    pairings, models = found["tasks"].values(), found["models"]
    cells = [
        [asking, f"{costs['size_bytes'] / 1e6:.1f}", f"{costs['ms']:.1f}"]
        + ["/".join(f"{100 * of[asking][asked]['ndcg_at_10']:.1f}" for of in pairings) for asked in models]
        for asking, costs in models.items()
    ]
    headings = ["queries by", "MB", "ms a query", *(f"index by {name}" for name in models)]
    return {"space": markdown_table(headings, cells)}


def rivals_table(found: dict[str, Any]) -> list[str]:
    """A row a model: scores in an index of its own, bytes, and how many times as fast as all-MiniLM-L6-v2 it is."""
    runs = {row["run"]: row["scores"] for row in STUDY.read() if row["seed"] == 0}
    own_index = {name: {task: runs[run][task][side] for task in TASKS} for name, (run, side) in STUDENTS.items()}
    cells = []
    for name, values in (own_index | found["scores"]).items():
        shown = ["–", "–"]
        if name in found["size_bytes"]:
            shown = [f"{found['size_bytes'][name] / 1e6:.0f}", f"{times_faster(found, name, MINILM):.1f}"]
        cells.append([name, *(f"{100 * values[task]:.1f}" for task in TASKS), *shown])
    return markdown_table(["model", "STS-B", "QNLI", "SQuAD", "MB", "speed"], cells)


def stsb_kept(run: str) -> float:
    """Share of the teacher's STS-B that the students of a run keep."""
    scores = [row["scores"]["stsb"] for row in STUDY.read() if row["run"] == run]
    return statistics.fmean(score["student"] / score["teacher"] for score in scores)


def times_faster(found: Mapping[str, Any], name: str, teacher: str) -> float:
    """How many times as fast as its teacher a model is: 128 tokens in ONNX Runtime, processor time of one core."""
    times = found["processor_time"]
    return float(times[teacher]["median_ms"] / times[name]["median_ms"])


STUDY = Study(FOLDER / "retrieval.jsonl", PAGE, tables)
SPACE = Study(FOLDER / "retrieval_space.json", PAGE, space_table)
RIVALS = Study(FOLDER / "retrieval_rivals.json", PAGE, lambda found: {"rivals": rivals_table(found)})
