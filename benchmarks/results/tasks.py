"""Scores of fine-tuned students on GLUE's tasks: those of the sweeps, and those of several fine-tunings each."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import pandas as pd

from benchmarks.results.comparison import Comparison, the_first
from benchmarks.results.students import Results, machine_words
from benchmarks.results.verdicts import Noise, pooled_std
from benchmarks.results.words import words
from homodistil_hf.evaluation.glue.data import PART_SUFFIX
from homodistil_hf.evaluation.records import Spread
from homodistil_hf.experiments.sweep.cells import TEACHER
from homodistil_hf.experiments.sweep.statistics import Record
from homodistil_hf.tables import markdown_table

TASK_NAMES = {"cola": "CoLA", "sst2": "SST-2", "mrpc": "MRPC", "rte": "RTE", "stsb": "STS-B"}

_DIFFERENCES = Comparison(("score",), the_first, within=("task",))  # by their own spread alone: there is no other


def glue_lines(records: Sequence[Record], constant: Mapping[str, float]) -> list[str]:
    """GLUE scores of teacher and students, means over seeds; `constant` has those of the most frequent label."""
    scores = pd.DataFrame([_scores(record) for record in records if _glue(record)])
    if scores.empty:
        return []
    scores = scores.dropna(axis="columns")
    arms = dict(iter(scores.groupby("arm", sort=False)))
    teacher = arms[TEACHER]["mean"].mean() if TEACHER in arms else None
    tasks = [task for task in TASK_NAMES if task in scores]
    rows = [
        [arm, *(str(Spread.of(group[name])) for name in (*tasks, "mean")), _share(group["mean"].mean(), teacher)]
        for arm, group in arms.items()
    ]
    if tasks and constant.keys() >= set(tasks):
        floor = [*(constant[task] for task in tasks), fmean(constant[task] for task in tasks)]
        rows.append(["the same for every row", *(f"{score:.3f}" for score in floor), _share(floor[-1], teacher)])
    return [*markdown_table(["", *(TASK_NAMES[task] for task in tasks), "mean", "kept"], rows), ""]


def fine_tuning_lines(results: Results) -> list[str]:
    """A section for each file of fine-tunings, the one with several seeds first."""
    lines = []
    for found in filter(None, map(results.json, ("fine_tunings", "fine_tunings_parts"))):
        table, num_seeds = _scores_of(found["models"]), len(found["seeds"])
        title = "What one fine-tuning says" if num_seeds > 1 else "Other tasks"
        lines += [
            f"## {title}",
            "",
            f"`{_command(found)}`",
            "",
            words("fine_tunings", **found | {"num_seeds": num_seeds}),
            *_spread_rows(table),
            "",
        ]
        students = table[table["arm"] != TEACHER].groupby(["task", "arm", "seed"], as_index=False, sort=False)
        lines += _DIFFERENCES.lines(students["score"].mean(), {"score": Noise()}) if num_seeds > 1 else []
        lines += [f"Machine: {machine_words(found['machine'])}.", ""]
    return lines


def _scores(record: Record) -> dict[str, Any]:
    found = _glue(record)
    return {"arm": record["arm"], "mean": found["mean"], **{task: one["mean"] for task, one in found["tasks"].items()}}


def _glue(record: Record) -> Any:
    return record.get("evaluate", {}).get("glue", {}).get("results")


def _share(score: float, teacher: float | None) -> str:
    return f"{score / teacher:.1%}" if teacher else "–"


def _command(found: Mapping[str, Any]) -> str:
    given = {name: values for name in ("arms", "run_seeds", "tasks", "seeds") if (values := found.get(name))}
    options = "".join(f" --{name} {' '.join(map(str, values))}" for name, values in given.items())
    return f"python -m benchmarks.results.fine_tunings runs/sweeps/{found['sweep']}{options}"


def _scores_of(models: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """One row a score: task, or the mean of all; arm, seed of the student, number of the fine-tuning."""
    rows = [
        {"task": _task_name(task), "arm": model["arm"], "seed": model["seed"], "fine_tuning": number, "score": score}
        for task in models[0]["scores"]
        for model in models
        for number, score in enumerate(model["scores"][task])
    ]
    table = pd.DataFrame(rows).fillna({"seed": -1})  # the teacher has none
    if table["task"].nunique() > 1:
        means = table.groupby(["arm", "seed", "fine_tuning"], as_index=False, sort=False)["score"].mean()
        table = pd.concat([table, means.assign(task=f"mean of {table['task'].nunique()}")])
    return table


def _task_name(task: str) -> str:
    name = task.removesuffix(PART_SUFFIX)
    return TASK_NAMES.get(name, name.upper()) + (", a part" if task.endswith(PART_SUFFIX) else "")


def _spread_rows(table: pd.DataFrame) -> list[str]:
    rows = []
    teachers = table[table["arm"] == TEACHER].groupby("task")["score"].mean()
    for (task, arm), scores in table.groupby(["task", "arm"], sort=False):
        students = scores.groupby("seed")["score"]
        means = students.mean()
        stds = [pooled_std(group.tolist() for _, group in students), pooled_std([means.tolist()])]
        single = dict.fromkeys((f"{scores['score'].min():.3f}", f"{scores['score'].max():.3f}"))
        rows.append([task, arm, str(len(means)), f"{means.mean():.3f}", _share(means.mean(), teachers.get(task))])
        rows[-1] += [" to ".join(single), *("–" if std is None else f"{std[0]:.3f}" for std in stds)]
    headings = ["", "", "models", "mean", "kept", "single scores", "between fine-tunings", "between students"]
    return markdown_table(headings, rows)
