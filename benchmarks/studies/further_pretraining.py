"""Further pre-training: scores of fine-tuned models by variant, steps and rate, on texts and on images.

The variants: the first weights; further pre-trained on the training rows; the same with one round of
self-distillation. Rows are of benchmarks/further_pretraining/ at commit 7db6fe1.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.studies.study import Study
from homodistil_hf.tables import markdown_table

from ..spread import Spread

WORDS = {"initial": "fine-tuned only", "further": "further pre-trained", "self_distilled": "self-distilled"}


def study_table(rows: Iterable[dict[str, Any]]) -> list[str]:
    """A row a variant, length and rate: test scores × 100 of each task, mean distances from the first weights."""
    table = pd.DataFrame([{"student": ""} | {name: value for name, value in row.items() if value} for row in rows])
    table = table.fillna({"num_steps": 0, "rate": 0.0, "distance": 0.0}).astype({"num_steps": int})
    tasks = list(dict.fromkeys(table["task"]))
    cells = []
    for place, found in table.groupby(["student", "num_steps", "rate", "variant"], sort=True):
        student, num_steps, rate, variant = place
        words = [WORDS[str(variant)], str(student) or "–", str(num_steps), f"{rate:g}" if rate else "–"]
        cells.append(words + [_score(found[found["task"] == task]) for task in tasks])
    return markdown_table(["", "student", "steps a round", "rate", *tasks], cells)


def _score(found: pd.DataFrame) -> str:
    """Its spread, and behind a point the distance, where there is one."""
    if found.empty:
        return "–"
    score, far = f"{Spread.of((100 * found['test']).tolist()):.1f}", found["distance"].mean()
    return f"{score} · {far:.1f}" if far else score


STUDY = Study(
    Path("docs/results/studies/further_pretraining.jsonl"),
    Path("docs/self_distillation.md"),
    lambda rows: {"study": study_table(rows)},
)
