"""Write docs/results.md, its plot and the planner's advice from the records in docs/results/.

    python -m benchmarks.sweep examples/sweeps/ablations.json
    python -m benchmarks.results.page --collect runs/sweeps

The page's words stand in page.md; every figure comes from a record, or reads "not run yet".
"""

import argparse
import json
import re
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.marked_pages import with_whole_spreads
from benchmarks.plots import draw
from benchmarks.results.advice import advice_points, to_json
from benchmarks.results.comparisons import CONFIDENCE, MIN_SEEDS
from benchmarks.results.students import AT_ONCE, DEFAULTS, GRADUAL, PRUNED_FIRST, SCRATCH, TOKENS, Results, setting_of
from benchmarks.results.tables import NOT_RUN, Tables
from benchmarks.sweep.cells import TEACHER
from benchmarks.sweep.folder import read_records, trained, write_records
from benchmarks.sweep.tables import Record, in_order
from homodistil_hf.plans.advice import ADVICE_FILE

from ..spread import Spread

PAGE = Path("docs/results.md")
FOLDER = Path("docs/results")
SWEEPS = Path("examples/sweeps")

TEACHER_WORDS = "6 layers × 384, all-MiniLM-L6-v2 trained on for 20 million tokens"

DRAWN = {
    "HomoDistil": GRADUAL,
    "pruned at once": AT_ONCE,
    "pruned first": PRUNED_FIRST,
    "random weights, text alone": SCRATCH,
}
"""Name in the plot → variants of the sweep of sizes."""

_WORDS = Path(__file__).with_name("page.md")
_WIDTH = 120
_COMMON = ("per_device_train_batch_size", "adam_beta2", "adam_epsilon", "mlm_weight", "hidden_weight", "bf16")


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--collect", type=Path, metavar="DIR", help="first copy the records of DIR/SWEEP/results")
    options = parser.parse_args(words)
    if options.collect:
        collect(options.collect)
    tables = Tables(Results.read(FOLDER, SWEEPS))
    draw_all(tables)
    PAGE.write_text(page_text(tables), encoding="utf-8")
    points = to_json(TEACHER_WORDS, advice_points(tables.results))
    ADVICE_FILE.write_text(json.dumps(points, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def collect(source: Path) -> None:
    """Put the records of all sweeps beside those that there are."""
    found = Results.read(FOLDER, SWEEPS)
    for name, sweep in found.sweeps.items():
        records = in_order(sweep.cells, [*found.records[name], *read_records(source / name / "results")])
        if records:
            write_records(FOLDER / f"{name}.jsonl", records)


class _Slots:
    """`{tables[more_steps 1/4]}` in the words of the page: a method of `Tables` and its arguments."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables

    def __getitem__(self, words: str) -> str:
        name, *arguments = words.split()
        found = getattr(self.tables, name)(*arguments)
        return found if isinstance(found, str) else "\n".join(found)


def page_text(tables: Tables) -> str:
    """The words of the page with their figures."""
    results = tables.results
    words = _WORDS.read_text(encoding="utf-8").format(
        tables=_Slots(tables),
        min_seeds=MIN_SEEDS,
        confidence=f"{CONFIDENCE:.0%}",
        runs=_all_runs(results),
        sweeps="; ".join(map(_sweep, results.sweeps.values(), results.records.values())),
        commands="\n".join(f"    python -m benchmarks.results.{command}" for command in commands(results)) or NOT_RUN,
    )
    return with_whole_spreads(wrapped(words))


def wrapped(text: str) -> str:
    """Prose and points in lines of one width; tables, headings and commands as they are."""
    blocks = []
    for block in re.split(r"\n{2,}", text.strip()):
        is_points, is_prose = block.startswith("- "), block[0].isalpha() or block[0] in "*{"
        parts = re.split(r"\n(?=- )", block) if is_points else [block]
        indent = "  " * is_points
        blocks.append("\n".join(_filled(part, indent) if is_points or is_prose else part for part in parts))
    return "\n\n".join(blocks) + "\n"


def _filled(text: str, indent: str) -> str:
    words = " ".join(text.split())
    return textwrap.fill(words, _WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _all_runs(results: Results) -> str:
    """The settings that all runs share, and what they took."""
    runs = results.students.drop_duplicates("digest")["record"].tolist()
    values = {name: {setting_of(record, name) for record in runs} for name in _COMMON}
    shared = [f"`{name}={next(iter(found))}`" for name, found in values.items() if len(found) == 1]
    a_step = {record["num_tokens"] // record["num_steps"] for record in runs}
    shared += [f"{next(iter(a_step)):,} tokens a step"] if len(a_step) == 1 else []
    hours = sum(record["seconds"] for record in runs) / 3600
    machines = ", ".join(dict.fromkeys(_machine(record["machine"]) for record in runs))
    short = results.short_runs
    more = f", and {len(short)} short runs, {short['seconds'].sum() / 3600:.1f} hours" if "seconds" in short else ""
    return (
        f"{', '.join(shared) or NOT_RUN}; {len(runs)} runs, {hours:.1f} hours{more} on {machines or 'no machine yet'}"
    )


def _sweep(sweep: Any, records: list[Record]) -> str:
    """A point of the appendix: how many cells ran, in how many minutes, and which did not."""
    known, done = {record["cell"] for record in records}, trained(records)
    absent = Counter(cell.variant for cell in sweep.cells if cell.name not in known)
    minutes = [record["seconds"] / 60 for record in done]
    words = f"`{sweep.name}`" + (f" {len(done)} ({min(minutes):.0f}–{max(minutes):.0f})" if done else "")
    return words + f", {NOT_RUN}: {_counted(absent)}" * bool(absent)


def _counted(variants: Mapping[str, int]) -> str:
    return ", ".join(f"`{variant}`" + f" × {count}" * (count > 1) for variant, count in variants.items())


def _machine(machine: Mapping[str, Any]) -> str:
    name = machine.get("gpu") or machine["processor"]
    return f"{name} ({machine['num_threads']} thread, torch {machine['versions'].get('torch')})"


def commands(results: Results) -> Iterable[str]:
    """What measured the students that sweeps had left, and the rest."""
    for name, found in results.on_all_text.items():
        variants = dict.fromkeys(model["variant"] for model in found["models"])
        yield f"held_out runs/sweeps/{name} --variants {' '.join(variants)}"
    for (file, found), (sweep, with_axes) in product(
        results.fine_tunings.items(), ((DEFAULTS, False), (TOKENS, True))
    ):
        tuned = found["models"]
        if students := [model for model in tuned if model["variant"] != TEACHER and bool(model["axes"]) is with_axes]:
            teachers = [model for model in tuned if model["variant"] == TEACHER]
            place = f" --results docs/results/{file}.json" * (file != "fine_tunings")
            yield f"fine_tunings runs/sweeps/{sweep} {_fine_tuning_options(teachers, students)}{place}"
    if results.json("student_latency"):
        yield "student_latency"


def _fine_tuning_options(teachers: Sequence[Mapping[str, Any]], students: Sequence[Mapping[str, Any]]) -> str:
    seeds = " ".join(sorted({str(model["seed"]) for model in students}))
    options = [f"--variants {' '.join(dict.fromkeys(model['variant'] for model in students))} --run_seeds {seeds}"]
    for name, those in (("teacher_rates", teachers), ("rates", students)):
        rates = {rate for model in those for rate in model["learning_rates"].values()}
        options += [f"--{name} {rate:g}" for rate in rates if len(rates) == 1]
    ways = list(dict.fromkeys(model["way"] for model in students))
    options += [f'--ways "{way}"' for way in ways if len(ways) == 1]
    return " ".join(options)


def draw_all(tables: Tables) -> None:
    """Draw KL against MACs for each way to a small student, all of as many tokens."""
    students = tables.results.of(DEFAULTS)
    points = {
        name: sorted(
            (float(Fraction(size)), Spread.of(students[students["variant"] == variant]["kl"]))
            for variant, size in variants.items()
            if variant in set(students["variant"])
        )
        for name, variants in DRAWN.items()
    }
    if any(points.values()):
        shown = {name: found for name, found in points.items() if found}
        draw(shown, tables.results.folder / "sizes.png", xlabel="share of the teacher's encoder MACs")


if __name__ == "__main__":
    main()
