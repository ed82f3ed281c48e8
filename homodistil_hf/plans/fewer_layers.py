"""Fewer layers instead of narrower ones: which layers a shallow student keeps, and how wide they may be.

Pure functions of plans; no model is cut here.
"""

from collections.abc import Sequence

from ..models.cost import encoder_macs
from ..models.widths import WidthPlan, chosen

MACS_TOLERANCE = 0.03
"""How far the encoder MACs of a shallow student may be from the asked ones, as a share of these."""


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
    """Which of a teacher's layers, rising indices, make up the encoder MACs of a narrow plan.

    None where no number of layers comes within `MACS_TOLERANCE`.

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
    """The teacher's layer behind which a shallow student's hidden states should look alike, for each of its layers.

    A kept layer has the weights that expect what the teacher's layer before it gives, so whatever stands in for the
    layers between two kept ones should end where these end.

    Example:
    ```python
    >>> matched_layers((0, 1, 3, 5), num_layers=6), matched_layers((0, 1), num_layers=2)
    ((0, 2, 4, 5), (0, 1))

    ```
    """
    return (*(following - 1 for following in layers[1:]), num_layers - 1)
