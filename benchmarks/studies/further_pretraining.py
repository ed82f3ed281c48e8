"""What studies of further pre-training share: cells, a row each, and how far weights have gone.

The variants: the first weights; further pre-trained on the training rows; the same with one round of self-distillation.
"""

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from benchmarks.marked_pages import fill_in
from homodistil_hf.evaluation.records import Spread
from homodistil_hf.files.provenance import machine_facts
from homodistil_hf.methods.self_distillation.rounds import load_initial
from homodistil_hf.tables import markdown_table

RECORD = Path("docs/results/studies/further_pretraining.jsonl")  # of no sweep
VARIANTS = {"further": "round-0/model", "self_distilled": "student"}
"""Variant → where its model is in the folder of a run."""
INITIAL = "initial"
WORDS = {INITIAL: "fine-tuned only", "further": "further pre-trained", "self_distilled": "self-distilled"}
PAGE = Path("docs/self_distillation.md")

Cell = dict[str, Any]


def cells_of(tasks: Iterable[str], num_steps: Iterable[int], rates: Iterable[float], **given: Any) -> list[Cell]:
    """The first weights of each task, then both variants for all lengths and rates of the further pre-training."""
    tasks = list(tasks)
    cells: list[Cell] = [{"task": task, "variant": INITIAL, "num_steps": 0, "rate": 0.0} | given for task in tasks]
    every = itertools.product(tasks, num_steps, rates, VARIANTS)
    return cells + [
        {"task": task, "variant": variant, "num_steps": n, "rate": rate} | given for task, n, rate, variant in every
    ]


def run_study(
    cells: Sequence[Cell], seeds: Iterable[int], record: Path, measure: Callable[[Cell, float | None], Cell]
) -> None:
    """Measure each cell with each seed and write its row; rows that are there are not measured again.

    Args:
        cells: of [`cells_of`].
        seeds: one after the other, so that an interrupted study has every variant.
        record: JSON lines.
        measure: takes a cell with its seed, and the rate of fine-tuning that another seed has chosen, if one has.
    """
    for seed, cell in itertools.product(seeds, cells):
        alike = [row for row in rows_of(record) if cell.items() <= row.items()]
        if seed in (row["seed"] for row in alike):
            continue
        rate = alike[0]["learning_rate"] if alike else None
        cell = cell | {"seed": seed}
        row = cell | measure(cell, rate) | {"machine": machine_facts()}
        record.parent.mkdir(parents=True, exist_ok=True)
        with record.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{cell}: {row['metric']} {row['test']:.4f}, distance {row['distance']:.3f}", flush=True)
    if record == RECORD:
        fill_in(PAGE, {"study": study_table(rows_of(record))})


def study_table(rows: Iterable[Cell]) -> str:
    """A row a variant, length and rate: test scores × 100 of each task, and the mean distances from the first weights."""
    table = pd.DataFrame([{"student": ""} | {name: value for name, value in row.items() if value} for row in rows])
    table = table.fillna({"num_steps": 0, "rate": 0.0, "distance": 0.0}).astype({"num_steps": int})
    tasks = list(dict.fromkeys(table["task"]))
    cells = []
    for (student, num_steps, rate, variant), of_variant in table.groupby(
        ["student", "num_steps", "rate", "variant"], sort=True
    ):
        words = [WORDS[str(variant)], str(student) or "–", str(num_steps), f"{rate:g}" if rate else "–"]
        by_task = [of_variant[of_variant["task"] == task] for task in tasks]
        cells.append(words + [_score(found) if len(found) else "–" for found in by_task])
    return "\n".join(markdown_table(["", "student", "steps a round", "rate", *tasks], cells))


def _score(found: pd.DataFrame) -> str:
    """Its spread, and behind a point the distance, where there is one."""
    told, far = f"{Spread.of((100 * found['test']).tolist()):.1f}", found["distance"].mean()
    return f"{told} · {far:.1f}" if far else told


def rows_of(record: Path) -> Iterator[dict[str, Any]]:
    """Rows that are recorded already."""
    if record.is_file():
        yield from map(json.loads, record.read_text(encoding="utf-8").splitlines())


def distance(initial: str, model: str) -> float:
    """‖θ − θ₀‖ over all parameters."""
    first, last = (dict(load_initial(name).named_parameters()) for name in (initial, model))
    squares = [(last[name].double() - tensor.double()).square().sum() for name, tensor in first.items()]
    return float(torch.stack(squares).sum().sqrt().detach())
