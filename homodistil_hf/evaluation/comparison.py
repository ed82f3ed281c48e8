"""One table of evaluated models, with notes on every difference that makes the comparison less than fair.

Numbers come from the facts of exports and from the summaries that `evaluated_model.py` writes beside other models.
"""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from ..export.facts import BENCHMARKS, read_export_facts
from ..models.cost import COSTS
from ..tables import Spread, cell, markdown_table, table_cells
from .evaluated_model import (
    DISCREPANCY,
    DISCREPANCY_METRICS,
    SUMMARY_FILE,
    model_in,
    model_name,
    read_summary,
    results_folder,
)


def compare(models: Sequence[str | Path], *, teacher: str | Path | None = None) -> dict[str, Any]:
    """Put the results of several models side by side.

    Args:
        models: models as [`evaluate_glue`] takes them, or folders of results (`evaluations/NAME`).
        teacher: one more model; the others' scores are also given as shares of the teacher's.

    Returns:
        `dict`: `rows`, one a model: `name`, costs, discrepancy, `tasks` (name → `mean`, `std`, `num_seeds`), and
        `mean` over the `common_tasks`, the tasks that all rows have. `kept_fraction` is the mean as a share of the
        teacher's. `kept_above_constant` is this share after the score of one constant answer is taken off both means
        (None where this score wasn't measured). Both are None where the teacher's mean isn't above that score.
        `notes`: results that are missing or were not measured alike.

    Raises:
        ValueError: no model is named, a model doesn't exist, or no model has results.
    """
    sources = list(dict.fromkeys(map(str, [*([teacher] if teacher else []), *models])))
    if not sources:
        raise ValueError("models=[] names none; expected folders or Hub names of evaluated models")
    summaries = {name: _summary(source) for name, source in zip(_names(sources), sources, strict=True)}
    tasks = list(dict.fromkeys(chain.from_iterable(summary["tasks"] for summary in summaries.values())))
    if not tasks and not any(DISCREPANCY in summary for summary in summaries.values()):
        raise ValueError(
            f"models={', '.join(sources)}: nothing has been evaluated; run homodistil evaluate MODEL --task … first"
        )
    common = [task for task in tasks if all(task in summary["tasks"] for summary in summaries.values())]
    rows = [_row(name, summary, common) for name, summary in summaries.items()]
    if teacher:
        constants = [summary["tasks"][task].get("constant_score") for summary in summaries.values() for task in common]
        floor = statistics.fmean(constants) if constants and None not in constants else None
        for row in rows:
            above = row["kept_above_constant"] = _share(row, rows[0], floor=floor)
            # a teacher that answers all rows alike has nothing to keep
            has_share = floor is None or above is not None
            row["kept_fraction"] = _share(row, rows[0], floor=0.0) if has_share else None
    return {
        "teacher": rows[0]["name"] if teacher else None,
        "rows": rows,
        "tasks": tasks,
        "common_tasks": common,
        "notes": [*_lacking(summaries, tasks), *_different(summaries, tasks)],
    }


def format_comparison(comparison: Mapping[str, Any]) -> str:
    """Lay a comparison out as Markdown.

    Args:
        comparison: what [`compare`] returned.

    Returns:
        `str`: a table and its notes; scores times 100, mean ± standard deviation over seeds.
    """
    rows, tasks, common = comparison["rows"], comparison["tasks"], comparison["common_tasks"]
    (_, *headings), *lines = table_cells([{k: v for k, v in row.items() if v is not None} for row in rows])
    columns = {task: [_score(row["tasks"].get(task)) for row in rows] for task in tasks}
    if common:
        columns[f"mean of {len(common)}"] = [_score(row["mean"]) for row in rows]
    if common and comparison["teacher"]:
        columns["of teacher's"] = [cell(row["kept_fraction"], "{:.1%}") for row in rows]
        columns["above constant"] = [cell(row["kept_above_constant"], "{:.1%}") for row in rows]
    header = ["model", *headings, *columns]
    lines = [[*line, *others] for line, *others in zip(lines, *columns.values(), strict=True)]
    table = markdown_table(header, lines, rules=["---", *["---:"] * (len(header) - 1)])
    about = []
    if tasks:
        about.append(
            "Scores are times 100, mean ± standard deviation over seeds; of two metrics of a task their mean."
        )
    if common:
        about.append(f"The mean is over the tasks that all models have: {', '.join(common)}.")
    if common and comparison["teacher"]:
        about.append(
            "Above constant: the mean's share of the teacher's after what one answer for every row would score, the "
            "most frequent label or the mean of the training rows, is taken off both."
        )
    notes = [f"- {note}" for note in comparison["notes"]]
    return "\n\n".join("\n".join(part) for part in (table, about, notes) if part)


def _names(sources: list[str]) -> list[str]:
    names = [Path(source).name if _is_results(source) else model_name(source) for source in sources]
    return [name if names.count(name) == 1 else source for name, source in zip(names, sources, strict=True)]


def _is_results(source: str) -> bool:
    return Path(source, SUMMARY_FILE).is_file()


def _summary(source: str) -> dict[str, Any]:
    """The facts of an export, which are never of other weights; for other models the summary beside them."""
    if _is_results(source):
        return read_summary(Path(source)) or {}
    found = model_in(source)
    if found is None or found.kind != "export":
        return read_summary(results_folder(source)) or {"model": {}, "tasks": {}}
    facts = read_export_facts(found.folder)
    return {"model": facts["student"], "tasks": {}, **facts.get(BENCHMARKS, {})}


def _row(name: str, summary: Mapping[str, Any], common: list[str]) -> dict[str, Any]:
    tasks = {task: {**found["score"], "num_seeds": len(found["seeds"])} for task, found in summary["tasks"].items()}
    discrepancy = summary.get(DISCREPANCY, {})
    return {
        "name": name,
        **{cost: summary["model"].get(cost) for cost in COSTS},
        **{metric: discrepancy.get(metric) for metric in DISCREPANCY_METRICS},
        "tasks": tasks,
        "mean": _mean([summary["tasks"][task] for task in common]),
    }


def _mean(tasks: list[Mapping[str, Any]]) -> dict[str, Any]:
    """The mean over tasks, with the spread of the seeds' means where all tasks have the same seeds."""
    if not tasks:
        return {"mean": None, "std": None}
    seeds = tasks[0]["seeds"]
    if all(task["seeds"] == seeds for task in tasks):
        of_seeds = zip(*(task["scores"] for task in tasks), strict=True)
        return {**Spread.of(statistics.fmean(scores) for scores in of_seeds).facts(), "num_seeds": len(seeds)}
    return {"mean": statistics.fmean(task["score"]["mean"] for task in tasks), "std": None}


def _share(row: Mapping[str, Any], teacher: Mapping[str, Any], *, floor: float | None) -> float | None:
    """Share of the teacher's mean above a floor; None without a common task, or where the teacher isn't above it."""
    score, best = row["mean"]["mean"], teacher["mean"]["mean"]
    if floor is None or best is None or not best > floor:
        return None
    return (score - floor) / (best - floor)


def _lacking(summaries: Mapping[str, Mapping[str, Any]], tasks: list[str]) -> Iterator[str]:
    """Notes on what was not measured, or on a part of the rows."""
    wants_discrepancy = any(DISCREPANCY in summary for summary in summaries.values())
    for name, summary in summaries.items():
        lacking = [task for task in tasks if task not in summary["tasks"]]
        lacking += [DISCREPANCY] if wants_discrepancy and DISCREPANCY not in summary else []
        if lacking:
            yield f"{name} has not been evaluated on {', '.join(lacking)}."
        elif summary.get(DISCREPANCY, {"kl": 0}).get("kl") is None:
            yield f"{name} was measured without a teacher: no KL, no agreement."
    for task in tasks:
        if task.endswith("_part"):
            yield f"{task}: a part of the task's rows, so no figure to hold against published ones."
        found = [summary["tasks"][task] for summary in summaries.values() if task in summary["tasks"]]
        capped = {(entry["num_train_rows"], entry["num_available_rows"]) for entry in found}
        for used, available in sorted(capped):
            if used < available:
                yield f"{task}: trained on {used:,} of {available:,} rows."


def _different(summaries: Mapping[str, Mapping[str, Any]], tasks: list[str]) -> Iterator[str]:
    """Notes on settings, data or numbers of seeds that differ between rows."""
    for task in tasks:
        found = {name: summary["tasks"][task] for name, summary in summaries.items() if task in summary["tasks"]}
        conditions = {
            name: {**entry["conditions"], "number of seeds": len(entry["seeds"]), "rows": entry["num_train_rows"]}
            for name, entry in found.items()
        }
        for of_one in conditions.values():
            if of_one.get("learning_rates"):  # chosen by the same search, each model its own
                of_one.pop("learning_rate", None)
        if differing := _differing(conditions):
            yield f"{task}: not measured alike ({differing})."
    measured = {name: summary[DISCREPANCY] for name, summary in summaries.items() if DISCREPANCY in summary}
    alike = {
        name: {**entry.get("settings", {}), "text": entry.get("blocks_sha256"), "teacher": entry.get("teacher_sha256")}
        for name, entry in measured.items()
        if entry.get("kl") is not None
    }
    if differing := _differing(alike):
        yield f"{DISCREPANCY}: not measured alike ({differing})."


def _differing(conditions: Mapping[str, Mapping[str, Any]]) -> str:
    notes = []
    for name in dict.fromkeys(chain.from_iterable(conditions.values())):
        values = {row: str(values.get(name)) for row, values in conditions.items()}
        if len(set(values.values())) > 1:
            is_digest = name.endswith("sha256") or name in ("text", "teacher")
            shown = "" if is_digest else ": " + ", ".join(f"{row} {value}" for row, value in values.items())
            notes.append(name.removesuffix("_sha256") + shown)
    return "; ".join(notes)


def _score(entry: Mapping[str, Any] | None) -> str:
    if not entry or entry["mean"] is None:
        return "–"
    std = "" if entry["std"] is None else f" ± {100 * entry['std']:.1f}"
    return f"{100 * entry['mean']:.1f}{std}"
