"""Rows kept aside: a tenth, of every label, and always the same."""

from collections import Counter
from functools import partial

import pytest
from datasets import Dataset
from rows import each
from tiny_models import tiny_config, tiny_tokenizer

from homodistil_hf.tasks.columns import Columns, ReadRows
from homodistil_hf.tasks.encoding import as_questions
from homodistil_hf.tasks.held_out import apart, keep_aside, warn_of_learned_texts
from homodistil_hf.tasks.kinds import ANSWERS, CLASSES, LABELS, TAGS, VALUES
from homodistil_hf.tasks.tags import tagged_texts


def test_a_text_of_most_rows_stays_in_training():
    texts = [*map(str, range(30)), *["again"] * 470]
    rows = Dataset.from_dict({"text": texts, "label": ["x", "y"] * 250})
    train, aside, _ = keep_aside(rows, Columns(CLASSES, ("text",), ("label",)))
    assert 1 < len(aside) < 50
    assert "again" not in aside["text"]
    assert not set(train["text"]) & set(aside["text"])


ELSEWHERE = {"text": ["b"], "answer_start": [9]}


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


def test_several_labels_are_spread_over_what_rows_have():
    sets = [["joy"]] * 50 + [["joy", "fear"]] * 30 + [[]] * 20
    rows = Dataset.from_dict({"text": ["a"] * 100, "labels": sets[::2] + sets[1::2]})
    _, aside, how = keep_aside(rows, Columns(LABELS, ("text",), ("labels",)))
    assert Counter(map(len, aside["labels"])) == {1: 5, 2: 3, 0: 2}
    assert how == "spread over their labels"
    columns = {name: [int(name in row) for row in sets] for name in ("joy", "fear")}
    _, aside, _ = keep_aside(
        Dataset.from_dict({"text": ["a"] * 100} | columns), Columns(LABELS, ("text",), ("joy", "fear"))
    )
    assert (sum(aside["joy"]), sum(aside["fear"]), len(aside)) == (8, 3, 10)


def test_a_querys_passages_stay_together():
    rows = Dataset.from_dict({"query": [str(n // 5) for n in range(100)], "passage": list(map(str, range(100)))})
    columns = Columns(VALUES, ("query", "passage"))
    train, aside, how = keep_aside(rows, columns, together="query")
    assert (len(aside), how) == (10, "all rows of a 'query' together")
    assert not set(train["query"]) & set(aside["query"])


def test_equal_texts_are_on_one_side(caplog):
    columns = Columns(CLASSES, ("text",), ("label",))
    rows = Dataset.from_dict({"text": [str(n % 20) for n in range(60)], "label": ["x", "y"] * 30})
    lines: list[str] = []
    train, held_out = apart(ReadRows(rows, columns, "train_data"), lines.append)
    assert (len(train.rows), len(held_out.rows)) == (54, 6)
    assert not set(train.rows["text"]) & set(held_out.rows["text"])
    assert lines == [
        "eval_data is not set: 6 of 60 rows of train_data are kept aside, drawn label by label, equal texts together"
    ]
    assert [*keep_aside(rows, columns)[1]["text"]] == [*held_out.rows["text"]]  # a search of rates draws them, too
    warn_of_learned_texts(train, held_out)
    assert not caplog.records
    warn_of_learned_texts(train, ReadRows(rows.select([*range(20)]), columns, "eval_data"))
    assert "18 of 20 rows of eval_data have texts of train_data; drop them" in caplog.text


@each(
    ("columns", "wrong", "message"),
    [
        (Columns(TAGS, ("tokens",), ("tags",)), {"tags": [0]}, "1 tags for 2 words in row {}; expected"),
        (Columns(ANSWERS, ("question", "context"), ("answers",)), {"answers": ELSEWHERE}, "row {} has"),
    ],
)
def test_messages_name_the_rows_of_the_file(columns, wrong, message):
    rows = [
        {"tokens": ["a", "b"], "tags": [0, 0], "question": f"q{n}", "context": f"a b {n}"}
        | {"answers": {"text": ["b"], "answer_start": [2]}}
        for n in range(60)
    ]
    config, tokenizer = tiny_config(num_labels=2), tiny_tokenizer()
    for bad in range(60):
        whole = Dataset.from_list([row | (wrong if n == bad else {}) for n, row in enumerate(rows)])
        parts = apart(ReadRows(whole, columns, "train_data"), lambda line: None)
        read = as_questions if columns.kind == ANSWERS else partial(tagged_texts, config=config, tokenizer=tokenizer)
        with pytest.raises(ValueError, match=message.format(bad + 1)):
            [read(part) for part in parts]
