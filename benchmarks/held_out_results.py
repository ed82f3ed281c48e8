"""The part of docs/results.md that comes from `benchmarks/held_out.py`: the claim on all held-out text."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from verdicts import REFERENCE, paired_threshold

from homodistil_hf.sweep.statistics import Spread
from homodistil_hf.sweep.tables import markdown_table

METRICS = {"kl": "KL, nats", "agreement": "agreement", "mlm_accuracy": "accuracy", "mlm_loss": "MLM loss, nats"}

Students = dict[int, Mapping[str, Any]]
"""Seed of a student's run → what was measured."""


def held_out_sections(folder: Path) -> list[str]:
    """The section, if it was measured."""
    file = folder / "held_out.json"
    if not file.is_file():
        return []
    results = json.loads(file.read_text(encoding="utf-8"))
    arms: dict[str, Students] = {}
    for model in results["models"]:
        arms.setdefault(model["arm"], {})[model["seed"]] = model
    one, machine = results["models"][0], results["machine"]
    lines = [
        "## On all held-out text",
        "",
        f"`python benchmarks/held_out.py runs/sweeps/{results['sweep']} --arms {' '.join(results['arms'])}`",
        "",
        f"Students of the sweep `{results['sweep']}` on all {one['num_blocks']:,} blocks of the held-out text "
        f"({one['num_masked_tokens']:,} masked tokens, masks of seed {results['mask_seed']} for all). Choices were "
        f"made on {results['num_chosen_on']} of them, with other masks. *Agreement* is how often the first choice is "
        "the teacher's.",
        "",
        *markdown_table(["", *METRICS.values()], [[arm, *spreads(students)] for arm, students in arms.items()]),
        "",
        *difference_rows(arms),
        "",
        f"Machine: {machine['processor']}, {machine['num_threads']} thread(s) of {machine['num_cores']} cores.",
        "",
    ]
    return ["\n".join(lines)]


def spreads(students: Students) -> list[str]:
    return [str(Spread.of(found[metric] for found in students.values())) for metric in METRICS]


def difference_rows(arms: Mapping[str, Students]) -> list[str]:
    """Each arm less HomoDistil, seed by seed; a mean difference counts beyond Student's t at 95 %."""
    own = arms.get(REFERENCE, {})
    rows = []
    for arm, students in arms.items():
        seeds = sorted(students.keys() & own.keys())
        if arm == REFERENCE or not seeds:
            continue
        row = [f"`{arm}` − `{REFERENCE}`"]
        for metric in METRICS:
            found = [students[seed][metric] - own[seed][metric] for seed in seeds]
            spread = Spread.of(found)
            row.append(f"{spread}{'*' if abs(spread.mean) > paired_threshold(found) else ''}")
        rows.append(row)
    text = "\\* beyond chance: Student's *t* of the differences at 95%."
    return [*markdown_table(["seed by seed", *METRICS.values()], rows), "", text] if rows else []
