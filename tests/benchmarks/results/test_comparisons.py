"""The rule of the results page, by hand: noise, thresholds, comparisons."""

import math
from typing import Any

import pandas as pd
import pytest
from rows import each

from benchmarks.results.comparisons import Difference, Noise, noise_of, paired, pooled

# The differences of gradual are .10, .08, .12, of unclipped .01, .00, .02: variances .0004 and .0001, pooled .00025.
STD = math.sqrt(0.00025)
KLS = {"at_once": (0.50, 0.52, 0.54), "gradual": (0.60, 0.60, 0.66), "unclipped": (0.51, 0.52, 0.56)}


def runs(**kls: Any) -> pd.DataFrame:
    machine = {"processor": "one"}
    rows = [
        (variant, "1/4", 500, seed, kl, machine) for variant, found in kls.items() for seed, kl in enumerate(found)
    ]
    return pd.DataFrame(rows, columns=["variant", "size", "max_steps", "seed", "kl", "machine"])


def test_noise_is_that_of_paired_differences_to_the_defaults():
    noise = noise_of(runs(**KLS))
    assert (noise.std, noise.freedom) == (pytest.approx(STD), 4)
    assert noise.threshold() == pytest.approx(2.776 * STD, rel=1e-3)  # of four degrees of freedom
    assert noise.threshold(4) == pytest.approx(noise.threshold() / 2)
    assert noise_of(runs(**{variant: found[:2] for variant, found in KLS.items()})) == Noise()
    assert noise_of(runs(gradual=KLS["gradual"])) == noise_of(runs()) == Noise()


def test_runs_of_other_sizes_and_lengths_are_not_mixed():
    other = runs(at_once=(0.3, 0.3, 0.3), gradual=(0.1, 0.1, 0.1)).assign(size="1/8")
    noise = noise_of(pd.concat([runs(at_once=KLS["at_once"], gradual=KLS["gradual"]), other]))
    assert (noise.std, noise.freedom) == (pytest.approx(math.sqrt(0.0002)), 4)


def test_the_noise_within_groups_is_pooled():
    assert pooled([[1.0, 3.0], [10.0, 10.0], [5.0]]) == Noise(1.0, 2)
    assert pooled([[0.1, 0.08, 0.12], [0.01, 0.0, 0.02], [7.0]]) == Noise(pytest.approx(STD), 4)
    assert pooled([[1.0]]) == Noise()


def test_variants_are_paired_by_seed():
    own, other = runs(at_once=(0.5, 0.52, 0.54)), runs(gradual=(0.6, 0.6, 0.66)).iloc[[2, 0]]
    assert sorted(paired(other, own)) == [pytest.approx(0.10), pytest.approx(0.12)]
    assert paired(other, own.iloc[[1]]) == []


@each("facts", [{"processor": "another"}, {"processor": "one", "gpu": "one more"}])
def test_runs_of_two_machines_are_not_paired(facts):
    own, other = runs(at_once=(0.5, 0.52)), runs(gradual=(0.6, 0.7))
    other["machine"] = [facts, {"processor": "one"}]
    assert paired(other, own) == [pytest.approx(0.18)]


def test_three_seeds_decide_by_their_own_spread_fewer_borrow_one():
    """Of .01, .02, .03 Student's t asks .0248 of the mean; the borrowed noise .043 of one difference, .030 of two."""
    noise = Noise(std=0.01, freedom=2)
    assert [noise.sign([0.01, 0.02, 0.03]), noise.sign([0.02, 0.03, 0.04])] == [0, 1]
    found = [[-0.044], [-0.042], [0.03, 0.032], [0.03, 0.028]]
    assert [noise.sign(values) for values in found] == [-1, 0, 1, 0]


@each(
    ("values", "noise", "words", "sentence", "sign"),
    [
        ([0.1], Noise(0.01, 4), "+0.100, **worse**", "0.100 higher", 1),
        ([-0.1], Noise(0.01, 4), "-0.100, **better**", "0.100 lower", -1),
        ([0.01], Noise(0.01, 4), "+0.010, within noise", "0.010 higher (within noise)", 0),
        ([0.1, 0.1], Noise(), "+0.100 ± 0.000 (2), undecided", "0.100 ± 0.000 higher (2 seeds, undecided)", None),
        ([0.10, 0.11, 0.12], Noise(), "+0.110 ± 0.010 (3), **worse**", "0.110 ± 0.010 higher (3 seeds)", 1),
        ([], Noise(0.01, 4), "–", "–", None),
    ],
)
def test_words_say_which_side_of_the_noise_a_difference_is(values, noise, words, sentence, sign):
    found = Difference(values, noise)
    assert (str(found), found.in_words(), found.sign) == (words, sentence, sign)
