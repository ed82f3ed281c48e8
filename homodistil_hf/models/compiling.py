"""Whether this torch can compile the models, and how often it may for a student that gets narrower."""

import torch
import torch._dynamo

MOST_COMPILED_WIDTHS = 32
"""Moments at which units are removed with `torch_compile`, as each width is compiled anew (docs/performance.md)."""

_OLDEST_TORCH = (2, 7)  # compiled by torch 2.6, the encoder of transformers' BERT loses its outputs


def compiling_problem() -> str | None:
    """Return why this torch can't compile transformers' models; None if it can."""
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) >= _OLDEST_TORCH:
        return None
    return f"torch {torch.__version__} cannot compile BERT of transformers 5; install torch 2.7 or newer"


def allow_recompiling() -> None:
    """Let compiled code be compiled anew for each width; at its limit torch would go on uncompiled, silently."""
    config = torch._dynamo.config
    # Teacher and student, with and without gradients, share the code of a forward pass.
    for name in ("recompile_limit", "accumulated_recompile_limit"):
        setattr(config, name, max(getattr(config, name), 8 * MOST_COMPILED_WIDTHS))
