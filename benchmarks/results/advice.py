"""What `homodistil plan` tells of budgets: HomoDistil beside one-shot pruning wherever sweeps ran both."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from statistics import fmean

import pandas as pd

from benchmarks.results.computation import setting_of
from benchmarks.results.students import QUARTER, SIZES, Results
from benchmarks.results.tables import ONE_SHOT
from benchmarks.results.verdicts import REFERENCE, Noise, paired
from homodistil_hf.plans.advice import Measured

SWEEPS = (*SIZES, "tokens", "tokens_planned")

_VERDICTS = {1: REFERENCE, -1: ONE_SHOT, 0: "level"}


def advice_points(results: Results, noises: Mapping[str, Noise]) -> list[Measured]:
    """What was measured: of each size and budget the shape with the most seeds, then the nearest."""
    found: dict[tuple[int, int], Measured] = {}
    quarter = results.of(QUARTER)
    for sweep in SWEEPS:
        for point in _points(results.of(sweep), noises):
            if sweep == QUARTER:
                arms = (quarter[quarter["arm"] == arm] for arm in ("one_shot_same_compute", REFERENCE))
                gaps = paired(*arms, "all_kl")
                point = replace(point, same_compute_gap=_mean(gaps) if gaps else None)
            key = (round(1 / point.encoder_macs), point.num_tokens)  # 1/8 holds those of 0.123 and of 0.126
            if key not in found or (found[key].num_seeds, -found[key].kl) < (point.num_seeds, -point.kl):
                found[key] = point
            elif point.shape == found[key].shape and not found[key].fewer_layers:
                found[key] = replace(found[key], fewer_layers=point.fewer_layers)
    return list(found.values())


def _points(students: pd.DataFrame, noises: Mapping[str, Noise]) -> list[Measured]:
    """One for each size, budget and shape that both were run with."""
    groups = students.groupby(["size", "num_tokens", "student"], sort=False)
    return [point for _, group in groups if (point := _point(group, students, noises))]


def _point(group: pd.DataFrame, students: pd.DataFrame, noises: Mapping[str, Noise]) -> Measured | None:
    own, other = (group[group["arm"] == arm] for arm in (REFERENCE, ONE_SHOT))
    own, other = own[own["seed"].isin(other["seed"])], other[other["seed"].isin(own["seed"])]
    if own.empty:
        return None
    first = own.iloc[0]
    # On all held-out text, if every student of the point was measured there.
    kl = "kl" if pd.concat([own, other])["all_kl"].isna().any() else "all_kl"
    fewer = _fewer_layers(students, own)
    num_seeds = min(len(own), *(len(gaps) for gaps in fewer.values())) if fewer else len(own)
    return Measured(
        encoder_macs=round(first["encoder_macs"], 2),
        num_tokens=int(first["num_tokens"]),
        num_seeds=len(own),
        shape=first["student"],
        learning_rate=setting_of(first["record"], "learning_rate"),
        pruning_end_fraction=setting_of(first["record"], "pruning_end_fraction"),
        kl=_mean(own[kl]),
        one_shot_kl=_mean(other[kl]),
        accuracy_kept=_mean(own["accuracy_kept"]),
        verdict=None if noises[kl].std is None else _VERDICTS[noises[kl].sign(paired(other, own, kl))],
        fewer_layers={layers: _mean(gaps) for layers, gaps in fewer.items()},
        threshold=None if noises["kl"].std is None else round(noises["kl"].threshold(num_seeds), 4),
        glue_kept=None if own["glue_kept"].isna().any() else _mean(own["glue_kept"]),
        one_shot_glue_kept=None if other["glue_kept"].isna().any() else _mean(other["glue_kept"]),
    )


def _fewer_layers(students: pd.DataFrame, own: pd.DataFrame) -> dict[str, list[float]]:
    """Layers of shallow students → KL less HomoDistil's, one a seed, of the nearest with its size and tokens."""
    first = own.iloc[0]
    alike = students[(students["size"] == first["size"]) & (students["num_tokens"] == first["num_tokens"])]
    found: dict[str, list[float]] = {}
    for _, group in alike[alike["method"] == "shallow"].groupby("arm", sort=False):
        layers, gaps = group["layers"].iloc[0], paired(group, own, "kl")
        if gaps and (layers not in found or fmean(gaps) < fmean(found[layers])):
            found[layers] = gaps
    return found


def _mean(values: Iterable[float]) -> float:
    return round(fmean(values), 4)
