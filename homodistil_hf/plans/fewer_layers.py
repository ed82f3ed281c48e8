"""Fewer layers instead of narrower ones: the layers that a shallow student keeps.

Pure functions of plans; models/resizing.py cuts the model.
"""

from collections.abc import Sequence

from ..models.cost import encoder_macs
from ..models.widths import WidthPlan, chosen

MACS_TOLERANCE = 0.03
"""Largest difference of a shallow student's encoder MACs from the requested ones, as a share of these."""


def spread_layers(num_kept: int, num_layers: int) -> tuple[int, ...]:
    """Spread the kept layers evenly over `num_layers`, the first and the last among them; rising indices.

    Of 12 layers 6 are (0, 2, 4, 7, 9, 11), the ones that DistilBERT's public script takes [from memory].

    Example:
    ```python
    >>> spread_layers(6, 12), spread_layers(3, 6), spread_layers(1, 6)
    ((0, 2, 4, 7, 9, 11), (0, 2, 5), (0,))

    ```
    """
    gaps = max(1, num_kept - 1)
    return tuple(round(index * (num_layers - 1) / gaps) for index in range(num_kept))


def shallow_plan(plan: WidthPlan, teacher: WidthPlan) -> tuple[int, ...] | None:
    """Return the layers of a teacher, rising indices, that cost the encoder MACs of a narrow plan.

    None if no number of layers comes within `MACS_TOLERANCE`.

    Example:
    ```python
    >>> from homodistil_hf.models.widths import LayerWidths
    >>> teacher = WidthPlan.uniform(384, 6, LayerWidths(12, 32, 1536))
    >>> shallow_plan(WidthPlan.uniform(264, 6, LayerWidths(12, 22, 1112)), teacher)
    (0, 2, 5)
    >>> shallow_plan(WidthPlan.uniform(192, 6, LayerWidths(12, 16, 704)), teacher) is None
    True

    ```
    """
    asked = encoder_macs(plan)
    choices = [spread_layers(num_kept, len(teacher.layers)) for num_kept in range(1, len(teacher.layers) + 1)]
    best = min(choices, key=lambda layers: abs(encoder_macs(chosen(teacher, layers)) - asked))
    fits = abs(encoder_macs(chosen(teacher, best)) - asked) <= MACS_TOLERANCE * asked
    return best if fits else None


def matched_layers(layers: Sequence[int], num_layers: int) -> tuple[int, ...]:
    """Return, for each layer of a shallow student, the teacher's layer whose hidden states it should match.

    A kept layer's weights expect the output of the teacher's layer before it. So the kept layer in front of it must
    also do the work of the dropped layers between the two, and match the last of these.

    Example:
    ```python
    >>> matched_layers((0, 1, 3, 5), num_layers=6), matched_layers((0, 1), num_layers=2)
    ((0, 2, 4, 5), (0, 1))

    ```
    """
    return (*(following - 1 for following in layers[1:]), num_layers - 1)
