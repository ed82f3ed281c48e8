"""What sweeps say about claims: the noise that a difference must exceed, and reproduced, not reproduced, or neither.

`write_results.py` lays the answers out. A difference is between runs of one seed, which see the same batches and are
evaluated on the same masks.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from scipy.stats import t as student_t

from homodistil_hf.experiments.sweep.statistics import Record, Spread, differences, metric_of, pooled_std, seed_of
from homodistil_hf.experiments.sweep.tables import macs_fraction
from homodistil_hf.plans.fewer_layers import MACS_TOLERANCE

METRIC = "kl"
REFERENCE = "homodistil"
PAPERS_WINDOW = "end_0.5"
"""HomoDistil with an end of pruning that the paper uses too."""

_CONFIDENCE = 0.95
SAME_LEAGUE = 2.0  # methods beyond this multiple of HomoDistil's KL say nothing about the noise near it

_MIN_SEEDS = 3

RULE = (
    f"**Verdicts.** A difference between methods is taken seed by seed. With {_MIN_SEEDS} seeds or more its mean "
    f"counts beyond Student's *t* of the differences' own spread at {_CONFIDENCE:.0%}. With fewer it borrows a "
    "spread *s*: that of the difference between a method and HomoDistil at a quarter of the MACs, pooled over the "
    f"methods with {_MIN_SEEDS} seeds or more whose KL is below twice HomoDistil's; the mean of *n* seeds counts "
    "beyond *t*·*s*/√*n*, *t* for *s*' degrees of freedom. All else is *within noise*. KL, accuracy and GLUE have an "
    "*s* each. The methods share HomoDistil's runs, so these degrees of freedom are a generous count; other sizes, "
    "other budgets and the ablations borrow *s* too, most with one seed: of twenty such verdicts expect one to be "
    "wrong."
)


Compare: TypeAlias = Callable[[Sequence[Record], Sequence[Record]], list[float]]
"""Two arms' records → differences, one for each seed that both have."""


@dataclass(frozen=True)
class Noise:
    """How much two runs differ for no reason.

    Args:
        std: of the difference between two runs of one seed; None where it was not measured.
        freedom: its degrees of freedom.
    """

    std: float | None = None
    freedom: int = 0

    def threshold(self, num_seeds: int = 1) -> float:
        """What the mean difference of some seeds must exceed to count; infinite where the noise is unknown."""
        if self.std is None:
            return math.inf
        quantile = float(student_t.ppf((1 + _CONFIDENCE) / 2, self.freedom))
        return quantile * self.std / math.sqrt(num_seeds)

    def sign(self, differences: Sequence[float]) -> int:
        """1 or -1 for a mean difference that counts by `RULE`, 0 for noise."""
        if len(differences) >= _MIN_SEEDS:
            return _sign(differences, paired_threshold(differences))
        return self.borrowed_sign(differences)

    def words(self, differences: Sequence[float], other: str = "one-shot", own: str = "HomoDistil") -> str:
        """What differences in KL, another arm's less the own, say by `RULE`."""
        verdicts = {1: f"{own} is nearer", -1: f"{other} is nearer", 0: "within noise"}
        return "undecided" if self.std is None else verdicts[self.sign(differences)]

    def borrowed_sign(self, differences: Sequence[float]) -> int:
        """The same by this noise alone, however many the differences are."""
        return _sign(differences, self.threshold(len(differences)))


def _sign(differences: Sequence[float], threshold: float) -> int:
    mean = statistics.fmean(differences)
    return 0 if abs(mean) <= threshold else int(math.copysign(1, mean))


@dataclass(frozen=True)
class Noises:
    """The noise of each of the figures that methods are compared by.

    Args:
        kl: in nats.
        accuracy: of the share of masked tokens that are predicted right.
        tasks: of the mean over the tasks.
    """

    kl: Noise = Noise()
    accuracy: Noise = Noise()
    tasks: Noise = Noise()


@dataclass(frozen=True)
class Claim:
    """One arm of the ablations is said to end farther from the teacher than another.

    Args:
        worse: the arm that should have the higher KL.
        better: the arm that should have the lower one.
        text: the claim in words.
        is_ours: not the paper's, but this package's.
    """

    worse: str
    better: str
    text: str
    is_ours: bool = False


CLAIMS = (
    Claim("one_shot", "homodistil", "gradual pruning ends nearer to the teacher than one-shot pruning"),
    Claim("magnitude", "homodistil", "sensitivity is ahead of magnitude"),
    Claim("magnitude", "platon", "PLATON is ahead of magnitude"),
    Claim("movement", "homodistil", "movement falls behind sensitivity"),
    Claim("movement", "magnitude", "movement is the unstable one: it falls behind magnitude too"),
    Claim("end_0.9", "homodistil", "a late end of pruning (0.9 T, the rate held as long) hurts"),
    Claim("end_0.9", "end_0.7", "0.7 T is a better end of pruning than 0.9 T"),
    Claim("end_0.7", "homodistil", "0.5 T is a better end of pruning than 0.7 T", is_ours=True),
    Claim("no_mlm", "mlm_1", "the masked-LM term helps"),
    Claim("no_kl", "homodistil", "the KL term helps"),
    Claim("no_hidden", "homodistil", "the hidden-state term helps"),
    Claim("no_embedding", "homodistil", "the embedding term helps"),
    Claim("homodistil", "with_attention", "the attention term helps"),
    Claim(
        "outputs_late",
        "outputs_early",
        "hidden size and heads should not be pruned late (the paper: output projections)",
    ),
    Claim("random_projections", "homodistil", "projections should start as the identity", is_ours=True),
    Claim("teacher_dropout", "homodistil", "the student should have no dropout", is_ours=True),
    Claim("homodistil", "global_widths", "layers should compete for widths", is_ours=True),
    Claim("homodistil", "guard", "the discrepancy guard helps", is_ours=True),
    Claim("homodistil", "guard_tight", "a discrepancy guard that pauses at 1.05 helps", is_ours=True),
    Claim("no_rotation", "homodistil", "heads should be rotated before they are pruned", is_ours=True),
    Claim("mlm_1", "homodistil", "the masked-LM term should weigh little", is_ours=True),
    Claim("hidden_10", "homodistil", "the hidden-state term should weigh more than ten", is_ours=True),
    Claim("hidden_100", "homodistil", "the hidden-state term should weigh less than a hundred", is_ours=True),
    Claim("homodistil", "end_0.3_held", "pruning should end early and the learning rate be held", is_ours=True),
    Claim("hidden_1", "homodistil", "the hidden-state term should weigh much", is_ours=True),
    Claim("homodistil", "eight_heads", "8 heads of 24 channels are better than 12 of 16", is_ours=True),
    Claim("homodistil", "six_heads", "6 heads of 32 channels are better than 12 of 16", is_ours=True),
    Claim("eight_heads", "five_layers", "one layer of six should be dropped too, at heads alike", is_ours=True),
    Claim("eight_heads", "four_layers", "two layers of six should be dropped too, at heads alike", is_ours=True),
    Claim("homodistil", "smoothing_0.97", "scores should be averaged over more batches", is_ours=True),
    Claim("homodistil", "end_0.3", "pruning should end early (0.3 T)", is_ours=True),
    Claim("linear_rate", "homodistil", "the learning rate should be held until pruning is over", is_ours=True),
)


def paired_threshold(differences: Sequence[float]) -> float:
    """What a mean of paired differences must exceed to be no accident at 95 %, by their own spread (Student's t).

    Args:
        differences: of two arms, one a seed.

    Returns:
        `float`: infinite of a single one.
    """
    n = len(differences)
    if n < 2:
        return math.inf
    return float(student_t.ppf((1 + _CONFIDENCE) / 2, n - 1)) * statistics.stdev(differences) / math.sqrt(n)


def better_words(gains: Sequence[float], one: str, other: str, noise: Noise | None = None) -> str:
    """Which of two arms is better by `RULE`; without a noise to borrow, by paired differences' own spread.

    Args:
        gains: of the one over the other, one a seed.
        one: name of an arm.
        other: of the other.
        noise: of such a gain; None, or one that was not measured, tells nothing.

    Returns:
        `str`: words for a table; of a single seed nothing follows by its own spread.
    """
    has_noise = noise is not None and noise.std is not None
    if len(gains) < 2 and not has_noise:
        return "one seed"
    sign = noise.sign(gains) if noise is not None and has_noise else _sign(gains, paired_threshold(gains))
    return "within noise" if sign == 0 else f"{one if sign > 0 else other} is better"


def kl_differences(records: Sequence[Record], others: Sequence[Record]) -> list[float]:
    """By how much an arm ends farther from its teacher than another, seed by seed."""
    return differences(records, others, METRIC)


def by_arm(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Records of students, arm by arm."""
    arms: dict[str, list[Record]] = {}
    for record in records:
        arms.setdefault(record["arm"], []).append(record)
    return arms


def noise_of(records: Iterable[Record], compare: Compare = kl_differences) -> Noise:
    """Measure the noise at the end of the runs, as `RULE` says.

    Args:
        records: of the methods at a quarter, several seeds each.
        compare: an arm's records and HomoDistil's → differences, one a seed.

    Returns:
        [`Noise`].
    """
    arms = by_arm(records)
    return noise_of_groups([compare(group, arms.get(REFERENCE, [])) for group in _same_league(arms)])


def noise_along(records: Iterable[Record]) -> dict[int, Noise]:
    """The same at every evaluation on the way.

    Args:
        records: of the methods at a quarter, several seeds each.

    Returns:
        `dict`: step → [`Noise`].
    """
    arms = by_arm(records)
    gaps = [_gaps(arms[REFERENCE], group) for group in _same_league(arms)]
    steps = {step for group in gaps for step in group}
    return {step: noise_of_groups([group.get(step, []) for group in gaps]) for step in sorted(steps)}


def _same_league(arms: Mapping[str, Sequence[Record]]) -> list[Sequence[Record]]:
    reference = arms.get(REFERENCE, [])
    if not reference:
        return []
    limit = SAME_LEAGUE * Spread.of(metric_of(record, METRIC) for record in reference).mean
    return [
        group
        for arm, group in arms.items()
        if arm != REFERENCE and Spread.of(metric_of(record, METRIC) for record in group).mean < limit
    ]


def noise_of_groups(groups: Iterable[Sequence[float]]) -> Noise:
    """The noise of single differences.

    Args:
        groups: the differences of each arm, one a seed; arms with less than three tell too little.

    Returns:
        [`Noise`].
    """
    found = pooled_std(group for group in groups if len(group) >= _MIN_SEEDS)
    return Noise() if found is None else Noise(*found)


def verdict(
    claim: Claim, arms: Mapping[str, Sequence[Record]], noise: Noise, failed: Mapping[str, str] | None = None
) -> tuple[Spread | None, str]:
    """What the runs say of a claim.

    Args:
        claim: about two arms.
        arms: arm → records.
        noise: that a difference must exceed.
        failed: arm → why its run ended early.

    Returns:
        `(KL of the worse − KL of the better, words)`; None where one of them was not run.
    """
    found = differences(arms.get(claim.worse, ()), arms.get(claim.better, ()), METRIC)
    errors = [f"`{arm}` failed: {failed[arm]}" for arm in (claim.worse, claim.better) if failed and arm in failed]
    if not found and errors:
        return None, "; ".join(errors)
    if not found:
        missing = [f"`{arm}`" for arm in (claim.worse, claim.better) if not arms.get(arm)]
        return None, f"not run: {', '.join(missing) or 'no seed in common'}"
    spread = Spread.of(found)
    sizes = [macs_fraction(arms[arm][0]) for arm in (claim.worse, claim.better)]
    if abs(sizes[0] / sizes[1] - 1) > MACS_TOLERANCE:
        return spread, "undecided: {:.3f} against {:.3f} of the encoder MACs".format(*sizes)
    if not any(found):
        return spread, "no difference at all: the setting never acted"
    if noise.std is None:
        return spread, "undecided: the noise was not measured"
    return spread, {1: "**reproduced**", -1: "**not reproduced**", 0: "within noise"}[noise.sign(found)]


@dataclass(frozen=True)
class Along:
    """At how many evaluations one arm is nearer to its teacher than another, the first without any pruning left out.

    Args:
        nearer: beyond the noise of that step.
        farther: the other is.
        level: within the noise of that step.
    """

    nearer: int
    farther: int
    level: int

    @property
    def words(self) -> str:
        """Whether the first arm stays nearer, as the paper says of its own schedule."""
        return "**not reproduced**" if self.farther else "within noise" if self.level else "**reproduced**"

    def told(self, own: str, other: str) -> str:
        """At how many evaluations the arm of the first name is nearer than that of the second."""
        return (
            f"`{own}` is nearer than `{other}` at {self.nearer} of {self.nearer + self.farther + self.level} "
            f"evaluations, farther at {self.farther}, level at {self.level}"
        )


def along_training(lower: Sequence[Record], upper: Sequence[Record], noises: Mapping[int, Noise]) -> Along | None:
    """What the evaluations of runs say of one arm staying nearer to its teacher than another.

    Args:
        lower: records of the arm that should be nearer.
        upper: records of the other.
        noises: step → what a mean difference of seeds must exceed there.

    Returns:
        [`Along`]; None where no step has both arms and a noise.
    """
    gaps = _gaps(lower, upper)
    measured = {step: noise for step, noise in noises.items() if step > 0 and step in gaps and noise.std is not None}
    signs = [noise.borrowed_sign(gaps[step]) for step, noise in measured.items()]
    return Along(signs.count(1), signs.count(-1), signs.count(0)) if signs else None


def _gaps(own: Sequence[Record], other: Sequence[Record]) -> dict[int, list[float]]:
    """Step → the other arm's KL − the own, for each seed that both have."""
    pairs = [(_curve(one), _curve(two)) for one, two in zip(*with_common_seeds(own, other), strict=True)]
    steps = set.intersection(*(one.keys() & two.keys() for one, two in pairs)) if pairs else set()
    return {step: [two[step] - one[step] for one, two in pairs] for step in sorted(steps)}


def _curve(record: Record) -> dict[int, float]:
    return {row["step"]: row["kl"] for row in record["evaluations"]}


def with_common_seeds(records: Sequence[Record], others: Sequence[Record]) -> tuple[list[Record], list[Record]]:
    """Those records of two arms whose seeds both have, in the same order."""
    by_seed = [{seed_of(record): record for record in group} for group in (records, others)]
    seeds = sorted(by_seed[0].keys() & by_seed[1].keys())
    return [by_seed[0][seed] for seed in seeds], [by_seed[1][seed] for seed in seeds]
