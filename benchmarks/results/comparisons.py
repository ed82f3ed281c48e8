"""The statistics of the page: differences seed by seed, and the noise that they must exceed to count."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from scipy.stats import t as student_t

from ..spread import Spread

REFERENCE = "at_once"
"""The variant of short runs that others are compared with: pruned at once."""

CONFIDENCE = 0.95
MIN_SEEDS = 3


@dataclass(frozen=True)
class Noise:
    """How much the KL of two runs of one seed differs for no reason."""

    std: float | None = None  # of the difference; None where it was not measured
    freedom: int = 0  # its degrees of freedom

    def threshold(self, num_seeds: int = 1) -> float:
        """What the mean difference of some seeds must exceed to count; infinite where the noise is unknown."""
        return math.inf if self.std is None else _quantile(self.freedom) * self.std / math.sqrt(num_seeds)

    def sign(self, differences: Sequence[float]) -> int:
        """1 or -1 for a mean difference that counts by the rule, 0 for noise."""
        own = len(differences) >= MIN_SEEDS
        threshold = paired_threshold(differences) if own else self.threshold(len(differences))
        mean = statistics.fmean(differences)
        return 0 if abs(mean) <= threshold else int(math.copysign(1, mean))


@dataclass(frozen=True)
class Difference:
    """One variant's KL less another's, one a seed that both have, and what follows by the noise of such ones."""

    values: Sequence[float]
    noise: Noise = Noise()

    @property
    def sign(self) -> int | None:
        """1 for farther beyond the noise, -1 for nearer, 0 for within; None where nothing can be said."""
        if not self.values or (self.noise.std is None and len(self.values) < MIN_SEEDS):
            return None
        return self.noise.sign(self.values)

    def __str__(self) -> str:
        words = {1: "**worse**", -1: "**better**", 0: "within noise", None: "undecided"}
        return f"{Spread.of(self.values):+.3f}, {words[self.sign]}" if self.values else "–"

    def in_words(self) -> str:
        """How a sentence on a KL goes on: by how much it is lower or higher, and whether that counts."""
        if not self.values:
            return "–"
        found = Spread.of(self.values)
        size = f"{abs(found.mean):.3f}" + ("" if found.std is None else f" ± {found.std:.3f}")
        notes = [f"{found.n} seeds"] if found.n > 1 else []
        notes += {0: ["within noise"], None: ["undecided"]}.get(self.sign, [])
        return f"{size} {'lower' if found.mean < 0 else 'higher'}" + (f" ({', '.join(notes)})" if notes else "")


def paired(one: pd.DataFrame, other: pd.DataFrame) -> list[float]:
    """One variant's KL less another's, for each seed that both have on one machine."""
    own, base = (runs.set_index(["seed", runs["machine"].map(_machine)])["kl"] for runs in (one, other))
    return (own - base).dropna().tolist()


def _machine(facts: Mapping[str, Any]) -> str:
    return str(facts.get("gpu") or facts["processor"])


def paired_threshold(differences: Sequence[float]) -> float:
    """What a mean of paired differences must exceed to be no accident, by their own spread (Student's t)."""
    n = len(differences)
    return math.inf if n < 2 else _quantile(n - 1) * statistics.stdev(differences) / math.sqrt(n)


def noise_of(short_runs: pd.DataFrame) -> Noise:
    """The noise of a difference, by the rule of the page: of all variants of short runs that have several seeds."""
    groups = []
    for _, runs in short_runs.groupby(["size", "max_steps"]):
        variants = dict(iter(runs.groupby("variant")))
        reference = variants.pop(REFERENCE, None)
        groups += [] if reference is None else [paired(one, reference) for one in variants.values()]
    return pooled(group for group in groups if len(group) >= MIN_SEEDS)


def pooled(groups: Iterable[Sequence[float]]) -> Noise:
    """Standard deviation within groups, all taken together, and its degrees of freedom."""
    groups = [list(group) for group in groups if len(group) > 1]
    freedom = sum(len(group) - 1 for group in groups)
    if freedom == 0:
        return Noise()
    return Noise(math.sqrt(sum(statistics.variance(group) * (len(group) - 1) for group in groups) / freedom), freedom)


def _quantile(freedom: int) -> float:
    return float(student_t.ppf((1 + CONFIDENCE) / 2, freedom))
