"""How a run is trained where nothing else is said: its peak learning rate.

Fitted on sweeps of rates with one teacher (docs/results.md). Which share of the run it is held for, and when pruning
ends, are constants of the settings.
"""

import math

USUAL_ROW_LENGTH = 128
"""Tokens of a row in the measurements."""
TASK_LEARNING_RATE = 6e-4
"""For a model that classifies or finds answers: the highest of those that fine-tunings choose among."""
_TOKENS, _RATE = 16 * USUAL_ROW_LENGTH, 2.2e-3


def default_learning_rate(tokens_per_step: float) -> float:
    """Peak learning rate of a student that starts from its teacher's weights.

    With Adam, a batch that averages more noise away allows a higher rate, by the square root.

    Args:
        tokens_per_step: of the global batch, > 0.

    Returns:
        `float`: > 0.

    Example:
    ```python
    >>> default_learning_rate(16 * 128), default_learning_rate(4 * 128)
    (0.0022, 0.0011)

    ```
    """
    return _RATE * math.sqrt(tokens_per_step / _TOKENS)
