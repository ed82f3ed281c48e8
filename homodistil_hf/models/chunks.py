"""Slices of a few rows at a time, to save memory."""

import torch


def row_slices(tensor: torch.Tensor, num_elements: int) -> list[slice]:
    """Slices of dimension 0 that are worked on one after the other.

    Args:
        tensor: what is to be cut.
        num_elements: on a CPU a slice has no more, if one row has no more, so that what is computed of it stays in the
            cache; on other devices everything is one slice.

    Returns:
        `list[slice]`.

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
    """Slices of so many rows.

    Args:
        length: of all.
        size: rows of a slice, the last excepted; at least 1.

    Returns:
        `list[slice]`.
    """
    return [slice(start, start + max(1, size)) for start in range(0, length, max(1, size))]
