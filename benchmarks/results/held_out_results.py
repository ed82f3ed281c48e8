"""The part of docs/results.md that comes from `benchmarks/held_out.py`: the claims on all held-out text."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from benchmarks.machine_words import machine_words
from benchmarks.results.sweep_models import other_axes
from benchmarks.results.verdicts import REFERENCE, SAME_LEAGUE, Noise, noise_of_groups, paired_threshold
from homodistil_hf.experiments.sweep.statistics import Record, Spread, seed_of
from homodistil_hf.experiments.sweep.tables import markdown_table

METRICS = {"kl": "KL, nats", "agreement": "agreement", "mlm_accuracy": "accuracy", "mlm_loss": "MLM loss, nats"}
QUARTERS = ("computation", "methods_quarter")
SWEEPS = (*QUARTERS, "methods_half", "methods_eighth", "tokens_planned")

Students: TypeAlias = dict[int, Mapping[str, Any]]
"""Seed of a student's run → what was measured."""

Arms: TypeAlias = dict[tuple[str, str], Students]
"""Arm and its cells' other axes → students."""


@dataclass(frozen=True)
class HeldOut:
    """Students of sweeps on all held-out text.

    Args:
        files: sweep → what `benchmarks/held_out.py` wrote.
    """

    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> "HeldOut":
        """Read those files that are there.

        Args:
            folder: of the results.

        Returns:
            [`HeldOut`].
        """
        files = {name: folder / "held_out" / f"{name}.json" for name in SWEEPS}
        return cls({name: json.loads(file.read_text("utf-8")) for name, file in files.items() if file.is_file()})

    @property
    def noises(self) -> dict[str, Noise]:
        """Metric → the noise of a difference between two runs of one seed, as `verdicts.RULE` has it, on this text."""
        return noises_of(next(iter(self._arms(QUARTERS[0])), {}))

    @property
    def noise(self) -> Noise:
        """That of KL."""
        return self.noises["kl"]

    def gaps(self, sweep: str, arm: str, axes: str = "", metric: str = "kl") -> list[float]:
        """An arm's figures less HomoDistil's, seed by seed; none where they were not measured."""
        every = (
            gaps(arms.get((arm, axes), {}), arms.get((REFERENCE, axes), {}), metric) for arms in self._arms(sweep)
        )
        return next(filter(None, every), [])

    def kl(self, sweep: str, record: Record) -> float | None:
        """KL of the student that a record is about, None where it was not measured."""
        students = (arms.get((record["arm"], other_axes(record)), {}) for arms in self._arms(sweep))
        return next((float(found[seed_of(record)]["kl"]) for found in students if seed_of(record) in found), None)

    def _arms(self, sweep: str) -> list[Arms]:
        """Students of a sweep, a quarter's of both sweeps that have the same runs."""
        names = QUARTERS if sweep in QUARTERS else (sweep,)
        return [arms_of(self.files[name]) for name in names if name in self.files]


def held_out_sections(folder: Path) -> list[str]:
    """The section, if any sweep was measured."""
    held_out = HeldOut.read(folder)
    if not held_out.files:
        return []
    first = next(iter(held_out.files.values()))
    one = first["models"][0]
    noises = held_out.noises
    lines = [
        "## On all held-out text",
        "",
        f"Students of sweeps on all {one['num_blocks']:,} blocks of the held-out text "
        f"({one['num_masked_tokens']:,} masked tokens, masks of seed {first['mask_seed']} for all). Choices were "
        f"made on {first['num_chosen_on']} of them, with other masks. *Agreement* is how often the first choice is "
        "the teacher's. Differences are those of runs with one seed.",
        "",
        "\\* beyond chance: a mean of several differences beyond Student's *t* of their own spread at 95%, a single "
        f"one beyond that of {borrowed_words(noises)}.",
        "",
    ]
    for name, results in held_out.files.items():
        arms = arms_of(results)
        command = f"python -m benchmarks.results.held_out runs/sweeps/{name} --arms {' '.join(results['arms'])}"
        lines += [f"### `{name}`", "", f"`{command}`", ""]
        rows = [[label(key), *spreads(students)] for key, students in arms.items()]
        lines += [*markdown_table(["", *METRICS.values()], rows), ""]
        differences = difference_rows(arms, noises)
        lines += [*differences, ""] if differences else []
        machines = dict.fromkeys(machine_words(model["machine"]) for model in results["models"])
        lines += [f"Machine: {' and '.join(machines)}.", ""]
    return ["\n".join(lines)]


def arms_of(results: Mapping[str, Any]) -> Arms:
    arms: Arms = {}
    for model in results["models"]:
        arms.setdefault((model["arm"], model["axes"]), {})[model["seed"]] = model
    return arms


def label(key: tuple[str, str]) -> str:
    return ", ".join(word for word in key if word)


def spreads(students: Students) -> list[str]:
    return [str(Spread.of(found[metric] for found in students.values())) for metric in METRICS]


def noises_of(arms: Arms) -> dict[str, Noise]:
    own = arms.get((REFERENCE, ""), {})
    limit = SAME_LEAGUE * mean_kl(own) if own else 0.0
    near = [students for key, students in arms.items() if key != (REFERENCE, "") and mean_kl(students) < limit]
    return {metric: noise_of_groups([gaps(students, own, metric) for students in near]) for metric in METRICS}


def mean_kl(students: Students) -> float:
    return Spread.of(found["kl"] for found in students.values()).mean


def borrowed_words(noises: Mapping[str, Noise]) -> str:
    """What the noise of single differences is, for the text."""
    noise = noises.get("kl", Noise())
    if noise.std is None:
        return "the differences at a quarter, which were not measured with three seeds"
    return (
        f"the differences at a quarter, pooled over the methods whose KL is below twice HomoDistil's (in KL "
        f"{noise.std:.4f} nats, {noise.freedom} degrees of freedom)"
    )


def gaps(students: Students, own: Students, metric: str) -> list[float]:
    return [students[seed][metric] - own[seed][metric] for seed in sorted(students.keys() & own.keys())]


def difference_rows(arms: Arms, noises: Mapping[str, Noise]) -> list[str]:
    """Each arm less HomoDistil with the same axes."""
    rows = []
    for (arm, axes), students in arms.items():
        own = arms.get((REFERENCE, axes), {})
        if arm == REFERENCE or not students.keys() & own.keys():
            continue
        words = [counted(gaps(students, own, metric), noises.get(metric, Noise())) for metric in METRICS]
        rows.append([f"`{arm}` − `{REFERENCE}`{f', {axes}' if axes else ''}", *words])
    return markdown_table(["difference", *METRICS.values()], rows) if rows else []


def counted(found: Sequence[float], noise: Noise) -> str:
    """A mean difference, with a star if it is beyond chance."""
    spread = Spread.of(found)
    threshold = paired_threshold(found) if len(found) > 1 else noise.threshold()
    return f"{spread}{'*' if abs(spread.mean) > threshold else ''}"
