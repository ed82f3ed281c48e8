"""Queries, keys and values of a forward pass, for terms that compare attention, without `output_attentions`.

Hooks sit on the projections that are asked for only, so the forward itself stays on fused attention. What is computed
from the recordings isn't here.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from ..models.families import family_of
from ..models.families.modeling_homobert import HomoBertPreTrainedModel
from ..models.units import modules_of

Recorded = tuple[torch.Tensor, ...]


class AttentionRecorder:
    """Records what the attention of chosen layers is made from while `recording()` is on.

    Args:
        model: its attention modules get the hooks; compaction keeps them, as modules stay the same.
        names: of `query`, `key` and `value`.
        layers: indices, negative ones from the end; default: every layer.
    """

    def __init__(
        self,
        model: HomoBertPreTrainedModel,
        names: Sequence[str] = ("query", "key"),
        *,
        layers: Sequence[int] | None = None,
    ):
        attentions = modules_of(model, family_of(model.config).self_attention)
        self.attentions = attentions if layers is None else [attentions[layer] for layer in layers]
        self._projections = [tuple(a.get_submodule(name) for name in names) for a in self.attentions]
        self._recorded: dict[nn.Module, torch.Tensor] = {}
        self._is_on = False
        for projections in self._projections:
            for projection in projections:
                projection.register_forward_hook(self._record)

    @contextmanager
    def recording(self) -> Iterator[list[Recorded]]:
        """Record the forward passes inside.

        Yields:
            `list` that holds, afterwards, what `names` says of each layer, each `(B, T, heads × head size)`.
        """
        recorded: list[Recorded] = []
        self._is_on = True
        try:
            yield recorded
        finally:
            self._is_on = False
            taken, self._recorded = self._recorded, {}
            recorded.extend(
                tuple(taken[projection] for projection in projections)
                for projections in self._projections
                if projections[0] in taken
            )

    def _record(self, module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        if self._is_on:
            self._recorded[module] = output
