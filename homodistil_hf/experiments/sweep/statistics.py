"""Records → groups over seeds, the best value of an axis. Numbers only."""

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
        """Whether the best value is the lowest or highest tried, so that a better one may lie beyond."""
        return len(self.tried) > 1 and self.best in (min(self.tried), max(self.tried))


def searches(records: Iterable[Record], choice: Choice) -> dict[Key, Search]:
    """Search an axis: values of `choice.within` → what was tried there; a single value was not searched."""
    groups: dict[Key, dict[Any, list[float]]] = {}
    for record in records:
        if (value := _plain(record["axes"].get(choice.axis))) is not None:
            metrics = groups.setdefault(group_of(record, choice), {})
            metrics.setdefault(value, []).append(record["evaluation"][choice.metric])
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
