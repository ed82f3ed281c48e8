"""Records → means, spreads, differences by seed, the best value of an axis. Numbers only; see `tables.py`."""

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
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


def differences(records: Iterable[Record], others: Iterable[Record], metric: str) -> list[float]:
    """By how much one arm differs from another, seed by seed.

    Args:
        records: of an arm.
        others: of the arm that it is compared with.
        metric: one of `METRICS`.

    Returns:
        `list`: value − the other's, for each seed that both have.
    """
    known = {seed_of(other): metric_of(other, metric) for other in others}
    return [metric_of(record, metric) - known[seed_of(record)] for record in records if seed_of(record) in known]


def pooled_std(groups: Iterable[Sequence[float]]) -> tuple[float, int] | None:
    """Standard deviation within groups, all taken together.

    Args:
        groups: of measurements; those of a single one tell nothing.

    Returns:
        `(standard deviation, degrees of freedom)`, or None where there are none.

    Example:
    ```python
    >>> pooled_std([[1.0, 3.0], [10.0, 10.0], [5.0]])
    (1.0, 2)

    ```
    """
    groups = [list(group) for group in groups if len(group) > 1]
    freedom = sum(len(group) - 1 for group in groups)
    if freedom == 0:
        return None
    return math.sqrt(sum(statistics.variance(group) * (len(group) - 1) for group in groups) / freedom), freedom


def best_values(records: Iterable[Record], choice: Choice) -> dict[Key, Any]:
    """Search an axis: which of its values is best in each group.

    Args:
        records: of cells that are done.
        choice: axis, metric and groups.

    Returns:
        `dict`: values of `choice.within` → the axis' best value there, by the metric's mean.
    """
    return {key: _best(values, choice) for key, values in _values_tried(records, choice).items()}


def at_the_edge(records: Iterable[Record], choice: Choice) -> list[Key]:
    """Groups whose best value is the lowest or highest that was tried, so that a better one may lie beyond.

    Args:
        records: of cells that are done.
        choice: the search.

    Returns:
        `list`: values of `choice.within`.
    """
    tried = _values_tried(records, choice)
    return [
        key for key, values in tried.items() if len(values) > 1 and _best(values, choice) in (min(values), max(values))
    ]


def not_searched(records: Iterable[Record], choice: Choice) -> list[Key]:
    """Groups of which one value alone was tried, so that nothing says that it is the best.

    Args:
        records: of cells that are done.
        choice: the search.

    Returns:
        `list`: values of `choice.within`.
    """
    return [key for key, values in _values_tried(records, choice).items() if len(values) == 1]


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
    best = best_values(records, choice)
    return [
        record
        for record in records
        if choice.axis not in record["axes"] or _plain(record["axes"][choice.axis]) == best[group_of(record, choice)]
    ]


def _values_tried(records: Iterable[Record], choice: Choice) -> dict[Key, dict[Any, list[float]]]:
    """Group → value of the axis → the metric of its runs."""
    groups: dict[Key, dict[Any, list[float]]] = {}
    for record in records:
        value = _plain(record["axes"].get(choice.axis))
        if value is not None:
            group = groups.setdefault(group_of(record, choice), {})
            group.setdefault(value, []).append(metric_of(record, choice.metric))
    return groups


def _best(values: Mapping[Any, Sequence[float]], choice: Choice) -> Any:
    sign = -1 if METRICS[choice.metric] else 1
    return min(values, key=lambda value: sign * Spread.of(values[value]).mean)


def _plain(value: Any) -> Any:
    """A value that can be a key; an object stands for its first value."""
    value = next(iter(value.values())) if isinstance(value, dict) and value else value
    return str(value) if isinstance(value, dict | list) else value
