"""The part of docs/results.md on what was tried beside the method: records of sweeps, least-squares folding, rotation.

The sweeps' records lie in docs/results/left_out/; `compensation.py` and `rotation.py` wrote the other two files.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from benchmarks.machine_words import machine_words
from benchmarks.results.guidance import shape_of
from benchmarks.results.verdicts import REFERENCE, Noise, by_arm
from homodistil_hf.experiments.sweep.folder import read_records, trained
from homodistil_hf.experiments.sweep.statistics import Record, Spread, differences, metric_of, seed_of
from homodistil_hf.experiments.sweep.tables import markdown_table

LEVERS = {
    "relative_12": "hidden errors as shares of the teacher's squares at each token, weight 12, so that every layer "
    "counts alike",
    "unmasked_kl": "KL at 15 % of the unmasked tokens too",
    "rewound_rate": "learning-rate rewinding: linear, back to the peak when pruning ends, linear again",
    "paced_rate": "a rate that follows the speed at which widths fall, then linear",
    "together": "`relative_12`, PLATON, scores smoothed over more batches (0.97) and an earlier end (0.4 T, rate held "
    "to 0.5 T) at once",
    "together_unmasked": "the same and KL at 15 % of the unmasked tokens",
}
TOGETHER = "together"
"""How arms begin that pull several levers; the sweep of `CODE` has those of one."""

CODE = "10d8738"
"""The commit that has the levers of sweeps."""

COMPENSATED = " compensated"
CURVES = {
    "eval_kl": ("held-out KL", "eval_steps"),
    "eval_mlm_accuracy": ("held-out accuracy", "eval_steps"),
    "loss_kl": ("training KL", "logging_steps"),
}
"""What a run printed → in words, and the setting that says every how many steps."""

VARIANTS = ("as trained", "rotated")

INTRODUCTION = """## Levers that were left out

What was built, measured and taken out again or never put in; the last part is of one that the package keeps.
Differences are those of runs with one seed; a KL below that beside it is nearer to the teacher.
"""

Cut: TypeAlias = tuple[str, str, Mapping[str, float]]
"""What was cut, how, and `kl` and `mlm_accuracy` right after."""


def lever_sections(folder: Path, noise: Noise) -> list[str]:
    """The section, if anything of it was measured.

    Args:
        folder: docs/results/.
        noise: of a difference between two runs of the sweeps.
    """
    lines = [
        *swept_lines(folder, noise),
        *compensation_lines(folder / "compensation.json"),
        *rotation_lines(folder / "rotation.json"),
    ]
    return ["\n".join([INTRODUCTION, *lines])] if lines else []


def swept_lines(folder: Path, noise: Noise) -> list[str]:
    """Arms of sweeps beside the ablations' HomoDistil."""
    found = by_arm(trained(read_records(folder / "left_out")))
    arms = {arm: found[arm] for arm in LEVERS if arm in found}
    if not arms:
        return []
    own = by_arm(trained(read_records(folder / "ablations.jsonl"))).get(REFERENCE, [])
    every = [record for group in arms.values() for record in group]
    rows = [[REFERENCE, "the ablations' own", *figures(own), "–", "–"]] if own else []
    rows += [[arm, LEVERS[arm], *figures(group), *beside(group, own, noise)] for arm, group in arms.items()]
    headings = ["arm", "what", "KL, nats", "accuracy", f"difference in KL to `{REFERENCE}`", "verdict"]
    limit = [] if noise.std is None else [f"A difference counts beyond {noise.threshold():.3f} nats (see above).", ""]
    return [
        "### In the ablations' frame",
        "",
        *commands(arms),
        "",
        f"{joined(map(frame, every))}, {joined(f'seed {seed_of(record)}' for record in every)}. The code is at commit "
        f"{CODE} and not in the package; the records are in `docs/results/left_out/`.",
        "",
        *limit,
        *markdown_table(headings, rows),
        "",
        f"Machine: {joined(machine_words(record['machine']) for record in every)}.",
        "",
    ]


def commands(arms: Iterable[str]) -> list[str]:
    single = [arm for arm in arms if not arm.startswith(TOGETHER)]
    several = [f"`{arm}`" for arm in arms if arm.startswith(TOGETHER)]
    sweep = f"`homodistil sweep examples/sweeps/ablations.json --only {' '.join(single)}`, at commit {CODE}."
    alone = f"No arms of that sweep, their settings are in their records: {', '.join(several)}."
    return ([sweep] if single else []) + ([alone] if several else [])


def frame(record: Record) -> str:
    settings = record["settings"]
    batch = f"{settings['per_device_train_batch_size']} × {settings['max_seq_length']}"
    return f"{record['num_steps']:,} steps of {batch}, shape `{shape_of(record)}`"


def joined(words: Iterable[str]) -> str:
    return " and ".join(dict.fromkeys(words))


def figures(records: Sequence[Record]) -> list[str]:
    return [str(Spread.of(metric_of(record, name) for record in records)) for name in ("kl", "mlm_accuracy")]


def beside(records: Sequence[Record], own: Sequence[Record], noise: Noise) -> list[str]:
    """An arm's difference in KL to HomoDistil, seed by seed, and what it says."""
    found = differences(records, own, "kl")
    if not found:
        return ["–", "–"]
    spread = Spread.of(found)
    words = f"{spread.mean:+.3f}" if spread.std is None else str(spread)
    return [words, "undecided" if noise.std is None else verdict(noise.sign(found))]


def verdict(sign: int) -> str:
    return {1: "farther", -1: "nearer", 0: "within noise"}[sign]


def compensation_lines(file: Path) -> list[str]:
    """Least-squares folding: right after the cut, and along training."""
    results = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    cut, curves = results.get("prune"), results.get("curves")
    config = cut["config"] if cut else {}
    lines = [*(folded_cut_lines(cut) if cut else ()), *(folded_curve_lines(curves, config) if curves else ())]
    return ["### Dropped channels folded into kept ones by least squares", "", *lines] if lines else []


def folded_cut_lines(cut: Mapping[str, Any]) -> list[str]:
    config = cut["config"]
    return [
        f"`python -m benchmarks.results.compensation prune {config_file(config)} --settings {shape_setting(config)}`",
        "",
        f"Right after the cut to `{config['student']}`, without training, on {cut['num_blocks']} held-out blocks: all "
        "kinds of units together, and each alone. A ridge is a share of the inputs' mean variance.",
        "",
        *cut_table([(row["pruned"], ridge_words(row["ridge"]), row) for row in cut["rows"]]),
        "",
        f"Machine: {older_machine_words(cut['machine'])}.",
        "",
    ]


def folded_curve_lines(curves: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    rows = curve_rows(curves)
    if not rows:
        return []
    settings = [f"{name}={json.dumps(value)}" for name, value in curves["settings"].items()]
    words = " ".join([config_file(config), "--settings", *settings, shape_setting(config)])
    arms = " or ".join(dict.fromkeys(f"`--arm {arm}`" for arm, _ in pairs(curves["runs"])))
    headings = [f"{words}{which}" for words, _ in CURVES.values() for which in (", folded", ", not", ": difference")]
    return [
        f"`python -m benchmarks.results.compensation train {words}` with {arms}",
        "",
        "Along training, folded at every change of the masks, at every step that both runs were recorded at; training "
        f"KL is the mean of the {curves['settings']['logging_steps']} steps until there. One seed, no noise was "
        "measured. The defaults were those of commit f602ff9: other loss weights, heads not rotated, the discrepancy "
        "guard on. The file names no shape of these runs, the command that of the cut; it fits on one batch with the "
        f"default ridge, whatever a run's name says of its own. {stopped_words(curves)}",
        "",
        *markdown_table(["run", "step", *headings], rows),
        "",
    ]


def config_file(config: Mapping[str, Any]) -> str:
    """The file that a run's config was read from: they are named as their output folders."""
    return f"examples/configs/{Path(config['output_dir']).name}.json" if config else "CONFIG"


def shape_setting(config: Mapping[str, Any]) -> str:
    """The shape, which the file may have changed since, as an argument."""
    return f"'student={json.dumps(config['student'])}'" if config else "student=…"


def ridge_words(ridge: float | None) -> str:
    return "not folded" if ridge is None else f"folded, ridge {ridge:g}"


def cut_table(cuts: Sequence[Cut]) -> list[str]:
    """What was measured right after cuts, each beside the first way of the same cut."""
    first: dict[str, float] = {}
    rows = []
    for what, how, found in cuts:
        gap = f"{found['kl'] - first[what]:+.3f}" if what in first else "–"
        first.setdefault(what, found["kl"])
        rows.append([what, how, f"{found['kl']:.3f}", f"{found['mlm_accuracy']:.3f}", gap])
    return markdown_table(["cut", "how", "KL, nats", "accuracy", "difference in KL"], rows)


def older_machine_words(machine: Mapping[str, Any]) -> str:
    """`machine_words` of what `benchmarks/compare.py` records."""
    versions = {name: machine[name] for name in ("homodistil_hf", "python", "torch", "transformers")}
    return machine_words({**machine, "versions": versions})


def pairs(runs: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Runs without folding, and the same with it."""
    found = [(name.partition(COMPENSATED)[0], name) for name in runs if COMPENSATED in name]
    return [(plain, folded) for plain, folded in found if plain in runs]


def curve_rows(curves: Mapping[str, Any]) -> list[list[str]]:
    """What each pair printed, step by step, as far as both runs go."""
    settings, runs, rows = curves["settings"], curves["runs"], []
    for plain, folded in pairs(runs):
        columns = [common(runs[folded], runs[plain], name, settings[every]) for name, (_, every) in CURVES.items()]
        for step in sorted(set().union(*columns)):
            rows.append([plain, str(step), *(cell for column in columns for cell in pair_cells(column.get(step)))])
    return rows


def common(
    run: Mapping[str, Sequence[float]], other: Mapping[str, Sequence[float]], name: str, interval: int
) -> dict[int, tuple[float, float]]:
    """Step → the run's value and the other's."""
    both = zip(run[name], other[name], strict=False)  # one was stopped early
    return {interval * number: values for number, values in enumerate(both, start=1)}


def pair_cells(values: tuple[float, float] | None) -> list[str]:
    if values is None:
        return ["–"] * 3
    return [*(f"{value:.3f}" for value in values), f"{values[0] - values[1]:+.3f}"]


def stopped_words(curves: Mapping[str, Any]) -> str:
    """Which runs with folding did not come to their end."""
    settings = curves["settings"]
    words = []
    for _, name in pairs(curves["runs"]):
        last = max(len(curves["runs"][name][metric]) * settings[every] for metric, (_, every) in CURVES.items())
        if last < settings["max_steps"]:
            words.append(f"*{name}*: its last figure is of step {last} of {settings['max_steps']}, its end not known.")
    return " ".join(words)


def rotation_lines(file: Path) -> list[str]:
    """Bases inside heads, right after the cut."""
    results = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    found = results.get("pruned", {})
    cells = [(what, how, found[what][how]) for what in found for how in VARIANTS if how in found[what]]
    if not cells:
        return []
    config, (_, _, one) = results["config"], cells[0]
    return [
        "### Heads in other bases, which the package keeps (`rotate_heads`)",
        "",
        f"`python -m benchmarks.results.rotation {config_file(config)} "
        f"--num_scoring_batches {one['num_scoring_batches']}`, "
        f"with `{json.dumps(config['student'])}` as the config's `student`",
        "",
        f"Right after pruning at once, without training, by scores of {one['num_scoring_batches']} batches, on "
        f"{config['max_eval_blocks']} held-out blocks, seed {config['seed']}: heads in the teacher's own bases, and "
        "rotated so that their channels are uncorrelated and ordered; with the defaults of commit 312c2dc. What is "
        "left of it after training, the ablations' `no_rotation` says.",
        "",
        *cut_table([(f"{what}: `{shape_of(cell)}`", how, evaluation_of(cell)) for what, how, cell in cells]),
        "",
        f"Machine: {older_machine_words(results['machine'])}.",
        "",
    ]


def evaluation_of(cell: Mapping[str, Any]) -> dict[str, float]:
    return {name: cell["evaluation"][f"eval_{name}"] for name in ("kl", "mlm_accuracy")}
