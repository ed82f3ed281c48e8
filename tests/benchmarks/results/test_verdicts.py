"""The rule of the results page, by hand: noise, thresholds, verdicts, the order along training."""

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from page_results import results_of
from sweep_records import METHODS, record

from benchmarks.results.verdicts import Difference, Noise, Tally, along_training, noise_of, paired

# One-shot's differences are .10, .08, .12 and pruned-first's .01, .00, .02: variances .0004 and .0001, pooled .00025.
STD = math.sqrt(0.00025)


def students(*records: dict[str, Any]) -> pd.DataFrame:
    return results_of(Path("nowhere"), methods_quarter=list(records)).of("methods_quarter")


def test_noise_is_that_of_paired_differences_of_methods_in_the_same_league():
    noise = noise_of(students(*METHODS), "kl")
    assert (noise.std, noise.freedom) == (pytest.approx(STD), 4)
    assert noise.threshold() == pytest.approx(2.776 * STD, rel=1e-3)  # of four degrees of freedom
    assert noise.threshold(4) == pytest.approx(noise.threshold() / 2)
    assert noise_of(students(*METHODS[:3]), "kl") == noise_of(students(), "kl") == Noise()
    assert noise_of(students(*(one for one in METHODS if one["axes"]["seed"] < 2)), "kl") == Noise()


def test_arms_are_paired_by_seed():
    own, other = students(*METHODS[:3]), students(METHODS[5], METHODS[3])
    assert paired(other, own, "kl") == [pytest.approx(0.10), pytest.approx(0.12)]
    assert paired(other, own, "glue") == []  # nothing was fine-tuned
    assert paired(other, students(METHODS[1]), "kl") == []


def test_three_seeds_decide_by_their_own_spread_fewer_borrow_one():
    """Of .01, .02, .03 Student's t asks .0248 of the mean; the borrowed noise .043 of one difference, .030 of two."""
    noise = Noise(std=0.01, freedom=2)
    assert [noise.sign([0.01, 0.02, 0.03]), noise.sign([0.02, 0.03, 0.04])] == [0, 1]
    borrowed = [noise.sign(found, borrowed=True) for found in ([0.02, 0.03, 0.04], [0.01, 0.02, 0.03])]
    assert borrowed == [1, 0]
    found = [[-0.044], [-0.042], [0.03, 0.032], [0.03, 0.028]]
    assert [noise.sign(values) for values in found] == [-1, 0, 1, 0]


@pytest.mark.parametrize(
    ("values", "metric", "noise", "words", "behind"),
    [
        ([0.1], "kl", Noise(0.01, 4), "+0.100, **farther**", 1),
        ([-0.1], "all_kl", Noise(0.01, 4), "-0.100, **nearer**", -1),
        ([0.1], "mlm_accuracy", Noise(0.01, 4), "+0.100, **better**", -1),
        ([-0.1], "glue", Noise(0.01, 4), "-0.100, **worse**", 1),
        ([0.1], "all_mlm_loss", Noise(0.01, 4), "+0.100, **worse**", 1),
        ([0.01], "kl", Noise(0.01, 4), "+0.010, within noise", 0),
        ([0.1, 0.1], "kl", Noise(), "+0.100 ± 0.000 (2), undecided", 0),
        ([0.10, 0.11, 0.12], "kl", Noise(), "+0.110 ± 0.010 (3), **farther**", 1),
    ],
)
def test_words_say_which_side_of_the_noise_a_difference_is(values, metric, noise, words, behind):
    found = Difference(values, metric, noise)
    assert (str(found), found.behind) == (words, behind)


def test_what_was_not_measured_is_a_dash():
    assert str(Difference([])) == "–"


@pytest.mark.parametrize(
    ("signs", "answer", "words"),
    [
        ([1, 1], "**yes**", "ahead in 2 of 2"),
        ([1, 0], "**not shown for all**", "ahead in 1 of 2, level in 1"),
        ([1, 0, -1], "**no**", "ahead in 1 of 3, level in 1, behind in 1"),
    ],
)
def test_being_ahead_needs_every_comparison(signs, answer, words):
    assert (Tally.of(signs).answer, str(Tally.of(signs))) == (answer, words)


def test_an_order_along_training_obeys_the_noise_of_each_step():
    """Every KL is twice the last at half of the run, and so is the noise; at step 0 nothing was trained."""
    quarter = students(*METHODS)
    assert along_training(quarter, "homodistil", "one_shot", quarter) == Tally(2, 0, 0)
    assert along_training(quarter, "one_shot", "homodistil", quarter) == Tally(0, 0, 2)
    assert along_training(quarter, "homodistil", "pruned_first", quarter) == Tally(0, 2, 0)
    assert along_training(quarter, "homodistil", "minilm", quarter) == Tally(0, 0, 0)
    assert along_training(quarter, "homodistil", "one_shot", students(METHODS[0], METHODS[3])) == Tally(0, 0, 0)
    longer = students(*METHODS[:3], record("one_shot", 0.6, num_steps=20))
    assert along_training(longer, "homodistil", "one_shot", quarter) == Tally(1, 0, 0)  # step 5, which both have
