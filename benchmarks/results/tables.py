"""The tables of the page and the figures that its sentences name: from students and their records, by the rule."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

import pandas as pd

from benchmarks.results.changes import SIZES as SHORT_SIZES
from benchmarks.results.changes import VARIANTS, as_many_steps
from benchmarks.results.comparisons import REFERENCE, Difference, Noise, noise_of, paired
from benchmarks.results.fine_tunings import BY_TEACHER, PLAIN, TASKS
from benchmarks.results.shape_law import errors, expected_at_half, fitted, read_runs
from benchmarks.results.students import (
    AT_ONCE,
    AT_ONCE_AND_WHOLE,
    COMPACT,
    DEFAULTS,
    GRADUAL,
    GRADUAL_AND_WHOLE,
    LENGTHS,
    ROWS,
    TOKENS,
    Results,
    plan_of,
    setting_of,
    shape_of,
)
from benchmarks.speed.bench import SHIPPED
from benchmarks.speed.whole_run import ONE_SHOT
from benchmarks.studies import depth
from benchmarks.sweep.cells import TEACHER, Cell
from benchmarks.sweep.folder import as_cell, trained
from homodistil_hf.files.strict_json import read_json_rows
from homodistil_hf.models.widths import DEPTH_KEY
from homodistil_hf.plans.shape_law import SHAPE_LAW
from homodistil_hf.tables import markdown_table

from ..spread import Spread

NOT_RUN = "not run yet"
SMALLEST = "1/16"
BASELINES = "baselines"
SHAPES = "shapes"
LONGER_SHAPES = {name: f"gradual_{name}" for name in ("half", "quarter", "eighth", "sixteenth")}
"""Variant of the sweep `shapes_long` → that of the sweep `sizes` with as many MACs."""
DEFAULT = "default"  # what a lever differs from
BASE = "homodistil"  # what a variant of the ablations differs from
PAPERS = "every_step"  # what the baselines stand beside

_TASK_NAMES = {"cola": "CoLA", "sst2": "SST-2", "mrpc": "MRPC", "rte": "RTE", "stsb": "STS-B"}


class Tables:
    """Everything that the page takes from records; NOT_RUN stands where there is no record."""

    def __init__(self, results: Results) -> None:
        self.results = results
        self.noise_of_kl = noise_of(results.short_runs)

    def width_or_depth(self) -> list[str]:
        """Narrower students of embedding models beside those of fewer, whole layers, alike in cost."""
        file = self.results.folder / depth.RECORD.relative_to("docs/results")
        return depth.table(read_json_rows(file, str(file))) if file.is_file() else [NOT_RUN]

    def what_you_get(self) -> list[str]:
        """Costs of the teacher and of students of the default, and what they and those pruned at once keep."""
        latency = (self.results.json("student_latency") or {}).get("processor_time", {})
        at_once, rows, teacher = {size: variant for variant, size in AT_ONCE_AND_WHOLE.items()}, [], None
        for variant, size in GRADUAL_AND_WHOLE.items():
            students, beside = self.of(DEFAULTS, variant), self.of(DEFAULTS, at_once[size])
            tuned = [self._fine_tuned(name, BY_TEACHER)["kept"] for name in (variant, at_once[size])]
            others = [spread(beside["kl"]), *(spread(kept, ".1%") for kept in tuned)]
            if students.empty:
                rows.append([size, *"––––", NOT_RUN, "–", *others])
                continue
            costs = students["record"].iloc[0]["models"]
            teacher = ["1 (teacher)", *_costs(costs[TEACHER], latency.get(TEACHER)), "–", "0", "100%", "0"]
            rows.append([size, *_costs(costs["student"], latency.get(students["shape"].iloc[0]))])
            rows[-1] += [_minutes(students), spread(students["kl"])]
            rows[-1] += [spread(students["accuracy_kept"], ".1%"), *others]
        headings = ["encoder MACs", "parameters", "MB", "ms", "minutes", "KL, nats", "words kept", "at once: KL"]
        shown = [[*teacher, "100%", "100%"], *rows] if teacher else rows
        return markdown_table([*headings, "GLUE kept", "at once"], shown)

    def size_gap(self, size: str) -> str:
        """Of a size or gradual variant of the sweep of sizes, the KL less that of pruning at once, seed by seed."""
        ways, size = (GRADUAL_AND_WHOLE, AT_ONCE_AND_WHOLE), GRADUAL_AND_WHOLE.get(size, size)
        gradual, at_once = (next(variant for variant, one in way.items() if one == size) for way in ways)
        pair = self.of(DEFAULTS, gradual), self.of(DEFAULTS, at_once)
        return _or_not_run(self.difference(*pair, SMALLEST if "sixteenth" in gradual else "").in_words())

    def depth_gap(self) -> str:
        """At 1/16, the KL of the default, of four layers, less that of all six, seed by seed."""
        four, six = (self.of(DEFAULTS, name) for name in ("gradual_sixteenth", "six_layers_sixteenth"))
        return _or_not_run(self.difference(four, six, SMALLEST).in_words())

    def short_depth_gap(self) -> str:
        """The same after 500 steps, of the pair that one machine has run."""
        file = self.results.folder / "studies" / "other_teachers.jsonl"
        runs = pd.DataFrame(read_json_rows(file, str(file)) if file.is_file() else [])
        if runs.empty:
            return NOT_RUN
        runs = runs[(runs["teacher"] == TEACHER) & (runs["share"] == SMALLEST) & (runs["way"] == "gradually")]
        four, six = (runs[runs["layers"] == layers] for layers in (4, 6))
        return _or_not_run(self.difference(four, six, SMALLEST).in_words())

    def long_run(self) -> str:
        """Tokens and KL of a run of the default on a GPU."""
        run = self.results.json("long_run")
        if not run:
            return NOT_RUN
        tokens = run["num_steps"] * run["settings"]["per_device_train_batch_size"] * run["settings"]["max_seq_length"]
        return f"{tokens / 1e6:.1f} million tokens end at {run['evaluation']['kl']:.3f} nats"

    def levers(self) -> str:
        """The rows of studies/levers.jsonl: KL less the default's with the same seeds."""
        file = self.results.folder / "studies" / "levers.jsonl"
        rows = pd.DataFrame(read_json_rows(file, str(file)) if file.is_file() else [])
        found = {} if rows.empty else dict(iter(rows.groupby("variant", sort=False)))
        gaps = {name: self.difference(one, found[DEFAULT]) for name, one in found.items() if name != DEFAULT}
        return "; ".join(f"`{name}` {gap}" for name, gap in gaps.items()) or NOT_RUN

    def compact(self) -> str:
        """KL of the student with narrow attention."""
        return spread(self.of(DEFAULTS, COMPACT)["kl"])

    def goals(self) -> list[str]:
        """Goals, and the figures that were reached."""
        quarter, longest = self.of(DEFAULTS, "gradual_quarter"), self._longest()
        above = [self._fine_tuned(variant, BY_TEACHER)["above"] for variant in ("gradual_quarter", "gradual_eighth")]
        ahead = self._short_values("500", "1/8", "same_compute", "every_step_through_masks")
        rows = [
            ["1/4, 2 million tokens: KL on all held-out text ≤ 0.20", *_reached(quarter["all_kl"], most=0.20)],
            ["1/4, 8 million tokens: KL on all held-out text ≤ 0.15", *_reached(longest["all_kl"], most=0.15)],
            ["1/4: GLUE above the constant ≥ 98 %, by the teacher", *_reached(above[0], least=0.98)],
            ["1/8: the same ≥ 90 %", *_reached(above[1], least=0.90)],
            [
                "1/8: gradual ahead of at once by 0.02 nats, equal computation",
                *_reached(ahead, least=0.02, shape=".3f"),
            ],
        ]
        return markdown_table(["goal", "reached", ""], rows)

    def baselines(self) -> list[str]:
        """Other methods by KL, less the paper's."""
        own, students = self.of(BASELINES, PAPERS), self.results.of(BASELINES)
        groups = [group for _, group in students.groupby("variant", sort=False)]
        default, rows = self.of(DEFAULTS, "quarter"), []
        if not default.empty:
            kept = spread(default["accuracy_kept"], ".1%")
            rows.append(["`one_shot`", default["shape"].iloc[0], spread(default["kl"]), "", kept])
        for group in sorted(groups, key=lambda group: group["kl"].mean()):
            variant = group["variant"].iloc[0]
            gap = "" if variant == PAPERS else str(self.difference(group, own))
            rows.append([f"`{variant}`", group["shape"].iloc[0], spread(group["kl"]), gap])
            rows[-1] += [spread(group["accuracy_kept"], ".1%")]
        rows += [[f"`{variant}`", "can't exist", *"–––"] for variant in self.results.impossible(BASELINES)]
        return _table(["method", "shape", "KL, nats", f"less `{PAPERS}`", "accuracy kept"], rows)

    def tokens(self) -> list[str]:
        """The default's KL by tokens and size, and that less the KL of pruning at once; a row a budget of tokens."""
        rows = []
        for budget, group in self.results.of(DEFAULTS, LENGTHS).groupby("num_tokens"):
            cells = [f"{budget / 1e6:.2f} M"]
            for (gradual, size), at_once in zip(GRADUAL.items(), AT_ONCE, strict=True):
                one, other = (group[group["variant"] == variant] for variant in (gradual, at_once))
                cells.append(_with_gap(one, self.difference(one, other, size)))
            rows.append(cells)
        return _table(["tokens", *GRADUAL.values()], rows)

    def windows(self) -> list[str]:
        """The KL where the default's window ends elsewhere, and that less its own."""
        students, rows = self.results.of("windows"), []
        tried = {name: size for name, size in AT_ONCE.items() if name in set(students["variant"])}
        ends = [record["settings"]["pruning_end_fraction"] for record in students["record"]]
        for end, group in students.groupby(pd.Series(ends, index=students.index, dtype=float)):
            cells = [f"{end:g}"]
            for variant, size in tried.items():
                one = group[group["variant"] == variant]
                gap = self.difference(one, self._short_default(size), size)
                cells.append(_with_gap(one, gap))
            rows.append(cells)
        return _table(["`pruning_end_fraction`", *tried.values()], rows)

    def four_layers_gap(self, size: str) -> str:
        """After 500 steps, the KL of four layers less that of the default, of six at this size."""
        name = {size: name for name, size in AT_ONCE.items()}[size]
        return _or_not_run(
            str(self.difference(self._after_500_steps(f"four_layers_{name}"), self._short_default(size)))
        )

    def _short_default(self, size: str) -> pd.DataFrame:
        """Short runs of the default; none at the least size, where it has fewer layers than theirs."""
        short = self.results.short_runs
        is_wanted = (short["variant"] == "gradual") & (short["max_steps"] == 500) & (short["size"] == size)
        return short[is_wanted & (short["size"] != SMALLEST)]

    def _after_500_steps(self, variant: str, sweep: str = LENGTHS) -> pd.DataFrame:
        students = self.of(sweep, variant)
        is_short = [record["num_steps"] == 500 for record in students["record"]]
        return students[pd.Series(is_short, index=students.index, dtype=bool)]

    def equal_seconds(self, size: str) -> str:
        """KL of the default less that of pruning at once in as many seconds, which are more steps.

        What more steps are worth is the slope of KL over the logarithm of steps, between the runs of `LENGTHS`.
        """
        speed, name = self.results.json("speed") or {}, {size: name for name, size in AT_ONCE.items()}[size]
        case = speed.get(SHIPPED if size == "1/4" else f"{SHIPPED}-{name}")
        runs = self.of(LENGTHS, name).sort_values("num_tokens")
        if not case or len(runs) < 2:
            return NOT_RUN
        steps, kls = (runs[column].iloc[[0, -1]].tolist() for column in ("num_tokens", "kl"))
        slope = (kls[1] - kls[0]) / math.log(steps[1] / steps[0])
        more_steps = case["schedule"][ONE_SHOT]["speedups"]["ours"]["median"]
        gaps = paired(*(self.of(DEFAULTS, variant) for variant in (f"gradual_{name}", name)))
        gap = Difference([one - slope * math.log(more_steps) for one in gaps], self._noise(size))
        return f"{gap} ({more_steps - 1:.0%})".replace("%", " %")

    def other_budgets(self) -> str:
        """KL of students of a quarter, pruned at once, with fewer and with more tokens than those of `tokens`."""
        known = set(self.results.of(LENGTHS)["num_tokens"])
        groups = self._budgets().groupby("num_tokens")
        found = [
            (budget, spread(one["kl"]))
            for budget, one in groups
            if len(known) and not min(known) <= budget <= max(known)
        ]
        return " and ".join(f"{kl} with {budget / 1e6:.2f} million" for budget, kl in found) or NOT_RUN

    def half_the_rate(self) -> str:
        """KL of the longest run at half of its learning rate."""
        students = self.results.of(TOKENS)
        return spread(students[students["variant"] == "half_the_rate"]["kl"])

    def _budgets(self) -> pd.DataFrame:
        students = self.results.of(DEFAULTS, TOKENS)
        return students[students["variant"] == "quarter"]

    def _longest(self) -> pd.DataFrame:
        """Students of the largest budget of the sweep of tokens."""
        cells = self.results.sweeps[TOKENS].cells if TOKENS in self.results.sweeps else ()
        steps = max((cell.settings["max_steps"] for cell in cells), default=0)
        budgets = self._budgets()
        is_longest = [record["num_steps"] == steps for record in budgets["record"]]
        return budgets[pd.Series(is_longest, index=budgets.index, dtype=bool)]

    def shapes(self) -> list[str]:
        """KL of students of one cost, a column for each way to spend it; a size's nearest student in bold."""
        rows = []
        for size, group in self.results.of(SHAPES).groupby("size", sort=False):
            nearest, columns = group["kl"].min(), dict[str, list[str]]({"stock": [], "fewer": [], "narrow": []})
            for student in group.sort_values("kl").to_dict("records"):
                plan, mark = plan_of(student["record"]), "**" if student["kl"] == nearest else ""
                is_narrow = plan["num_attention_heads"] * plan["head_dim"] < plan["hidden_size"]
                kind = "narrow" if is_narrow else "fewer" if DEPTH_KEY in plan else "stock"
                columns[kind].append(f"{student['shape']} {mark}{student['kl']:.3f}{mark}")
            rows.append([str(size), *("; ".join(found) or "–" for found in columns.values())])
        header = ["encoder MACs", "all layers: KL, nats", "fewer layers", "attention narrower than the hidden size"]
        return _table(header, rows)

    def num_shapes(self) -> str:
        """How many runs the law of shapes was fitted to."""
        return str(len(read_runs(self.results.folder)))

    def law_error(self) -> str:
        """Root mean square of the law's errors of log KL."""
        runs = read_runs(self.results.folder)
        return f"{math.sqrt(fmean(errors(fitted(runs)[1], runs) ** 2)):.1%}"

    def law_check(self) -> str:
        """KL at a half, as the law says and as it is in the run that it was not fitted to."""
        found = expected_at_half(self.results.folder, SHAPE_LAW)
        return NOT_RUN if found is None else f"{found[0]:.3f}, and it ended at {found[1]:.3f}"

    def longer_shapes(self) -> list[str]:
        """Shapes of the law after 1,000 steps, less those that were planned before, and less those pruned at once."""
        rows = []
        for variant, before in LONGER_SHAPES.items():
            new, old = self.of("shapes_long", variant), self.of(DEFAULTS, before)
            if new.empty or old.empty:
                continue
            size, shapes = GRADUAL[before], (one["shape"].iloc[0] for one in (old, new))
            others = (old, self.of("shapes_long", f"{variant}_at_once"))
            gaps = ("–" if one.empty else str(self.difference(new, one, size)) for one in others)
            rows.append([size, *shapes, spread(new["kl"]), *gaps])
        header = ["encoder MACs", "planned before", "by the law", "KL, nats", "less that before", "less that at once"]
        return _table(header, rows)

    def on_all_text(self) -> list[str]:
        """Students of the sweep of sizes on all held-out text, by size and way."""
        known = self.results.of(DEFAULTS).dropna(subset="all_kl")
        ways = [{size: name for name, size in way.items()} for way in (GRADUAL_AND_WHOLE, AT_ONCE_AND_WHOLE)]
        rows = [[size, *(_on_all_text(known[known["variant"] == way[size]]) for way in ways)] for size in ways[0]]
        rows = [row for row in rows if row[1:] != ["–", "–"]]
        return _table(["encoder MACs", "default: KL, nats; agreement", "at once"], rows if len(known) else [])

    def glue(self) -> list[str]:
        """Each task's score of the teacher and its students, and what they keep of the mean."""
        rows = []
        found = self.results.fine_tuned
        for variant, size in {TEACHER: "1", **ROWS}.items():
            if variant == TEACHER:
                runs = found[found["variant"] == TEACHER]
                scores = [spread(runs[name]) for name in (*TASKS, "mean")]
                rows += [[size, "–", "teacher", *scores, "100%", "100%"]] if len(runs) else []
                continue
            for (budget, way, gpu), group in found[found["variant"] == variant].groupby(
                ["num_tokens", "way", "gpu"], dropna=False
            ):
                scores = [spread(group[name]) for name in (*TASKS, "mean")]
                words = [f"{budget / 1e6:.2f} M", f"{way}, {gpu.removeprefix('NVIDIA ')}" if gpu else str(way)]
                rows.append([size, *words, *scores, *_shares(group)])
        if rows and (constant := self.results.constant):
            share = self.results.floor / self._fine_tuned(TEACHER, PLAIN)["mean"].mean()
            scores = [f"{score:.3f}" for score in (*(constant[task] for task in TASKS), self.results.floor)]
            rows.append(["–", "–", "the same for every row", *scores, f"{share:.1%}", "0%"])
        names = [_TASK_NAMES[task] for task in TASKS]
        return _table(["encoder MACs", "tokens", "", *names, "mean", "kept", "above the constant"], rows)

    def kept_without_rte(self) -> str:
        """What a quarter, pruned at once, keeps of the mean over all tasks but RTE, and that above the constant."""
        others = [name for name in TASKS if name != "rte"]
        constant, kept = self.results.constant, self._fine_tuned("quarter", BY_TEACHER)
        if kept.empty or not constant:
            return NOT_RUN
        teacher = self._fine_tuned(TEACHER, PLAIN)[others].to_numpy().mean()
        own, floor = kept[others].mean(axis=1), fmean(constant[name] for name in others)
        shares = own / teacher, (own - floor) / (teacher - floor)
        return " and ".join(spread(share, ".1%") for share in shares)

    def _fine_tuned(self, variant: str, way: str) -> pd.DataFrame:
        found = self.results.fine_tuned
        return found[(found["variant"] == variant) & (found["axes"] == "") & (found["way"] == way)]

    def ablations(self) -> list[str]:
        """Each variant of gradual pruning: what it changes, and its KL less that of the way as it is."""
        planned = {cell.variant: cell for cell in self.results.sweeps["ablations"].cells}
        ran = {record["variant"]: as_cell(record) for record in self.results.records["ablations"]}
        base, rows = self.of("ablations", BASE), []
        for variant in planned:
            one = self.of("ablations", variant)
            if variant != BASE:
                gap = str(self.difference(one, base))
                cells = ran if {variant, BASE} <= ran.keys() else planned
                rows.append([f"`{variant}`", _changes(cells[variant], cells[BASE]), spread(one["kl"]), gap])
        return _without_level(["", "changed", "KL, nats", f"less `{BASE}`'s {spread(base['kl'])}"], rows)

    def short_runs(self) -> list[str]:
        """The rows of benchmarks/results/changes.py: each variant's KL, and that less the KL of `at_once`.

        Below the table stand the variants whose differences all are within noise.
        """
        table = self.results.short_runs
        sizes = [] if table.empty else list(table["size"].unique())
        rows: dict[tuple[int, int], list[str]] = {}
        for (num_steps, size), group in table.groupby(["max_steps", "size"], sort=False) if sizes else ():
            length = f", {num_steps:,} steps" * (table["max_steps"].nunique() > 1)
            for index, variant in enumerate(VARIANTS):
                one = group[group["variant"] == variant]
                if one.empty:
                    continue
                gap = self.difference(one, group[group["variant"] == REFERENCE], size)
                cells = rows.setdefault((-num_steps, index), [f"`{variant}`" + length, *"–" * len(sizes)])
                cells[1 + sizes.index(size)] = _with_gap(one, gap if variant != REFERENCE else Difference([]))
        in_order = [cells for _, cells in sorted(rows.items())]
        return _without_level(["", *(f"{size}: KL, nats (difference)" for size in sizes)], in_order)

    def short_gap(self, num_steps: str, size: str, variant: str, other: str = REFERENCE) -> str:
        """Of short runs of one length and size, the KL of one variant less another's."""
        return _or_not_run(
            Difference(self._short_values(num_steps, size, variant, other), self.noise_of_kl).in_words()
        )

    def _short_values(self, num_steps: str, size: str, variant: str, other: str) -> list[float]:
        table = self.results.short_runs
        table = table[(table["max_steps"] == int(num_steps)) & (table["size"] == size)]
        one, base = (table[table["variant"] == name] for name in (variant, other))
        return paired(one, base)

    def more_steps(self, size: str) -> str:
        """Steps that a student has more which is cut at once, for as much computation as gradual pruning takes."""
        return f"{as_many_steps(SHORT_SIZES[size], 500) / 500 - 1:.0%}".replace("%", " %")

    def rates(self) -> list[str]:
        """The KL at each learning rate that a sweep tried, the best in bold."""
        rows: dict[tuple[str, ...], dict[float, list[float]]] = {}
        for name, sweep in self.results.sweeps.items():
            for one in trained(self.results.records[name]) if sweep.choose and name != BASELINES else ():
                if sweep.choose and sweep.choose.axis in one["axes"]:
                    tokens = f"{one['num_tokens'] / 1e6:.2f} M", f"{one['num_tokens'] // one['num_steps']:,}"
                    place = f"`{name}`" + f": `{one['variant']}`" * (one["variant"] != BASE)
                    kls = rows.setdefault((place, shape_of(one), *tokens), {})
                    kls.setdefault(setting_of(one, "learning_rate"), []).append(one["evaluation"]["kl"])
        tried = sorted({rate for kls in rows.values() for rate in kls})
        table = [[*place, *(_rate(kls, rate) for rate in tried)] for place, kls in sorted(rows.items())]
        return _table(["", "shape", "tokens", "tokens a step", *(f"{rate:g}" for rate in tried)], table)

    def family(self) -> list[str]:
        """Each size as a member of a family and alone, in the words of its record."""
        record = self.results.json("family") or {"runs": []}
        variants = list(dict.fromkeys(run["variant"] for run in record["runs"]))
        rows = []
        for first in (run for run in record["runs"] if run["variant"] == variants[0]):
            runs = {run["variant"]: run for run in record["runs"] if run["student"] == first["student"]}
            kls = [
                f"{runs[variant]['kl']:.3f} ({runs[variant]['num_tokens'] / 1e6:.2f} M)" if variant in runs else "–"
                for variant in variants
            ]
            rows.append([f"{first['encoder_macs'] / first['teacher_macs']:.3f}", *kls])
        return _table(["encoder MACs", *variants], rows)

    def noise(self) -> str:
        """The threshold of a difference of one seed."""
        noise = self.noise_of_kl
        if noise.std is None:
            return NOT_RUN
        return f"{noise.threshold():.3f} nats (s = {noise.std:.4f}, {noise.freedom} degrees of freedom)"

    def million_tokens(self) -> str:
        """Tokens of a run of the sweep of sizes, in millions."""
        found = self.results.of(DEFAULTS)["num_tokens"].tolist()
        return f"{found[0] / 1e6:.2f}" if found else f"({NOT_RUN})"

    def num_blocks(self) -> str:
        """Blocks of all held-out text."""
        found = [model["num_blocks"] for one in self.results.on_all_text.values() for model in one["models"]]
        return f"{max(found):,}" if found else f"({NOT_RUN})"

    def of(self, sweep: str, variant: str) -> pd.DataFrame:
        """The students of a variant, of a search those of the best value."""
        students = self.results.of(sweep)
        return students[students["variant"] == variant]

    def difference(self, one: pd.DataFrame, other: pd.DataFrame, size: str = "") -> Difference:
        """The KL of students of one variant less that of another's, of a size that is given where it is the least."""
        return Difference(paired(one, other), self._noise(size))

    def _noise(self, size: str) -> Noise:
        # at the least size runs differ more than short ones do, so few seeds decide nothing
        return Noise() if size == SMALLEST else self.noise_of_kl


def spread(values: Iterable[float], shape: str = ".3f") -> str:
    """Mean and standard deviation of those that are known, a dash where none is."""
    known = pd.Series(values, dtype=float).dropna()
    return f"{Spread.of(known):{shape}}" if len(known) else "–"


def _reached(
    values: Iterable[float], *, most: float | None = None, least: float | None = None, shape: str = ""
) -> list[str]:
    """What was reached, and whether its mean is within the bound."""
    known = pd.Series(values, dtype=float).dropna()
    if known.empty:
        return [NOT_RUN, ""]
    is_met = known.mean() <= most if most is not None else least is not None and known.mean() >= least
    return [spread(known, shape or (".3f" if most is not None else ".1%")), "met" if is_met else "**missed**"]


def _with_gap(students: pd.DataFrame, gap: Difference) -> str:
    return spread(students["kl"]) + f" ({gap})" * bool(gap.values)


def _shares(fine_tuned: pd.DataFrame) -> list[str]:
    return [spread(fine_tuned[column], ".1%") for column in ("kept", "above")]


def _table(headings: list[str], rows: list[list[str]]) -> list[str]:
    return markdown_table(headings, rows) if rows else [NOT_RUN.capitalize() + "."]


def _minutes(students: pd.DataFrame) -> str:
    """The mean of those that were trained on a processor, a dash where none was."""
    mean = students["minutes"].mean()
    return "–" if pd.isna(mean) else f"{mean:.0f}"


def _on_all_text(students: pd.DataFrame) -> str:
    return f"{spread(students['all_kl'])}; {students['all_agreement'].mean():.3f}" if len(students) else "–"


def _without_level(headings: list[str], rows: list[list[str]]) -> list[str]:
    """A table, and below it the names of those rows that are within noise in each difference."""
    level = [row for row in rows if _is_level(row)]
    below = ["", f"Within noise: {', '.join(row[0] for row in level)}."] if level else []
    return _table(headings, [row for row in rows if row not in level]) + below


def _is_level(row: Sequence[str]) -> bool:
    differences = [cell for cell in row if re.search(r"within noise|\*\*(better|worse)\*\*", cell)]
    return bool(differences) and all("within noise" in cell for cell in differences)


def _or_not_run(text: str) -> str:
    return NOT_RUN if text in ("", "–") else text


def _costs(costs: Mapping[str, Any], latency: Mapping[str, float] | None) -> list[str]:
    milliseconds = f"{latency['median_ms']:.0f}" if latency else "–"
    return [f"{costs['num_parameters'] / 1e6:.1f} M", f"{costs['size_bytes'] / 1e6:.0f}", milliseconds]


def _changes(cell: Cell, base: Cell) -> str:
    """The settings in which a variant of a sweep differs from another."""
    given = [one.settings for one in (cell, base)]
    values = {name: [one.get(name, "default") for one in given] for name in dict.fromkeys([*given[0], *given[1]])}
    method = [f"`method={cell.method}`"] if cell.method != base.method else []
    return ", ".join([*method, *(f"`{name}={own}`" for name, (own, other) in values.items() if own != other)])


def _rate(kls: Mapping[float, list[float]], rate: float) -> str:
    if rate not in kls:
        return "–"
    is_best = len(kls) > 1 and fmean(kls[rate]) == min(map(fmean, kls.values()))
    return f"**{spread(kls[rate])}**" if is_best else spread(kls[rate])
