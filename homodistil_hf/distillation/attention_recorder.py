"""Queries, keys, values and contexts of a forward pass, without `output_attentions`.

Hooks sit on the requested projections alone, so the forward pass keeps its fused attention. objective.py computes
the attention term from the recordings, methods/baselines/minilm.py relations, pruning/rotation.py moments.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from ..models.architectures import architecture_of
from ..models.architectures.modeling_layerwise import LayerwiseModel, encoder_layers, layer_config, layer_head_dim

Recorded = tuple[torch.Tensor, ...]


class AttentionRecorder:
    """Records the inputs of chosen layers' attention while `recording()` is on.

    Args:
        model: its projections get the hooks; compaction keeps them, as modules stay the same.
        names: some of `query`, `key`, `value` and `context`, the input of attention-out.
        layers: indices, negative ones from the end; default: every layer.
    """

    def __init__(
        self,
        model: LayerwiseModel,
        names: Sequence[str] = ("query", "key"),
        *,
        layers: Sequence[int] | None = None,
    ):
        all_layers, architecture = range(model.config.num_hidden_layers), architecture_of(model.config)
        self.layers = all_layers if layers is None else [all_layers[layer] for layer in layers]
        self._model = model
        places = [("query", "key", "value", "context").index(name) for name in names]
        linears = [architecture.attention_linears(model, layer) for layer in self.layers]
        self._projections = [tuple(of_layer[place] for place in places) for of_layer in linears]
        self._recorded: dict[nn.Module, torch.Tensor] = {}
        self._is_on = False
        self._hooks = [
            projection.register_forward_pre_hook(lambda module, inputs: self._record(module, inputs, inputs[0]))
            if name == "context"
            else projection.register_forward_hook(self._record)
            for projections in self._projections
            for name, projection in zip(names, projections, strict=True)
        ]

    def remove(self) -> None:
        """Take the hooks off the model."""
        for hook in self._hooks:
            hook.remove()

    def attention_of(self, position: int) -> tuple[int, int, float]:
        """Return the present heads and channels of the `position`-th recorded layer, and the scale of its scores."""
        widths = layer_config(self._model.config, self.layers[position])
        num_heads, head_dim = widths.num_attention_heads, layer_head_dim(widths)
        attention = encoder_layers(self._model)[self.layers[position]].get_submodule(self._model.attention_path)
        # Attention without a scale of its own takes it from the head size; the recorded queries are scaled to that.
        return num_heads, num_heads * head_dim, getattr(attention, "scaling", head_dim**-0.5)

    @contextmanager
    def recording(self) -> Iterator[list[Recorded]]:
        """Record the forward pass inside the context.

        Yields:
            `list`, filled at the end: for each layer the states of `names`, each `(B, T, heads × head size)`.
        """
        recorded: list[Recorded] = []
        self._is_on = True
        try:
            yield recorded
        finally:
            self._is_on = False
            # taken out of the recorder, which would keep the tensors of the pass alive
            taken, self._recorded = self._recorded, {}
            recorded.extend(
                tuple(taken[projection] for projection in projections)
                for projections in self._projections
                if projections[0] in taken
            )

    def _record(self, module: nn.Module, inputs: tuple[torch.Tensor, ...], states: torch.Tensor) -> None:
        # The first call projects the tokens; a later one of the same pass may project embedded distances.
        if self._is_on:
            self._recorded.setdefault(module, states)
