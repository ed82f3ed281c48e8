"""Rows kept aside: a tenth, of every label, and always the same."""

from collections import Counter

from datasets import Dataset

from homodistil_hf.data.task_rows.held_out import keep_aside
from homodistil_hf.data.task_rows.kinds import ANSWERS, CLASSES, TAGS, VALUES, Columns


def test_each_label_gives_its_tenth_and_a_single_row_stays():
    rows = Dataset.from_dict({"text": ["a"] * 111, "label": ["x"] * 80 + ["y"] * 30 + ["z"]})
    columns = Columns(CLASSES, ("text",), ("label",))
    train, aside, how = keep_aside(rows, columns)
    assert (Counter(aside["label"]), how) == ({"x": 8, "y": 3}, "drawn label by label")
    assert len(train) == 100
    assert keep_aside(rows, columns)[1].to_dict() == aside.to_dict()


def test_values_are_spread():
    rows = Dataset.from_dict({"text": ["a"] * 100, "score": [float(n * 37 % 100) for n in range(100)]})
    _, aside, _ = keep_aside(rows, Columns(VALUES, ("text",), ("score",)))
    assert sorted(aside["score"]) == [5.0, 15.0, 25.0, 35.0, 45.0, 55.0, 65.0, 75.0, 85.0, 95.0]


def test_a_contexts_questions_stay_together():
    rows = Dataset.from_dict({"question": list(map(str, range(60))), "context": [str(n // 6) for n in range(60)]})
    train, aside, _ = keep_aside(rows, Columns(ANSWERS, ("question", "context")))
    assert len(aside) == 6
    assert not set(train["context"]) & set(aside["context"])


def test_no_more_than_about_a_thousand():
    rows = Dataset.from_dict({"tokens": [["a"]] * 30_000})
    train, aside, how = keep_aside(rows, Columns(TAGS, ("tokens",)))
    assert (len(train), len(aside), how) == (29_000, 1000, "drawn at random")
