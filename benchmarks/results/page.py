"""Write docs/results.md, its plots, the README's table and the planner's advice from the records in docs/results/.

    homodistil sweep examples/sweeps/ablations.json
    python -m benchmarks.results.page --collect runs/sweeps

Every number on the page comes from a file, but for those of studies that were removed. Cells that were not run are
named, whichever there are.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from benchmarks.results.advice import advice_points
from benchmarks.results.budgets import budget_lines
from benchmarks.results.comparison import claim_lines, noises_of
from benchmarks.results.computation import computation_line
from benchmarks.results.contents import BARS, CLAIMS, HELD_OUT, ORDERS, PAPERS_WINDOW, QUESTIONS, SECTIONS
from benchmarks.results.family import family_lines
from benchmarks.results.readme import ROW_NAMES, SIZES, write_readme
from benchmarks.results.students import QUARTER, SAME_RUNS, Results, machine_words
from benchmarks.results.tasks import fine_tuning_lines, glue_lines
from benchmarks.results.verdicts import CONFIDENCE, METRICS, MIN_SEEDS, REFERENCE, Noise, along_training
from benchmarks.results.words import words
from homodistil_hf.evaluation.records import Spread
from homodistil_hf.experiments.plots import draw, draw_discrepancy, plot_sweep, quality_points
from homodistil_hf.experiments.sweep.folder import read_records, trained, write_records
from homodistil_hf.experiments.sweep.tables import cell_rows, choice_notes, in_order, missing_notes
from homodistil_hf.plans.advice import ADVICE_FILE, to_json
from homodistil_hf.tables import markdown_table

PAGE = Path("docs/results.md")
README = Path("README.md")
FOLDER = Path("docs/results")
SWEEPS = Path("examples/sweeps")

TEACHER_WORDS = "6 layers × 384, all-MiniLM-L6-v2 trained on for 20 million tokens"
PRUNED_ARMS = (REFERENCE, "one_shot", "pruned_first", PAPERS_WINDOW)  # their discrepancy is drawn apart


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--collect", type=Path, metavar="DIR", help="first copy the records of DIR/SWEEP/results")
    options = parser.parse_args()
    if options.collect:
        collect(options.collect)
    results = Results.read(FOLDER, SWEEPS)
    draw_all(results)
    PAGE.write_text(page_text(results), encoding="utf-8")
    points = to_json(TEACHER_WORDS, advice_points(results, noises_of(results)))
    ADVICE_FILE.write_text(json.dumps(points, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    write_readme(README, results, results.json("constant_predictions") or {})


def collect(source: Path) -> None:
    """Put the records of all sweeps beside those that there are."""
    found = Results.read(FOLDER, SWEEPS)
    for name, sweep in found.sweeps.items():
        records = in_order(sweep.cells, [*found.records[name], *read_records(source / name / "results")])
        if records:
            write_records(FOLDER / f"{name}.jsonl", records)


def page_text(results: Results) -> str:
    """The whole page: the answers, a section a sweep, what was measured of students afterwards, and fixed words."""
    noises = noises_of(results)
    lines = [
        words("introduction"),
        *answer_lines(results, noises),
        *(line for name in SECTIONS for line in section_lines(name, results, noises)),
        *size_lines(results),
        *family_lines(results.json("family")),
        *budget_lines(results.students),
        *held_out_lines(results, noises),
        *fine_tuning_lines(results),
        words("conclusion"),
    ]
    return "\n".join(lines)


def answer_lines(results: Results, noises: Mapping[str, Noise]) -> list[str]:
    """The questions that the runs were for; those whose runs are missing are left out."""
    rows = [row for sweep in BARS if (row := _kept_row(sweep, results))]
    rows += [row for question in QUESTIONS if (row := question.row(results, noises))]
    along = along_training(results.of(QUARTER), PAPERS_WINDOW, "one_shot", results.of(QUARTER))
    if sum(along):
        question = "Is the paper's order reproduced at every point of training (iterative nearer than one-shot)?"
        rows.append([question, f"`{PAPERS_WINDOW}` beside `one_shot`, by evaluations", f"{along.answer}: {along}"])
    runs = results.students[~results.students["is_taken_over"].astype(bool)].drop_duplicates(["digest", "seconds"])
    if len(runs):
        hours = f"{runs['seconds'].sum() / 3600:.1f} hours, {len(runs)} trainings with their evaluations"
        rows.append(["What did the sweeps' trainings take?", hours, "all fine-tunings come on top"])
    table = markdown_table(["question", "measured", "answer"], rows)
    return [words("in_short"), *table, "", *rule_lines(noises)] if rows else []


def _kept_row(sweep: str, results: Results) -> list[str] | None:
    """Whether HomoDistil's students keep enough of their teacher's mean over the tasks."""
    students, (size, bar) = results.of(sweep), BARS[sweep]
    shares = students[students["arm"] == REFERENCE]["glue_kept"].dropna()
    if shares.empty:
        return None
    question = f"Does {size} keep {100 * bar:.0f} % of its teacher's mean over five GLUE tasks?"
    seeds = "one seed" if len(shares) == 1 else f"by the mean of {len(shares)} seeds"
    answer = f"**{'yes' if shares.mean() >= bar else 'no'}**, {seeds}"
    return [question, f"{Spread.of(shares):.1%}", answer]


def rule_lines(noises: Mapping[str, Noise]) -> list[str]:
    """What counts as a difference."""
    texts = {metric: "all held-out text" if metric.startswith("all_") else "the sweeps' blocks" for metric in METRICS}
    rows = [
        [METRICS[metric].heading, texts[metric], f"{noise.std:.4f}", str(noise.freedom), f"{noise.threshold():.3f}"]
        for metric, noise in noises.items()
        if noise.std is not None
    ]
    table = markdown_table(["figure", "on", "*s*", "degrees of freedom", "one seed counts beyond"], rows)
    unknown = ["It was not measured: that takes three seeds or more at a quarter."]
    return [words("rule", seeds=MIN_SEEDS, confidence=CONFIDENCE), *(table if rows else unknown), ""]


def section_lines(name: str, results: Results, noises: Mapping[str, Noise]) -> list[str]:
    """A sweep: its cells, its comparisons, its pictures, what is missing and the machines."""
    section, sweep, records, students = SECTIONS[name], results.sweeps[name], results.records[name], results.of(name)
    done = trained(records)
    lines = [f"## {section.title}", "", f"`homodistil sweep examples/sweeps/{name}.json`", "", sweep.description, ""]
    if done:
        lines += [*cell_rows(sweep, records), "", *choice_notes(sweep.choose, records), ""]
        lines += glue_lines(records, results.json("constant_predictions") or {})
        lines += [line for comparison in section.comparisons for line in comparison.lines(students, noises)]
        lines += claim_lines(CLAIMS, students, noises["kl"]) if section.has_claims else []
        lines += computation_line(done) if section.is_of_methods or name == SAME_RUNS else []
        lines += order_lines(students, results.of(QUARTER)) if section.is_of_methods else []
        lines += picture_lines(results.folder, f"{name}-*.png")
    lines += [*missing_notes(sweep, records), ""]
    return [*lines, machine_line(results.students[results.students["sweep"] == name]), ""] if done else lines


def order_lines(students: pd.DataFrame, quarter: pd.DataFrame) -> list[str]:
    """Whether HomoDistil is nearer to the teacher all the way, by the noise of each step at a quarter."""
    rows = []
    for own, other in ORDERS:
        tally = along_training(students, own, other, quarter)
        if sum(tally):
            paper = {"**yes**": "**reproduced**", "**no**": "**not reproduced**"}.get(tally.answer, "within noise")
            rows.append([f"`{own}` beside `{other}`", str(tally), paper if own == PAPERS_WINDOW else "–"])
    return [words("along"), *markdown_table(["", "evaluations", "the paper's order"], rows), ""] if rows else []


def size_lines(results: Results) -> list[str]:
    """The picture of all methods at all sizes."""
    text = "One line a method, as in the README's table; every student is in the tables above."
    picture = picture_lines(results.folder, "methods-parameters.png")
    return ["## Quality against parameters", "", text, "", *picture] if picture else []


def picture_lines(folder: Path, pattern: str) -> list[str]:
    """Those of [`draw_all`]."""
    return [line for file in sorted(folder.glob(pattern)) for line in (f"![{file.stem}](results/{file.name})", "")]


def draw_all(results: Results) -> None:
    """Draw the pictures of each sweep, and all methods at all sizes in one."""
    for name, section in SECTIONS.items():
        done = trained(results.records[name])
        plot_sweep(done, results.folder / name, results.sweeps[name].choose)
        pruned = [record for arm in PRUNED_ARMS for record in done if record["arm"] == arm]
        if section.is_of_methods and pruned:
            draw_discrepancy(pruned, results.folder / f"{name}-pruned.png")
    methods = results.of(*SIZES)
    methods = methods[methods["arm"].isin(ROW_NAMES)]
    if methods["student"].nunique() > 1:
        points = quality_points(methods["record"], "parameters")
        draw(points, results.folder / "methods-parameters.png", xlabel="million parameters")


def held_out_lines(results: Results, noises: Mapping[str, Noise]) -> list[str]:
    """Students on all held-out text, and their differences."""
    files = results.on_all_text
    if not files:
        return []
    first = next(iter(files.values()))
    students = results.of(*files).dropna(subset="all_kl")
    metrics = HELD_OUT.metrics
    rows = [
        [*key, *(str(Spread.of(group[metric])) for metric in metrics)]
        for key, group in students.groupby(["sweep", "arm", "axes"])
    ]
    commands = [
        f"    python -m benchmarks.results.held_out runs/sweeps/{name} --arms {' '.join(found['arms'])}"
        for name, found in files.items()
    ]
    machines = dict.fromkeys(machine_words(one["machine"]) for found in files.values() for one in found["models"])
    return [
        words("held_out", **first | first["models"][0] | {"sweep": SAME_RUNS}),
        *commands,
        "",
        *markdown_table(["sweep", "arm", "with", *(METRICS[metric].heading for metric in metrics)], rows),
        "",
        *HELD_OUT.lines(students, noises),
        f"Machine: {' and '.join(machines)}.",
        "",
    ]


def machine_line(students: pd.DataFrame) -> str:
    """Where the students of a sweep were trained, and how long that took."""
    own = students[~students["is_taken_over"].astype(bool)]
    own = students if own.empty else own
    minutes = own["seconds"] / 60
    machines = " and ".join(dict.fromkeys(machine_words(record["machine"]) for record in own["record"]))
    return (
        f"Machine: {machines}. {len(own)} cells took {minutes.sum():,.0f} minutes together, {minutes.min():.1f} to "
        f"{minutes.max():.1f} each, with evaluations and beside other work."
    )


if __name__ == "__main__":
    main()
