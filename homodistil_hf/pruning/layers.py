"""Which layers stay where a plan has fewer: those that are missed most. gates.py beside it takes the others out."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from operator import itemgetter

from ..models.architectures import architecture_of
from ..models.architectures.modeling_layerwise import LayerwiseModel, encoder_layers
from .gates import LayerGates


@contextmanager
def without_layers(model: LayerwiseModel, kept: Sequence[int]) -> Iterator[None]:
    """Within the block all layers but `kept` are the identity."""
    gates = LayerGates(model, kept)
    gates.move_to(0.0)
    try:
        yield
    finally:
        gates.remove()


def choose_layers(
    model: LayerwiseModel, num_kept: int, distances: Callable[[list[tuple[int, ...]]], list[float]]
) -> tuple[int, ...]:
    """Choose the layers that stay: the one that is missed least leaves, again and again; rising indices.

    Args:
        model: the student.
        num_kept: layers that stay, ≥ 1.
        distances: how far the student's answers are from its teacher's with these layers alone, for each choice.

    Raises:
        FloatingPointError: no distance is finite.
    """
    kept = tuple(range(len(encoder_layers(model))))
    bound = {0} if architecture_of(model.config).keeps_first_layer(model.config) else set()
    while len(kept) > num_kept:
        rests = [tuple(layer for layer in kept if layer != left) for left in kept if left not in bound]
        finite = [(found, rest) for found, rest in zip(distances(rests), rests, strict=True) if math.isfinite(found)]
        if not finite:
            raise FloatingPointError(
                "whichever layer is left out, the answers to the first batches are not finite, so layers can't be "
                "chosen; check the data, or use bf16 or float32 instead of fp16"
            )
        _, kept = min(finite, key=itemgetter(0))
    return kept
