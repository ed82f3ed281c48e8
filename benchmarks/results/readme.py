"""The README's table of what the method reached, from the records of the methods at a quarter and at a half."""

import statistics
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.results.glue import TASK_NAMES, tasks_kept, teachers_mean
from benchmarks.results.guidance import kept, setting_of
from benchmarks.results.verdicts import REFERENCE, by_arm
from homodistil_hf import HomoDistilTrainingArguments
from homodistil_hf.experiments.sweep.cells import TEACHER
from homodistil_hf.experiments.sweep.folder import IMPOSSIBLE, trained
from homodistil_hf.experiments.sweep.statistics import Record, Spread, differences
from homodistil_hf.experiments.sweep.tables import markdown_table
from homodistil_hf.files.folders import write_text

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

SIZES = {"methods_half": "1/2", "methods_quarter": "1/4", "methods_eighth": "1/8"}
"""Sweep of methods → the size of its students."""

_HEADINGS = (
    "encoder MACs",
    "student",
    "parameters",
    "KL to the teacher, nats",
    "masked-LM accuracy kept",
    "mean of five GLUE tasks kept",
)


def readme_lines(records: Mapping[str, Sequence[Record]], floor: Mapping[str, float]) -> list[str]:
    """What the README says was reached.

    Args:
        records: sweep → all of its records.
        floor: task → score of the most frequent label; may be empty.

    Returns:
        `list[str]`: Markdown lines; none where HomoDistil was not run at a quarter.
    """
    own = by_arm(trained(records.get("methods_quarter", []))).get(REFERENCE, [])
    if not own:
        return []
    rows = [row for name, size in SIZES.items() for row in _rows(size, records.get(name, []))]
    minutes = statistics.median(record["seconds"] - record["evaluation_seconds"] for record in own) / 60
    text = (
        f"A BERT of 6 layers × 384 ({own[0]['models'][TEACHER]['num_parameters'] / 1e6:.1f} M parameters), distilled "
        f"on {own[0]['num_tokens'] / 1e6:.2f} million tokens, {minutes:.0f} minutes of one CPU core for a "
        "quarter of its encoder MACs. All students of a size have the same encoder MACs, and but where it says so the "
        "same tokens and batches; HomoDistil's end of pruning was chosen by these runs. Learning rate and Adam's β₂ "
        f"were {setting_of(own[0], 'learning_rate'):g} and {setting_of(own[0], 'adam_beta2'):g} instead of the "
        f"defaults ({HomoDistilTrainingArguments.learning_rate:g}, {HomoDistilTrainingArguments.adam_beta2:g}): "
        "search the rate for runs as short as these. How rates were chosen stands in the results. The tasks are "
        f"{', '.join(TASK_NAMES.values())}, one fine-tuning a student{_floor(floor, records)}. A ± is a standard "
        "deviation over seeds, their number in brackets; what has none is of seed 0."
        f"{_impossible(records.get('methods_quarter', []))}"
    )
    return [
        *textwrap.wrap(text, 120),
        "",
        *markdown_table(_HEADINGS, rows),
        "",
        *_nearer([records.get(name, []) for name in ("computation", "methods_quarter")]),
    ]


def write_readme(file: Path, records: Mapping[str, Sequence[Record]], floor: Mapping[str, float]) -> None:
    """Replace what stands between the marks.

    Args:
        file: the README.
        records: sweep → all of its records.
        floor: see [`readme_lines`].

    Raises:
        ValueError: it has no marks.
    """
    head, begin, rest = file.read_text(encoding="utf-8").partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{file} lacks {BEGIN!r} or {END!r}; write them where the table belongs")
    write_text(file, "\n".join([head + BEGIN, "", *readme_lines(records, floor), END + tail]))


def _rows(size: str, records: Sequence[Record]) -> list[list[str]]:
    teacher = teachers_mean(records)
    arms = by_arm(trained(records))
    nearest_first = sorted(arms.items(), key=lambda item: statistics.fmean(r["evaluation"]["kl"] for r in item[1]))
    return [[size, ROW_NAMES[arm], *_figures(group, teacher)] for arm, group in nearest_first if arm in ROW_NAMES]


def _floor(floor: Mapping[str, float], records: Mapping[str, Sequence[Record]]) -> str:
    teacher = teachers_mean(records.get("methods_quarter", []))
    if not teacher or not floor.keys() >= TASK_NAMES.keys():
        return ""
    share = statistics.fmean(floor[task] for task in TASK_NAMES) / teacher
    return f"; a model that gives every row the most frequent label keeps {share:.0%} of the teacher's mean"


def _impossible(records: Sequence[Record]) -> str:
    arms = dict.fromkeys(record["arm"] for record in records if record["status"] == IMPOSSIBLE)
    words = "no whole layers add up to a quarter"
    return "".join(f" {ROW_NAMES[arm]} is missing at a quarter: {words}." for arm in arms if arm in ROW_NAMES)


def _figures(group: Sequence[Record], teacher: float | None) -> list[str]:
    shares = tasks_kept(group, teacher)
    return [
        f"{group[0]['models']['student']['num_parameters'] / 1e6:.1f} M",
        str(Spread.of(record["evaluation"]["kl"] for record in group)),
        f"{Spread.of(kept(record) for record in group):.1%}",
        f"{Spread.of(shares):.1%}" if shares else "–",
    ]


def _nearer(sweeps: Sequence[Sequence[Record]]) -> list[str]:
    """Seed by seed at a quarter: what going at once costs, by the sweep with the most seeds."""
    names = {
        "one_shot": "pruned at once",
        "one_shot_same_compute": "with as much computation as HomoDistil",
    }
    parts = []
    for arm, name in names.items():
        every = [
            differences(arms.get(arm, []), arms.get(REFERENCE, []), "kl")
            for arms in (by_arm(trained(records)) for records in sweeps)
        ]
        if found := max(every, key=len):
            parts.append(f"{name} {Spread.of(found):+.3f}")
    text = f"KL at a quarter less that of HomoDistil with the same seed, in nats: {', '.join(parts)}."
    return [*textwrap.wrap(text, 120), ""] if parts else []
