"""Compiled layers whose code serves all layers of a model, whatever widths they have.

A student gets narrower at each choice of masks, and torch would compile its code anew for each width. Here sizes are
symbols: of parameters, of the numbers of heads and channels that attention has as attributes, and of norms.
`training/distillation_trainer.py` compiles teacher and student by it.
"""

from typing import Any

import torch
import torch._dynamo.utils
import torch.fx.experimental._config
from torch import nn
from torch.nn import functional as F

from .architectures.modeling_layerwise import LayerwiseModel, encoder_layers

_OLDEST_TORCH = (2, 7)  # compiled by torch 2.6, the encoder of transformers' BERT loses its outputs


def compiling_problem() -> str | None:
    """Return why this torch can't compile transformers' models; None if it can."""
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) >= _OLDEST_TORCH:
        return None
    return f"torch {torch.__version__} cannot compile BERT of transformers 5; install torch 2.7 or newer"


class NormOfAnyWidth(nn.LayerNorm):
    """A layer norm over the width of its input, for torch compiles the numbers in `normalized_shape` in."""

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """`(…, H)` → `(…, H)`."""
        return F.layer_norm(states, states.shape[-1:], self.weight, self.bias, self.eps)


def compile_layers(model: LayerwiseModel, **how: Any) -> None:
    """Have the layers of a model compiled at their first pass, in place; copies of it are not compiled.

    It changes settings of torch for the whole process: code that is compiled with `dynamic=True` takes sizes for
    symbols where torch would compile them in.

    Args:
        model: student or teacher; parameters and their names stay.
        how: arguments of `torch.compile`, but for `dynamic`.
    """
    torch._dynamo.config.force_parameter_static_shapes = False
    torch._dynamo.config.force_nn_module_property_static_shapes = False
    torch._dynamo.config.allow_unspec_int_on_nn_module = True
    # sizes that are equal at first, such as those of hidden states and heads, differ later
    torch.fx.experimental._config.use_duck_shape = False
    for layer in encoder_layers(model):
        for module in layer.modules():
            if type(module) is nn.LayerNorm:
                module.__class__ = NormOfAnyWidth
        layer.compile(**how | {"dynamic": True})


def compiling_seconds() -> float:
    """Seconds for which this process has compiled so far."""
    return torch._dynamo.utils.calculate_time_spent()["total_wall_time"]
