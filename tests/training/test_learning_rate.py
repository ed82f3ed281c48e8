"""The rule of learning rates: by the tokens of a step and the teacher's width."""

import pytest

from homodistil_hf.training.learning_rate import default_learning_rate


@pytest.mark.parametrize(
    ("tokens_per_step", "hidden_size", "rate"),
    [
        (2048, 384, 2.2e-3),  # what was measured best
        (8192, 384, 4.4e-3),
        (2048, 768, 1.1e-3),
        (2048, 128, 6.6e-3),
        (2048, 32, 6.6e-3),  # narrower teachers were not measured
    ],
)
def test_rates_rise_with_the_batch_and_fall_with_the_width(tokens_per_step, hidden_size, rate):
    assert default_learning_rate(tokens_per_step, hidden_size) == pytest.approx(rate)
