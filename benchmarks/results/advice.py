"""The measured points that `homodistil plan` shows for a budget: students of the sweeps of sizes and of tokens."""

import pandas as pd

from benchmarks.results.fine_tunings import BY_TEACHER
from benchmarks.results.students import AT_ONCE, DEFAULTS, GRADUAL, LENGTHS, TOKENS, Results
from homodistil_hf.plans.advice import Measured


def advice_points(results: Results) -> list[Measured]:
    """One for each size and budget."""
    students = results.of(DEFAULTS, LENGTHS, TOKENS)
    groups = students[students["variant"].isin([*GRADUAL, *AT_ONCE])].groupby(["shape", "num_tokens"], sort=False)
    return [_point(_gradual_ones(group), results) for _, group in groups]


def _gradual_ones(group: pd.DataFrame) -> pd.DataFrame:
    """The students of the default, where there are some; else those that were pruned at once."""
    is_default = group["variant"].isin(GRADUAL)
    return group[is_default] if is_default.any() else group


def _point(group: pd.DataFrame, results: Results) -> Measured:
    first = group.iloc[0]
    kl = "kl" if group["all_kl"].isna().any() else "all_kl"
    found = results.fine_tuned
    is_its = (found["variant"] == first["variant"]) & (found["way"] == BY_TEACHER) & (found["axes"] == first["axes"])
    kept = {name: round(float(values.mean()), 4) for name, values in found[is_its][["kept", "above"]].items()}
    return Measured(
        encoder_macs=round(first["encoder_macs"], 2),
        num_tokens=int(first["num_tokens"]),
        num_seeds=len(group),
        shape=first["shape"],
        kl=round(group[kl].mean(), 4),
        accuracy_kept=round(group["accuracy_kept"].mean(), 4),
        glue_kept=kept["kept"] if is_its.any() else None,
        glue_above=kept["above"] if is_its.any() else None,
    )
