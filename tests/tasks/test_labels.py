"""Labels by name, number or list → the model's numbers."""

import pytest
from datasets import ClassLabel, Dataset, Features, List
from rows import each
from tiny_models import tiny_config

from homodistil_hf.data.masking import UNKNOWN_CLASS, UNKNOWN_VALUE
from homodistil_hf.tasks.columns import Columns, ReadRows, num_labelled
from homodistil_hf.tasks.kinds import CLASSES, LABELS, TAGS, VALUES
from homodistil_hf.tasks.labels import label_numbers, read_alike
from homodistil_hf.tasks.rows_task import task_of_rows

NAMES = {0: "bad", 1: "fair", 2: "good"}
NAMED = tiny_config(id2label=NAMES)
COUNTRIES = tiny_config(id2label={0: "US", 1: "us", 2: "Them"})
NUMBERED = tiny_config(num_labels=3)
STARS = tiny_config(id2label={0: "1", 1: "2", 2: "3"})


def numbers(kind, labels, config, names=("label",)):
    rows = Dataset.from_dict({"text": ["a"] * len(labels), "label": labels})
    return label_numbers(ReadRows(rows, Columns(kind, ("text",), names), "rows"), config)


@each(
    ("labels", "config", "expected"),
    [
        (["good", "bad"], NAMED, [2, 0]),
        (["Good ", "BAD"], NAMED, [2, 0]),
        ([2, 0], NAMED, [2, 0]),
        ([2.0, 0.0], NAMED, [2, 0]),
        (["2", "0"], NAMED, [2, 0]),
        (["2.0", "", "0."], NAMED, [2, UNKNOWN_CLASS, 0]),
        ([True, False], NAMED, [1, 0]),
        (["true", "false"], NUMBERED, [1, 0]),
        (["LABEL_2", "LABEL_0"], NUMBERED, [2, 0]),
        ([1, 3], STARS, [0, 2]),
        ([0, 2], STARS, [0, 2]),
        ([1.0, 2.0], STARS, [0, 1]),
        (["1.0", "2.0"], STARS, [0, 1]),
        (["us", "US", "them"], COUNTRIES, [1, 0, 2]),
        (["good", None, ""], NAMED, [2, UNKNOWN_CLASS, UNKNOWN_CLASS]),
    ],
)
def test_classes(labels, config, expected):
    assert numbers(CLASSES, labels, config) == expected


@each(("labels", "is_told"), [([1, 2], True), (["1", "2"], True), ([1, 3], False), ([0, 1, 2], False)])
def test_labels_that_could_be_other_classes_are_told(labels, is_told, caplog):
    numbers(CLASSES, labels, STARS)
    assert ("such as" in caplog.text and "name one class and number another" in caplog.text) == is_told


def test_a_features_own_names_are_brought_into_the_models_order():
    rows = Dataset.from_dict({"label": [0, 2, -1]}).cast_column("label", ClassLabel(names=["good", "fair", "bad"]))
    part = ReadRows(rows, Columns(CLASSES, ("text",), ("label",)))
    assert label_numbers(part, NAMED) == [2, 0, UNKNOWN_CLASS]
    assert label_numbers(part, NUMBERED) == [0, 2, UNKNOWN_CLASS]


@each(
    ("labels", "expected"),
    [
        ([["good"], ["bad", "fair"], []], [[0, 0, 1], [1, 1, 0], [0, 0, 0]]),
        ([[2], [0, 1]], [[0, 0, 1], [1, 1, 0]]),
        ([[1, 0, 1], [0, 0, 0]], [[1, 0, 1], [0, 0, 0]]),
        ([[0.5, 0.0, 1.0]], [[0.5, 0, 1]]),
        (["good", "bad;fair", None], [[0, 0, 1], [1, 1, 0], [UNKNOWN_VALUE] * 3]),
        (['["good"]', "[]"], [[0, 0, 1], [0, 0, 0]]),
        (["['good']", "['bad', 'fair']"], [[0, 0, 1], [1, 1, 0]]),
    ],
)
def test_several_labels(labels, expected):
    assert numbers(LABELS, labels, NAMED) == expected


def test_a_column_for_each_label():
    rows = Dataset.from_dict({"bad": ["1", "0"], "fair": ["0", "1"], "good": ["0", ""]})
    part = ReadRows(rows, Columns(LABELS, ("text",), ("bad", "fair", "good")))
    assert label_numbers(part, NAMED) == [[1, 0, 0], [UNKNOWN_VALUE] * 3]


@each(
    ("cells", "expected"),
    [
        ({"bad": ["x", ""], "fair": ["", "x"], "good": ["1", ""]}, [[1, 0, 1], [0, 1, 0]]),
        ({"bad": [1, None], "fair": [1.0, None], "good": [True, None]}, [[1, 1, 1], [0, 0, 0]]),
        ({"bad": [True, False], "fair": ["True", "False"], "good": ["yes", "no"]}, [[1, 1, 1], [0, 0, 0]]),
        ({"bad": [1, None], "fair": [0, 1], "good": [1, 0]}, [[1, 0, 1], [0, 1, 0]]),
        ({"bad": ["x", ""], "fair": ["", ""], "good": ["", "x"]}, [[1, 0, 0], [0, 0, 1]]),
        ({"bad": [1, 0], "fair": [0, None], "good": [1, 0]}, [[1, 0, 1], [UNKNOWN_VALUE] * 3]),
        ({"bad": [0.5, 1.0], "fair": [0.0, 1.0], "good": ["0.25", "1"]}, [[0.5, 0, 0.25], [1, 1, 1]]),
    ],
)
def test_marks_beside_empty_cells_and_booleans_are_ones_and_zeros(cells, expected):
    part = ReadRows(Dataset.from_dict(cells), Columns(LABELS, ("text",), ("bad", "fair", "good")), "rows")
    assert label_numbers(part, NAMED) == expected
    assert num_labelled([part]) == sum(UNKNOWN_VALUE not in row for row in expected)


@each(
    ("labels", "num_labels", "expected"),
    [
        ([1, 2.5], 1, [[1], [2.5]]),
        (["1", "-2.5", ""], 1, [[1], [-2.5], [UNKNOWN_VALUE]]),
        ([[1.0, 2.0], None], 2, [[1, 2], [UNKNOWN_VALUE] * 2]),
        ([float("nan"), 1.0], 1, [[UNKNOWN_VALUE], [1]]),
    ],
)
def test_values(labels, num_labels, expected):
    assert numbers(VALUES, labels, tiny_config(num_labels=num_labels)) == expected


def test_without_a_column_all_are_unknown():
    rows = Dataset.from_dict({"text": ["a", "b"]})
    assert label_numbers(ReadRows(rows, Columns(CLASSES, ("text",))), NAMED) == [UNKNOWN_CLASS] * 2
    assert label_numbers(ReadRows(rows, Columns(LABELS, ("text",))), NAMED) == [[UNKNOWN_VALUE] * 3] * 2


@each(
    ("kind", "labels", "config", "message"),
    [
        (CLASSES, ["goood"], NAMED, r"has the label 'goood' \(1 row\).*are bad, fair, good; nearest valid: 'good'"),
        (CLASSES, ["x", "y"], NUMBERED, "classes have no names, only numbers 0 … 2: number the rows, or set id2label"),
        (CLASSES, [1, 2, 3], NAMED, "has the label 3 .*classes 0 … 2; they count from 1: subtract 1"),
        (CLASSES, [0, 7], NAMED, "has the label 7 .*classes 0 … 2; correct or drop such rows"),
        (CLASSES, ["Us", "us"], COUNTRIES, "has the label 'Us' .*classes are US, us, Them"),
        (CLASSES, ["001", "1"], STARS, "has the label '001'"),
        (CLASSES, ["02", "1"], NUMBERED, "has the label '02'"),
        (CLASSES, [1.5], NAMED, "has the label 1.5"),
        (CLASSES, [["good"]], NAMED, "expected one class a row: for several, set problem_type"),
        (CLASSES, [[]], NAMED, r"holds \[\]; expected one class a row"),
        (LABELS, [["sad"]], NAMED, "has the label 'sad'"),
        (LABELS, [[{"name": "good"}]], NAMED, "has the label {'name': 'good'}, which is no class"),
        (LABELS, [[3]], NAMED, "has the label 3"),
        (LABELS, ["['good' 'bad']"], NAMED, "has the label .*; a list in a file of words is JSON, .*: write it so"),
        (VALUES, ["much"], tiny_config(num_labels=1), "has the label 'much'; expected a finite number a row"),
        (
            VALUES,
            ["2,77"],
            tiny_config(num_labels=1),
            "has the label '2,77'; .*: write numbers with a point and without",
        ),
        (VALUES, [1, 2**24 + 1], tiny_config(num_labels=1), "has the label 16777217; from .* divide the column"),
        (VALUES, [[1.0]], tiny_config(num_labels=2), "expected 2 finite numbers a row"),
    ],
)
def test_labels_that_are_none_of_the_models(kind, labels, config, message):
    with pytest.raises(ValueError, match=message):
        numbers(kind, labels, config)


def test_a_number_below_the_classes_is_not_the_last_one():
    feature = List(ClassLabel(names=["good", "bad", "fair"]))
    rows = Dataset.from_dict({"label": [[0], [-1]]}, features=Features({"label": feature}))
    with pytest.raises(ValueError, match="has the label -1, which is no class: correct or drop such rows"):
        label_numbers(ReadRows(rows, Columns(LABELS, ("text",), ("label",))), NAMED)


def test_columns_that_are_not_one_for_each_label():
    with pytest.raises(ValueError, match="label_column='a,b' are 2, the model has 3 labels"):
        numbers(LABELS, ["x"], NAMED, names=("a", "b"))


@each("names", [["1", "2", "3"], ["1", "0", "2"]])
def test_numbers_that_a_feature_calls_otherwise_are_not_the_models(names):
    rows = Dataset.from_dict({"label": [0, 1]}).cast_column("label", ClassLabel(names=names))
    with pytest.raises(ValueError, match=r"has the label '1' \(1 row\); the model's classes are bad, fair, good"):
        label_numbers(ReadRows(rows, Columns(CLASSES, ("text",), ("label",))), NAMED)
    rows = rows.cast_column("label", ClassLabel(names=["0", "1", "2"]))
    assert label_numbers(ReadRows(rows, Columns(CLASSES, ("text",), ("label",))), NAMED) == [0, 1]


def parts_of(kind, labels, columns, *, cut):
    rows = Dataset.from_dict({"text": ["a"] * len(next(iter(labels.values())))} | labels)
    part = ReadRows(rows, Columns(kind, ("text",), columns))
    few = part._replace(rows=rows.select(range(cut, len(rows))), argument="eval_data")
    return part._replace(rows=rows.select(range(cut))), few


def test_few_rows_are_read_as_all_of_a_run(caplog):
    # numbers from 0, or classes by name?
    parts = parts_of(CLASSES, {"label": [0, 1, 2, 1]}, ("label",), cut=3)
    assert [label_numbers(part, STARS) for part in parts] == [[0, 1, 2], [0]]
    caplog.clear()
    read = read_alike(parts, STARS)
    assert [label_numbers(part, STARS) for part in read] == [[0, 1, 2], [1]]
    assert not caplog.text  # what was read is not asked for again
    # an empty cell beside a 0 is unknown, and beside marks alone is 0
    config = tiny_config(id2label={0: "joy", 1: "fear"}, problem_type="multi_label_classification")
    cells = {"joy": [1, 0, 1, 0, 1], "fear": [0, 1, None, 1, None]}
    parts = parts_of(LABELS, cells, ("joy", "fear"), cut=3)
    unknown = [UNKNOWN_VALUE] * 2
    assert label_numbers(parts[1], config) == [[0.0, 1.0], [1.0, 0.0]]
    read = read_alike(parts, config)
    assert [label_numbers(part, config) for part in read] == [[[1.0, 0.0], [0.0, 1.0], unknown], [[0.0, 1.0], unknown]]


def test_a_wrong_label_is_named_with_its_own_rows():
    parts = parts_of(CLASSES, {"label": ["good", "bad", "god"]}, ("label",), cut=2)
    with pytest.raises(ValueError, match=r"^eval_data: column 'label' has the label 'god' \(1 row\)"):
        read_alike(parts, NAMED)


def test_a_tag_that_is_ignored_is_no_class():
    rows = Dataset.from_dict({"tokens": [["x", "y", "z"]] * 2, "ner_tags": [[-100, 0, 2], [1, 10, 2]]})
    assert task_of_rows({"train_data": rows}, Columns(TAGS, ("tokens",), ("ner_tags",))).names == tuple(
        map(str, range(11))
    )


def test_names_in_one_part_and_numbers_in_another_are_each_read_alone():
    parts = parts_of(CLASSES, {"label": ["bad", "good", "0", "2"]}, ("label",), cut=2)
    assert [label_numbers(part, NAMED) for part in read_alike(parts, NAMED)] == [[0, 2], [0, 2]]


@each("labels", [list(range(12)), [0, 2]])
def test_numbers_that_were_made_a_feature_are_the_models(labels):
    rows = Dataset.from_dict({"label": labels}).class_encode_column("label")
    config = tiny_config(id2label={number: f"topic {number}" for number in range(12)})
    assert label_numbers(ReadRows(rows, Columns(CLASSES, ("text",), ("label",))), config) == labels


@each(
    ("labels", "config", "is_told"),
    [([1, 2, 1], NAMED, True), ([1, 1], NAMED, False), ([0, 1, 2], NAMED, False), (["fair", "good"], NAMED, False)],
)
def test_numbers_that_may_count_from_1_are_told(caplog, labels, config, is_told):
    numbers(CLASSES, labels, config)
    said = "no row has the class 0 ('bad'), and 1 is 'fair'; where labels count from 1, subtract 1"
    assert (said in caplog.text) is is_told
    own = Dataset.from_dict({"text": ["a"] * 2, "label": [1, 2]}, features=None).cast_column(
        "label", ClassLabel(names=[*NAMES.values()])
    )
    caplog.clear()
    assert label_numbers(ReadRows(own, Columns(CLASSES, ("text",), ("label",))), NAMED) == [1, 2]
    assert not caplog.records
