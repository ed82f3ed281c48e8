"""The README's table of what the method reached, from the students of the methods at each size."""

import math
import textwrap
from collections.abc import Mapping
from pathlib import Path

from benchmarks.results.comparison import Comparison
from benchmarks.results.students import QUARTER, SAME_RUNS, Results, setting_of
from benchmarks.results.tasks import TASK_NAMES
from benchmarks.results.verdicts import REFERENCE, Noise
from benchmarks.results.words import words
from homodistil_hf import HomoDistilTrainingArguments
from homodistil_hf.evaluation.records import Spread
from homodistil_hf.files.folders import write_text
from homodistil_hf.tables import markdown_table

BEGIN = "<!-- written by benchmarks/results/page.py -->"
END = "<!-- up to here -->"

ROW_NAMES = {
    REFERENCE: "**HomoDistil**",
    "five_layers_planned": "HomoDistil on five of the six layers (`method=shallow`)",
    "one_shot": "pruned at once, then distilled",
    "one_shot_same_compute": "pruned at once, then distilled with as much computation as HomoDistil",
    "pruned_first": "pruned by magnitude first, then distilled",
    "distilbert": "DistilBERT's recipe",
    "tinybert": "TinyBERT's recipe",
    "minilm": "MiniLM's recipe",
    "minilm_v2": "MiniLMv2's recipe",
    "scratch": "trained from scratch",
}
"""Arm → what its row says, one a method; other shapes and windows stand in docs/results.md."""

SIZES = {"methods_half": "1/2", "methods_quarter": "1/4", "methods_eighth": "1/8"}  # of the students of a sweep

_AT_ONCE = {"one_shot": "pruned at once", "one_shot_same_compute": "with as much computation as HomoDistil"}
_BESIDE = Comparison(only=tuple(_AT_ONCE))
_HEADINGS = ("encoder MACs", "student", "parameters", "KL to the teacher, nats")
_KEPT = ("masked-LM accuracy kept", "mean of five GLUE tasks kept")


def write_readme(file: Path, results: Results, constant: Mapping[str, float]) -> None:
    """Replace what stands between the marks of the README; `constant` has scores of the most frequent label."""
    head, begin, rest = file.read_text(encoding="utf-8").partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{file} lacks {BEGIN!r} or {END!r}; write them where the table belongs")
    write_text(file, "\n".join([head + BEGIN, "", *readme_lines(results, constant), END + tail]))


def readme_lines(results: Results, constant: Mapping[str, float]) -> list[str]:
    """What the README says was reached; nothing where HomoDistil was not run at a quarter."""
    quarter = results.of(QUARTER)
    own = quarter[quarter["arm"] == REFERENCE]
    if own.empty:
        return []
    record, teacher = own["record"].iloc[0], results.teacher_score(QUARTER)
    floor = sum(constant.get(task, float("nan")) for task in TASK_NAMES) / len(TASK_NAMES) / teacher
    baseline = f"; a model that gives every row the most frequent label keeps {floor:.0%} of the teacher's mean"
    missing = " {} is missing at a quarter: no whole layers add up to a quarter."
    text = words(
        "readme",
        parameters=record["models"]["teacher"]["num_parameters"] / 1e6,
        tokens=record["num_tokens"] / 1e6,
        minutes=own["training_seconds"].median() / 60,
        **{name: setting_of(record, name) for name in ("learning_rate", "adam_beta2")},
        defaults=HomoDistilTrainingArguments,
        tasks=", ".join(TASK_NAMES.values()),
        floor="" if math.isnan(floor) else baseline,
        impossible="".join(missing.format(ROW_NAMES[arm]) for arm in results.impossible(QUARTER) if arm in ROW_NAMES),
    )
    rows = [row for sweep in SIZES for row in _rows(results, sweep)]
    beside = f"KL at a quarter less that of HomoDistil with the same seed, in nats: {', '.join(_at_once(results))}."
    return [
        *textwrap.wrap(" ".join(text.split()), 120),
        "",
        *markdown_table([*_HEADINGS, *_KEPT], rows),
        "",
        *([*textwrap.wrap(beside, 120), ""] if _at_once(results) else []),
    ]


def _rows(results: Results, sweep: str) -> list[list[str]]:
    """The nearest first."""
    students = results.of(sweep)
    groups = [group for arm, group in students.groupby("arm", sort=False) if arm in ROW_NAMES]
    rows = []
    for group in sorted(groups, key=lambda group: group["kl"].mean()):
        parameters = group["record"].iloc[0]["models"]["student"]["num_parameters"] / 1e6
        shares = [group[name].dropna() for name in ("accuracy_kept", "glue_kept")]
        kept = [f"{Spread.of(share):.1%}" if len(share) else "–" for share in shares]
        rows.append(
            [SIZES[sweep], ROW_NAMES[group["arm"].iloc[0]], f"{parameters:.1f} M", str(Spread.of(group["kl"])), *kept]
        )
    return rows


def _at_once(results: Results) -> list[str]:
    """Seed by seed at a quarter: what going at once costs."""
    found = {one.one: one.differences["kl"].values for one in _BESIDE.found(results.of(SAME_RUNS), {"kl": Noise()})}
    return [f"{name} {Spread.of(found[arm]):+.3f}" for arm, name in _AT_ONCE.items() if arm in found]
