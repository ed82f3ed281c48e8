"""Differences between arms, seed by seed, and the noise within groups."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from homodistil_hf.experiments.sweep.statistics import Record, metric_of, seed_of


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


def macs_fraction(record: Record) -> float:
    """Encoder MACs of the student at its own widths, as a share of the teacher's.

    Args:
        record: of a cell that is done.

    Returns:
        `float`: without what a standard export adds where layers differ in width.
    """
    models: Mapping[str, Any] = record["models"]
    return models.get("compact", models["student"])["encoder_macs"] / models["teacher"]["encoder_macs"]
