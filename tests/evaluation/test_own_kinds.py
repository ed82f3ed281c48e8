"""Fine-tunings on tags, several labels, several values and questions; what rows of each kind are."""

import pytest
from datasets import Dataset
from own_rows import run
from rows import each
from task_rows import FEELINGS, KINDS, MARKS, rows_of_kind
from tiny_files import write_teacher
from transformers import AutoConfig, AutoTokenizer

from homodistil_hf.evaluation.fine_tuning import task_metrics
from homodistil_hf.models.loading import load_encoder
from homodistil_hf.tasks.columns import Columns
from homodistil_hf.tasks.kinds import ANSWERS, CLASSES, LABELS, TAGS, VALUES
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
            {"text": ["ab"], "spans": [[{"start": 0, "end": 1, "label": "X"}]]},
            RowsTask(Columns(TAGS, ("text",), ("spans",)), ("O", "B-X", "I-X")),
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
            {"question": ["a"], "context": ["b"], "answers": ['{"text": ["b"], "answer_start": [0]}']},
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
