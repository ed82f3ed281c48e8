"""The part of docs/results.md that comes from `benchmarks/task_model.py`: one task model, two ways."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine_words import machine_words
from homodistil_hf.experiments.sweep.statistics import Spread
from homodistil_hf.experiments.sweep.tables import markdown_table

TASK_TEACHER, ON_TASK, NO_LABELS = "teacher", "pruned_on_task", "pruned_on_task_no_labels"
FINE_TUNED, DISTILLED = "_fine_tuned", "_distilled"
COMMAND = (
    "`python -m benchmarks.results.task_model --general "
    "'runs/sweeps/methods_quarter/twelve_heads,seed=0/student' --seeds 0`"
)
WORDS = {
    TASK_TEACHER: "the teacher, fine-tuned",
    ON_TASK: "it, pruned while distilled on the task",
    "one_shot_on_task": "it, pruned at once, then distilled on the task",
    NO_LABELS: "as `pruned_on_task`, without the task's own loss (`task_weight=0`)",
    FINE_TUNED: "pruned on general text, then fine-tuned with the labels",
    DISTILLED: "pruned on general text, then distilled from the fine-tuned teacher, with the labels",
}

Record = Mapping[str, Any]
Runs = dict[str, dict[int, Record]]


def task_model_sections(folder: Path) -> list[str]:
    """The section, if the comparison was begun."""
    file = folder / "task_model.json"
    if not file.is_file():
        return []
    results = json.loads(file.read_text(encoding="utf-8"))
    runs: Runs = {arm: {} for arm in results["arms"]}
    for record in results["records"]:
        if not record["is_search"]:
            runs[record["arm"]][record["seed"]] = record
    lines = [
        "## A task model: pruned on its task, or pruned first and fine-tuned",
        "",
        COMMAND,
        "",
        conditions(results),
        "",
        *(line for note in results.get("notes", ()) for line in (note, "")),
        *table(results, runs),
        "",
        *readings(results, runs),
        "",
        "Accuracy on the held-out training rows at each learning rate tried:",
        "",
        *searches(results),
        "",
        *missing(results, runs),
        "",
        machine_line(results),
        "",
    ]
    return ["\n".join(lines)]


def conditions(results: Mapping[str, Any]) -> str:
    options, data = results["options"], results["data"]
    learned, held_out = data["num_search_rows"]
    return (
        f"SST-2 with its training rows capped at {data['num_train_rows']:,} (of 67,349; always the same), measured on "
        f"the {data['num_dev_rows']:,} dev rows. Students: `{options['student']}`. "
        f"Batches of {options['batch_size']} rows of at most {options['max_length']} tokens, bf16; epochs of "
        f"fine-tuning: {options['num_train_epochs']}, of pruning on the task: {options['num_pruning_epochs']}. "
        f"Each learning rate was chosen with seed 0 in {options['num_search_epochs']} epoch(s) on {learned:,} of the "
        f"training rows by the accuracy on {held_out:,} others, with a teacher that had not seen those either. "
        "Pruning on the task starts from the fine-tuned teacher of the same seed and has its hidden states as a "
        "target as well; the students that were pruned before have only labels and, where distilled, its "
        "predictions. *Kept* is the share of that teacher's accuracy, *KL* is to it, in nats a row, *agreement* the "
        "share of dev rows with the same prediction. Tokens are those of the rows, padding left out. There is one "
        "student pruned on general text, so its own seed is not part of the spread."
    )


def table(results: Mapping[str, Any], runs: Runs) -> list[str]:
    headings = ["", "what it is", "general tokens", "task tokens", "task steps", "learning rate"]
    headings += ["accuracy", "kept", "agreement", "KL, nats"]
    rows = []
    for arm, by_seed in runs.items():
        if not by_seed:
            continue
        one = next(iter(by_seed.values()))
        kept = [
            record["accuracy"] / runs[TASK_TEACHER][seed]["accuracy"]
            for seed, record in by_seed.items()
            if seed in runs[TASK_TEACHER]
        ]
        spreads = [Spread.of(record[name] for record in by_seed.values()) for name in ("accuracy", "agreement", "kl")]
        costs = [f"{one[name] / 1e6:.2f} M" for name in ("num_general_tokens", "num_task_tokens")]
        rate = f"{one['learning_rate']:g}"
        rows.append([arm, words_of(arm), *costs, f"{one['num_steps']:,}", rate])
        rows[-1] += [str(spreads[0]), str(Spread.of(kept)) if kept else "–", str(spreads[1]), str(spreads[2])]
    return markdown_table(headings, rows)


def words_of(arm: str) -> str:
    return next(words for name, words in WORDS.items() if arm == name or (name[0] == "_" and arm.endswith(name)))


def readings(results: Mapping[str, Any], runs: Runs) -> list[str]:
    """The questions, answered by differences in accuracy, seed by seed."""
    pairs = [(ON_TASK, arm) for arm in runs if arm.endswith(FINE_TUNED)]
    pairs += [(arm.removesuffix(FINE_TUNED) + DISTILLED, arm) for arm in runs if arm.endswith(FINE_TUNED)]
    pairs += [(ON_TASK, "one_shot_on_task"), (ON_TASK, NO_LABELS)]
    rows = [row for first, second in pairs for row in difference_row(runs, first, second, results)]
    if not rows:
        return []
    note = (
        "The difference of two accuracies near *p* on *n* dev rows has the standard error √(2p(1 − p)/n), as if each "
        "had rows of its own, which is too much rather than too little; it counts beyond two of those. What another "
        "training would change is not in it."
    )
    return [note, "", *markdown_table(["difference in accuracy, seed by seed", "", "two standard errors", ""], rows)]


def difference_row(runs: Runs, first: str, second: str, results: Mapping[str, Any]) -> list[list[str]]:
    seeds = sorted(runs.get(first, {}).keys() & runs.get(second, {}).keys())
    if not seeds:
        return []
    accuracies = [[runs[arm][seed]["accuracy"] for seed in seeds] for arm in (first, second)]
    spread = Spread.of(one - other for one, other in zip(*accuracies, strict=True))
    limit = two_standard_errors(accuracies[1], results["data"]["num_dev_rows"])
    better = first if spread.mean > 0 else second
    verdict = "within noise" if abs(spread.mean) <= limit else f"`{better}` is better"
    return [[f"`{first}` − `{second}`", str(spread), f"{limit:.3f}", verdict]]


def two_standard_errors(accuracies: Sequence[float], num_rows: int) -> float:
    accuracy = sum(accuracies) / len(accuracies)
    return 2 * math.sqrt(2 * accuracy * (1 - accuracy) / num_rows)


def searches(results: Mapping[str, Any]) -> list[str]:
    rates = results["options"]["learning_rates"]
    found = {(r["arm"], r["learning_rate"]): r["accuracy"] for r in results["records"] if r["is_search"]}
    rows = []
    for arm, described in results["arms"].items():
        if described["rate_of"] != arm:
            rows.append([arm, f"that of `{described['rate_of']}`", *("" for _ in rates[1:])])
        elif any((arm, rate) in found for rate in rates):
            rows.append([arm, *(f"{found[arm, rate]:.3f}" if (arm, rate) in found else "–" for rate in rates)])
    return markdown_table(["", *(f"{rate:g}" for rate in rates)], rows) + edges(rates, found)


def edges(rates: Sequence[float], found: Mapping[tuple[str, float], float]) -> list[str]:
    """Arms whose best learning rate may lie beyond those that were tried."""
    arms = []
    for arm in dict.fromkeys(arm for arm, _ in found):
        accuracies = [found.get((arm, rate), math.nan) for rate in rates]
        if max(accuracies) in (accuracies[0], accuracies[-1]) and not any(map(math.isnan, accuracies)):
            arms.append(f"`{arm}`")
    return ["", f"Best at the first or last of them, so perhaps better beyond: {', '.join(arms)}."] if arms else []


def missing(results: Mapping[str, Any], runs: Runs) -> list[str]:
    """Arms and seeds that were meant and are not there."""
    absent = [f"`{arm},seed={seed}`" for arm, found in runs.items() for seed in results["seeds"] if seed not in found]
    absent += [] if any(arm.endswith(FINE_TUNED) for arm in runs) else ["every student pruned on general text"]
    return [f"Not run: {', '.join(absent)}."] if absent else []


def machine_line(results: Mapping[str, Any]) -> str:
    minutes = sum(record["seconds"] for record in results["records"]) / 60
    return (
        f"Machine: {machine_words(results['machine'])}. "
        f"{len(results['records'])} trainings took {minutes:.0f} minutes together, searches and measuring included, "
        "beside other work."
    )
