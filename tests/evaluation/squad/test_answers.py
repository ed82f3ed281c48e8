"""The best spans against a loop through all of them."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homodistil_hf.evaluation.squad.answers import RankedAnswers, rank_answers
from homodistil_hf.evaluation.squad.windows import Window

WORDS = [f"{letter}{index}" for index, letter in enumerate("abcdefghijklmnopqrst")]
CONTEXT = " ".join(WORDS)


def window_of(first_word, num_words, *, first_token=3):
    """A window that holds some of the context's words; all have two or three characters and one space."""
    begins = np.cumsum([0, *(len(word) + 1 for word in WORDS)])
    offsets = np.array([(begins[i], begins[i] + len(WORDS[i])) for i in range(first_word, first_word + num_words)])
    return Window(inputs={}, row=0, cls_index=0, first_token=first_token, offsets=offsets.reshape(-1, 2))


def slow_ranking(windows, logits, *, max_answer_tokens):
    """Every span of every window, in plain Python."""
    best = {}
    for window, (starts, ends) in zip(windows, logits, strict=True):
        for first in range(len(window.offsets)):
            for last in range(first, min(first + max_answer_tokens, len(window.offsets))):
                text = CONTEXT[window.offsets[first][0] : window.offsets[last][1]]
                score = float(starts[window.first_token + first]) + float(ends[window.first_token + last])
                best[text] = max(score, best.get(text, -math.inf))
    return sorted(best.items(), key=lambda item: -item[1])


def random_logits(num_windows, *, seed, num_tokens=20):
    generator = np.random.default_rng(seed)
    return [tuple(generator.normal(size=(2, num_tokens)).astype(np.float32)) for _ in range(num_windows)]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(0, 6))
def test_the_best_answers_are_the_slow_loops(seed, max_answer_tokens, shift):
    windows = [window_of(0, 12), window_of(shift, 9, first_token=5)]
    logits = random_logits(2, seed=seed)
    ranked = rank_answers(CONTEXT, windows, logits, max_answer_tokens=max_answer_tokens, num_best=10)
    expected = slow_ranking(windows, logits, max_answer_tokens=max_answer_tokens)[:10]
    assert ranked.scores == pytest.approx([score for _, score in expected])
    assert list(ranked.texts) == [text for text, _ in expected]
    assert ranked.null_score == pytest.approx(min(float(starts[0]) + float(ends[0]) for starts, ends in logits))


def test_the_best_score_over_windows_counts_by_hand():
    windows = [window_of(0, 4), window_of(2, 4)]
    starts, ends = np.zeros((2, 8)), np.zeros((2, 8))
    starts[0, [0, 5]], ends[0, [0, 6]] = (4, 2), (3, 1)  # first window: c2 d3 with 3
    starts[1, [0, 3]], ends[1, [0, 4]] = (1, 3), (1, 2)  # second: the same words with 5
    ranked = rank_answers(CONTEXT, windows, list(zip(starts, ends, strict=True)))
    assert (ranked.text, ranked.scores[0]) == ("c2 d3", 5)
    assert ranked.null_score == 2  # of 7 and 2
    assert ranked.no_answer_probability == pytest.approx(1 / (1 + math.exp(5 - 2)))
    assert len(set(ranked.texts)) == len(ranked.texts)


def test_ends_never_stand_before_starts_nor_too_far_behind():
    starts, ends = np.zeros(23), np.zeros(23)
    starts[12], ends[4] = 9, 9  # the best of both, in the wrong order
    window = window_of(0, 20)
    ranked = rank_answers(CONTEXT, [window], [(starts, ends)], max_answer_tokens=2, num_best=1000)
    lengths = {len(text.split()) for text in ranked.texts}
    assert lengths == {1, 2}
    assert len(ranked.texts) == 20 + 19
    assert ranked.scores[0] == 9


def test_questions_and_padding_are_no_answers():
    starts, ends = np.full(12, 50.0), np.full(12, 50.0)
    starts[3:7], ends[3:7] = 0.0, 0.0
    ranked = rank_answers(CONTEXT, [window_of(5, 4)], [(starts, ends)])
    assert ranked.scores[0] == 0
    assert set(" ".join(ranked.texts).split()) == set(WORDS[5:9])


def test_an_empty_context_has_no_answer():
    ranked = rank_answers("", [window_of(0, 0)], [(np.zeros(4), np.zeros(4))])
    assert ranked == RankedAnswers((), (), 0.0)
    assert (ranked.text, ranked.no_answer_probability) == ("", 1.0)


@pytest.mark.parametrize(("difference", "probability"), [(0.0, 0.5), (-900.0, 0.0), (900.0, 1.0), (2.0, 0.880797)])
@pytest.mark.filterwarnings("error")
def test_probabilities_stay_in_their_range(difference, probability):
    assert RankedAnswers(("x",), (1.0,), 1.0 + difference).no_answer_probability == pytest.approx(probability)
