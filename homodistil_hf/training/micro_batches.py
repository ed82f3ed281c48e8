"""A micro-batch in equal parts, so that what the backward pass needs fits a memory budget.

The trainer's terms are shares of averages over the global batch, so the parts' gradients add up to the whole's. How
many parts there are depends on shapes alone, never on the memory that happens to be free: a resumed run takes the
same ones.
"""

import math
from collections.abc import Mapping

import torch

from ..models.widths import LayerWidths, WidthPlan


def activation_bytes(plan: WidthPlan, *, length: int, teacher_size: int, matrix_bytes: int) -> int:
    """What a student keeps of one token until the backward pass, an estimate from above.

    Args:
        plan: widths of the student's parameters.
        length: tokens a sequence.
        teacher_size: the teacher's hidden size, which hidden states are projected to.
        matrix_bytes: bytes of a number in matrix products: 2 under autocast, else 4.

    Returns:
        `int`: bytes a token; the vocabulary's terms are not in it, because they keep none.

    Example:
    ```python
    >>> plan = WidthPlan.uniform(768, 12, LayerWidths(12, 64, 3072))
    >>> activation_bytes(plan, length=128, teacher_size=768, matrix_bytes=2)
    411648

    ```
    """
    hidden = plan.hidden_size
    # Float32: the states of every layer and the teacher's beside them.
    states = 4 * (len(plan.layers) + 1) * (hidden + teacher_size)
    return states + sum(_layer_bytes(layer, hidden, length, teacher_size, matrix_bytes) for layer in plan.layers)


def _layer_bytes(layer: LayerWidths, hidden: int, length: int, teacher_size: int, matrix_bytes: int) -> int:
    # Inputs of query/key/value, of FFN-in and of the projection, and the difference that the projection leaves.
    narrow = 3 * hidden + teacher_size
    # Query, key, value and context; the attention probabilities; what enters the activation.
    attention = 4 * layer.attention_size + layer.num_attention_heads * length
    return matrix_bytes * (narrow + attention + layer.intermediate_size) + 4 * 2 * hidden  # inputs of two LayerNorms


def num_parts(num_tokens: int, bytes_per_token: int, *, budget_mb: float | None) -> int:
    """Into how many parts a micro-batch goes.

    Args:
        num_tokens: of the micro-batch.
        bytes_per_token: what [`activation_bytes`] says.
        budget_mb: megabytes of activations, > 0; None = no limit.

    Returns:
        `int`: ≥ 1.

    Example:
    ```python
    >>> num_parts(4096, 411_648, budget_mb=1000), num_parts(4096, 411_648, budget_mb=None)
    (2, 1)

    ```
    """
    return 1 if budget_mb is None else max(1, math.ceil(num_tokens * bytes_per_token / (budget_mb * 1e6)))


def split_rows(inputs: Mapping[str, torch.Tensor], num_parts: int) -> list[dict[str, torch.Tensor]]:
    """Cut a batch into parts of about as many rows.

    Args:
        inputs: name → tensor whose first dimension is the batch's; `masked_positions` are flat indices into B·T.
        num_parts: how many; no more than there are rows.

    Returns:
        `list[dict]`: the parts, in order.

    Example:
    ```python
    >>> batch = {"input_ids": torch.tensor([[1, 2], [3, 4]]), "masked_positions": torch.tensor([1, 2])}
    >>> [part["masked_positions"].tolist() for part in split_rows(batch, 2)]
    [[1], [0]]

    ```
    """
    num_rows, length = inputs["input_ids"].shape[:2]
    size = math.ceil(num_rows / max(1, min(num_parts, num_rows)))
    return [_take_rows(inputs, start, min(start + size, num_rows), length) for start in range(0, num_rows, size)]


def _take_rows(inputs: Mapping[str, torch.Tensor], start: int, end: int, length: int) -> dict[str, torch.Tensor]:
    rows = {name: values[start:end] if values.dim() else values for name, values in inputs.items()}
    if "masked_positions" in inputs:
        positions = inputs["masked_positions"]
        rows["masked_positions"] = (
            positions[(positions >= start * length) & (positions < end * length)] - start * length
        )
    return rows
