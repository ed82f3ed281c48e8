"""The part of docs/results.md on runs that were made twice: the same cell of a sweep on another processor.

The second records lie in docs/results/repeated/, the first ones in the sweep's folder.
"""

from pathlib import Path

from benchmarks.machine_words import machine_words
from benchmarks.results.verdicts import METRIC
from homodistil_hf.experiments.sweep.folder import read_records, trained
from homodistil_hf.experiments.sweep.statistics import Record, metric_of
from homodistil_hf.experiments.sweep.tables import markdown_table

SWEEP = "methods_quarter"

TEXT = (
    "The same cells, settings, seed, batches and versions on another processor. bf16 sums may be rounded otherwise "
    "there, and a run does not repeat itself to the digit: what differs here is noise, and the differences between "
    "seeds on this page contain it. *On the way* is the largest difference at an evaluation before the end."
)


def repeat_sections(folder: Path) -> list[str]:
    """The section, if any run was repeated.

    Args:
        folder: docs/results/.

    Returns:
        `list[str]`: one Markdown text, or none.
    """
    firsts = {record["cell"]: record for record in trained(read_records(folder / f"{SWEEP}.jsonl"))}
    pairs = [
        (firsts[again["cell"]], again)
        for again in trained(read_records(folder / "repeated"))
        if again["cell"] in firsts
    ]
    if not pairs:
        return []
    cells = " ".join(again["cell"] for _, again in pairs)
    machines = dict.fromkeys(machine_words(again["machine"]) for _, again in pairs)
    headings = ["", "KL, nats", "again", "difference", "on the way", "accuracy", "again", "processors"]
    lines = [
        "## The same seed on another processor",
        "",
        f"`homodistil sweep examples/sweeps/{SWEEP}.json --train_only --only {cells}`",
        "",
        TEXT,
        "",
        *markdown_table(headings, [repeat_row(first, again) for first, again in pairs]),
        "",
        f"Machine of the second runs: {' and '.join(machines)}.",
        "",
    ]
    return ["\n".join(lines)]


def repeat_row(first: Record, again: Record) -> list[str]:
    kls, accuracies = ([metric_of(one, name) for one in (first, again)] for name in (METRIC, "mlm_accuracy"))
    curves = [{row["step"]: row["kl"] for row in one["evaluations"][:-1]} for one in (first, again)]
    gaps = [curves[1][step] - curves[0][step] for step in curves[0].keys() & curves[1].keys()]
    return [
        f"`{again['cell']}`",
        *(f"{kl:.4f}" for kl in kls),
        f"{kls[1] - kls[0]:+.4f}",
        f"{max(gaps, key=abs, default=0.0):+.4f}",
        *(f"{accuracy:.4f}" for accuracy in accuracies),
        ", ".join(one["machine"]["processor"] for one in (first, again)),
    ]
