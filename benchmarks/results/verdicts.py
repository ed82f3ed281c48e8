"""The statistics of the page: differences seed by seed, the noise that they must exceed, and the verdict."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from scipy.stats import t as student_t

from benchmarks.results.students import QUARTER, Results
from homodistil_hf.evaluation.records import Spread

REFERENCE = "homodistil"

CONFIDENCE = 0.95
MIN_SEEDS = 3
_SAME_LEAGUE = 2.0  # arms beyond this multiple of HomoDistil's KL say nothing about the noise near it

METRICS = {
    "kl": "KL, nats",
    "mlm_accuracy": "accuracy",
    "glue": "GLUE",
    "all_kl": "KL, nats",
    "all_agreement": "agreement",
    "all_mlm_accuracy": "accuracy",
    "all_mlm_loss": "MLM loss, nats",
}
"""Column → its heading; `all_…` on all held-out text."""


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

    @classmethod
    def of(cls, one: pd.DataFrame, other: pd.DataFrame, metric: str, noises: Mapping[str, Noise]) -> "Difference":
        """Students of one arm less those of another."""
        return cls(paired(one, other, metric), metric, noises.get(metric, Noise()))

    @property
    def sign(self) -> int | None:
        """1 for worse beyond the noise, -1 for better, 0 for within; None where nothing can be said."""
        if not self.values or (self.noise.std is None and len(self.values) < MIN_SEEDS):
            return None
        return self.noise.sign(self.values) * (1 if self.metric.endswith(("kl", "loss")) else -1)

    def __str__(self) -> str:
        words = {1: "**worse**", -1: "**better**", 0: "within noise", None: "undecided"}
        return f"{Spread.of(self.values):+.3f}, {words[self.sign]}" if self.values else "–"


def paired(one: pd.DataFrame, other: pd.DataFrame, metric: str) -> list[float]:
    """One arm's figures less another's, for each seed that both have."""
    return (one.set_index("seed")[metric] - other.set_index("seed")[metric]).dropna().tolist()


def paired_threshold(differences: Sequence[float]) -> float:
    """What a mean of paired differences must exceed to be no accident, by their own spread (Student's t)."""
    n = len(differences)
    return math.inf if n < 2 else _quantile(n - 1) * statistics.stdev(differences) / math.sqrt(n)


def noises_of(results: Results) -> dict[str, Noise]:
    """Metric → the noise of a difference, by the rule of the page: of students at a quarter of several seeds each."""
    students = results.of(QUARTER)
    near = {kl: near_arms(students, kl) for kl in ("kl", "all_kl")}
    return {
        metric: _pooled(students, near["all_kl" if metric.startswith("all_") else "kl"], metric) for metric in METRICS
    }


def near_arms(students: pd.DataFrame, kl: str = "kl") -> list[str]:
    """Arms other than HomoDistil whose KL is below twice HomoDistil's."""
    means = students.groupby("arm", sort=False)[kl].mean()
    return [arm for arm in means.index if arm != REFERENCE and means[arm] < _SAME_LEAGUE * means.get(REFERENCE, 0)]


def along_training(students: pd.DataFrame, other: str, quarter: pd.DataFrame) -> str:
    """At how many evaluations HomoDistil is nearer to its teacher than another arm; empty where none is told.

    Those count that both have after a step, and that have a noise by the students at a quarter that are near then.
    """
    noisy = dict(iter(_curves(quarter).groupby("step")))
    signs, behind = [], [(0.0, 0.0)]
    for step, points in _curves(students).groupby("step"):
        gaps = paired(*(points[points["arm"] == arm] for arm in (other, REFERENCE)), "kl")
        noise = _pooled(noisy[step], near_arms(noisy[step]), "kl") if step in noisy else Noise()
        if step and gaps and noise.std is not None:
            signs.append(noise.sign(gaps, borrowed=True))
            behind.append((-statistics.fmean(gaps), step / points["num_steps"].max()))
    words = f"nearer at {signs.count(1)}, level at {signs.count(0)}, farther at {signs.count(-1)} of {len(signs)}"
    most = f" (at most {max(behind)[0]:.3f} nats, at {max(behind)[1]:.2f} of the run)" if max(behind)[0] > 0 else ""
    return words + most if signs else ""


def _curves(students: pd.DataFrame) -> pd.DataFrame:
    rows = [
        {"arm": record["arm"], "seed": seed, "num_steps": record["num_steps"], "step": row["step"], "kl": row["kl"]}
        for record, seed in zip(students["record"], students["seed"], strict=True)
        for row in record["evaluations"]
    ]
    return pd.DataFrame(rows, columns=["arm", "seed", "num_steps", "step", "kl"])


def _pooled(students: pd.DataFrame, arms: Iterable[str], metric: str) -> Noise:
    reference = students[students["arm"] == REFERENCE]
    groups = [paired(students[students["arm"] == arm], reference, metric) for arm in arms]
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
