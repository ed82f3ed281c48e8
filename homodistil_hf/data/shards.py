"""How the shards of a stream, such as files, are grouped to be read side by side."""

from collections.abc import Iterator
from typing import Any

import datasets

SHARDS_A_LANE = 8
"""Shards of a stream at least that are read as one, so that files of unlike length count alike."""
MOST_LANES = 64
"""Parts of a stream that are read side by side; each may be an open file."""

SORTS = "sorts_by_length"
"""Name of an attribute of the function by which a stream is sorted."""


def num_lanes_of(stream: Any, rows_per_step: int) -> int:
    """Lanes that a stream is read in: a power of two, with 8 shards each or more, that divides the rows of a step.

    One that [`by_length`] sorted has one, as rows of several lanes would mix lengths again.

    Example:
    ```python
    >>> shards = datasets.IterableDataset.from_generator(iter, gen_kwargs={"rows": list(range(1000))})
    >>> [num_lanes_of(shards, rows) for rows in (4096, 48, 7)], num_lanes_of(range(9), 4096)
    ([64, 16, 1], 1)

    ```
    """
    num_shards = stream.num_shards if isinstance(stream, datasets.IterableDataset) else 1
    mapped = (getattr(getattr(part, "function", None), "func", None) for part in parts_of(stream))
    if any(getattr(function, SORTS, False) for function in mapped):
        return 1
    most = min(num_shards // SHARDS_A_LANE, MOST_LANES)
    return max([1, *(lanes for lanes in (2, 4, 8, 16, 32, 64) if lanes <= most and rows_per_step % lanes == 0)])


def parts_of(stream: Any) -> Iterator[Any]:
    """What makes the rows of a stream of `datasets`, such as a shuffle or a map, the last one first."""
    parts = [getattr(stream, "_ex_iterable", None)]
    while parts:
        if (part := parts.pop()) is not None:
            yield part
            parts += [getattr(part, "ex_iterable", None), *getattr(part, "ex_iterables", ())]
