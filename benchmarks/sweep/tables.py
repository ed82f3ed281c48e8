"""Records → groups over seeds, the best value of an axis, and a sweep as one Markdown table."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from benchmarks.sweep.cells import METRICS, TEACHER, Cell, Choice, Sweep
from benchmarks.sweep.folder import (
    DONE,
    ERROR,
    EVALUATE,
    FAILED,
    IMPOSSIBLE,
    SEED,
    as_cell,
    missing_evaluations,
    trained,
)
from homodistil_hf.files.strict_json import is_number
from homodistil_hf.tables import markdown_table

from ..spread import Spread

Record: TypeAlias = Mapping[str, Any]
Key: TypeAlias = tuple[Any, ...]

_HEADINGS = ("parameters", "encoder MACs", "tokens", "KL, nats", "accuracy", "MLM loss, nats", "tokens/s")


def over_seeds(records: Iterable[Record]) -> list[list[Record]]:
    """Groups of records of one variant that differ in their seed only, by seed; groups in the order of the records."""
    groups: dict[Key, list[Record]] = {}
    for record in records:
        settings = {name: value for name, value in record["settings"].items() if name != SEED}
        text = json.dumps([record["method"], settings], sort_keys=True)
        groups.setdefault((record["variant"], text), []).append(record)
    return [sorted(group, key=seed_of) for group in groups.values()]


def seed_of(record: Record) -> int:
    """The seed of a record's run."""
    return int(record["settings"].get(SEED, 42))  # TrainingArguments' default


@dataclass(frozen=True)
class Search:
    """What was tried of an axis in one group of cells, and which value is best by the metric's mean."""

    best: Any
    tried: frozenset[Any]

    @property
    def is_at_the_edge(self) -> bool:
        """Whether the best of some numbers is the lowest or highest tried, so that a better one may lie beyond."""
        are_numbers = all(map(is_number, self.tried))
        return are_numbers and len(self.tried) > 1 and self.best in (min(self.tried), max(self.tried))


def searches(records: Iterable[Record], choice: Choice) -> dict[Key, Search]:
    """Search an axis: values of `choice.within` → what was tried there; a single value was not searched."""
    groups: dict[Key, dict[Any, list[float]]] = {}
    for record in records:
        if choice.axis in record["axes"]:  # where null is a value like others
            metrics = groups.setdefault(group_of(record, choice), {})
            metrics.setdefault(_plain(record["axes"][choice.axis]), []).append(record["evaluation"][choice.metric])
    best = max if METRICS[choice.metric] else min
    means = {key: {value: Spread.of(found).mean for value, found in group.items()} for key, group in groups.items()}
    return {key: Search(best(group, key=group.__getitem__), frozenset(group)) for key, group in means.items()}


def group_of(record: Record, choice: Choice) -> Key:
    """The group of a search that a record is in: the values of `choice.within`."""
    cell = as_cell(record)
    return tuple(_plain(cell.value(name)) for name in choice.within)


def chosen(records: Iterable[Record], choice: Choice | None) -> list[Record]:
    """The records of the best values, and those of variants without that axis; all where nothing is searched."""
    records = list(records)
    if choice is None:
        return records
    found = searches(records, choice)

    def is_best(record: Record) -> bool:
        return _plain(record["axes"][choice.axis]) == found[group_of(record, choice)].best

    return [record for record in records if choice.axis not in record["axes"] or is_best(record)]


def _plain(value: Any) -> Any:
    """A value that can be a key; an object stands for its first value."""
    value = next(iter(value.values())) if isinstance(value, dict) and value else value
    return str(value) if isinstance(value, dict | list) else value


def sweep_table(sweep: Sweep, records: Iterable[Record]) -> str:
    """A sweep as Markdown: the table, and what is missing from it and why."""
    records = list(records)
    rows = cell_rows(sweep, records)
    notes = [*choice_notes(sweep.choose, records), *missing_notes(sweep, records)]
    description = [sweep.description, ""] if sweep.description else []
    return "\n".join([f"# {sweep.name}", "", *description, *rows, "", *notes]).rstrip() + "\n"


def cell_rows(sweep: Sweep, records: Sequence[Record]) -> list[str]:
    """The rows of a table, its head included: mean ± standard deviation over the seeds, and how many there are.

    The best values of a search are set in bold. No line where nothing is done.
    """
    done, choice = trained(records), sweep.choose
    if not done:
        return []
    axes = [axis for axis in dict.fromkeys(axis for cell in sweep.cells for axis in cell.axes) if axis != SEED]
    found = {} if choice is None else searches(done, choice)
    # a single value was not searched, so it isn't marked
    best = {key: search.best for key, search in found.items() if len(search.tried) > 1}
    rows = [_teacher_row(records, axes, sweep.evaluate)]
    for group in _by_axes(over_seeds(done), axes, choice):
        is_best = choice is not None and best.get(group_of(group[0], choice)) == as_cell(group[0]).value(choice.axis)
        marks = {choice.axis: "**"} if choice is not None and is_best else {}
        shown = [_axis_cell(group[0], axis, marks.get(axis, "")) for axis in axes]
        rows.append([group[0]["variant"], *shown, *_figures(group, sweep.evaluate)])
    return markdown_table(["", *axes, *_HEADINGS, *sweep.evaluate], rows)


def _by_axes(groups: list[list[Record]], axes: Sequence[str], choice: Choice | None) -> list[list[Record]]:
    """Put together what is compared: sizes and budgets first, then variants, then the values of a search."""
    searched = None if choice is None else choice.axis
    places = {axis: _order(as_cell(group[0]).value(axis) for group in groups) for axis in axes}
    variants = list(dict.fromkeys(group[0]["variant"] for group in groups))

    def place(group: list[Record]) -> list[int]:
        where = {axis: places[axis].index(str(as_cell(group[0]).value(axis))) for axis in axes}
        last = where.pop(searched, 0) if searched else 0
        return [*where.values(), variants.index(group[0]["variant"]), last]

    return sorted(groups, key=place)


def _order(values: Iterable[Any]) -> list[str]:
    """Numbers rise; anything else stays in the order of the sweep."""
    found = dict.fromkeys(values)
    numbers = [value for value in found if isinstance(value, int | float)]
    return [str(value) for value in (sorted(numbers) if len(numbers) == len(found) else found)]


def in_order(cells: Sequence[Cell], records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The records of the sweep's cells, in its order."""
    known = {record["cell"]: dict(record) for record in records}
    return [known[cell.name] for cell in cells if cell.name in known]


def missing_notes(sweep: Sweep, records: Iterable[Record]) -> list[str]:
    """Lines that name cells that are impossible, failed or not run, and evaluations that are missing."""
    records, cells = list(records), sweep.cells
    known = {record["cell"] for record in records}
    reasons: dict[str, list[str]] = {}
    for record in records:
        if record["status"] == IMPOSSIBLE:
            reasons.setdefault(record["reason"], []).append(f"`{record['cell']}`")
    notes = [f"- {IMPOSSIBLE}: {', '.join(names)}: {reason}" for reason, names in reasons.items()]
    notes += [f"- {FAILED}: `{one['cell']}`: {one[ERROR]}" for one in records if ERROR in one]
    absent = [f"`{cell.name}`" for cell in cells if cell.name not in known]
    if absent and len(absent) == len(cells):
        return [f"- not run: none of its {len(cells)} cells"]
    notes += [f"- not run: {', '.join(absent)}"] if absent else []
    for name in sweep.evaluate:
        done = (record for record in records if record["status"] == DONE and ERROR not in record)
        without = [f"`{record['cell']}`" for record in done if name in missing_evaluations(record, sweep.evaluate)]
        notes += [f"- {name} not run: {', '.join(without)}"] if without else []
    return notes


def choice_notes(choice: Choice | None, records: Iterable[Record]) -> list[str]:
    """Lines on how the best values of an axis were found, and where a better value may lie beyond the tried ones."""
    if choice is None:
        return []
    within = ", ".join(choice.within)
    notes = [f"- **bold**: the best `{choice.axis}` by {choice.metric} of those tried for each {within}"]
    found = {" ".join(map(str, key)): search for key, search in searches(trained(records), choice).items()}
    doubts = {
        "best at the lowest or highest value tried, so perhaps better beyond": lambda search: search.is_at_the_edge,
        "one value tried, so not searched": lambda search: len(search.tried) == 1,
    }
    groups = {words: [key for key in found if doubt(found[key])] for words, doubt in doubts.items()}
    return notes + [f"- {words}: {', '.join(keys)}" for words, keys in groups.items() if keys]


def task_means(record: Record) -> dict[str, float]:
    """Name of each evaluation of a record's student → its mean score."""
    found = record.get(EVALUATE, {})
    return {name: entry["results"]["mean"] for name, entry in found.items() if "mean" in entry["results"]}


def tokens_per_second(record: Record) -> float:
    """How fast a cell was trained, evaluations left out."""
    return record["num_tokens"] / max(record["seconds"] - record["evaluation_seconds"], 1e-9)


def _figures(group: Sequence[Record], evaluate: Iterable[str]) -> list[str]:
    record = group[0]
    metrics = [str(Spread.of(one["evaluation"][name] for one in group)) for name in ("kl", "mlm_accuracy", "mlm_loss")]
    return [
        *_size(record["models"]),
        f"{record['num_tokens'] / 1e6:.2f} M",
        *metrics,
        f"{Spread.of(tokens_per_second(one) for one in group).mean:,.0f}",
        *(_score(group, name) for name in evaluate),
    ]


def _size(models: Mapping[str, Any]) -> list[str]:
    """Parameters and share of the MACs, with those of a padded export where that has more."""
    shares = {name: costs["encoder_macs"] / models["teacher"]["encoder_macs"] for name, costs in models.items()}
    if "compact" not in models:
        return [f"{models['student']['num_parameters'] / 1e6:.2f} M", f"{shares['student']:.3f}"]
    parameters = [models[name]["num_parameters"] / 1e6 for name in ("compact", "student")]
    return [
        f"{parameters[0]:.2f} M ({parameters[1]:.2f} padded)",
        f"{shares['compact']:.3f} ({shares['student']:.3f} padded)",
    ]


def _teacher_row(records: Sequence[Record], axes: Sequence[str], evaluate: Iterable[str]) -> list[str]:
    done = trained(records)
    cost = done[0]["models"]["teacher"]
    measured = list({seed_of(record): record["teacher_evaluation"] for record in done}.values())  # the masks differ
    names = ("mlm_accuracy", "mlm_loss")
    itself = [record for record in records if record["method"] == TEACHER]
    return [
        *("teacher", *["–"] * len(axes), f"{cost['num_parameters'] / 1e6:.2f} M", "1.000", "–", "0.000"),
        *(f"{Spread.of(values[name] for values in measured).mean:.3f}" for name in names),
        *("–", *(_score(itself, name) for name in evaluate)),
    ]


def _score(records: Sequence[Record], evaluation: str) -> str:
    scores = [task_means(record)[evaluation] for record in records if evaluation in task_means(record)]
    return str(Spread.of(scores)) if scores else "–"


def _axis_cell(record: Record, axis: str, mark: str) -> str:
    value = as_cell(record).value(axis)
    return "–" if value is None else f"{mark}{value}{mark}"
