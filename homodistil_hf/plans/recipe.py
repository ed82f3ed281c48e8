"""How a run is trained where nothing else is said: its peak learning rate.

Fitted on sweeps of rates with two teachers (docs/results.md). Which share of the run it is held for, and when pruning
ends, are constants of the settings.
"""

import math

USUAL_ROW_LENGTH = 128
"""Tokens of a row in the measurements."""
TASK_LEARNING_RATE = 6e-4
"""For a model that classifies or finds answers: the highest of those that fine-tunings choose among."""
MEASURED_HIDDEN_SIZE = 384
"""Of the teacher whose rates were searched."""
NARROWEST = 128
"""Of the teachers that rates were measured with."""
_TOKENS, _RATE = 16 * USUAL_ROW_LENGTH, 2.2e-3


def default_learning_rate(tokens_per_step: float, hidden_size: int) -> float:
    """Peak learning rate of a student that starts from its teacher's weights.

    With Adam, a batch that averages more noise away allows a higher rate, and a narrow model a higher one than a wide
    one: there an output sums fewer weights that all move by the rate. Below 128 channels nothing was measured, and the
    rate rises no further.

    Args:
        tokens_per_step: of the global batch, > 0.
        hidden_size: of the teacher, ≥ 1.

    Returns:
        `float`: > 0.

    Example:
    ```python
    >>> default_learning_rate(16 * 128, 384), default_learning_rate(4 * 128, 384), default_learning_rate(16 * 128, 768)
    (0.0022, 0.0011, 0.0011)

    ```
    """
    return _RATE * math.sqrt(tokens_per_step / _TOKENS) * MEASURED_HIDDEN_SIZE / max(hidden_size, NARROWEST)
