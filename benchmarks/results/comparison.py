"""The engine of the page: what a comparison, a question and a claim are, and how each becomes lines of a table."""

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from benchmarks.results.students import QUARTER, SAME_RUNS, Results
from benchmarks.results.verdicts import METRICS, REFERENCE, Difference, Noise, Tally, noise_of, paired
from homodistil_hf.evaluation.records import Spread
from homodistil_hf.plans.fewer_layers import MACS_TOLERANCE
from homodistil_hf.tables import markdown_table

_HEADINGS = {"size": "encoder MACs", "num_tokens": "tokens", "axes": "with"}

Partner = Callable[[str, Sequence[str]], str | None]
"""The name of an arm, or of whatever else is compared, and all names → the one that it stands beside."""


def the_reference(name: str, names: Sequence[str]) -> str | None:
    """Everything beside HomoDistil."""
    return REFERENCE


def the_first(name: str, names: Sequence[str]) -> str | None:
    """Everything beside the first."""
    return names[0]


def its_own_shape(name: str, names: Sequence[str]) -> str | None:
    """`one_shot_X` and `pruned_first_X` beside the gradual `X`."""
    return next((name.removeprefix(way) for way in ("one_shot_", "pruned_first_") if name.startswith(way)), None)


def its_method(name: str, names: Sequence[str]) -> str | None:
    """A variant beside the method as it is."""
    return name.partition("_hold_")[0]


@dataclass(frozen=True)
class Found:
    """A pair that was compared: one less the other."""

    one: str
    other: str
    place: Mapping[str, Any]  # column → value, of what both have in common
    differences: Mapping[str, Difference]  # by metric, empty where it was not measured


@dataclass(frozen=True)
class Comparison:
    """Students beside others of the same seeds: one row of a table a pair."""

    metrics: Sequence[str] = ("kl",)
    beside: Partner = the_reference
    of: str = "arm"  # the column whose values are compared
    within: Sequence[str] = ()  # columns that both must have in common
    only: Sequence[str] = ()  # the arms whose differences are told; empty = all
    shown: Sequence[str] = ()  # columns of the first that the table tells too
    text: str = ""  # above the table

    def found(self, students: pd.DataFrame, noises: Mapping[str, Noise]) -> Iterator[Found]:
        """Compare pairs of a sweep's students that have a seed in common, by the noise of each metric."""
        groups = students.groupby(list(self.within)) if self.within else [((), students)]
        for key, group in groups:
            names = list(dict.fromkeys(group[self.of]))
            for one in names:
                other = self.beside(one, names)
                if other == one or other not in names or (self.only and one not in self.only):
                    continue
                pair = [group[group[self.of] == name] for name in (one, other)]
                values = {metric: Difference(paired(*pair, metric), metric, noises[metric]) for metric in self.metrics}
                place = dict(zip(self.within, key, strict=True))
                if any(difference.values for difference in values.values()):
                    yield Found(one, other, place | {name: pair[0][name].iloc[0] for name in self.shown}, values)

    def lines(self, students: pd.DataFrame, noises: Mapping[str, Noise]) -> list[str]:
        """The table in Markdown, none where nothing was measured."""
        found = list(self.found(students, noises))
        if not found:
            return []
        places = [_HEADINGS.get(column, column) for column in found[0].place]
        rows = [
            [f"`{one.one}` − `{one.other}`", *map(shown, one.place.values()), *map(str, one.differences.values())]
            for one in found
        ]
        text = [self.text, ""] if self.text else []
        return [*text, *markdown_table(["", *places, *(METRICS[name].heading for name in self.metrics)], rows), ""]


@dataclass(frozen=True)
class Question:
    """What stands first on the page: HomoDistil beside others, and whether it is ahead in all."""

    text: str
    sweeps: Sequence[str]  # whose students are compared
    comparison: Comparison
    label: str = "arm"  # what tells the differences apart: "arm", "metric", or a column of `comparison.within`

    def row(self, results: Results, noises: Mapping[str, Noise]) -> list[str] | None:
        """Question, what was measured, and the answer; None where nothing was."""
        found = self.comparison.found(results.of(*self.sweeps), noises)
        parts = [
            ({"arm": f"`{one.one}`", "metric": METRICS[metric].heading, **one.place}[self.label], difference)
            for one in found
            for metric, difference in one.differences.items()
            if difference.values
        ]
        if not parts:
            return None
        tally = Tally.of(difference.behind for _, difference in parts)
        measured = "; ".join(f"{shown(label)} {difference}" for label, difference in parts)
        everywhere = ", on all held-out text" if self.comparison.metrics[0].startswith("all_") else ""
        return [self.text, measured + everywhere, f"{tally.answer}: {tally}{self._absent(results, dict(parts))}"]

    def _absent(self, results: Results, told: Container[str]) -> str:
        impossible = [arm for sweep in self.sweeps for arm in results.impossible(sweep)]
        arms = [arm for arm in self.comparison.only if self.label == "arm" and f"`{arm}`" not in told]
        words = {True: "can't exist at this size", False: "not run"}
        return "".join(f"; `{arm}`: {words[arm in impossible]}" for arm in arms)


@dataclass(frozen=True)
class Claim:
    """One arm of the ablations is said to end farther from the teacher than another, by the paper or by us."""

    worse: str
    better: str
    text: str
    is_ours: bool = False

    def row(self, students: pd.DataFrame, noise: Noise) -> list[str]:
        """The claim, whose it is, the difference and what it says."""
        arms = [students[students["arm"] == arm] for arm in (self.worse, self.better)]
        values = paired(*arms, "kl")
        spread = f"{Spread.of(values):+.3f}" if values else "–"
        claim = [self.text, "this package" if self.is_ours else "the paper", f"`{self.worse}` − `{self.better}`"]
        return [*claim, spread, self._verdict(arms, values, noise)]

    def _verdict(self, arms: Sequence[pd.DataFrame], values: Sequence[float], noise: Noise) -> str:
        if not values:
            missing = [f"`{name}`" for name, arm in zip((self.worse, self.better), arms, strict=True) if arm.empty]
            return f"not run: {', '.join(missing) or 'no seed in common'}"
        sizes = [arm["encoder_macs"].iloc[0] for arm in arms]
        if abs(sizes[0] / sizes[1] - 1) > MACS_TOLERANCE:
            return "undecided: {:.3f} against {:.3f} of the encoder MACs".format(*sizes)
        if not any(values):
            return "no difference at all: the setting never acted"
        if Difference(values, "kl", noise).verdict == "undecided":
            return "undecided: the noise was not measured"
        return {1: "**reproduced**", -1: "**not reproduced**", 0: "within noise"}[noise.sign(values)]


def claim_lines(claims: Iterable[Claim], students: pd.DataFrame, noise: Noise) -> list[str]:
    """All claims in one table."""
    rows = [claim.row(students, noise) for claim in claims]
    return [*markdown_table(["claim", "of", "difference in KL", "nats", "verdict"], rows), ""]


def noises_of(results: Results) -> dict[str, Noise]:
    """Metric → the noise of a difference, measured at a quarter."""
    students = {metric: results.of(SAME_RUNS if metric.startswith("all_") else QUARTER) for metric in METRICS}
    return {metric: noise_of(table, metric) for metric, table in students.items() if metric in table}


def shown(value: Any) -> str:
    """A value of a column as it stands in a table."""
    return value if isinstance(value, str) else f"{value / 1e6:.2f} M"
