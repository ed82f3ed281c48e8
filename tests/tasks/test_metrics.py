"""A task's metrics against scikit-learn and SciPy, slow loops, and by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rows import each
from scipy import stats
from sklearn import metrics as sklearn

from homodistil_hf.tasks.metrics import (
    accuracy,
    average_precision,
    best_threshold,
    class_f1,
    correlations,
    exact_match,
    macro_f1,
    matthews_correlation,
    normalize_answer,
    pearson,
    several_label_scores,
    span_scores,
    spearman,
    token_f1,
)

NAN = float("nan")
rows_of_classes = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40)
rows_of_scores = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 1)), min_size=1, max_size=40)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(rows_of_classes)
@pytest.mark.filterwarnings("ignore:A single label was found")
def test_classes_are_scored_as_by_scikit_learn(rows):
    given_R, wanted_R = np.array(rows).T
    assert matthews_correlation(given_R, wanted_R) == sklearn.matthews_corrcoef(wanted_R, given_R)
    assert class_f1(given_R == 1, wanted_R == 1) == sklearn.f1_score(wanted_R == 1, given_R == 1, zero_division=0.0)
    assert accuracy(given_R, wanted_R) == sklearn.accuracy_score(wanted_R, given_R)
    of_all = sklearn.f1_score(wanted_R, given_R, average="macro", zero_division=0.0)
    assert macro_f1(given_R, wanted_R) == pytest.approx(of_all, rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_several_labels_are_scored_as_by_scikit_learn(seed):
    generator = np.random.default_rng(seed)
    logits, wanted = generator.normal(size=(30, 4)), generator.integers(0, 2, (30, 4))
    logits[:, 3], wanted[:, 3] = -1.0, 0  # a class that no row has and none gets
    scores = several_label_scores(logits, wanted)
    given_RC, there = logits > 0, slice(0, 3)
    assert scores == {
        "micro_f1": pytest.approx(sklearn.f1_score(wanted, given_RC, average="micro"), rel=1e-12),
        "macro_f1": pytest.approx(sklearn.f1_score(wanted[:, there], given_RC[:, there], average="macro"), rel=1e-12),
        "exact_rows": sklearn.accuracy_score(wanted, given_RC),
    }


@pytest.mark.parametrize("seed", range(3))
def test_correlations_are_scipys(seed):
    draw = np.random.default_rng(seed)
    given, wanted = draw.integers(0, 9, (50, 2)).astype(float), draw.normal(size=(50, 2))
    expected = {
        "pearson": np.mean([stats.pearsonr(given[:, n], wanted[:, n]).statistic for n in range(2)]),
        "spearman": np.mean([stats.spearmanr(given[:, n], wanted[:, n]).statistic for n in range(2)]),
    }
    assert correlations(given, wanted) == pytest.approx(expected, rel=1e-12)
    constant, rising = np.ones((3, 1)), np.arange(3.0)[:, None]
    for pair in ((constant, rising), (rising, constant), (rising[:1], constant[:1])):
        assert correlations(*pair) == {"pearson": 0.0, "spearman": 0.0}


@pytest.mark.parametrize("formula", [pearson, spearman])
def test_a_correlation_with_nan_is_nan(formula):
    """As SciPy's; a rank for NaN would give −0.5."""
    whole = np.arange(3.0)
    assert np.isnan(formula(np.array([NAN, 0.0, 1.0]), whole))
    assert np.isnan(formula(whole, np.array([2.0, NAN, 1.0])))


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(rows_of_scores)
@pytest.mark.filterwarnings("ignore:No positive class found")
def test_average_precision_is_scikit_learns(rows):
    scores, wanted = np.array(rows).T
    expected = sklearn.average_precision_score(wanted, scores)
    assert average_precision(scores / 8, wanted) == pytest.approx(expected, rel=1e-12)


NAMES = ["O", "B-A", "I-A", "B-B", "I-B"]


def spans(text: str) -> list[int]:
    return [NAMES.index(name) for name in text.split()]


def ends(*lengths: int) -> np.ndarray:
    return np.concatenate([[False] * (length - 1) + [True] for length in lengths])


@each(
    ("given", "wanted", "lengths", "f1"),
    [
        ("B-A I-A O", "B-A I-A O", (3,), 1.0),
        ("B-A O O", "B-A I-A O", (3,), 0.0),
        ("B-A B-A", "B-A B-A", (2,), 1.0),
        ("B-A I-A", "B-A B-A", (2,), 0.0),
        ("I-A I-A O", "B-A I-A O", (3,), 1.0),
        ("B-A I-B", "B-A B-B", (2,), 1.0),
        ("B-B I-B", "B-A I-A", (2,), 0.0),
        ("B-A I-A", "B-A I-A", (1, 1), 1.0),
        ("B-A I-A", "B-A B-A", (1, 1), 1.0),
        ("B-A O", "B-A B-B", (1, 1), 2 / 3),
        ("O O", "O O", (2,), 0.0),
    ],
)
def test_spans_by_hand(given, wanted, lengths, f1):
    found = span_scores(np.array(spans(given)), np.array(spans(wanted)), NAMES, ends_R=ends(*lengths))
    assert found["span_f1"] == pytest.approx(f1)


@each(
    ("text", "normalized"),
    [
        ("The Cat", "cat"),
        ("theatre an-thology a.b", "theatre anthology ab"),
        ("  two\t words\n", "two words"),
        ("U.S.A.", "usa"),
        ("$1,000.50", "100050"),
        ("A. the, an!", ""),
        ("Beyoncé — “the” queen", "beyoncé — “ ” queen"),
        ("ÉCOLE", "école"),
        ("a1 an_the", "a1 anthe"),
        ("東京 the 都", "東京 都"),
        ("non\u00a0breaking", "non breaking"),
        ("", ""),
    ],
)
def test_normalisation_by_hand(text, normalized):
    assert normalize_answer(text) == normalized


@each(
    ("text", "golds", "exact", "f1"),
    [
        ("the Norman dynasty", ["Norman Dynasty."], 1, 1),
        ("in the 10th century", ["10th century"], 0, 4 / 5),
        ("10th and 11th", ["10th and 11th centuries", "in the 10th and 11th centuries", "10th"], 0, 6 / 7),
        ("to be to be", ["to be"], 0, 2 / 3),  # words count as often as they occur
        ("France", ["Denmark", "Iceland"], 0, 0),
        ("", ["France"], 0, 0),
        ("the", ["France"], 0, 0),
    ],
)
def test_scores_by_hand(text, golds, exact, f1):
    assert exact_match(text, golds) == exact
    assert token_f1(text, golds) == pytest.approx(f1)


def mean_at(threshold, scores, probabilities, has_answer, is_answered):
    """The mean score if answers above a threshold are withheld, question by question."""
    total = 0.0
    for score, probability, answer, answered in zip(scores, probabilities, has_answer, is_answered, strict=True):
        if answer:
            total += score if probability <= threshold else 0.0
        else:
            total += 1.0 if probability > threshold or not answered else 0.0
    return total / len(scores)


questions = st.lists(
    st.tuples(st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.booleans(), st.booleans()), min_size=1, max_size=12
)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(questions, st.randoms(use_true_random=False))
def test_the_best_threshold_is_the_slow_loops(rows, random):
    probabilities = [(index + 1) / 16 for index in range(len(rows))]
    random.shuffle(probabilities)
    has_answer = np.array([answer for _, answer, _ in rows])
    is_answered = np.array([answered for _, _, answered in rows])
    scores = np.array([score if answered else 0.0 for score, _, answered in rows])
    best, threshold = best_threshold(scores, np.array(probabilities), has_answer=has_answer, is_answered=is_answered)
    means = {t: mean_at(t, scores, probabilities, has_answer, is_answered) for t in (0.0, *sorted(probabilities))}
    assert best == pytest.approx(max(means.values()))
    assert threshold == min(t for t, mean in means.items() if mean == pytest.approx(max(means.values())))
