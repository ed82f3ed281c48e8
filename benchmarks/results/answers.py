"""The part of docs/results.md that stands first: the questions that the runs were for, and what they say.

The words are fixed, numbers and verdicts come from the records; a question whose runs are missing is left out. The
tables that the answers come from are laid out by `write_results.py` and `held_out_results.py`.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from benchmarks.results.glue import glue_differences, noises_of, tasks_kept, teachers_mean
from benchmarks.results.held_out_results import HeldOut
from benchmarks.results.readme import SIZES
from benchmarks.results.sweep_models import other_axes
from benchmarks.results.verdicts import (
    PAPERS_WINDOW,
    REFERENCE,
    Noise,
    Noises,
    along_training,
    better_words,
    by_arm,
    noise_along,
)
from homodistil_hf.experiments.sweep.folder import IMPOSSIBLE, TAKEN_FROM, read_records, trained
from homodistil_hf.experiments.sweep.statistics import Record, Spread, differences
from homodistil_hf.experiments.sweep.tables import markdown_table

BARS = {"methods_half": ("a half", 0.97), "methods_quarter": ("a quarter", 0.92)}
"""Sweep → its students' size, and the share of the teacher's mean that they should keep."""

HELD_OUT_METRICS = {"KL": ("kl", -1), "agreement": ("agreement", 1), "accuracy": ("mlm_accuracy", 1)}
"""Name → metric on all held-out text, and 1 where more is better."""

ALL_TEXT = "on all held-out text"
_QUARTER = "methods_quarter"
_BUDGETS = "tokens_planned"
_OUTSIDE = ("left_out", "repeated")
"""Folders of records of no sweep in the package: their hours count too."""

_ONE_SHOT = "one_shot"
_SAME_COMPUTATION = "one_shot_same_compute"
_OURS = "HomoDistil"
_NOT_RUN = "not run"

Sweeps: TypeAlias = Mapping[str, Sequence[Record]]
"""Sweep → records."""

Arms: TypeAlias = Mapping[str, Sequence[Record]]

Row: TypeAlias = tuple[str, str, str]
"""Question, what was measured, answer."""

Found: TypeAlias = Mapping[str, Sequence[float]]
"""What stands beside HomoDistil → differences, one a seed."""

TEXT = (
    "Computed from the records of the sections below. Differences are the other method's less HomoDistil's with the "
    "same seed: above 0 is farther from the teacher in KL, better in accuracy, agreement and GLUE. What has no ± is "
    "of one seed. Figures are of the sweeps' 256 blocks unless all held-out text is named. *Within noise* is as the "
    "sections define it."
)


def answers_section(sweeps: Sweeps, folder: Path) -> list[str]:
    """The section, if any question has an answer.

    Args:
        sweeps: of the page.
        folder: of the results, for those on all held-out text.

    Returns:
        `list[str]`: one Markdown text, or none.
    """
    quarter = trained(sweeps.get(_QUARTER, []))
    held_out = HeldOut.read(folder)
    rows = [
        *kept_rows(sweeps),
        *baseline_rows(by_arm(quarter), noises_of(quarter), impossible_arms(sweeps.get(_QUARTER, []))),
        *computation_rows(held_out),
        *size_rows(held_out),
        *budget_rows(trained(sweeps.get(_BUDGETS, [])), held_out),
        *order_rows(quarter),
        *hours_rows(sweeps | {name: read_records(folder / name) for name in _OUTSIDE}),
    ]
    table = markdown_table(["question", "measured", "answer"], rows)
    return ["\n".join(["## In short", "", TEXT, "", *table, ""])] if rows else []


def kept_rows(sweeps: Sweeps) -> list[Row]:
    """Whether students keep enough of their teacher's mean over the tasks."""
    rows = []
    for name, (size, bar) in BARS.items():
        records = sweeps.get(name, [])
        if shares := tasks_kept(by_arm(trained(records)).get(REFERENCE, []), teachers_mean(records)):
            seeds = "one seed" if len(shares) == 1 else f"by the mean of {len(shares)} seeds"
            question = f"Does {size} keep {100 * bar:.0f} % of its teacher's mean over five GLUE tasks?"
            kept = Spread.of(shares)
            rows.append((question, f"{kept:.1%}", f"**{'yes' if kept.mean >= bar else 'no'}**, {seeds}"))
    return rows


def impossible_arms(records: Sequence[Record]) -> list[str]:
    """Arms of a sweep that can't exist."""
    return list(dict.fromkeys(record["arm"] for record in records if record["status"] == IMPOSSIBLE))


def baseline_rows(arms: Arms, noises: Noises, impossible: Sequence[str] = ()) -> list[Row]:
    """HomoDistil beside every baseline of a quarter: arms that carry the name of another method.

    Those of other shapes, depths and numbers of steps have names of their own; those that can't exist are named.
    """
    own = arms.get(REFERENCE, [])
    others = {arm: group for arm, group in arms.items() if arm != REFERENCE and arm == group[0]["method"]}
    by_metric: dict[str, Found] = {
        metric: {f"`{arm}`": differences(group, own, metric) for arm, group in others.items()}
        for metric in ("kl", "mlm_accuracy")
    }
    by_tasks = {f"`{arm}`": glue_differences(group, own) for arm, group in others.items()}
    compared = {
        "Is a quarter nearer to its teacher than by any baseline with the same tokens? By KL, nats": (
            by_metric["kl"],
            kl_words(by_metric["kl"], noises.kl, "the baseline"),
        ),
        "The same by masked-LM accuracy": (
            by_metric["mlm_accuracy"],
            gain_words(by_metric["mlm_accuracy"], noises.accuracy),
        ),
        "The same by the mean of the GLUE tasks": (by_tasks, gain_words(by_tasks, noises.tasks)),
    }
    absent = "".join(f"; `{arm}`: can't exist at this size" for arm in impossible)
    return [
        (question, differences_text(found), f"**{over_all(words)}**; {grouped(words)}{absent}")
        for question, (found, words) in compared.items()
        if any(found.values())
    ]


def gain_words(found: Found, noise: Noise) -> dict[str, str]:
    """Each baseline → the verdict on what it gains."""
    return {
        name: better_words(gains, "the baseline", _OURS, noise) if gains else _NOT_RUN for name, gains in found.items()
    }


def kl_words(found: Found, noise: Noise, other: str) -> dict[str, str]:
    """Each of what stands beside HomoDistil → the verdict on its differences in KL."""
    return {name: noise.words(gap, other, _OURS) if gap else _NOT_RUN for name, gap in found.items()}


def over_all(words: Mapping[str, str]) -> str:
    """Whether HomoDistil is ahead of all."""
    if all(verdict.startswith(_OURS) for verdict in words.values()):
        return "yes"
    is_behind = any(verdict.startswith("the baseline") for verdict in words.values())
    return "no" if is_behind else "not shown for all"


def computation_rows(held_out: HeldOut) -> list[Row]:
    """One-shot pruning with as many steps as cost what HomoDistil's cost, on all held-out text."""
    found = {
        name: held_out.gaps(_QUARTER, _SAME_COMPUTATION, metric=metric)
        for name, (metric, _) in HELD_OUT_METRICS.items()
    }
    if not any(found.values()):
        return []
    gains = {name: [sign * gap for gap in found[name]] for name, (_, sign) in HELD_OUT_METRICS.items()}
    words = {name: better_words(gain, "one-shot", _OURS) for name, gain in gains.items()}
    question = "And with the same computation instead of the same tokens, beside one-shot pruning?"
    return [(question, f"{differences_text(found)}, {ALL_TEXT}", grouped(words))]


def size_rows(held_out: HeldOut) -> list[Row]:
    """One-shot pruning at the sizes that the baselines are not compared at."""
    found = {size: held_out.gaps(name, _ONE_SHOT) for name, size in SIZES.items() if name != _QUARTER}
    return one_shot_rows("And at a half, at an eighth? One-shot pruning, by KL, nats", found, held_out)


def budget_rows(done: Sequence[Record], held_out: HeldOut) -> list[Row]:
    """One-shot pruning at each budget of tokens."""
    own = sorted((record for record in done if record["arm"] == REFERENCE), key=lambda record: record["num_tokens"])
    found = {
        f"{record['num_tokens'] / 1e6:.2f} M": held_out.gaps(_BUDGETS, _ONE_SHOT, other_axes(record)) for record in own
    }
    return one_shot_rows("With how many tokens do slow and one-shot pruning meet? By KL, nats", found, held_out)


def one_shot_rows(question: str, found: Found, held_out: HeldOut) -> list[Row]:
    found = {place: gap for place, gap in found.items() if gap}
    seeds = "; one seed each" if all(len(gap) == 1 for gap in found.values()) else ""
    answer = f"{grouped(kl_words(found, held_out.noise, 'one-shot'))}{seeds}"
    return [(question, f"{differences_text(found)}, {ALL_TEXT}", answer)] if found else []


def order_rows(quarter: Sequence[Record]) -> list[Row]:
    """HomoDistil beside one-shot pruning along training, in the paper's window."""
    arms = by_arm(quarter)
    along = along_training(arms.get(PAPERS_WINDOW, []), arms.get(_ONE_SHOT, []), noise_along(quarter))
    question = "Is the paper's order reproduced at every point of training (iterative nearer than one-shot)?"
    return [(question, along.told(PAPERS_WINDOW, _ONE_SHOT), along.words)] if along else []


def hours_rows(sweeps: Sweeps) -> list[Row]:
    """What the trainings took, and those that lay slow and one-shot pruning beside each other."""
    every = own_seconds(record for records in sweeps.values() for record in records)
    if not every:
        return []
    beside = own_seconds(
        record
        for name, records in sweeps.items()
        if name.startswith(("methods_", "tokens")) or name == "computation"
        for record in records
        if record["arm"] in (REFERENCE, _ONE_SHOT) or record["arm"].startswith(f"{_ONE_SHOT}_")
    )
    hours, share = sum(every.values()) / 3600, sum(beside.values()) / sum(every.values())
    answer = (
        f"{share:.0%} of these hours for slow beside one-shot pruning (`{REFERENCE}`, `{_ONE_SHOT}…` of the methods, "
        "budgets and equal computation); the task model, folding, rotation and all fine-tunings come on top, the "
        "records don't hold their times"
    )
    return [
        ("What did the trainings take?", f"{hours:.1f} hours, {len(every)} trainings with their evaluations", answer)
    ]


def own_seconds(records: Iterable[Record]) -> dict[tuple[str, float], float]:
    """Run → seconds; a run whose record stands in several sweeps counts once, one that was made twice counts twice."""
    own = [record for record in trained(records) if TAKEN_FROM not in record]
    return {(record["digest"], record["seconds"]): record["seconds"] for record in own}


def differences_text(found: Found) -> str:
    return ", ".join(f"{name} {Spread.of(gap):+.3f}" for name, gap in found.items() if gap)


def grouped(words: Mapping[str, str]) -> str:
    """Verdicts behind the names that they are about."""
    names: dict[str, list[str]] = {}
    for name, verdict in words.items():
        names.setdefault(verdict, []).append(name)
    return "; ".join(f"{', '.join(group)}: {verdict}" for verdict, group in names.items())
