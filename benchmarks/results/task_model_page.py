"""The section on one task model, two ways: pruned on its task, or pruned first and fine-tuned. Nothing is measured."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from benchmarks.results.students import machine_words
from benchmarks.results.verdicts import paired
from benchmarks.results.words import words
from homodistil_hf.evaluation.records import Spread
from homodistil_hf.tables import markdown_table

_TEACHER, _ON_TASK, _NO_LABELS = "teacher", "pruned_on_task", "pruned_on_task_no_labels"
_FINE_TUNED, _DISTILLED = "_fine_tuned", "_distilled"
_WORDS = {
    _TEACHER: "the teacher, fine-tuned",
    _ON_TASK: "it, pruned while distilled on the task",
    "one_shot_on_task": "it, pruned at once, then distilled on the task",
    _NO_LABELS: "as `pruned_on_task`, without the task's own loss (`task_weight=0`)",
    _FINE_TUNED: "pruned on general text, then fine-tuned with the labels",
    _DISTILLED: "pruned on general text, then distilled from the fine-tuned teacher, with the labels",
}


def task_model_lines(found: Mapping[str, Any] | None) -> list[str]:
    """The section, from what the study wrote; nothing if it was not begun."""
    if not found:
        return []
    records = pd.DataFrame(found["records"])
    minutes = records["seconds"].sum() / 60
    runs = {arm: records[(records["arm"] == arm) & ~records["is_search"]] for arm in found["arms"]}
    done = {arm: group for arm, group in runs.items() if not group.empty}
    absent = [
        f"`{arm},seed={seed}`"
        for arm, group in runs.items()
        for seed in found["seeds"]
        if seed not in set(group["seed"])
    ]
    absent += [] if any(arm.endswith(_FINE_TUNED) for arm in runs) else ["every student pruned on general text"]
    return [
        words("task_model", **found["options"], **found["data"]),
        *_score_rows(done),
        *_difference_rows(done, found["data"]["num_dev_rows"]),
        *_search_rows(found, records[records["is_search"]]),
        *([f"Not run: {', '.join(absent)}.", ""] if absent else []),
        f"Machine: {machine_words(found['machine'])}. {len(records)} trainings took {minutes:.0f} minutes together, "
        "searches and measuring included, beside other work.",
        "",
    ]


def _score_rows(done: Mapping[str, pd.DataFrame]) -> list[str]:
    rows = []
    for arm, group in done.items():
        words = next(words for end, words in _WORDS.items() if arm == end or (end[0] == "_" and arm.endswith(end)))
        first, teacher = group.iloc[0], done[_TEACHER].set_index("seed")["accuracy"]
        kept = (group.set_index("seed")["accuracy"] / teacher).dropna()
        costs = [f"{first[name] / 1e6:.2f} M" for name in ("num_general_tokens", "num_task_tokens")]
        scores = [str(Spread.of(values)) for values in (group["accuracy"], kept, group["agreement"], group["kl"])]
        rows.append([arm, words, *costs, f"{first['num_steps']:,}", f"{first['learning_rate']:g}", *scores])
    headings = ["", "what it is", "general tokens", "task tokens", "task steps", "learning rate"]
    return [*markdown_table([*headings, "accuracy", "kept", "agreement", "KL, nats"], rows), ""]


def _difference_rows(done: Mapping[str, pd.DataFrame], num_rows: int) -> list[str]:
    """Differences in accuracy, seed by seed."""
    general = [arm for arm in done if arm.endswith(_FINE_TUNED)]
    pairs = [*((_ON_TASK, arm) for arm in general), *((_with_guide(arm), arm) for arm in general)]
    rows = []
    for one, other in [*pairs, (_ON_TASK, "one_shot_on_task"), (_ON_TASK, _NO_LABELS)]:
        gains = paired(done[one], done[other], "accuracy") if one in done and other in done else []
        if gains:
            spread, limit = Spread.of(gains), two_standard_errors(done[other]["accuracy"].mean(), num_rows)
            verdict = "within noise" if abs(spread.mean) <= limit else "**better**" if spread.mean > 0 else "**worse**"
            rows.append([f"`{one}` − `{other}`", f"{spread:+.3f}, {verdict}", f"{limit:.3f}"])
    headings = ["", "difference in accuracy, seed by seed", "two standard errors"]
    return [words("standard_error"), *markdown_table(headings, rows), ""] if rows else []


def _with_guide(arm: str) -> str:
    return arm.removesuffix(_FINE_TUNED) + _DISTILLED


def two_standard_errors(accuracy: float, num_rows: int) -> float:
    """Of a difference between two accuracies like this one, each measured on so many rows."""
    return 2 * math.sqrt(2 * accuracy * (1 - accuracy) / num_rows)


def _search_rows(found: Mapping[str, Any], searches: pd.DataFrame) -> list[str]:
    rates = found["options"]["learning_rates"]
    rows, at_the_edge = [], []
    for arm, described in found["arms"].items():
        scores = searches[searches["arm"] == arm].set_index("learning_rate")["accuracy"].reindex(rates)
        if described["rate_of"] != arm:
            rows.append([arm, f"that of `{described['rate_of']}`", *[""] * (len(rates) - 1)])
        elif scores.notna().any():
            rows.append([arm, *("–" if math.isnan(score) else f"{score:.3f}" for score in scores)])
        if scores.notna().all() and scores.max() in (scores.iloc[0], scores.iloc[-1]):
            at_the_edge.append(f"`{arm}`")
    edges = f"Best at the first or last of them, so perhaps better beyond: {', '.join(at_the_edge)}."
    text = "Accuracy on the held-out training rows at each learning rate tried:"
    table = markdown_table(["", *(f"{rate:g}" for rate in rates)], rows)
    return [text, "", *table, "", *([edges, ""] if at_the_edge else [])]
