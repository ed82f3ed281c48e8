"""Bounds of shares: quantiles of SciPy, coverage over all outcomes and by simulation, groups, what verify asks for."""

import numpy as np
import pytest
from rows import each

from homodistil_hf.evaluation.guarantee import (
    CONFIDENCE,
    guarantee,
    guarantee_problems,
    largest_share,
    least_of,
    length_groups,
)


@each(("num_changed", "num_rows"), [(0, 1), (0, 50), (3, 50), (50, 50), (49, 50), (700, 20_000)])
@each("confidence", [0.5, 0.95, 0.9999])
def test_bounds_are_quantiles_of_the_beta_distribution(num_changed, num_rows, confidence):
    stats = pytest.importorskip("scipy.stats")
    expected = 1.0 if num_changed == num_rows else stats.beta.ppf(confidence, num_changed + 1, num_rows - num_changed)
    assert largest_share(num_changed, num_rows, confidence=confidence) == pytest.approx(expected, abs=1e-9)


def test_no_change_has_a_closed_form():
    assert largest_share(0, 300) == pytest.approx(1 - 0.05 ** (1 / 300), abs=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("num_rows", [20, 60])
def test_bounds_hold_as_often_as_they_say_whatever_the_share(num_rows):
    """Over all outcomes, weighted by their chance: never less than the confidence, which is met closely somewhere."""
    stats = pytest.importorskip("scipy.stats")
    bounds = np.array([largest_share(number, num_rows) for number in range(num_rows + 1)])
    shares = np.linspace(0.001, 0.999, 499)
    chances = stats.binom.pmf(np.arange(num_rows + 1)[:, None], num_rows, shares)
    coverage = (chances * (bounds[:, None] >= shares)).sum(0)
    assert coverage.min() >= CONFIDENCE - 1e-12
    assert coverage.min() < CONFIDENCE + 0.01


@pytest.mark.slow
def test_bounds_of_groups_hold_all_together():
    """Three languages whose answers change more or less often: the chance, over all outcomes, that no bound fails."""
    stats = pytest.importorskip("scipy.stats")
    shares = {"de": 0.02, "en": 0.1, "fr": 0.3}
    coverage = dict.fromkeys(shares, 0.0)
    for number in range(41):
        found = guarantee(([True] * number + [False] * (40 - number)) * 3, {"language": np.repeat(list(shares), 40)})
        for name, part in found["groups"]["language"].items():
            if part["at_least"] <= 1 - shares[name]:
                coverage[name] += stats.binom.pmf(number, 40, shares[name])
    assert CONFIDENCE <= np.prod(list(coverage.values())) < 1


def test_groups_have_their_own_counts_and_stricter_bounds():
    changed = [number % 10 == 0 for number in range(100)]
    languages = ["en"] * 50 + ["de"] * 45 + ["fr"] * 5
    found = guarantee(changed, {"language": languages, "source": ["a", "b"] * 50})
    assert (found["num_rows"], found["num_changed"], found["agreement"]) == (100, 10, 0.9)
    confidence = 1 - 0.05 / 5  # of two groups of either column, and all rows: one union bound
    assert found["at_least"] == 1 - largest_share(10, 100, confidence=confidence)
    parts = found["groups"]["language"]
    assert list(parts) == ["de", "en"]  # five rows bound nothing
    assert (parts["en"]["num_rows"], parts["en"]["num_changed"]) == (50, 5)
    assert parts["en"]["at_least"] == 1 - largest_share(5, 50, confidence=confidence)


def test_lengths_make_three_groups():
    texts = [" ".join(["w"] * number) for number in range(1, 10)]
    assert length_groups(texts) == ["≤ 3"] * 3 + ["4–6"] * 3 + ["≥ 7"] * 3
    assert length_groups(["w"] * 5) == ["≤ 1"] * 5
    found = guarantee([False] * 180, {"words": length_groups(texts * 20)})
    assert list(found["groups"]["words"]) == ["≤ 3", "4–6", "≥ 7"]


@each(
    ("least", "where"),
    [
        ({}, []),
        ({"agreement": 0.9}, []),
        ({"agreement": 0.99}, ["mine"]),
        ({"agreement_of_groups": 0.9}, ["mine, language: en"]),
        ({"agreement": 0.99, "agreement_of_groups": 0.9}, ["mine", "mine, language: en"]),
    ],
)
def test_bounds_that_do_not_hold_are_named(least, where):
    changed = [False] * 150 + [True, False] * 5
    found = {"mine": guarantee(changed, {"language": ["de"] * 140 + ["en"] * 20})}
    assert [line.partition(": expected answers")[0] for line in guarantee_problems(found, least)] == where


def test_a_bound_that_fails_is_rounded_down():
    found = {"mine": guarantee([True] * 10 + [False] * 50)}
    assert 0.7337 < found["mine"]["at_least"] < 0.7338
    (line,) = guarantee_problems(found, {"agreement": 0.734})
    assert line == "mine: expected answers as the teacher's for at least 73.4%, found 73.3%"


def test_groups_that_are_too_small_bound_nothing():
    found = {"mine": guarantee([False] * 30, {"language": [str(number) for number in range(30)]})}
    (line,) = guarantee_problems(found, {"agreement_of_groups": 0.5})
    assert line == "mine: no guarantee of groups is recorded, as none has 20 rows"


@each("section", [None, {}, {"mine": {"at_least": 1.0}}, {"mine": 3}])
def test_a_guarantee_that_was_never_measured_does_not_hold(section):
    (line,) = guarantee_problems(section, {"agreement": 0.5})
    assert line.startswith("no guarantee is recorded; measure it on held-out rows first, by homodistil evaluate")


@each("word", ["agreement", "agreement=", "agreement=1.5", "agreement=nan", "cosine=0.9"])
def test_other_words_are_refused(word):
    with pytest.raises(ValueError, match="expected agreement or agreement_of_groups=SHARE, a share between 0 and 1"):
        least_of([word])
    assert least_of(["agreement=0.95"]) == {"agreement": 0.95}
