"""The rule of the results page, by hand: noise, thresholds, verdicts, the order along training."""

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from page_results import results_of
from sweep_records import METHODS, graded, model, record, teacher, write_results

from benchmarks.results.verdicts import Difference, Noise, along_training, noises_of, paired, pooled

# One-shot's differences are .10, .08, .12 and pruned-first's .01, .00, .02: variances .0004 and .0001, pooled .00025.
STD = math.sqrt(0.00025)
NOWHERE = Path("nowhere")


def students(*records: dict[str, Any]) -> pd.DataFrame:
    return results_of(NOWHERE, methods_quarter=list(records)).of("methods_quarter")


def noises(folder: Path, *records: dict[str, Any]) -> dict[str, Noise]:
    return noises_of(results_of(folder, methods_quarter=list(records)))


def test_noise_is_that_of_paired_differences_of_methods_in_the_same_league():
    noise = noises(NOWHERE, *METHODS)["kl"]
    assert (noise.std, noise.freedom) == (pytest.approx(STD), 4)
    assert noise.threshold() == pytest.approx(2.776 * STD, rel=1e-3)  # of four degrees of freedom
    assert noise.threshold(4) == pytest.approx(noise.threshold() / 2)
    assert noises(NOWHERE, *METHODS[:3])["kl"] == noises(NOWHERE)["kl"] == Noise()
    assert noises(NOWHERE, *(one for one in METHODS if one["axes"]["seed"] < 2))["kl"] == Noise()


def test_the_noise_within_groups_is_pooled():
    assert pooled([[1.0, 3.0], [10.0, 10.0], [5.0]]) == Noise(1.0, 2)
    assert pooled([[0.1, 0.08, 0.12], [0.01, 0.0, 0.02], [7.0]]) == Noise(pytest.approx(STD), 4)
    assert pooled([[1.0]]) == Noise()


def test_each_figure_has_a_noise_of_its_own(tmp_path):
    """On all text the gaps are 0.00, 0.01 and 0.02 nats: s = 0.01, 2 degrees of freedom."""
    own = [graded(record("homodistil", 0.5, seed=seed), 0.6) for seed in range(3)]
    other = [graded(record("one_shot", 0.6, seed=s, accuracy=0.2 + 0.001 * s), 0.6 + 0.02 * s) for s in range(3)]
    models = [model("homodistil", seed, 0.5) for seed in range(3)]
    models += [model("one_shot", seed, 0.50 + 0.01 * seed) for seed in range(3)]
    write_results(tmp_path, "methods_quarter", models)
    found = noises(tmp_path, teacher(0.8), *own, *other)
    stds = [found[metric].std for metric in ("kl", "mlm_accuracy", "glue", "all_kl")]
    assert stds == pytest.approx([0.0, 0.001, 0.02, 0.01])
    assert found["all_kl"].freedom == 2


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
    ("values", "metric", "noise", "words", "sign"),
    [
        ([0.1], "kl", Noise(0.01, 4), "+0.100, **worse**", 1),
        ([-0.1], "all_kl", Noise(0.01, 4), "-0.100, **better**", -1),
        ([0.1], "mlm_accuracy", Noise(0.01, 4), "+0.100, **better**", -1),
        ([-0.1], "glue", Noise(0.01, 4), "-0.100, **worse**", 1),
        ([0.1], "all_mlm_loss", Noise(0.01, 4), "+0.100, **worse**", 1),
        ([0.01], "kl", Noise(0.01, 4), "+0.010, within noise", 0),
        ([0.1, 0.1], "kl", Noise(), "+0.100 ± 0.000 (2), undecided", None),
        ([0.10, 0.11, 0.12], "kl", Noise(), "+0.110 ± 0.010 (3), **worse**", 1),
        ([], "kl", Noise(0.01, 4), "–", None),
    ],
)
def test_words_say_which_side_of_the_noise_a_difference_is(values, metric, noise, words, sign):
    found = Difference(values, metric, noise)
    assert (str(found), found.sign) == (words, sign)


def test_an_order_along_training_obeys_the_noise_of_each_step():
    """Every KL is twice the last at half of the run, and so is the noise; at step 0 nothing was trained."""
    quarter = students(*METHODS)
    assert along_training(quarter, "one_shot", quarter) == "nearer at 2, level at 0, farther at 0 of 2"
    assert along_training(quarter, "pruned_first", quarter) == "nearer at 0, level at 2, farther at 0 of 2"
    assert along_training(quarter, "minilm", quarter) == ""
    assert along_training(quarter, "one_shot", students(METHODS[0], METHODS[3])) == ""
    longer = students(*METHODS[:3], record("one_shot", 0.6, num_steps=20))
    # Step 5, which both have.
    assert along_training(longer, "one_shot", quarter) == "nearer at 1, level at 0, farther at 0 of 1"
    behind = students(record("homodistil", 0.8), record("one_shot", 0.6))
    words = "nearer at 0, level at 0, farther at 2 of 2 (at most 0.400 nats, at 0.50 of the run)"
    assert along_training(behind, "one_shot", quarter) == words
