"""The kind of a model by its head, and the columns of its rows by their names."""

import re

import pytest
from datasets import ClassLabel, Dataset, Features, List, Value
from rows import each
from tiny_models import tiny_config

from homodistil_hf.tasks.columns import Columns, ReadRows, cells_of_several, find_columns, num_labelled
from homodistil_hf.tasks.kinds import ANSWERS, CLASSES, LABELS, MASKED_WORDS, TAGS, VALUES, names_of, task_kind_of

SEQUENCES = "BertForSequenceClassification"
ONE = ["a b"]
WORDS = [["a", "b"]]


@each(
    ("class_name", "settings", "kind"),
    [
        ("BertForMaskedLM", {}, MASKED_WORDS),
        ("BertModel", {}, MASKED_WORDS),
        (SEQUENCES, {}, CLASSES),
        (SEQUENCES, {"num_labels": 1}, VALUES),
        (SEQUENCES, {"num_labels": 3, "problem_type": "regression"}, VALUES),
        (SEQUENCES, {"num_labels": 3, "problem_type": "multi_label_classification"}, LABELS),
        ("HomoBertForSequenceClassification", {}, CLASSES),
        ("BertForTokenClassification", {}, TAGS),
        ("BertForQuestionAnswering", {}, ANSWERS),
    ],
)
def test_the_head_tells_the_kind(class_name, settings, kind):
    assert task_kind_of(tiny_config(**settings), class_name) == kind
    assert task_kind_of(tiny_config(architectures=[class_name], **settings)) == kind


@each(
    ("kind", "rows", "texts", "labels"),
    [
        (CLASSES, {"text": ONE, "label": [1]}, ("text",), ("label",)),
        (CLASSES, {"Sentence": ONE, "Label": [1], "idx": [0]}, ("Sentence",), ("Label",)),
        (CLASSES, {"premise": ONE, "hypothesis": ONE, "label": [1]}, ("premise", "hypothesis"), ("label",)),
        (CLASSES, {"question": ONE, "sentence": ONE, "label": [1]}, ("question", "sentence"), ("label",)),
        (CLASSES, {"headline": ONE, "category": ONE}, ("headline",), ("category",)),
        (CLASSES, {"text": ONE}, ("text",), ()),
        (VALUES, {"sentence1": ONE, "sentence2": ONE, "score": [0.5]}, ("sentence1", "sentence2"), ("score",)),
        (VALUES, {"text": ONE, "bad": [0.5], "good": [1.0]}, ("text",), ("bad", "good")),
        (LABELS, {"text": ONE, "Good": [1], "bad": [0]}, ("text",), ("bad", "Good")),
        (TAGS, {"tokens": WORDS, "ner_tags": [[0, 1]]}, ("tokens",), ("ner_tags",)),
        (TAGS, {"words": WORDS, "pos": ONE}, ("words",), ()),
        (TAGS, {"text": ONE, "entities": [[[0, 1]]]}, ("text",), ("entities",)),
        (TAGS, {"text": ONE, "tokens": [[{"text": "a"}]], "spans": [[{"end": 1}]]}, ("text",), ("spans",)),
        (TAGS, {"text": ONE, "annotations": [[{"end": 1}]]}, ("text",), ("annotations",)),
        (CLASSES, {"text": ONE, "annotation": ONE}, ("text",), ("annotation",)),
        (ANSWERS, {"context": ONE, "question": ONE, "answers": ONE}, ("question", "context"), ("answers",)),
    ],
)
def test_usual_names_are_found(kind, rows, texts, labels):
    config = tiny_config(id2label={0: "bad", 1: "good"})
    assert find_columns(Dataset.from_dict(rows), config, kind) == Columns(kind, texts, labels)


def test_of_several_tag_columns_the_one_with_the_models_names_is_taken():
    features = Features(
        {
            "tokens": List(Value("string")),
            "pos_tags": List(ClassLabel(names=["NOUN", "VERB"])),
            "ner_tags": List(ClassLabel(names=["O", "B-PER"])),
        }
    )
    rows = Dataset.from_dict({"tokens": WORDS, "pos_tags": [[0, 1]], "ner_tags": [[0, 1]]}, features=features)
    config = tiny_config(id2label={0: "NOUN", 1: "VERB"})
    assert find_columns(rows, config, TAGS).labels == ("pos_tags",)


def test_columns_are_named():
    rows = Dataset.from_dict({"a": ONE, "b": ONE, "c": [1]})
    given = {"text_columns": ["a", "b"], "label_column": "c"}
    assert find_columns(rows, tiny_config(), CLASSES, **given) == Columns(CLASSES, ("a", "b"), ("c",))


@each(
    ("kind", "rows", "given", "message"),
    [
        (
            CLASSES,
            {"a": ONE, "b": ONE},
            {},
            r"has the columns a \(string\), b \(string\); which of them hold text, or two",
        ),
        (
            CLASSES,
            {"sentence": ONE, "label": [1]},
            {"label_column": "labels"},
            "lacks the column label_column='labels'; nea",
        ),
        (CLASSES, {"text": ONE}, {"text_columns": ["txt"]}, "lacks the column text_columns='txt'; nearest valid: 'te"),
        (CLASSES, {"a": ONE, "b": ONE, "c": ONE}, {"text_columns": ["a", "b", "c"]}, "two of a pair"),
        (TAGS, {"a": [1]}, {}, "which of them hold tokens, or a text with spans"),
        (ANSWERS, {"question": ONE}, {}, "expected question and context"),
    ],
)
def test_columns_that_are_not_there(kind, rows, given, message):
    with pytest.raises(ValueError, match=message):
        find_columns(Dataset.from_dict(rows), tiny_config(), kind, **given)


@pytest.mark.parametrize("labels", [[None] * 3, [""] * 3, [float("nan")] * 3])
def test_a_column_without_a_label_is_none(labels):
    rows = Dataset.from_dict({"text": ["a"] * 3, "label": labels})
    assert find_columns(rows, tiny_config(num_labels=3), CLASSES).labels == ()
    of_classes = Dataset.from_dict({"text": ["a"], "label": [-1]}).cast_column("label", ClassLabel(names=["x", "y"]))
    assert find_columns(of_classes, tiny_config(num_labels=2), CLASSES).labels == ()


PROSE = "three words and more"


@each(
    ("beside", "is_sure"),
    [
        ({"content": ["x"], "title": [PROSE]}, False),
        ({"question": [PROSE], "choices": [["one way", "another way"]]}, False),
        ({"content": ["x"], "id": ["a1"], "author": ["Ada Lovelace"], "label": [PROSE]}, True),
        ({"text": ["x"], "title": [PROSE]}, True),
    ],
)
def test_the_only_usual_column_is_not_all_where_more_texts_lie_beside(beside, is_sure):
    rows = Dataset.from_dict(beside)
    if is_sure:
        assert find_columns(rows, tiny_config(), CLASSES).texts == tuple(beside)[:1]
        return
    with pytest.raises(
        ValueError, match=f"columns {next(iter(beside))} .*; which of them hold text, .* name text_columns"
    ):
        find_columns(rows, tiny_config(), CLASSES)
    assert find_columns(rows, tiny_config(), CLASSES, text_columns=[next(iter(beside))]).texts


def test_a_pair_with_a_side_of_another_type_stays_a_pair():
    rows = Dataset.from_dict({"sentence1": ["a"], "sentence2": [7], "label": [0]})
    assert find_columns(rows, tiny_config(num_labels=2), CLASSES).texts == ("sentence1", "sentence2")
    rows = Dataset.from_dict({"question": ["a"], "answer": [0]})
    assert find_columns(rows, tiny_config(num_labels=2), CLASSES).texts == ("question",)


def test_rows_with_labels_are_counted_and_announced_labels_must_be_there():
    rows = Dataset.from_dict({"text": ["a", "b", "c"], "x": [1.0, None, 0.0], "y": [0.5, 1.0, float("nan")]})
    parts = [ReadRows(rows, Columns(VALUES, ("text",), labels), "train_data") for labels in (("x",), ("x", "y"), ())]
    assert [num_labelled(parts[:1]), num_labelled(parts[1:2]), num_labelled(parts[2:])] == [2, 1, None]
    empty = Dataset.from_dict({"text": ["a"], "label": [None]})
    with pytest.raises(ValueError, match="train_data has no label in 'label', in none of 1 rows; name another"):
        num_labelled([ReadRows(empty, Columns(VALUES, ("text",), ("label",)), "train_data")])


@each("tags", [[-100, -100], [None, None], ["", ""], [], "[]"])
def test_words_whose_tags_are_all_ignored_have_no_label(tags):
    rows = Dataset.from_dict({"tokens": [["a", "b"]] * 2, "tags": [tags] * 2})
    part = ReadRows(rows, Columns(TAGS, ("tokens",), ("tags",)), "train_data")
    with pytest.raises(
        ValueError, match=f"no label in 'tags', in none of 2 rows; .*: row 1 has {re.escape(repr(tags))}"
    ):
        num_labelled([part])
    assert num_labelled([part._replace(argument="the held-out part of train_data")]) == 0


def test_columns_of_labels_that_differ_in_case_alone_are_told_apart():
    config = tiny_config(id2label={0: "US", 1: "us"}, problem_type="multi_label_classification")
    rows = Dataset.from_dict({"text": ["a"], "us": [0], "US": [1]})
    assert find_columns(rows, config, LABELS).labels == ("US", "us")
    with pytest.raises(ValueError, match="has columns of some of the model's labels, but lacks 'US'; add"):
        find_columns(rows.remove_columns("US"), config, LABELS)


@each("given", ["joy,fear", "fear, joy", "Joy,FEAR"])
def test_named_columns_of_labels_are_in_the_models_order(given):
    config = tiny_config(id2label={0: "fear", 1: "joy"}, problem_type="multi_label_classification")
    names = [name.strip() for name in given.split(",")]
    rows = Dataset.from_dict({"text": ["a"], **{name: [0] for name in names}})
    found = find_columns(rows, config, LABELS, label_column=given)
    assert [name.lower() for name in found.labels] == ["fear", "joy"]
    assert found.describe() == f"text in 'text', labels in {found.labels[0]!r}, {found.labels[1]!r}"


def test_named_columns_of_labels_are_in_their_own_order_where_the_model_has_no_such_names():
    rows = Dataset.from_dict({"text": ["a"], "joy": [0], "fear": [0], "envy": [0]})
    config = tiny_config(num_labels=2, problem_type="multi_label_classification")
    assert find_columns(rows, config, LABELS, label_column="joy,fear").labels == ("joy", "fear")
    some = tiny_config(id2label={0: "fear", 1: "anger"}, problem_type="multi_label_classification")
    assert find_columns(rows, some, LABELS, label_column="fear,envy").labels == ("fear", "envy")
    with pytest.raises(
        ValueError, match="fear are names of the model's labels, fear, anger, at other places; name the"
    ):
        find_columns(rows, some, LABELS, label_column="envy,fear")


def test_marks_of_a_feature_are_its_names_and_not_its_numbers():
    features = Features(
        {"text": Value("string"), "fear": ClassLabel(names=["yes", "no"]), "joy": ClassLabel(names=["x", "y"])}
    )
    rows = Dataset.from_dict({"text": ["a", "b"], "fear": [0, 1], "joy": [0, 1]}, features=features)
    part = ReadRows(rows, Columns(LABELS, ("text",), ("fear", "joy")), "train_data")
    assert cells_of_several(part) == [[1, 0], [0, 1]]


def test_of_names_that_differ_in_case_alone_the_lower_one_is_read():
    rows = {"text": ["a b"], "Text": ["c d"], "label": [0], "Label": [1]}
    for names in (list(rows), list(rows)[::-1]):
        found = find_columns(Dataset.from_dict({name: rows[name] for name in names}), tiny_config(), CLASSES)
        assert (found.texts, found.labels) == (("text",), ("label",))


def test_classes_are_numbered_from_0():
    config = tiny_config(id2label={1: "a", 2: "b"}, label2id={"a": 1, "b": 2})
    with pytest.raises(ValueError, match="^id2label of the model's config has no class 0, only 1, 2; number"):
        names_of(config)
