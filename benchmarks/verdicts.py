"""What sweeps say about claims: the noise that a difference must exceed, and reproduced, not reproduced, or neither.

`write_results.py` lays the answers out. A difference is between runs of one seed, which see the same batches and are
evaluated on the same masks.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from scipy.stats import t as student_t

from homodistil_hf.depth import MACS_TOLERANCE
from homodistil_hf.sweep.statistics import Record, Spread, differences, metric_of, pooled_std, seed_of
from homodistil_hf.sweep.tables import macs_fraction

METRIC = "kl"
REFERENCE = "homodistil"
_CONFIDENCE = 0.95
_SAME_LEAGUE = 2.0  # methods beyond this multiple of HomoDistil's KL say nothing about the noise near it

RULE = (
    "**Noise.** *s* is the standard deviation over seeds of the difference in KL, seed by seed, between a method and "
    "HomoDistil at a quarter of the MACs, pooled over the methods whose KL is below twice HomoDistil's. The mean "
    "difference of *n* seeds counts when it is beyond *t*·*s*/√*n*, *t* of Student's distribution for *s*' degrees "
    f"of freedom at {_CONFIDENCE:.0%}; all else is *within noise*."
)


@dataclass(frozen=True)
class Noise:
    """How much two runs differ for no reason.

    Args:
        std: of the difference in KL between two runs of one seed; None where it was not measured.
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
        """1 or -1 for a mean difference that counts, 0 for noise."""
        mean = sum(differences) / len(differences)
        return 0 if abs(mean) <= self.threshold(len(differences)) else int(math.copysign(1, mean))


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
    Claim("one_shot", "default", "gradual pruning ends nearer to the teacher than one-shot pruning"),
    Claim("magnitude", "default", "sensitivity is ahead of magnitude"),
    Claim("magnitude", "platon", "PLATON is ahead of magnitude"),
    Claim("movement", "default", "movement falls behind sensitivity"),
    Claim("end_0.9", "default", "a late end of pruning (0.9 T) hurts"),
    Claim("end_0.9", "end_0.7", "0.7 T is a better end of pruning than 0.9 T"),
    Claim("end_0.7", "default", "0.5 T is a better end of pruning than 0.7 T", is_ours=True),
    Claim("no_mlm", "mlm_1", "the masked-LM term helps"),
    Claim("no_kl", "default", "the KL term helps"),
    Claim("no_hidden", "default", "the hidden-state term helps"),
    Claim("no_embedding", "default", "the embedding term helps"),
    Claim("default", "with_attention", "the attention term helps"),
    Claim("outputs_late", "outputs_early", "output projections should not be pruned late"),
    Claim("random_projections", "default", "projections should start as the identity", is_ours=True),
    Claim("teacher_dropout", "default", "the student should have no dropout", is_ours=True),
    Claim("default", "global_widths", "layers should compete for widths", is_ours=True),
    Claim("default", "guard", "the discrepancy guard helps", is_ours=True),
    Claim("default", "guard_tight", "a discrepancy guard that pauses at 1.05 helps", is_ours=True),
    Claim("no_rotation", "default", "heads should be rotated before they are pruned", is_ours=True),
    Claim("mlm_1", "default", "the masked-LM term should weigh little", is_ours=True),
    Claim("hidden_10", "default", "the hidden-state term should weigh more than ten", is_ours=True),
    Claim("hidden_100", "default", "the hidden-state term should weigh less than a hundred", is_ours=True),
    Claim("default", "end_0.3_held", "pruning should end early and the learning rate be held", is_ours=True),
    Claim("hidden_1", "default", "the hidden-state term should weigh much", is_ours=True),
    Claim("default", "five_layers", "one layer of six should be dropped as well", is_ours=True),
    Claim("default", "four_layers", "two layers of six should be dropped as well", is_ours=True),
    Claim("default", "smoothing_0.97", "scores should be averaged over more batches", is_ours=True),
    Claim("default", "end_0.3", "pruning should end early (0.3 T)", is_ours=True),
    Claim("linear_rate", "default", "the learning rate should be held until pruning is over", is_ours=True),
)


def by_arm(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Records of students, arm by arm."""
    arms: dict[str, list[Record]] = {}
    for record in records:
        arms.setdefault(record["arm"], []).append(record)
    return arms


def noise_of(records: Iterable[Record]) -> Noise:
    """Measure the noise, as `RULE` says.

    Args:
        records: of the methods at a quarter, several seeds each.

    Returns:
        [`Noise`].
    """
    arms = by_arm(records)
    reference = arms.get(REFERENCE, [])
    if not reference:
        return Noise()
    limit = _SAME_LEAGUE * Spread.of(metric_of(record, METRIC) for record in reference).mean
    near = [
        differences(group, reference, METRIC)
        for arm, group in arms.items()
        if arm != REFERENCE and Spread.of(metric_of(record, METRIC) for record in group).mean < limit
    ]
    found = pooled_std(near)
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


def points_below(lower: Sequence[Record], upper: Sequence[Record]) -> tuple[int, int]:
    """At how many evaluations one arm's mean KL is below another's.

    Args:
        lower: records of an arm that prunes gradually.
        upper: records of the arm that it is compared with.

    Returns:
        `(points below, points)`, of those after the first student was pruned that both have.
    """
    curves = [_mean_curve(group) for group in (lower, upper)]
    steps = [step for step in sorted(curves[0].keys() & curves[1].keys()) if step > 0]
    return sum(curves[0][step] < curves[1][step] for step in steps), len(steps)


def along_training(lower: Sequence[Record], upper: Sequence[Record], noise: Noise) -> str:
    """What the evaluations of runs say of one arm staying below another.

    Args:
        lower: records of the arm that should be below.
        upper: records of the other.
        noise: that a mean difference of seeds must exceed.

    Returns:
        `str`: words.
    """
    if noise.std is None:
        return "undecided: the noise was not measured"
    lower, upper = with_common_seeds(lower, upper)
    pairs = [(_mean_curve([one]), _mean_curve([other])) for one, other in zip(lower, upper, strict=True)]
    steps = set.intersection(*(one.keys() & other.keys() for one, other in pairs)) if pairs else set()
    signs = {noise.sign([other[step] - one[step] for one, other in pairs]) for step in steps if step > 0}
    if not signs:
        return "not run: no evaluation in common"
    return "**not reproduced**" if -1 in signs else "within noise" if 0 in signs else "**reproduced**"


def with_common_seeds(records: Sequence[Record], others: Sequence[Record]) -> tuple[list[Record], list[Record]]:
    """Those records of two arms whose seeds both have, in the same order."""
    by_seed = [{seed_of(record): record for record in group} for group in (records, others)]
    seeds = sorted(by_seed[0].keys() & by_seed[1].keys())
    return [by_seed[0][seed] for seed in seeds], [by_seed[1][seed] for seed in seeds]


def _mean_curve(group: Sequence[Record]) -> dict[int, float]:
    curves = [{row["step"]: row["kl"] for row in record["evaluations"]} for record in group]
    steps = set.intersection(*map(set, curves)) if curves else set()
    return {step: Spread.of(curve[step] for curve in curves).mean for step in steps}
