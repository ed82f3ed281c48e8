"""Records → groups over seeds, differences by seed, the best value of an axis. Numbers only."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from ...evaluation.records import Spread
from .cells import METRICS, Choice
from .folder import as_cell

SEED = "seed"
Record: TypeAlias = Mapping[str, Any]
Key: TypeAlias = tuple[Any, ...]


def over_seeds(records: Iterable[Record]) -> dict[Key, list[Record]]:
    """Put the records together that differ in their seed only.

    Args:
        records: of cells, also of several sweeps.

    Returns:
        `dict`: arm, and all other settings as text → records by seed, in the order of the records.
    """
    groups: dict[Key, list[Record]] = {}
    for record in records:
        settings = {name: value for name, value in record["settings"].items() if name != SEED}
        text = json.dumps([record["method"], record["method_settings"], settings], sort_keys=True)
        groups.setdefault((record["arm"], text), []).append(record)
    return {key: sorted(group, key=seed_of) for key, group in groups.items()}


def seed_of(record: Record) -> int:
    """The seed of a record's run.

    Args:
        record: of a cell.

    Returns:
        `int`.
    """
    return int(record["settings"].get(SEED, 42))  # TrainingArguments' default


def metric_of(record: Record, metric: str) -> float:
    """One held-out figure of a record.

    Args:
        record: of a cell that is done.
        metric: one of `METRICS`.

    Returns:
        `float`.
    """
    return float(record["evaluation"][metric])


@dataclass(frozen=True)
class Search:
    """What was tried of an axis in one group of cells.

    Args:
        best: the axis' best value, by the metric's mean.
        tried: all its values.
    """

    best: Any
    tried: frozenset[Any]

    @property
    def is_at_the_edge(self) -> bool:
        """Whether the best value is the lowest or highest tried, so that a better one may lie beyond."""
        return len(self.tried) > 1 and self.best in (min(self.tried), max(self.tried))


def searches(records: Iterable[Record], choice: Choice) -> dict[Key, Search]:
    """Search an axis: which of its values is best in each group.

    Args:
        records: of cells that are done.
        choice: axis, metric and groups.

    Returns:
        `dict`: values of `choice.within` → what was tried there; a single value was not searched.
    """
    groups: dict[Key, dict[Any, list[float]]] = {}
    for record in records:
        if (value := _plain(record["axes"].get(choice.axis))) is not None:
            metrics = groups.setdefault(group_of(record, choice), {})
            metrics.setdefault(value, []).append(metric_of(record, choice.metric))
    best = max if METRICS[choice.metric] else min
    means = {key: {value: Spread.of(found).mean for value, found in group.items()} for key, group in groups.items()}
    return {key: Search(best(group, key=group.__getitem__), frozenset(group)) for key, group in means.items()}


def group_of(record: Record, choice: Choice) -> Key:
    """The group of a search that a record is in.

    Args:
        record: of a cell.
        choice: whose `within` names the group.

    Returns:
        `tuple`: of values.
    """
    cell = as_cell(record)
    return tuple(_plain(cell.value(name)) for name in choice.within)


def chosen(records: Iterable[Record], choice: Choice | None) -> list[Record]:
    """The records that stand for their groups: those of the best values.

    Args:
        records: of cells that are done.
        choice: the search, or None, which leaves all.

    Returns:
        `list`: also those of arms without that axis.
    """
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
