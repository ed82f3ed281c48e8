import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rows import each
from tiny_models import tiny_tokenizer

from homodistil_hf.tasks.questions import (
    Answer,
    Window,
    best_answer,
    check_answers,
    labelled_inputs,
    make_windows,
)

TOKENIZER = tiny_tokenizer()
SHORT = 12  # four tokens of a question at most, and four that two windows share
CONTEXT = "w10 w11 w12 w13 w14 w15 w16 w17 w18 w19"


def question(text="w5 w6", context=CONTEXT, *answers, identity="q1"):
    starts = [context.index(answer) for answer in answers]
    return {
        "id": identity,
        "question": text,
        "context": context,
        "answers": {"text": list(answers), "answer_start": starts},
    }


def read(window, context=CONTEXT):
    return [context[begin:end] for begin, end in window.offsets]


def test_windows_by_hand():
    first, second = make_windows([question()], TOKENIZER, SHORT)
    # [CLS] w5 w6 [SEP] … [SEP]: seven places for the context, of which four are shared.
    assert first.inputs["input_ids"] == [2, 5, 6, 3, 10, 11, 12, 13, 14, 15, 16, 3]
    assert second.inputs["input_ids"] == [2, 5, 6, 3, 13, 14, 15, 16, 17, 18, 19, 3]
    assert second.inputs["token_type_ids"] == [0] * 4 + [1] * 8
    assert second.inputs["attention_mask"] == [1] * 12
    assert read(second) == ["w13", "w14", "w15", "w16", "w17", "w18", "w19"]
    assert (first.row, first.cls_index, first.first_token) == (0, 0, 4)


@each(
    ("answer", "places"),
    [
        ("w10", [(4, 4), (0, 0)]),
        ("w11 w12", [(5, 6), (0, 0)]),
        ("w15 w16", [(9, 10), (6, 7)]),  # in both
        ("w16 w17", [(0, 0), (7, 8)]),  # cut off by the first
        ("w12 w13", [(6, 7), (0, 0)]),  # cut off by the second
        ("w19", [(0, 0), (10, 10)]),
        ("12 w1", [(6, 7), (0, 0)]),  # parts of words
        (" w12 ", [(6, 6), (0, 0)]),
        (" ", [(0, 0), (0, 0)]),
    ],
)
def test_answers_are_placed_in_every_window(answer, places):
    row = question("w5 w6", CONTEXT, answer)
    labelled = [labelled_inputs(window, row) for window in make_windows([row], TOKENIZER, SHORT)]
    assert [(inputs["start_positions"], inputs["end_positions"]) for inputs in labelled] == places
    assert set(labelled[0]) == {*TOKENIZER.model_input_names, "start_positions", "end_positions"}


def test_the_first_answer_is_learned_and_none_is_the_first_token():
    row = question("w5 w6", CONTEXT, "w12", "w13")
    assert labelled_inputs(make_windows([row], TOKENIZER, SHORT)[0], row)["start_positions"] == 6
    none = question()
    assert labelled_inputs(make_windows([none], TOKENIZER, SHORT)[0], none)["end_positions"] == 0


words = st.lists(st.integers(7, 60).map(lambda i: f"w{i}"), min_size=1, max_size=30)


@settings(max_examples=60, deadline=None)
@given(words, st.integers(10, 24), st.data())
def test_windows_cover_the_context_and_agree_on_the_answer(context_words, length, data):
    context = "  ".join(context_words)
    first = data.draw(st.integers(0, len(context_words) - 1))
    last = data.draw(st.integers(first, min(first + 3, len(context_words) - 1)))
    begin = sum(len(word) + 2 for word in context_words[:first])
    text = "  ".join(context_words[first : last + 1])
    row = question(context=context) | {"answers": {"text": [text], "answer_start": [begin]}}
    windows = make_windows([row], TOKENIZER, length)
    spans = [tuple(span) for window in windows for span in window.offsets]
    assert sorted(set(spans)) == [
        (start, start + len(word))
        for start, word in zip(np.cumsum([0, *(len(w) + 2 for w in context_words[:-1])]), context_words, strict=True)
    ]
    for window in windows:
        labelled = labelled_inputs(window, row)
        start, end = labelled["start_positions"], labelled["end_positions"]
        if begin >= window.offsets[0, 0] and begin + len(text) <= window.offsets[-1, 1]:
            assert context[window.offsets[start - window.first_token, 0] :].startswith(text)
            assert window.offsets[end - window.first_token, 1] == begin + len(text)
        else:
            assert (start, end) == (0, 0)


def test_long_questions_are_cut_and_white_space_around_them_counts_nothing():
    row = question("  w5 w6 w7 w8 w9  ")
    window = make_windows([row], TOKENIZER, SHORT)[0]
    assert window.inputs["input_ids"][:6] == [2, 5, 6, 7, 8, 3]
    short = make_windows([question("  w5  ")], TOKENIZER, SHORT)[0]
    assert short.inputs["input_ids"][:4] == [2, 5, 3, 10]


@each(("text", "context"), [("w5", ""), ("", "w7"), ("", ""), ("w5", " \n ")])
def test_empty_texts_make_one_window(text, context):
    (window,) = make_windows([question(text, context)], TOKENIZER, SHORT)
    assert read(window, context) == context.split()
    assert window.inputs["input_ids"].count(3) == 2


def test_offsets_count_characters_whatever_their_bytes():
    context = "😀 w10 É 東 w11 naïve"
    (window,) = make_windows([question("w5", context)], TOKENIZER, 32)
    assert read(window, context) == ["😀", "w10", "É", "東", "w11", "naïve"]
    row = question("w5", context, "東 w11")
    assert labelled_inputs(window, row)["start_positions"] == window.first_token + 3
    assert labelled_inputs(window, row)["end_positions"] == window.first_token + 4


def test_windows_know_their_rows():
    rows = [question(), question(context="w10"), question(context=CONTEXT)] * 300
    windows = make_windows(rows, TOKENIZER, SHORT)
    assert [window.row for window in windows] == [row for row in range(900) for _ in range(1 if row % 3 == 1 else 2)]
    assert all(read(window, rows[window.row]["context"])[0] in ("w10", "w13") for window in windows)


def test_windows_must_advance():
    with pytest.raises(ValueError, match="max_length=9 holds no context beside a question; expected 16 or more"):
        make_windows([question()], TOKENIZER, 9)
    assert len(make_windows([question("w5 w6 w7 w8 w9")], TOKENIZER, SHORT)) == 6  # 5 tokens, then one more each


def test_tokenizers_need_a_first_token():
    tokenizer = tiny_tokenizer()
    tokenizer.cls_token = None
    with pytest.raises(ValueError, match="tokenizer=BertTokenizer has no cls_token, which stands for no answer"):
        make_windows([question()], tokenizer, SHORT)


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (
            {"text": ["w10"], "answer_start": []},
            "'q1' has answers={.*'text': .*; expected the lists text and answer_start, .*one for each",
        ),
        ({"text": ["w11"], "answer_start": [3]}, "answer_start=3, where the context reads ' w1', not 'w11'"),
    ],
)
def test_wrong_rows_are_named(answers, message):
    with pytest.raises(ValueError, match=message):
        check_answers(answers, CONTEXT, "train_data: question id='q1'")


WORDS = [f"{letter}{index}" for index, letter in enumerate("abcdefghijklmnopqrst" * 3)]
ONE_TO_TEN = " ".join(WORDS)


def window_of(first_word, num_words, *, first_token=3):
    """A window that holds some of the context's words; all have two or three characters and one space."""
    begins = np.cumsum([0, *(len(word) + 1 for word in WORDS)])
    offsets = np.array([(begins[i], begins[i] + len(WORDS[i])) for i in range(first_word, first_word + num_words)])
    return Window(inputs={}, row=0, cls_index=0, first_token=first_token, offsets=offsets.reshape(-1, 2))


def slow_answer(windows, logits):
    """Every span of every window of 30 tokens at most, in plain Python."""
    best = ("", -math.inf)
    for window, (starts, ends) in zip(windows, logits, strict=True):
        for first in range(len(window.offsets)):
            for last in range(first, min(first + 30, len(window.offsets))):
                text = ONE_TO_TEN[window.offsets[first][0] : window.offsets[last][1]]
                score = float(starts[window.first_token + first]) + float(ends[window.first_token + last])
                best = max(best, (text, score), key=lambda one: one[1])
    return best


def random_logits(num_windows, *, seed, num_tokens=60):
    generator = np.random.default_rng(seed)
    return [tuple(generator.normal(size=(2, num_tokens)).astype(np.float32)) for _ in range(num_windows)]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 6))
def test_the_best_answer_is_the_slow_loops(seed, shift):
    windows = [window_of(0, 50), window_of(shift, 40, first_token=5)]
    logits = random_logits(2, seed=seed)
    found = best_answer(ONE_TO_TEN, windows, logits)
    text, score = slow_answer(windows, logits)
    assert (found.text, found.score) == (text, pytest.approx(score))
    assert found.null_score == pytest.approx(min(float(starts[0]) + float(ends[0]) for starts, ends in logits))


def test_an_empty_context_has_no_answer():
    found = best_answer("", [window_of(0, 0)], [(np.zeros(4), np.zeros(4))])
    assert found == Answer("", -math.inf, 0.0)
    assert found.no_answer_probability == 1.0


@pytest.mark.parametrize(("difference", "probability"), [(0.0, 0.5), (-900.0, 0.0), (900.0, 1.0), (2.0, 0.880797)])
@pytest.mark.filterwarnings("error")
def test_probabilities_stay_in_their_range(difference, probability):
    assert Answer("x", 1.0, 1.0 + difference).no_answer_probability == pytest.approx(probability)


def test_an_empty_answer_before_a_right_one_is_passed_over():
    row = question("w5 w6", CONTEXT, "", "w12")
    assert labelled_inputs(make_windows([row], TOKENIZER, SHORT)[0], row)["start_positions"] == 6
