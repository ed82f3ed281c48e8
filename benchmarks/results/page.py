"""Write docs/results.md, its plots and the README's table from the JSON files in docs/results/.

    homodistil sweep examples/sweeps/ablations.json
    python -m benchmarks.results.page --collect runs/sweeps

Every number on the page comes from a file: records of sweeps in docs/results/SWEEP.jsonl, where --collect copies them
to, and what `benchmarks/compare.py` wrote. Cells that were not run are named, whichever there are.
"""

import argparse
import json
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine_words import machine_words
from benchmarks.results.advice import advice_points
from benchmarks.results.answers import answers_section
from benchmarks.results.compared import compared_sections
from benchmarks.results.computation import computation_line
from benchmarks.results.family import family_rows
from benchmarks.results.fine_tuning_results import fine_tuning_sections
from benchmarks.results.glue import accuracy_differences, glue_differences, glue_rows, noises_of
from benchmarks.results.guidance import by_student, guidance_rows, rule_of_thumb, shape_of, size_of
from benchmarks.results.held_out_results import held_out_sections
from benchmarks.results.levers import lever_sections
from benchmarks.results.readme import ROW_NAMES, SIZES, write_readme
from benchmarks.results.repeats import repeat_sections
from benchmarks.results.task_results import task_model_sections
from benchmarks.results.verdicts import (
    CLAIMS,
    PAPERS_WINDOW,
    REFERENCE,
    RULE,
    Noise,
    Noises,
    along_training,
    better_words,
    by_arm,
    noise_along,
    noise_of,
    verdict,
)
from homodistil_hf.experiments.config import field_types
from homodistil_hf.experiments.plots import draw, draw_discrepancy, plot_sweep, quality_points
from homodistil_hf.experiments.sweep.cells import METHOD_SETTINGS, TEACHER, Sweep
from homodistil_hf.experiments.sweep.folder import FAILED, TAKEN_FROM, read_records, trained, write_records
from homodistil_hf.experiments.sweep.reading import read_sweep
from homodistil_hf.experiments.sweep.statistics import Record, Spread, chosen, differences
from homodistil_hf.experiments.sweep.tables import (
    cell_rows,
    choice_notes,
    in_order,
    markdown_table,
    missing_notes,
    task_means,
)
from homodistil_hf.plans.advice import ADVICE_FILE as ADVICE
from homodistil_hf.plans.advice import to_json

PAGE = Path("docs/results.md")
README = Path("README.md")
FOLDER = Path("docs/results")
SWEEPS = Path("examples/sweeps")
TEACHER_WORDS = "6 layers × 384, all-MiniLM-L6-v2 trained on for 20 million tokens"

INTRODUCTION = """# Results

Written by `python -m benchmarks.results.page` from the JSON files beside this page, which hold the settings, every
evaluation, versions and machine. What was not run is named.

**Teacher**: a BERT masked-LM of 6 layers × 384 (12 heads, FFN 1,536, 22.7 M parameters): the encoder of the publicly
known `all-MiniLM-L6-v2`, trained on with a masked-LM head for 20 million tokens; a real but modest model. **Text**:
English Wikipedia and novels; held out: 256 blocks of 128 tokens, with the masks of the run's seed, some 4,900 masked
tokens. Neither students nor the teacher's last 20 million tokens hold these documents; what its encoder had read
before is not known to us. The same blocks served to choose learning rates, loss weights, shapes and the end of
pruning, so these figures are of choices made on them. Teacher and text lie in `../shared/data/` and don't come with
the package; [a sweep's file](sweeps.md) takes other paths.
**KL** is KL(teacher ‖ student) in nats per masked token, **accuracy** the share of masked tokens that are predicted
right, both in float32. A single accuracy has a standard error of 0.007. Methods without a KL term (`scratch`,
`tinybert`, the MiniLMs) are not trained for the first; compare them by accuracy and tasks.

Every method has the same batches, the same number of tokens and, within 3 %, the same encoder MACs; tokens that
one-shot pruning takes its scores from come on top. All train in bf16 with Adam's β₂ at 0.98 instead of its default.
Learning rates are not the package's default of 6e-4, which is the paper's: HomoDistil and one-shot pruning learn at
2.2e-3, which a search of four rates, the same for both, found best for both at half a million and a million tokens, of
three at two million and of two at four (with the shape of that time), pruned-first and DistilBERT at the same one
without a search of their own, the others at the best of two or three by KL, from scratch and MiniLM at the lowest of
theirs. HomoDistil, one-shot pruning and pruned-first have the same loss weights, chosen by HomoDistil's runs; the
other methods have those of their papers.
**One-shot** is the hard baseline: the same scores taken from 16 batches, the student cut to the plan at once, then
distilled with the same loss, learning-rate curve, batches and number of tokens.

A ± is a standard deviation over seeds, their number in brackets. Tokens a second were measured beside other work on
the machines that the sections name, which moved them by a third: [performance](performance.md) has speeds.
"""

PRUNED_ARMS = (REFERENCE, "one_shot", "pruned_first")
"""Those whose discrepancy over training is drawn apart, with HomoDistil's in the paper's window."""

THE_PAPER = "The paper, where pruning ends at 0.5 T to 0.9 T: nearer at every one, once pruning has begun"

GUIDANCE_TITLE = "## Tokens and time against quality"

PAPER = """## The paper's own figures

Not run: they need about 100 hours of an A100 a student. `examples/sweeps/paper/homobert.json` (the four students of
BERT-base, with GLUE) and `examples/sweeps/paper/ablations.json` are its recipes; the tests run them for a few steps
with a tiny teacher (one student and one of the ablations' arms). SQuAD, which the paper reports too, was not run with
any student here; `homodistil evaluate` measures it.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--collect", type=Path, metavar="DIR", help="first copy the records of DIR/SWEEP/results")
    options = parser.parse_args()
    sweeps = read_sweeps()
    if options.collect:
        collect(options.collect, sweeps)
    parts = [
        *answers_section(records_of(sweeps), FOLDER),
        *sweep_sections(sweeps),
        *lever_sections(FOLDER, noise_of(trained(read_records(FOLDER / "methods_quarter.jsonl")))),
        *held_out_sections(FOLDER),
        *repeat_sections(FOLDER),
        *fine_tuning_sections(FOLDER),
        *task_model_sections(FOLDER),
        PAPER,
        *compared_sections(FOLDER),
    ]
    PAGE.write_text("\n".join([INTRODUCTION, *parts]), encoding="utf-8")
    write_advice(sweeps)
    write_readme(README, {name: read_records(FOLDER / f"{name}.jsonl") for name in sweeps}, constant_scores())


def write_advice(sweeps: dict[str, Sweep]) -> None:
    """What `homodistil plan` tells of a budget: HomoDistil beside one-shot pruning wherever both were run."""
    content = to_json(TEACHER_WORDS, advice_points(sweeps, FOLDER))
    ADVICE.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_sweeps() -> dict[str, Sweep]:
    """Name → the sweep, of those that have a section."""
    files = sorted(path for path in SWEEPS.glob("*.json") if path.stem in SECTIONS)
    return {path.stem: read_sweep(path, field_types().keys() - {"method", METHOD_SETTINGS}) for path in files}


def collect(source: Path, sweeps: dict[str, Sweep]) -> None:
    for name, sweep in sweeps.items():
        file = FOLDER / f"{name}.jsonl"
        records = in_order(sweep.cells, [*read_records(file), *read_records(source / name / "results")])
        if records:
            write_records(file, records)


def records_of(sweeps: dict[str, Sweep]) -> dict[str, list[dict[str, Any]]]:
    """Sweep → records of its cells."""
    return {name: in_order(sweep.cells, read_records(FOLDER / f"{name}.jsonl")) for name, sweep in sweeps.items()}


def sweep_sections(sweeps: dict[str, Sweep]) -> list[str]:
    records = records_of(sweeps)
    noises = noises_of(trained(records.get("methods_quarter", [])))
    sections = []
    for name, write in SECTIONS.items():
        if name not in sweeps:
            continue
        lines = [f"## {TITLES[name]}", "", f"`homodistil sweep examples/sweeps/{name}.json`", ""]
        lines += [sweeps[name].description, ""]
        done = trained(records[name])
        if done:
            lines += [*write(sweeps[name], records[name], noises), "", *images(sweeps[name], records[name])]
        lines += [*missing_notes(sweeps[name], records[name]), ""]
        lines += [machine_line(done), ""] if done else []
        sections.append("\n".join(lines))
    every = [record for group in records.values() for record in group]
    defaults = [record for name in SIZES for record in records.get(name, []) if record["arm"] == REFERENCE]
    planned = {shape_of(record) for record in trained(defaults)}
    return [*sections, *sizes_of_methods(records), guidance_section(every, planned)]


def sizes_of_methods(records: Mapping[str, Sequence[Record]]) -> list[str]:
    done = [record for name in SIZES for record in trained(records.get(name, []))]
    if len({record["settings"]["student"] for record in done}) < 2:
        return []
    points = quality_points([record for record in done if record["arm"] in ROW_NAMES], "parameters")
    file = draw(points, FOLDER / "methods-parameters.png", xlabel="million parameters")
    text = "One line a method, as in the README's table; every student is in the tables above."
    return [f"## Quality against parameters\n\n{text}\n\n![{file.stem}](results/{file.name})\n"]


def methods_section(sweep: Sweep, records: Sequence[Record], noises: Noises) -> list[str]:
    arms = by_arm(trained(records))
    lines = [*cell_rows(sweep, records), "", *glue_rows(records, constant_scores()), "", *noise_lines(noises), ""]
    lines += [*difference_rows(arms, noises), "", *computation_line(arms, REFERENCE), *along_lines(arms)]
    pruned = [record for arm in (*PRUNED_ARMS, PAPERS_WINDOW) for record in arms.get(arm, [])]
    if not pruned:
        return lines
    file = draw_discrepancy(pruned, FOLDER / f"{sweep.name}-pruned.png")
    return [*lines, "", f"![{file.stem}](results/{file.name})"]


def constant_scores() -> dict[str, float]:
    """Task → score of the most frequent label, if it was measured."""
    file = FOLDER / "constant_predictions.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def along_lines(arms: Mapping[str, Sequence[Record]]) -> list[str]:
    """Whether HomoDistil is nearer to the teacher all the way, by the noise of each step at a quarter."""
    noises = noise_along(trained(read_records(FOLDER / "methods_quarter.jsonl")))
    lines = []
    for own in (REFERENCE, PAPERS_WINDOW):
        for other in PRUNED_ARMS[1:]:
            along = along_training(arms.get(own, []), arms.get(other, []), noises)
            if along:
                lines += [
                    f"Along training, by the noise of each evaluation at 1/4: {along.told(own, other)}.",
                    *([f"{THE_PAPER}: {along.words}."] if own == PAPERS_WINDOW else []),
                    "",
                ]
            elif arms.get(own) and arms.get(other):
                undecided = "undecided, no evaluation in common has a measured noise."
                lines += [f"Along training, `{own}` beside `{other}`: {undecided}", ""]
    return lines


def noise_lines(noises: Noises) -> list[str]:
    if noises.kl.std is None:
        return [RULE, "", "It was not measured: that takes three seeds or more at a quarter."]
    named = {"nats of KL": noises.kl, "of accuracy": noises.accuracy, "of GLUE": noises.tasks}
    found = [
        f"{noise.std:.4f} {name} ({noise.freedom} degrees of freedom)"
        for name, noise in named.items()
        if noise.std is not None
    ]
    return [RULE, "", f"Measured: *s* = {', '.join(found)}."]


def difference_rows(arms: dict[str, list[Record]], noises: Noises) -> list[str]:
    """Each method beside HomoDistil, then those of other shapes beside the gradual one of their own shape."""
    own = arms.get(REFERENCE, [])
    rows = [
        [f"`{arm}`", shape_of(group[0]), *difference_cells(group, own, noises, (f"`{arm}`", f"`{REFERENCE}`"))]
        for arm, group in arms.items()
        if arm != REFERENCE and differences(group, own, "kl")
    ]
    headings = ["difference in KL", "by KL", "difference in accuracy", "by accuracy", "difference in GLUE", "by GLUE"]
    text = (
        "Differences are the method's less HomoDistil's: above 0 is farther from the teacher, or better at words and "
        "tasks. A method of another shape differs by that too."
    )
    lines = [text, "", *markdown_table([f"beside `{REFERENCE}`", "shape", *headings], rows)] if rows else []
    pairs = [
        [f"`{one}` − `{other}`", *difference_cells(arms[one], arms[other], noises, (f"`{one}`", f"`{other}`"))]
        for one, other in same_shape_pairs(arms)
        if differences(arms[one], arms[other], "kl")
    ]
    if pairs:
        lines += ["", "Pairs of one shape:", "", *markdown_table(["", *headings], pairs)]
    return lines


def difference_cells(
    group: Sequence[Record], own: Sequence[Record], noises: Noises, names: tuple[str, str]
) -> list[str]:
    """Differences and verdicts of two arms, seed by seed: KL, accuracy, GLUE."""
    found = differences(group, own, "kl")
    cells = [str(Spread.of(found)), noises.kl.words(found, *names)]
    gained = (
        (accuracy_differences(group, own), noises.accuracy),
        (glue_differences(group, own), noises.tasks),
    )
    for gains, noise in gained:
        cells += [str(Spread.of(gains)), better_words(gains, *names, noise)] if gains else ["–", "–"]
    return cells


def same_shape_pairs(arms: Mapping[str, Sequence[Record]]) -> list[tuple[str, str]]:
    """`one_shot_X` or `pruned_first_X` and the gradual `X`, for each X that is not the reference."""
    return [
        (arm, arm.removeprefix(f"{way}_"))
        for arm in arms
        for way in PRUNED_ARMS[1:]
        if arm.removeprefix(f"{way}_") in arms.keys() - {arm}
    ]


def computation_section(sweep: Sweep, records: Sequence[Record], noises: Noises) -> list[str]:
    arms = by_arm(trained(records))
    return [*cell_rows(sweep, records), "", *difference_rows(arms, noises), "", *computation_line(arms, REFERENCE)]


def tokens_section(sweep: Sweep, records: Sequence[Record], noises: Noises) -> list[str]:
    best = chosen(trained(records), sweep.choose)
    return [*plain_section(sweep, records, noises), "", "At each arm's best rate:", "", *gap_rows(best, noises.kl)]


def budgets_section(sweep: Sweep, records: Sequence[Record], noises: Noises) -> list[str]:
    return [*cell_rows(sweep, records), "", *gap_rows(trained(records), noises.kl)]


def ablations_section(sweep: Sweep, records: Sequence[Record], noises: Noises) -> list[str]:
    arms = by_arm(trained(records))
    failed = {record["arm"]: record["error"] for record in records if record["status"] == FAILED}
    rows = []
    for claim in CLAIMS:
        spread, words = verdict(claim, arms, noises.kl, failed)
        gap = "–" if spread is None else f"{spread.mean:+.3f}"
        origin = "this package" if claim.is_ours else "the paper"
        rows.append([claim.text, origin, f"`{claim.worse}` − `{claim.better}`", gap, words])
    headings = ["claim", "of", "difference in KL", "nats", "verdict"]
    limit = f"A difference counts beyond {noises.kl.threshold():.3f} nats (see above)."
    threshold = [limit, ""] if noises.kl.std is not None else []
    return [*cell_rows(sweep, records), "", *threshold, *markdown_table(headings, rows)]


def variants_section(sweep: Sweep, records: Sequence[Record], noises: Noises) -> list[str]:
    """Each variant of a method beside the method as it is, which is the arm that carries its name."""
    arms = by_arm(trained(records))
    rows = []
    for arm, group in arms.items():
        method = group[0]["method"]
        found = differences(group, arms.get(method, []), "kl") if arm != method else []
        if found:
            rows.append(
                [f"`{arm}` − `{method}`", str(Spread.of(found)), noises.kl.words(found, f"`{arm}`", f"`{method}`")]
            )
    table = markdown_table(["", "difference in KL, nats", "by KL"], rows) if rows else []
    return [*cell_rows(sweep, records), "", *table]


def plain_section(sweep: Sweep, records: Sequence[Record], noises: Noises) -> list[str]:
    return [*cell_rows(sweep, records), "", *choice_notes(sweep.choose, records)]


def shapes_section(sweep: Sweep, records: Sequence[Record], noises: Noises) -> list[str]:
    """Each shape beside the first of its size, whose heads are those of the other sweeps."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in trained(records):
        groups.setdefault((size_of(record) or "–", record["arm"]), []).append(record)
    rows = []
    for (size, arm), (first, *others) in groups.items():
        for record in others:
            found = differences([record], [first], "kl")
            words = {1: "farther", -1: "nearer", 0: "within noise"}[noises.kl.sign(found)]
            verdict = words if noises.kl.std is not None else "undecided"
            shapes = [one["settings"]["student"] for one in (record, first)]
            rows.append([size, arm, *shapes, f"{found[0]:+.3f}", verdict])
    text = "A shape is hidden size, heads × channels of a head, and FFN size, of every layer."
    headings = ["encoder MACs", "", "shape", "beside", "difference in KL", "to the teacher"]
    table = markdown_table(headings, rows) if rows else []
    return [*cell_rows(sweep, records), "", text, "", *table, "", *gap_rows(trained(records), noises.kl)]


def sizes_section(sweep: Sweep, records: Sequence[Record], noises: Noises) -> list[str]:
    done = trained(records)
    return [*cell_rows(sweep, records), "", *gap_rows(done, noises.kl), "", *family_rows(done)]


def gap_rows(done: Sequence[Record], noise: Noise) -> list[str]:
    """Every other arm beside HomoDistil at each size and budget, shape by shape."""
    rows = []
    for (size, num_tokens, shape), group in sorted(by_student(done).items()):
        arms = by_arm(group)
        own = arms.pop(REFERENCE, [])
        for arm, other in arms.items():
            if found := differences(other, own, "kl"):
                words = noise.words(found, f"`{arm}`")
                rows.append([size, shape, f"{num_tokens / 1e6:.2f} M", arm, str(Spread.of(found)), words])
    headings = ["encoder MACs", "student", "tokens", "beside HomoDistil", "difference in KL", "by KL"]
    return markdown_table(headings, rows) if rows else []


def guidance_section(records: Sequence[Record], planned: Container[str]) -> str:
    """HomoDistil's students of all sweeps, with other heads or layers too; of the ablations only those.

    A run whose record stands in several sweeps counts once, by its own record, which has its evaluations.
    """
    students = [
        record
        for record in trained(records)
        if (record["method"] == REFERENCE and (record["arm"] == REFERENCE or record["arm"].endswith("_heads")))
        or record["method"] == "shallow"
    ]
    students = list({one["digest"]: one for one in sorted(students, key=lambda one: TAKEN_FROM not in one)}.values())
    teachers = [record for record in records if record["method"] == TEACHER]
    scores = {name: mean for record in teachers for name, mean in task_means(record).items()}
    rows = guidance_rows(students, scores, planned)
    if not rows:
        return f"{GUIDANCE_TITLE}\n\nNot run.\n"
    thumb = rule_of_thumb(students) or ["- One budget a size: no rule of thumb follows from that."]
    text = (
        "Students of HomoDistil, of each size, depth and budget those with the shape that is planned by default, or "
        "where it was not run the best of those that were. "
        "*Kept* is a student's masked-LM accuracy, or mean score, as a share of its teacher's. Measured minutes are, "
        "as a median, of one core of the machine named above beside other work, evaluations left out; the others "
        "are tokens divided by a speed."
    )
    return "\n".join([GUIDANCE_TITLE, "", text, "", *rows, "", "Rule of thumb:", "", *thumb, ""])


def images(sweep: Sweep, records: Sequence[Record]) -> list[str]:
    files = plot_sweep(records, FOLDER / sweep.name, sweep.choose)
    return [line for file in files for line in (f"![{file.stem}](results/{file.name})", "")]


def machine_line(done: Sequence[Record]) -> str:
    done = [record for record in done if TAKEN_FROM not in record] or done
    minutes = [record["seconds"] / 60 for record in done]
    machines = " and ".join(dict.fromkeys(machine_words(record["machine"]) for record in done))
    return (
        f"Machine: {machines}. {len(done)} cells took {sum(minutes):,.0f} minutes together, {min(minutes):.1f} to "
        f"{max(minutes):.1f} each, with evaluations and beside other work."
    )


TITLES = {
    "methods_quarter": "Every method at 1/4",
    "computation": "Equal tokens, equal computation",
    "methods_half": "Every method at 1/2",
    "methods_eighth": "HomoDistil and one-shot pruning at 1/8",
    "methods_rates": "Learning rates of the methods",
    "tokens_planned": "Quality against tokens",
    "tokens": "Quality against tokens, with a search of the rate and the former shape",
    "shapes": "Shapes",
    "holds": "How long the learning rate is held",
    "ablations": "Ablations",
    "sizes": "Sizes",
}
SECTIONS: dict[str, Callable[[Sweep, Sequence[Record], Noises], list[str]]] = {
    "methods_quarter": methods_section,
    "computation": computation_section,
    "methods_half": methods_section,
    "methods_eighth": methods_section,
    "methods_rates": plain_section,
    "tokens_planned": budgets_section,
    "tokens": tokens_section,
    "shapes": shapes_section,
    "holds": variants_section,
    "ablations": ablations_section,
    "sizes": sizes_section,
}


if __name__ == "__main__":
    main()
