"""Whether this torch can compile the models, and how often it may for a student that gets narrower."""

import torch
import torch._dynamo

MOST_COMPILED_WIDTHS = 32
"""Moments at which units are removed with `torch_compile`, as each width is compiled anew (docs/performance.md)."""

_OLDEST_TORCH = (2, 7)  # torch 2.6 loses what the encoder of transformers' BERT returns


def compiling_problem(version: str | None = None) -> str | None:
    """Say why this torch, or another `version`, can't compile the models of transformers; None if it can.

    Example:
    ```python
    >>> compiling_problem("2.6.0+cu124")
    'torch 2.6.0+cu124 cannot compile BERT of transformers 5; install torch 2.7 or newer'
    >>> compiling_problem("2.10.0") is None
    True

    ```
    """
    version = version or torch.__version__
    if tuple(int(part) for part in version.split(".")[:2]) >= _OLDEST_TORCH:
        return None
    return f"torch {version} cannot compile BERT of transformers 5; install torch 2.7 or newer"


def allow_recompiling() -> None:
    """Let compiled code be compiled anew for each width; at its limit torch would go on uncompiled, silently."""
    config = torch._dynamo.config
    # Teacher and student, with and without gradients, share the code of a forward pass.
    for name in ("recompile_limit", "accumulated_recompile_limit"):
        setattr(config, name, max(getattr(config, name), 8 * MOST_COMPILED_WIDTHS))
