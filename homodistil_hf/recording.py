"""Queries and keys of a forward pass, for the attention term, without `output_attentions`.

Hooks sit on the query and key projections only, so the forward itself stays on fused attention; scores are computed
from the recordings (`losses.attention_scores`), layer by layer.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from .modeling import HomoBertPreTrainedModel, HomoBertSelfAttention
from .structure import modules_of

QueryKey = tuple[torch.Tensor, torch.Tensor]


class QueryKeyRecorder:
    """Records the queries and keys of every layer while `recording()` is on.

    Args:
        model: its attention modules get two hooks each; compaction keeps them, as modules stay the same.
    """

    def __init__(self, model: HomoBertPreTrainedModel):
        self.attentions = modules_of(model, HomoBertSelfAttention)
        self._recorded: dict[nn.Module, torch.Tensor] = {}
        self._is_on = False
        for attention in self.attentions:
            for projection in (attention.query, attention.key):
                projection.register_forward_hook(self._record)

    @contextmanager
    def recording(self) -> Iterator[list[QueryKey]]:
        """Record the forward passes inside.

        Yields:
            `list` that holds, afterwards, `(query, key)` of each layer, both `(B, T, heads × head size)`.
        """
        recorded: list[QueryKey] = []
        self._is_on = True
        try:
            yield recorded
        finally:
            self._is_on = False
            taken, self._recorded = self._recorded, {}
            recorded.extend((taken[a.query], taken[a.key]) for a in self.attentions if a.query in taken)

    def _record(self, module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        if self._is_on:
            self._recorded[module] = output
