"""The statistics of the page: differences seed by seed, the noise that they must exceed, and the verdict."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd
from scipy.stats import t as student_t

from homodistil_hf.evaluation.records import Spread

REFERENCE = "homodistil"

CONFIDENCE = 0.95
MIN_SEEDS = 3
_SAME_LEAGUE = 2.0  # arms beyond this multiple of HomoDistil's KL say nothing about the noise near it


class Metric(NamedTuple):
    """A figure: its heading, what a difference above and below 0 says of the first of two, which of them is bad."""

    heading: str
    above: str
    below: str
    bad: int


_DISTANCE = ("farther", "nearer", 1)
_GAIN = ("better", "worse", -1)
METRICS = {
    "kl": Metric("KL, nats", *_DISTANCE),
    "mlm_accuracy": Metric("accuracy", *_GAIN),
    "glue": Metric("GLUE", *_GAIN),
    "all_kl": Metric("KL, nats", *_DISTANCE),
    "all_agreement": Metric("agreement", *_GAIN),
    "all_mlm_accuracy": Metric("accuracy", *_GAIN),
    "all_mlm_loss": Metric("MLM loss, nats", "worse", "better", 1),
    "score": Metric("score", *_GAIN),
}
"""Column → what it is; `all_…` on all held-out text, `score` is of fine-tunings."""


@dataclass(frozen=True)
class Noise:
    """How much two runs differ for no reason."""

    std: float | None = None  # of the difference between two runs of one seed; None where it was not measured
    freedom: int = 0  # its degrees of freedom

    def threshold(self, num_seeds: int = 1) -> float:
        """What the mean difference of some seeds must exceed to count; infinite where the noise is unknown."""
        return math.inf if self.std is None else _quantile(self.freedom) * self.std / math.sqrt(num_seeds)

    def sign(self, differences: Sequence[float], *, borrowed: bool = False) -> int:
        """1 or -1 for a mean difference that counts by the rule, 0 for noise; `borrowed`: by this noise alone."""
        own = len(differences) >= MIN_SEEDS and not borrowed
        threshold = paired_threshold(differences) if own else self.threshold(len(differences))
        mean = statistics.fmean(differences)
        return 0 if abs(mean) <= threshold else int(math.copysign(1, mean))


@dataclass(frozen=True)
class Difference:
    """One arm's figures less another's, one a seed that both have, and what follows by the noise of such ones."""

    values: Sequence[float]
    metric: str = "kl"
    noise: Noise = Noise()

    @property
    def sign(self) -> int:
        """1 above the noise, -1 below it, 0 within."""
        return self.noise.sign(self.values)

    @property
    def verdict(self) -> str:
        """The words for it."""
        if self.noise.std is None and len(self.values) < MIN_SEEDS:
            return "undecided"
        metric = METRICS[self.metric]
        return {1: f"**{metric.above}**", -1: f"**{metric.below}**", 0: "within noise"}[self.sign]

    @property
    def behind(self) -> int:
        """1 if the first of the two is worse beyond the noise, -1 if it is better."""
        return self.sign * METRICS[self.metric].bad

    def __str__(self) -> str:
        return f"{Spread.of(self.values):+.3f}, {self.verdict}" if self.values else "–"


class Tally(NamedTuple):
    """In how many comparisons one side is ahead of the other beyond the noise, level, or behind."""

    ahead: int
    level: int
    behind: int

    @classmethod
    def of(cls, signs: Iterable[int]) -> "Tally":
        """Count signs: 1 is ahead."""
        signs = list(signs)
        return cls(signs.count(1), signs.count(0), signs.count(-1))

    @property
    def answer(self) -> str:
        """Whether it is ahead in all."""
        return "**no**" if self.behind else "**not shown for all**" if self.level else "**yes**"

    def __str__(self) -> str:
        level, behind = f", level in {self.level}" * bool(self.level), f", behind in {self.behind}" * bool(self.behind)
        return f"ahead in {self.ahead} of {sum(self)}{level}{behind}"


def paired(one: pd.DataFrame, other: pd.DataFrame, metric: str) -> list[float]:
    """One arm's figures less another's, for each seed that both have."""
    return (one.set_index("seed")[metric] - other.set_index("seed")[metric]).dropna().tolist()


def paired_threshold(differences: Sequence[float]) -> float:
    """What a mean of paired differences must exceed to be no accident, by their own spread (Student's t)."""
    n = len(differences)
    return math.inf if n < 2 else _quantile(n - 1) * statistics.stdev(differences) / math.sqrt(n)


def noise_of(students: pd.DataFrame, metric: str) -> Noise:
    """Measure the noise as the rule of the page says, with students at a quarter of several seeds each."""
    return _pooled(students, near_arms(students, "all_kl" if metric.startswith("all_") else "kl"), metric)


def near_arms(students: pd.DataFrame, kl: str = "kl") -> list[str]:
    """Arms other than HomoDistil whose KL is below twice HomoDistil's."""
    means = students.groupby("arm", sort=False)[kl].mean()
    return [arm for arm in means.index if arm != REFERENCE and means[arm] < _SAME_LEAGUE * means.get(REFERENCE, 0)]


def along_training(students: pd.DataFrame, own: str, other: str, quarter: pd.DataFrame) -> Tally:
    """At how many evaluations an arm is nearer to its teacher than another, those before any training left out.

    Those count that both have, and that have a noise by the students at a quarter.
    """
    near, noisy = near_arms(quarter), dict(iter(_curves(quarter).groupby("step")))
    signs = []
    for step, points in _curves(students).groupby("step"):
        gaps = paired(*(points[points["arm"] == arm] for arm in (other, own)), "kl")
        noise = _pooled(noisy[step], near, "kl") if step in noisy else Noise()
        if step and gaps and noise.std is not None:
            signs.append(noise.sign(gaps, borrowed=True))
    return Tally.of(signs)


def _curves(students: pd.DataFrame) -> pd.DataFrame:
    rows = [
        {"arm": record["arm"], "seed": seed, "step": row["step"], "kl": row["kl"]}
        for record, seed in zip(students["record"], students["seed"], strict=True)
        for row in record["evaluations"]
    ]
    return pd.DataFrame(rows, columns=["arm", "seed", "step", "kl"])


def _pooled(students: pd.DataFrame, arms: Iterable[str], metric: str) -> Noise:
    reference = students[students["arm"] == REFERENCE]
    groups = [paired(students[students["arm"] == arm], reference, metric) for arm in arms]
    found = pooled_std(group for group in groups if len(group) >= MIN_SEEDS)
    return Noise() if found is None else Noise(*found)


def _quantile(freedom: int) -> float:
    return float(student_t.ppf((1 + CONFIDENCE) / 2, freedom))


def pooled_std(groups: Iterable[Sequence[float]]) -> tuple[float, int] | None:
    """Standard deviation within groups, all taken together, and its degrees of freedom; None where there are none."""
    groups = [list(group) for group in groups if len(group) > 1]
    freedom = sum(len(group) - 1 for group in groups)
    if freedom == 0:
        return None
    return math.sqrt(sum(statistics.variance(group) * (len(group) - 1) for group in groups) / freedom), freedom
