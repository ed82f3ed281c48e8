"""The default peak learning rate of a run.

The rule was fitted on sweeps of rates with two teachers (docs/results.md). training_args.py has the share of the run
for which the rate is held, and the end of pruning.
"""

import math

USUAL_ROW_LENGTH = 128
"""Tokens of a row in the measurements."""
TASK_LEARNING_RATE = 6e-4
"""For a model that classifies or finds answers: the highest rate that fine-tunings choose among."""
_TOKENS, _HIDDEN_SIZE, _RATE = 16 * USUAL_ROW_LENGTH, 384, 2.2e-3
_NARROWEST = 128  # of the teachers that rates were measured with


def default_learning_rate(tokens_per_step: float, hidden_size: int) -> float:
    """Return the peak learning rate of a student that starts from its teacher's weights.

    With Adam, a batch that averages more noise away allows a higher rate. So does a narrow model: its outputs sum
    fewer weights, which all move by the rate. Below 128 channels nothing was measured, and the rate rises no further.

    Args:
        tokens_per_step: tokens of the global batch, > 0.
        hidden_size: the teacher's, ≥ 1.

    Example:
    ```python
    >>> default_learning_rate(16 * 128, 384), default_learning_rate(4 * 128, 384), default_learning_rate(16 * 128, 768)
    (0.0022, 0.0011, 0.0011)

    ```
    """
    return rate_for_width(_RATE * math.sqrt(tokens_per_step / _TOKENS), hidden_size)


def rate_for_width(rate: float, hidden_size: int) -> float:
    """Return the rate for a teacher of `hidden_size` ≥ 1 channels in place of one measured with 384.

    Example:
    ```python
    >>> rate_for_width(1e-3, 384), rate_for_width(1e-3, 768)
    (0.001, 0.0005)

    ```
    """
    return rate * _HIDDEN_SIZE / max(hidden_size, _NARROWEST)
