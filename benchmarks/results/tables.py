"""The tables of the page and the figures that its sentences name: from students and their records, by the rule."""

from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import Any

import pandas as pd

from benchmarks.results.computation import setting_of
from benchmarks.results.students import QUARTER, SIZES, Results, shape_of
from benchmarks.results.verdicts import METRICS, REFERENCE, Difference, along_training, near_arms, noises_of, pooled
from homodistil_hf.evaluation.glue.data import PART_SUFFIX
from homodistil_hf.evaluation.records import Spread
from homodistil_hf.experiments.sweep.cells import TEACHER, Cell
from homodistil_hf.experiments.sweep.folder import trained
from homodistil_hf.tables import markdown_table

NOT_RUN = "not run yet"
ONE_SHOT = "one_shot"
AT_ONCE = "at_once"  # the defaults, in short runs

_TOKENS = "tokens_planned"
_OTHERS = {*SIZES, _TOKENS, "shapes", "sizes"}
"""Sweeps with a section of their own; the others are of levers or of rates."""
TASK_NAMES = {"cola": "CoLA", "sst2": "SST-2", "mrpc": "MRPC", "rte": "RTE", "stsb": "STS-B"}
_KEPT = {"glue_kept": "GLUE kept", "glue_above": "above the constant"}


class Tables:
    """Everything that the page takes from records; what there is no record of is said to be not run yet."""

    def __init__(self, results: Results) -> None:
        self.results = results
        self.noises = noises_of(results)

    def what_you_get(self) -> list[str]:
        """What teacher and students cost and keep; at a quarter the hardest opponent too."""
        latency = (self.results.json("student_latency") or {}).get("processor_time", {})
        places = [
            (sweep, arm) for sweep in SIZES for arm in (REFERENCE, ONE_SHOT) if arm == REFERENCE or sweep == QUARTER
        ]
        rows, teacher = [], None
        for sweep, arm in places:
            students = self.of(sweep, arm)
            name = "HomoDistil" if arm == REFERENCE else "pruned at once"
            if students.empty:
                rows.append([name, SIZES[sweep], *"–––", NOT_RUN, *"–––"])
                continue
            costs = students["record"].iloc[0]["models"]
            teacher = [TEACHER, "1", *_costs(costs[TEACHER], latency.get(TEACHER)), "0", "100%", "100%", "–"]
            rows.append([name, SIZES[sweep], *_costs(costs["student"], latency.get(students["shape"].iloc[0]))])
            rows[-1] += [spread(students["kl"]), *_kept(students), f"{students['minutes'].median():.0f}"]
        headings = ["", "encoder MACs", "parameters", "MB", "ms", "KL, nats", *_KEPT.values(), "minutes"]
        return markdown_table(headings, [*([teacher] if teacher else []), *rows])

    def methods(self, *sweeps: str) -> list[str]:
        """Every method, those of a size by KL."""
        rows = []
        for sweep in sweeps:
            students, own = self.results.of(sweep), self.of(sweep, REFERENCE)
            groups = [group for _, group in students.groupby("arm", sort=False)]
            for group in sorted(groups, key=lambda group: group["kl"].mean()):
                arm, share = group["arm"].iloc[0], group["run_macs"].mean() / own["run_macs"].mean()
                gap = "" if arm == REFERENCE else str(self.difference(group, own, "kl"))
                rows.append([SIZES[sweep], f"`{arm}`", group["shape"].iloc[0], spread(group["kl"]), gap])
                rows[-1] += [
                    spread(group["accuracy_kept"], ".1%"),
                    *_kept(group),
                    "–" if pd.isna(share) else f"{share:.2f}",
                ]
            rows += [[SIZES[sweep], f"`{arm}`", "can't exist", *"––––––"] for arm in self.results.impossible(sweep)]
            rows += [] if groups else [[SIZES[sweep], NOT_RUN, *"–––––––"]]
        headings = ["encoder MACs", "method", "shape", "KL, nats", f"less `{REFERENCE}`", "accuracy kept"]
        return markdown_table([*headings, *_KEPT.values(), "computation"], rows)

    def tokens(self) -> list[str]:
        """Both ways at a quarter for each budget of tokens."""
        rows = []
        for budget, group in self.token_students().groupby("num_tokens"):
            own, other = (group[group["arm"] == arm] for arm in (REFERENCE, ONE_SHOT))
            gaps = [str(self.difference(other, own, metric)) for metric in ("kl", "all_kl", "all_agreement")]
            rows.append([f"{budget / 1e6:.2f} M", spread(own["kl"]), spread(other["kl"]), *gaps])
            rows[-1] += [spread(own["accuracy_kept"], ".1%"), f"{own['minutes'].median():.0f}"]
        gaps = ("difference", "difference, all text", "agreement, all text")
        headings = ["tokens", f"`{REFERENCE}`, nats", f"`{ONE_SHOT}`, nats", *gaps, "accuracy kept", "minutes"]
        return _table(headings, rows)

    def token_students(self) -> pd.DataFrame:
        """Students of both ways with the shape that is planned at a quarter, each once."""
        students = self.results.of(QUARTER, _TOKENS)
        shape = self.of(QUARTER, REFERENCE)["shape"].unique()[:1]
        both = students[students["arm"].isin([REFERENCE, ONE_SHOT]) & students["shape"].isin(shape)]
        both = both.assign(is_other=both["sweep"] != QUARTER).sort_values("is_other", kind="stable")
        return both.drop_duplicates("digest").sort_values(["num_tokens", "seed"], kind="stable")

    def shapes(self) -> list[str]:
        """HomoDistil's students of one cost, by KL, and each less the first of its size that the sweep names."""
        rows = []
        for size, group in self.of("shapes", REFERENCE).groupby("size", sort=False):
            shapes = dict(iter(group.groupby("shape", sort=False)))
            first = next(iter(shapes))
            kls = [
                f"{shape} {spread(one['kl'])}" + f" ({self.difference(one, shapes[first], 'kl')})" * (shape != first)
                for shape, one in sorted(shapes.items(), key=lambda item: item[1]["kl"].mean())
            ]
            rows.append([str(size), first, "; ".join(kls)])
        return _table(["encoder MACs", "first planned", "KL, nats (less the first planned's)"], rows)

    def on_all_text(self) -> list[str]:
        """Each size on all held-out text: HomoDistil's figures, and the others' less these."""
        rows = []
        metrics = [metric for metric in METRICS if metric.startswith("all_")]
        for sweep, size in SIZES.items():
            students = self.results.of(sweep).dropna(subset="all_kl")
            own = students[students["arm"] == REFERENCE]
            for arm, group in students.groupby("arm", sort=False):
                cells = [str(self.difference(group, own, metric)) for metric in metrics]
                if arm == REFERENCE:
                    cells = [spread(own[metric]) for metric in metrics]
                rows.append([size, f"`{arm}`" + f" − `{REFERENCE}`" * (arm != REFERENCE), *cells])
        return _table(["encoder MACs", "", *map(METRICS.__getitem__, metrics)], rows)

    def glue(self) -> list[str]:
        """Each task's score of students near their teacher, and what they keep of the mean."""
        rows = []
        for sweep, size in SIZES.items():
            teacher, students = self.results.teacher(sweep), self.results.of(sweep).dropna(subset="glue")
            if teacher and not rows:
                rows.append(
                    ["1", TEACHER, *_scores([teacher]), f"{self.results.teacher_score(sweep):.3f}", "100%", "100%"]
                )
            near = [REFERENCE, *near_arms(students)]
            for arm, group in students[students["arm"].isin(near)].groupby("arm", sort=False):
                rows.append([size, f"`{arm}`", *_scores(group["record"]), spread(group["glue"]), *_kept(group)])
        if constant := self.results.json("constant_predictions"):
            share = self.results.floor / self.results.teacher_score(QUARTER)
            scores = [f"{score:.3f}" for score in (*(constant[task] for task in TASK_NAMES), self.results.floor)]
            rows.append(["–", "the same for every row", *scores, f"{share:.1%}", "0%"])
        return _table(["encoder MACs", "", *TASK_NAMES.values(), "mean", "kept", "above the constant"], rows)

    def fine_tunings(self) -> list[str]:
        """Several fine-tunings of each student: a task a row."""
        rows = []
        for found in filter(None, map(self.results.json, ("fine_tunings", "fine_tunings_parts"))):
            scores = _fine_tuned(found["models"])
            for task in scores.columns[2:]:
                arms = {
                    arm: scores[scores["arm"] == arm].groupby("seed")[task] for arm in (TEACHER, REFERENCE, ONE_SHOT)
                }
                means = {arm: one.mean() for arm, one in arms.items()}
                gap = Difference((means[ONE_SHOT] - means[REFERENCE]).dropna().tolist(), "score")  # by its own spread
                groups = [one.tolist() for arm in (REFERENCE, ONE_SHOT) for _, one in arms[arm]]
                apart = [pooled(groups).std, pooled(means[arm].tolist() for arm in (REFERENCE, ONE_SHOT)).std]
                rows.append([task, *(f"{mean.mean():.3f}" for mean in means.values()), str(gap)])
                rows[-1] += ["–" if std is None else f"{std:.3f}" for std in apart]
        headings = ["task", TEACHER, f"`{REFERENCE}`", f"`{ONE_SHOT}`", "difference"]
        return _table([*headings, "between fine-tunings", "between students"], rows)

    def levers(self) -> list[str]:
        """Each variant of a way to prune: what it changes, and its KL less that of the way as it is."""
        rows: dict[str, list[str]] = {}
        for name, sweep in self.results.sweeps.items():
            cells = {} if sweep.choose or name in _OTHERS else {cell.arm: cell for cell in sweep.cells}
            for arm, cell in cells.items():
                base = ONE_SHOT if arm.startswith(f"{ONE_SHOT}_") else REFERENCE
                if arm == base or base not in cells:
                    continue
                one, other = self.of(name, arm), self.of(name, base)
                for axes in one["axes"].unique() if len(one) else [""]:
                    pair = one[one["axes"] == axes], other[other["axes"] == axes]
                    figures = [spread(pair[0]["kl"]), _or_not_run(str(self.difference(*pair, "kl")))]
                    changed = ", ".join(filter(None, [_changes(cell, cells[base]), axes]))
                    rows.setdefault(f"`{arm}` − `{base}` {changed}", [f"`{arm}` − `{base}`", changed, *figures])
        return _table(["", "changed", "KL, nats", "difference"], list(rows.values()))

    def short_runs(self) -> list[str]:
        """The rows of benchmarks/results/levers.py: each arm's KL, and that less the KL of the defaults."""
        table = self._short()
        sizes = [] if table.empty else list(table["size"].unique())
        rows: dict[tuple[str, str], dict[str, str]] = {}
        for (num_steps, size), group in table.groupby(["max_steps", "size"], sort=False) if sizes else ():
            for arm, one in group.groupby("arm", sort=False):
                gap = self.difference(one, group[group["arm"] == AT_ONCE], "kl")
                place = f"{num_steps:,}", f"`{arm}`" + f" − `{AT_ONCE}`" * (arm != AT_ONCE)
                rows.setdefault(place, {})[size] = spread(one["kl"]) + f" ({gap})" * (arm != AT_ONCE)
        cells = [[*place, *(found.get(size, "–") for size in sizes)] for place, found in rows.items()]
        return _table(["steps", "", *(f"{size}: KL, nats (difference)" for size in sizes)], cells)

    def short_gap(self, num_steps: str, size: str, arm: str, other: str = AT_ONCE) -> str:
        """Of these runs of one length and size, the KL of one arm less another's."""
        table = self._short()
        table = table[(table["max_steps"] == int(num_steps)) & (table["size"] == size)]
        one, base = (table[table["arm"] == name] for name in (arm, other))
        return _or_not_run(str(self.difference(one, base, "kl")))

    def _short(self) -> pd.DataFrame:
        rows = (self.results.json("levers") or {"rows": []})["rows"]
        return pd.DataFrame(rows, columns=None if rows else ["size", "arm", "seed", "max_steps", "kl"])

    def rates(self) -> list[str]:
        """The KL at each learning rate that a sweep tried, the best in bold."""
        rows: dict[tuple[str, ...], dict[float, list[float]]] = {}
        for name, sweep in self.results.sweeps.items():
            for one in trained(self.results.records[name]) if sweep.choose else ():
                tokens = f"{one['num_tokens'] / 1e6:.2f} M", f"{one['num_tokens'] // one['num_steps']:,}"
                kls = rows.setdefault((f"`{one['arm']}`", shape_of(one), *tokens), {})
                kls.setdefault(setting_of(one, "learning_rate"), []).append(one["evaluation"]["kl"])
        tried = sorted({rate for kls in rows.values() for rate in kls})
        table = [[*place, *(_rate(kls, rate) for rate in tried)] for place, kls in sorted(rows.items())]
        return _table(["", "shape", "tokens", "tokens a step", *(f"{rate:g}" for rate in tried)], table)

    def family(self) -> list[str]:
        """Each size as a member of a family and alone, in the words of its record."""
        record = self.results.json("family") or {"runs": []}
        arms = list(dict.fromkeys(run["arm"] for run in record["runs"]))
        rows = []
        for first in (run for run in record["runs"] if run["arm"] == arms[0]):
            runs = {run["arm"]: run for run in record["runs"] if run["student"] == first["student"]}
            kls = [
                f"{runs[arm]['kl']:.3f} ({runs[arm]['num_tokens'] / 1e6:.2f} M)" if arm in runs else "–"
                for arm in arms
            ]
            rows.append([f"{first['encoder_macs'] / first['teacher_macs']:.3f}", *kls])
        return _table(["encoder MACs", *arms], rows)

    def noise(self) -> str:
        """What a difference of one seed must exceed."""
        told = [
            f"{METRICS[metric]}{' on all held-out text' * metric.startswith('all_')} {noise.threshold():.3f} "
            f"({noise.std:.4f}, {noise.freedom})"
            for metric, noise in self.noises.items()
            if noise.std is not None
        ]
        return "; ".join(told) or NOT_RUN

    def gap(self, metric: str, sweep: str, arm: str, other: str = REFERENCE) -> str:
        """One arm less another."""
        return _or_not_run(str(self.difference(self.of(sweep, arm), self.of(sweep, other), metric)))

    def kl(self, sweep: str, arm: str, metric: str = "kl") -> str:
        """The KL of an arm's students; `all_kl`: on all held-out text."""
        return _or_not_run(spread(self.of(sweep, arm)[metric]))

    def along(self, sweep: str) -> str:
        """HomoDistil beside one-shot pruning at each evaluation of a run."""
        return _or_not_run(along_training(self.results.of(sweep), ONE_SHOT, self.results.of(QUARTER)))

    def share(self, sweep: str, arm: str) -> str:
        """What an arm computes, as a share of HomoDistil's."""
        share = self.of(sweep, arm)["run_macs"].mean() / self.of(sweep, REFERENCE)["run_macs"].mean()
        return NOT_RUN if pd.isna(share) else f"{share:.2f}"

    def million_tokens(self, sweep: str) -> str:
        """Of HomoDistil's runs."""
        found = self.of(sweep, REFERENCE)["num_tokens"].tolist()
        return f"{found[0] / 1e6:.2f}" if found else f"({NOT_RUN})"

    def num_blocks(self) -> str:
        """Of all held-out text."""
        found = [model["num_blocks"] for one in self.results.on_all_text.values() for model in one["models"]]
        return f"{max(found):,}" if found else f"({NOT_RUN})"

    def of(self, sweep: str, arm: str) -> pd.DataFrame:
        """The students of an arm, of a search those of the best value."""
        students = self.results.of(sweep)
        return students[students["arm"] == arm]

    def difference(self, one: pd.DataFrame, other: pd.DataFrame, metric: str) -> Difference:
        """Students of one arm less those of another."""
        return Difference.of(one, other, metric, self.noises)


def spread(values: Iterable[float], shape: str = ".3f") -> str:
    """Mean and standard deviation of those that are known, a dash where none is."""
    known = pd.Series(values, dtype=float).dropna()
    return f"{Spread.of(known):{shape}}" if len(known) else "–"


def _table(headings: list[str], rows: list[list[str]]) -> list[str]:
    return markdown_table(headings, rows) if rows else [NOT_RUN.capitalize() + "."]


def _or_not_run(text: str) -> str:
    return NOT_RUN if text in ("", "–") else text


def _kept(students: pd.DataFrame) -> list[str]:
    return [spread(students[column], ".1%") for column in _KEPT]


def _costs(costs: Mapping[str, Any], latency: Mapping[str, float] | None) -> list[str]:
    milliseconds = f"{latency['median_ms']:.0f}" if latency else "–"
    return [f"{costs['num_parameters'] / 1e6:.1f} M", f"{costs['size_bytes'] / 1e6:.0f}", milliseconds]


def _scores(records: Iterable[Mapping[str, Any]]) -> list[str]:
    found = [one["evaluate"]["glue"]["results"]["tasks"] for one in records]
    return [spread(tasks[task]["mean"] for tasks in found if task in tasks) for task in TASK_NAMES]


def _fine_tuned(models: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """One row a fine-tuning: arm, seed of the student (the teacher has none), a column a task, and their mean."""
    tasks = {task: task.removesuffix(PART_SUFFIX) for model in models for task in model["scores"]}
    names = [TASK_NAMES.get(name, name.upper()) + "*" * (task != name) for task, name in tasks.items()]
    rows = [
        (model["arm"], -1 if model["seed"] is None else model["seed"], *scores, fmean(scores))
        for model in models
        for scores in zip(*model["scores"].values(), strict=True)
    ]
    return pd.DataFrame(rows, columns=["arm", "seed", *names, f"mean of {', '.join(names)}"])


def _changes(cell: Cell, base: Cell) -> str:
    """The settings in which an arm of a sweep differs from another."""
    axes = {name for axis, value in cell.axes.items() for name in (value if isinstance(value, dict) else [axis])}
    given = [one.settings | one.method_settings for one in (cell, base)]
    values = {name: [one.get(name, "default") for one in given] for name in dict.fromkeys([*given[0], *given[1]])}
    method = [f"`method={cell.method}`"] if cell.method != base.method else []
    return ", ".join(
        [*method, *(f"`{name}={own}`" for name, (own, other) in values.items() if own != other and name not in axes)]
    )


def _rate(kls: Mapping[float, list[float]], rate: float) -> str:
    if rate not in kls:
        return "–"
    is_best = len(kls) > 1 and fmean(kls[rate]) == min(map(fmean, kls.values()))
    return f"**{spread(kls[rate])}**" if is_best else spread(kls[rate])
