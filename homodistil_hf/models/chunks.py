"""Slices of a few rows at a time, to save memory."""

import torch


def row_slices(tensor: torch.Tensor, num_elements: int) -> list[slice]:
    """Return slices of dimension 0 to work on one after the other.

    On a CPU a slice has at most `num_elements`, or one row, so that its temporaries stay in the cache. Other devices
    work on everything at once.

    Example:
    ```python
    >>> [rows.stop for rows in row_slices(torch.zeros(5, 4), 8)]
    [2, 4, 6]

    ```
    """
    if tensor.device.type != "cpu" or tensor.numel() <= num_elements:
        return [slice(None)]
    return slices(len(tensor), num_elements // max(1, tensor[0].numel()))


def slices(length: int, size: int) -> list[slice]:
    """Return slices of `size` rows, at least 1, that cover `length`; the last may reach beyond."""
    return [slice(start, start + max(1, size)) for start in range(0, length, max(1, size))]
