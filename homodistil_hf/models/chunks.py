"""Rows a few at a time, so that large tensors need little memory beside them."""

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
    size = max(1, num_elements // max(1, tensor[0].numel()))
    return [slice(start, start + size) for start in range(0, len(tensor), size)]
