"""What both studies of further pre-training share: cells, a row each, and how far weights have moved.

The variants: the first weights; further pre-trained on the training rows; the same with one round of
self-distillation. The studies are in further_pretraining_text.py and further_pretraining_images.py.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from benchmarks.quiet import QUIET
from benchmarks.studies.study import Study
from homodistil_hf.distillation.teacher import multiplies_bfloat16
from homodistil_hf.evaluation.records import Spread
from homodistil_hf.methods.self_distillation.rounds import RUN_FILE, load_initial
from homodistil_hf.methods.self_distillation.trainer import SelfDistillationArguments
from homodistil_hf.tables import markdown_table

VARIANTS = {"further": "round-0/model", "self_distilled": "student"}
"""Variant → where its model is in the folder of a run."""
INITIAL = "initial"
WORDS = {INITIAL: "fine-tuned only", "further": "further pre-trained", "self_distilled": "self-distilled"}

Cell = dict[str, Any]


def cells_of(tasks: Iterable[str], num_steps: Iterable[int], rates: Iterable[float], **given: Any) -> list[Cell]:
    """The first weights of each task, then both variants for all lengths and rates of the further pre-training."""
    tasks = list(tasks)
    every = [(task, INITIAL, 0, 0.0) for task in tasks]
    every += [
        (task, variant, n, rate) for task, n, rate, variant in itertools.product(tasks, num_steps, rates, VARIANTS)
    ]
    names = ("task", "variant", "num_steps", "rate")
    return [dict(zip(names, values, strict=True)) | given for values in every]


def run_study(cells: Sequence[Cell], seeds: Iterable[int], measure: Callable[[Cell, float | None], Cell]) -> None:
    """Measure each cell with each seed and write its row; rows that are recorded are not measured again.

    Args:
        cells: of [`cells_of`].
        seeds: one after the other, so that an interrupted study has every variant.
        measure: takes a cell with its seed, and the rate of fine-tuning that another seed has chosen, if one has.
    """
    for seed, cell in itertools.product(seeds, cells):
        alike = [row for row in STUDY.read() if cell.items() <= row.items()]
        if seed not in (row["seed"] for row in alike):
            cell = cell | {"seed": seed}
            row = cell | measure(cell, alike[0]["learning_rate"] if alike else None)
            STUDY.add(row)
            print(f"{cell}: {row['metric']} {row['test']:.4f}, distance {row['distance']:.3f}", flush=True)
    STUDY.show()


def pre_training(folder: Path, num_steps: int, rate: float, *, seed: int, **others: Any) -> SelfDistillationArguments:
    """Arguments of a further pre-training that resumes where it stopped."""
    shared = QUIET | {"logging_steps": 50, "bf16": multiplies_bfloat16(torch.device("cpu"))}
    shared |= {"resume_from_checkpoint": "last" if (folder / RUN_FILE).is_file() else None}
    given = {"output_dir": str(folder), "max_steps": num_steps, "learning_rate": rate, "seed": seed}
    return SelfDistillationArguments(**shared | given | others)


def distance(initial: str, model: str) -> float:
    """‖θ − θ₀‖ over all parameters."""
    first, last = (dict(load_initial(name).named_parameters()) for name in (initial, model))
    squares = [(last[name].double() - tensor.double()).square().sum() for name, tensor in first.items()]
    return float(torch.stack(squares).sum().sqrt().detach())


def study_table(rows: Iterable[Cell]) -> list[str]:
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
