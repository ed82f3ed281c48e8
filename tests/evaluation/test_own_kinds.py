"""Rows of fine-tunings on a task of one's own: tags, several labels, values, questions; labels and their refusals."""

from decimal import Decimal

import pytest
from datasets import ClassLabel, Dataset, Features, List, Value
from own_rows import run
from rows import each
from task_rows import FEELINGS, KINDS, MARKS, rows_of_kind
from tiny_files import write_teacher
from tiny_models import tiny_tokenizer
from transformers import AutoConfig, AutoTokenizer

from homodistil_hf.evaluation.fine_tuning import OwnTaskSettings, own_rows, settings_from, task_metrics
from homodistil_hf.models.loading import load_encoder
from homodistil_hf.tasks.columns import Columns, ReadRows
from homodistil_hf.tasks.kinds import ANSWERS, CLASSES, LABELS, TAGS, VALUES
from homodistil_hf.tasks.labels import label_numbers
from homodistil_hf.tasks.rows_task import RowsTask, columns_of_rows, task_of_rows

OWN: dict[str, tuple[str, list[str] | None]] = {
    "several labels": ("micro_f1", FEELINGS),
    "tags": ("span_f1", MARKS),
    "answers": ("f1", None),
    "two values": ("pearson", ["joy", "fear"]),
}
QUICK = {"batch_size": 8, "learning_rate": 1e-3, "max_train_steps": 3, "dtype": "float32"}


def write(folder, name):
    """Settings of a fine-tuning on rows of a kind."""
    write_teacher(folder / "bert")
    for seed, file in enumerate(("train.jsonl", "dev.jsonl")):
        rows_of_kind(name, seed=seed).to_json(folder / file)
    paths = {"model": "bert", "train_data": "train.jsonl", "eval_data": "dev.jsonl", "output_dir": "out"}
    return {**{key: str(folder / path) for key, path in paths.items()}, **QUICK}


@pytest.mark.slow
@pytest.mark.parametrize("name", OWN)
def test_a_kind_is_fine_tuned(tmp_path, name):
    metric, names = OWN[name]
    given = write(tmp_path, name)
    several = {"label_column": "joy, fear"} if name == "two values" else {}
    results, _ = run(given, **several)
    assert next(iter(results["metrics"])) == metric
    config = AutoConfig.from_pretrained(tmp_path / "out" / "model")
    assert KINDS[name][1]["task"].replace("_", "") in config.architectures[0].lower()
    if names:
        assert list(config.id2label.values()) == (
            names if several else sorted(names, key=lambda tag: (tag != "O", tag))
        )
    if name == "several labels":
        assert config.problem_type == "multi_label_classification"


@each(
    ("rows", "expected"),
    [
        ({"text": ["a", "b"], "label": ["x", "y"]}, RowsTask(Columns("classes", ("text",), ("label",)), ("x", "y"))),
        (
            {"sentence1": ["a", "b"], "sentence2": ["c", "d"], "label": [0, 1]},
            RowsTask(Columns("classes", ("sentence1", "sentence2"), ("label",)), ("0", "1")),
        ),
        ({"text": ["a"], "labels": [["x", "y"]]}, RowsTask(Columns(LABELS, ("text",), ("labels",)), ("x", "y"))),
        ({"text": ["a"], "label": [[1, 0, 1]]}, RowsTask(Columns(LABELS, ("text",), ("label",)), ("0", "1", "2"))),
        ({"text": ["a"], "label": [[0.5, 2.0]]}, RowsTask(Columns(VALUES, ("text",), ("label",)), ("0", "1"))),
        ({"text": ["a"], "label": ['["x", "y"]']}, RowsTask(Columns(LABELS, ("text",), ("label",)), ("x", "y"))),
        (
            {"tokens": [["a", "b", "c"]], "tags": [["I-X", "O", "B-X"]]},
            RowsTask(Columns(TAGS, ("tokens",), ("tags",)), ("O", "B-X", "I-X")),
        ),
        (
            {"tokens": [["a", "b", "c"]], "tags": [["I-X", "B-X", "I-Y"]]},
            RowsTask(Columns(TAGS, ("tokens",), ("tags",)), ("B-X", "B-Y", "I-X", "I-Y")),
        ),
        (
            {"words": [["a", "b"]], "tags": [[2, 0]]},
            RowsTask(Columns(TAGS, ("words",), ("tags",)), ("0", "1", "2")),
        ),
        (
            {"text": ["ab"], "spans": [[{"id": "T1", "start": 0, "end": 1, "label": "X"}]]},
            RowsTask(Columns(TAGS, ("text",), ("spans",)), ("O", "B-X", "I-X")),
        ),
        (
            {"question": ["a"], "context": ["b"], "answers": [{"text": ["b"], "answer_start": [0]}]},
            RowsTask(Columns(ANSWERS, ("question", "context"), ("answers",)), ()),
        ),
        (
            {"question": ["a"], "context": ["b"], "answers": ["[{'text': 'b', 'answer_start': 0}]"]},
            RowsTask(Columns(ANSWERS, ("question", "context"), ("answers",)), ()),
        ),
        ({"text": ["a"], "score": [0.5]}, RowsTask(Columns(VALUES, ("text",), ("score",)))),
    ],
)
def test_the_columns_tell_the_task(rows, expected):
    assert found_in(Dataset.from_dict(rows)) == expected


@each(
    ("cells", "kind", "names"),
    [
        (["a", "b", "a,b"], LABELS, ("a", "b")),
        (["x;y", "y;z", "x;z"], LABELS, ("x", "y", "z")),
        (["{'a', 'b'}", "set()", "{'b'}"], LABELS, ("a", "b")),
        (["('a', 'b')", "('b',)", "()"], LABELS, ("a", "b")),
        (['{"choices": ["a, c", "b"]}', "a, c", "b"], LABELS, ("a, c", "b")),
        ([{"choices": ["a", "b"]}, {"choices": ["b"]}], LABELS, ("a", "b")),
        (["['a','b']", "['b']"], LABELS, ("a", "b")),
        ([["a ", "b"], ["a"]], LABELS, ("a", "b")),
        (["yes, often", "no, never"], CLASSES, ("no, never", "yes, often")),
        (["Rome, Italy", "Pisa, Italy", "Bonn, Germany"], CLASSES, ("Bonn, Germany", "Pisa, Italy", "Rome, Italy")),
        (["(a) much", "(none)"], CLASSES, ("(a) much", "(none)")),
    ],
)
def test_cells_of_several_labels_are_several_however_they_are_written(cells, kind, names):
    found = found_in(Dataset.from_dict({"text": ["t"] * len(cells), "label": cells}))
    assert (found.kind, found.names) == (kind, names)


@each(
    ("cells", "message"),
    [
        (["0,5", "1,25"], "train_data has rows with label='0,5'; write numbers with a point"),
        (["1,234", "5"], "has rows with label='1,234'; write numbers with a point and without separators"),
        (["1.234,5", "2"], "has rows with label='1.234,5'; write numbers with a point"),
        (["['a' 'b']", "['a']"], "has the label .*, which is no class; a list in a file of words is JSON"),
        ([[None, "a"], ["b"]], "column 'label' has lists with None among their labels; leave it out of them"),
        (["['', 'a']", "['b']"], "has lists with '' among their labels"),
        (
            [[0, 2**24], [1]],
            "train_data: column 'label' has the class 16,777,216, and so as many before it; number the",
        ),
        (['{"a": 1}', '{"b": 0}'], "train_data: column 'label' has the label {'a': 1}, which is no class"),
    ],
)
def test_cells_that_are_neither_classes_nor_lists_are_refused(cells, message):
    with pytest.raises(ValueError, match=message):
        found_in(Dataset.from_dict({"text": ["t"] * len(cells), "label": cells}))


def found_in(rows, **how):
    return task_of_rows({"train_data": rows}, columns_of_rows(rows, **how))


@pytest.mark.parametrize(
    ("rows", "named", "message"),
    [
        ({"text": ["a"], "label": [""]}, {}, "train_data has no label in 'label', in none of 1 rows; name another"),
        (
            {"question": ["a"], "context": ["b"], "answers": [[]]},
            {},
            "train_data has no label in 'answers', in none of",
        ),
        ({"text": ["a"], "n": [3]}, {}, "train_data lacks the column 'label'; name text_columns and label_column; it"),
        (
            {"tokens": [["a"]], "tags": [["O"]]},
            {"text_columns": ("tokns",)},
            "train_data lacks the column text_columns='tokns'; nearest valid: 'tokens'",
        ),
    ],
)
def test_columns_that_tell_no_task_are_refused_by_their_own_kind(rows, named, message):
    with pytest.raises(ValueError, match=message):
        found_in(Dataset.from_dict(rows), **named)


@pytest.mark.parametrize(
    ("cells", "kind"), [([0.5, 1.0], VALUES), ([0, 1], LABELS), (["x", ""], LABELS), (["False", "True"], LABELS)]
)
def test_several_columns_hold_values_or_labels(cells, kind):
    rows = Dataset.from_dict({"text": ["a", "b"], "joy": cells, "fear": cells})
    expected = RowsTask(Columns(kind, ("text",), ("joy", "fear")), ("joy", "fear"))
    assert found_in(rows, label_column="joy,fear") == expected


def test_words_without_tags_count_for_no_metric(tmp_path):
    write_teacher(tmp_path / "bert", **KINDS["tags"][1])
    model, tokenizer = load_encoder(str(tmp_path / "bert")), AutoTokenizer.from_pretrained(tmp_path / "bert")
    task = RowsTask(Columns(TAGS, ("tokens",), ("ner_tags",)), tuple(MARKS))
    rows = rows_of_kind("tags").to_dict()
    known = {name: cells[::2] for name, cells in rows.items()}
    rows["ner_tags"] = [tags if place % 2 == 0 else None for place, tags in enumerate(rows["ner_tags"])]
    found, expected = (task_metrics(model, Dataset.from_dict(some), task, tokenizer, 24) for some in (rows, known))
    assert found == expected
    assert found.keys() == {"span_f1", "span_precision", "span_recall", "accuracy"}


# Labels


def rows_from(given, tmp_path, train, dev=None, suffix=".csv"):
    """Rows as they are read of files that hold these columns."""
    paths = {}
    for name, columns in (("train_data", train), ("eval_data", dev or train)):
        found = (
            columns
            if isinstance(columns, Dataset)
            else Dataset.from_dict({"text": [f"w5 w{6 + row}" for row in range(8)]} | columns)
        )
        paths[name] = str(tmp_path / f"own-{name}{suffix if isinstance(columns, dict) else '.parquet'}")
        if paths[name].endswith(".csv"):
            found.to_csv(paths[name], index=False)
        else:
            found.to_parquet(paths[name])
    return read(given, **paths)


def read(given, **changes):
    """Numbers of the labels to train on and to evaluate on, and the names of the classes."""
    task, *parts = own_rows(settings_from(OwnTaskSettings, {**given, **changes}), tiny_tokenizer(), print)
    numbers = [label_numbers(ReadRows(rows, task.columns), task.config) for rows in parts]
    return *([row[0] if isinstance(row, list) else row for row in part] for part in numbers), list(task.names)


def named(labels=(0, 1) * 4, names=("pos", "neg")):
    features = Features({"text": Value("string"), "label": ClassLabel(names=list(names))})
    return Dataset.from_dict({"text": ["w5 w6"] * 8, "label": list(labels)}, features=features)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_whole_numbers_with_a_point_are_classes(given, tmp_path, suffix, caplog):
    train, dev, names = rows_from(given, tmp_path, {"label": [0.0, 1.0] * 4}, {"label": [1.0, 0.0] * 4}, suffix)
    assert (train[:2], dev[:2], names) == ([0, 1], [1, 0], ["0", "1"])
    assert "label has whole numbers such as 0.0; they are classes" in caplog.text
    results, _ = run(given, **{name: str(tmp_path / f"own-{name}{suffix}") for name in ("train_data", "eval_data")})
    assert results["metrics"].keys() == {"accuracy", "macro_f1"}


def test_labels_of_a_folder_of_csv_are_those_of_its_files(given, tmp_path):
    tmp_path = tmp_path / "rows"
    tmp_path.mkdir()
    for seed, split in enumerate(("train", "validation")):
        labels = [number / 2 + seed for number in range(8)]
        Dataset.from_dict({"text": ["w5 w6"] * 8, "label": labels}).to_csv(tmp_path / f"{split}.csv")
    folder = dict.fromkeys(("train_data", "eval_data"), str(tmp_path))
    train, dev, names = read(given, **folder)
    assert (train[:2], dev[:2], names) == ([0.0, 0.5], [1.0, 1.5], [])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("train", "dev", "suffix"),
    [
        ([0, 1] * 2, [0.5, 1.0] * 2, ".csv"),
        ([0.0, 0.5, 1.0, 2.0], [0.0, 1.0, 3.0, 7.0], ".csv"),
        ([0.0, 1.0, 2.0, 3.0], [0.5, 1.0, 1.0, 2.0], ".parquet"),
        ([Decimal("1.0"), Decimal("2.0")] * 2, [Decimal("0.5"), Decimal("1.0")] * 2, ".parquet"),
        (["0.5", "1.0"] * 2, [1.0, 0.5] * 2, ".csv"),
        (["0.5", "1.0"] * 2, [1.0, 0.5] * 2, ".parquet"),
    ],
)
def test_whole_numbers_beside_fractions_are_a_regression(given, tmp_path, caplog, train, dev, suffix):
    *found, names = rows_from(given, tmp_path, {"label": train * 2}, {"label": dev * 2}, suffix)
    assert (found, names) == ([[float(label) for label in labels * 2] for labels in (train, dev)], [])
    assert "they are classes" not in caplog.text


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_words_that_are_whole_numbers_are_classes_in_their_order(given, tmp_path, suffix):
    assert rows_from(given, tmp_path, {"label": ["10", "9"] * 4}, suffix=suffix)[2] == ["9", "10"]


def test_zeros_before_a_number_and_capitals_are_names_of_their_own(given, tmp_path, caplog):
    train, _, names = rows_from(given, tmp_path, {"label": ["001", "1", "010", "10"] * 2})
    assert (train[:4], names) == ([0, 2, 1, 3], ["001", "010", "1", "10"])
    assert "differ in case" not in caplog.text
    train, _, names = rows_from(given, tmp_path, {"label": ["US", " us", "them", "us"] * 2})
    assert (train[:4], names) == ([0, 2, 1, 2], ["US", "them", "us"])
    assert "'US' and 'us' differ in case alone, and are classes of their own; write them" in caplog.text


def test_numbers_that_no_class_has_are_refused_without_a_warning(given, tmp_path, caplog):
    with pytest.raises(ValueError, match="eval_data has the label 3, which train_data never has"):
        rows_from(given, tmp_path, {"label": [0.0, 1.0] * 4}, {"label": [0.0, 3.0] * 4})
    assert caplog.text == ""


def misspelt(count, place=6):
    """Labels of two names, one of them misspelt at a place."""
    labels = ["negative", "positive"] * (count // 2)
    return {"text": ["w5 w6"] * count, "label": [*labels[:place], "postive", *labels[place + 1 :]]}


def test_a_misspelt_label_is_seen_before_training(given, tmp_path, caplog):
    caplog.set_level("INFO", logger="homodistil_hf")
    rows_from(given, tmp_path, misspelt(200), {"label": ["negative", "positive"] * 4})
    assert "3 classes: negative 99, positive 100, postive 1" in caplog.text
    assert "few rows, or none of eval_data, have the class 'postive' (1 row, the first is row 7 of" in caplog.text
    assert "of train_data, 0 of eval_data); correct or drop them, or add rows" in caplog.text
    caplog.clear()
    rows_from(given, tmp_path, misspelt(200), misspelt(8))  # rare beside the others, though both files have it
    assert "the class 'postive' (1 row, the first is row 7 of train_data, 1 of eval_data)" in caplog.text


def test_of_many_classes_ten_are_shown_and_few_rows_of_each_are_no_reason_to_warn(given, tmp_path, caplog):
    caplog.set_level("INFO", logger="homodistil_hf")
    rows_from(given, tmp_path, {"text": [f"w{5 + n}" for n in range(12)], "label": [f"c{n:02}" for n in range(12)]})
    assert "12 classes: c00 1, " in caplog.text
    assert caplog.text.rstrip().endswith("c09 1, …")


def test_labels_that_rows_have_several_of_are_named(given, tmp_path, caplog):
    caplog.set_level("INFO", logger="homodistil_hf")
    rows_from(given, tmp_path, {"text": ["w5"] * 8, "label": ["b,a", "a", "b", "a,c"] * 2})
    assert "several labels a row, 3: a, b, c" in caplog.text


def test_a_misspelt_label_of_the_evaluation_names_its_rows(given, tmp_path):
    message = r"eval_data has the label 'postive', which .* \(1 row, the first is row 7\); correct or drop them"
    with pytest.raises(ValueError, match=message):
        rows_from(given, tmp_path, {"label": ["negative", "positive"] * 4}, misspelt(8))


def test_names_of_a_feature_are_the_classes_in_its_order(given, tmp_path):
    train, dev, names = rows_from(given, tmp_path, named(), {"label": ["neg", "pos"] * 4})
    assert (train[:2], dev[:2], names) == ([0, 1], [1, 0], ["pos", "neg"])
    # A file without the feature may have its numbers.
    for train, dev in ((named(), {"label": [1, 0] * 4}), ({"label": [0, 1] * 4}, named((1, 0) * 4))):
        train, dev, names = rows_from(given, tmp_path, train, dev)
        assert (train[:2], dev[:2], names) == ([0, 1], [1, 0], ["pos", "neg"])


def test_words_for_nothing_are_names_and_texts_like_others(given, tmp_path):
    columns = {"text": ["null", "NA", "None", "007"] * 2, "label": ["null", "NA", "None", "n/a"] * 2}
    train, _, names = rows_from(given, tmp_path, columns)
    assert (train[:4], names) == ([3, 0, 1, 2], ["NA", "None", "n/a", "null"])


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["json", "jsonl", "csv", "parquet"])
@pytest.mark.parametrize("missing", ["text_columns", "label_column"])
def test_columns_that_a_file_has_are_named_beside_one_that_it_lacks(given, tmp_path, suffix, missing):
    columns = {"sentence": ["w5"] * 8, "label": ["a", "b"] * 4, "n": [1] * 8, "x" * 1000: [1] * 8}
    columns |= {"text": columns["sentence"]} if missing == "label_column" else {}
    found, path = Dataset.from_dict(columns), tmp_path / f"own.{suffix}"
    {"csv": found.to_csv, "parquet": found.to_parquet}.get(suffix, found.to_json)(path)
    names = {missing: "other", "train_data": str(path)}
    known = "'sentence', 'label', 'n', 'x"
    with pytest.raises(ValueError, match=f"^train_data lacks the column {missing}='other'; expected one of {known}"):
        read(given, **names)


def test_booleans_are_two_classes_however_they_are_written(given, tmp_path):
    for labels in ([True, False] * 4, ["true", "false"] * 4):
        train, _, names = rows_from(given, tmp_path, {"label": labels})
        assert (train[:2], names) == ([1, 0], ["False", "True"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("columns", "suffix", "message"),
    [
        ({"label": ["0.5", "NA"] * 4}, ".csv", "has rows with label='NA' beside numbers; drop them"),
        ({"label": ["1", "null"] * 4}, ".csv", "has rows with label='null' beside numbers; drop them"),
        ({"label": ["yes", " "] * 4}, ".csv", "has rows without 'label', the first is row 2; drop them"),
        (
            {"label": [0.5, float("nan")] * 4},
            ".parquet",
            "train_data has rows without 'label', the first is row 2; drop them",
        ),
        (
            {"label": [0.5, float("inf")] * 4},
            ".parquet",
            "has rows with label=inf beside numbers; drop them",
        ),
        ({"text": [["a", "b"]] * 8, "label": [0, 1] * 4}, ".parquet", "'text' holds List; expected a text a row"),
        (named((0, -1) * 4), ".parquet", "train_data has rows without 'label', the first is row 2; drop them"),
        ({"label": [1.0] * 8}, ".csv", "train_data has the one label 1; expected two or more"),
    ],
)
def test_labels_that_say_nothing_are_refused(given, tmp_path, columns, suffix, message):
    with pytest.raises(ValueError, match=message):
        rows_from(given, tmp_path, columns, suffix=suffix)


@pytest.mark.slow
def test_labels_that_one_file_has_alone_are_refused(given, tmp_path):
    for columns in ({"label": ["pos", "other"] * 4}, {"label": [0, 2] * 4}, {"label": [0.5, 1.0] * 4}):
        with pytest.raises(
            ValueError, match="eval_data has the label .*, which train_data never has .*; correct or drop them"
        ):
            rows_from(given, tmp_path, named(), columns)
        with pytest.raises(
            ValueError, match="train_data has the label .*, which eval_data never has .*; correct or drop them"
        ):
            rows_from(given, tmp_path, columns, named())


def test_one_label_a_row_is_no_list_in_the_other_file(given, tmp_path):
    with pytest.raises(ValueError, match="eval_data has lists in 'label'; expected one label a row"):
        rows_from(given, tmp_path, {"label": ["a", "b"] * 4}, {"label": [["a", "b"]] * 8}, ".parquet")


@each("name", OWN)
def test_rows_without_a_label_are_no_rows_to_fine_tune_on(tmp_path, name):
    given = write(tmp_path, name)
    rows = [*Dataset.from_json(given["train_data"])]
    column = next(key for key in rows[0] if "label" in key or "tag" in key or key in ("answers", "joy"))
    rows[3][column] = None
    Dataset.from_list(rows).to_json(given["train_data"])
    several = {"label_column": "joy, fear"} if name == "two values" else {}
    with pytest.raises(
        ValueError, match=r"train_data has 1 of \d+ rows without a label in .*, the first is row 4; drop"
    ):
        run(given, **several)


def test_numbers_of_a_features_classes_are_never_one_hot(tmp_path):
    feature = List(ClassLabel(names=["a", "b", "c"]))
    labels = [[0, 1], [1, 0], [0, 1]]
    rows = Dataset.from_dict(
        {"text": ["x", "y", "z"], "labels": labels}, features=Features({"text": Value("string"), "labels": feature})
    )
    columns = Columns(LABELS, ("text",), ("labels",))
    task = task_of_rows({"train_data": rows}, columns)
    assert task.names == ("a", "b", "c")
    assert label_numbers(ReadRows(rows, columns), task.config) == [[1.0, 1.0, 0.0]] * 3
    two = AutoConfig.for_model("bert", id2label={0: "a", 1: "b"}, problem_type="multi_label_classification")
    assert label_numbers(ReadRows(rows, columns), two) == [[1.0, 1.0]] * 3


def test_a_class_beside_words_is_no_tag():
    rows = Dataset.from_dict({"sentence": ["a b", "c d"], "tokens": [["a", "b"], ["c", "d"]], "label": [0, 1]})
    assert columns_of_rows(rows).kind == CLASSES


def test_a_wrong_label_leaves_no_run_that_was_stopped(tmp_path):
    given = write(tmp_path, "tags")
    rows = [*Dataset.from_json(given["train_data"])]
    column = next(key for key in rows[0] if "tag" in key)
    Dataset.from_list([*rows[:-1], rows[-1] | {column: rows[-1][column][:-1]}]).to_json(given["train_data"])
    with pytest.raises(ValueError, match="correct or drop the row"):
        run(given)
    Dataset.from_list(rows).to_json(given["train_data"])
    assert run(given)[0]["num_train_rows"] == len(rows)
