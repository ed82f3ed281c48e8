"""The measured points that `homodistil plan` shows for a budget: students of the sweeps of sizes and of tokens."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from benchmarks.results.fine_tunings import BY_TEACHER
from benchmarks.results.students import AT_ONCE, DEFAULTS, GRADUAL, LENGTHS, TOKENS, Results
from homodistil_hf.plans.advice import Measured


def advice_points(results: Results) -> list[Measured]:
    """One for each size and budget."""
    students = results.of(DEFAULTS, LENGTHS, TOKENS)
    groups = students[students["variant"].isin([*GRADUAL, *AT_ONCE])].groupby(["shape", "num_tokens"], sort=False)
    return [_point(_gradual_ones(group), _tuned(group, results)) for _, group in groups]


def to_json(teacher: str, measured: Sequence[Measured]) -> dict[str, Any]:
    """Return measurements, in any order, as the JSON values that `read_advice` reads."""
    points = sorted(measured, key=lambda point: (point.encoder_macs, point.num_tokens))
    return {"teacher": teacher, "points": [vars(point) for point in points]}


def _gradual_ones(group: pd.DataFrame) -> pd.DataFrame:
    """The students of the default, where there are some; else those that were pruned at once."""
    is_default = group["variant"].isin(GRADUAL)
    return group[is_default] if is_default.any() else group


def _tuned(group: pd.DataFrame, results: Results) -> pd.DataFrame:
    """The students that were fine-tuned beside the teacher: those of the default, where there are some."""
    tuned = results.fine_tuned[results.fine_tuned["way"] == BY_TEACHER]
    return _gradual_ones(tuned.merge(group[["variant", "axes"]].drop_duplicates(), on=["variant", "axes"]))


def _point(group: pd.DataFrame, tuned: pd.DataFrame) -> Measured:
    first = group.iloc[0]
    kl = "kl" if group["all_kl"].isna().any() else "all_kl"
    kept = {name: round(float(values.mean()), 4) for name, values in tuned[["kept", "above"]].items()}
    return Measured(
        encoder_macs=round(first["encoder_macs"], 2),
        num_tokens=int(first["num_tokens"]),
        num_seeds=len(group),
        shape=first["shape"],
        kl=round(group[kl].mean(), 4),
        accuracy_kept=round(group["accuracy_kept"].mean(), 4),
        glue_kept=kept["kept"] if len(tuned) else None,
        glue_above=kept["above"] if len(tuned) else None,
    )
