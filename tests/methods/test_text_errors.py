"""Wrong launches of models of masked words, of vectors and of pairs; those of tasks are in `test_task_errors.py`."""

import json
from typing import Any

import pytest
from rows import each
from tiny_embeddings import make_reranker, make_sentence_folder
from tiny_files import write_teacher, write_text

pytestmark = pytest.mark.slow


def _rows(**cells: Any) -> bytes:
    """60 rows of JSON; each cell is a value of all rows, or a function of a row's number."""
    rows = ({name: cell(n) if callable(cell) else cell for name, cell in cells.items()} for n in range(60))
    return "\n".join(map(json.dumps, rows)).encode()


def _text(number: int) -> str:
    return f"w{5 + number % 80} w{6 + number % 70} w{7 + number % 60} w9 w10 w11 w12"


OF_TEXT: dict[str, tuple[Any, str]] = {
    "no file": ({"train_data": "./none.txt"}, "train_data='./none.txt' does not exist; expected a file, folder or"),
    "another ending": ({"train_data": "text.pdf"}, "text.pdf' does not exist; expected .*.csv, .tsv or .txt"),
    "nothing in it": (b"", "is an empty data set (0 bytes in 1 files); expected text in them"),
    "a broken line": (b'{"text": "w7"}\n{"text": "w', "unreadable; expected .* whose contents match the extension"),
    "no held-out file": ({"eval_data": "./none.txt"}, "eval_data='./none.txt' does not exist"),
    "too long": ({"max_seq_length": 64}, "max_seq_length=64 is over the teacher's positions=32; nearest valid: 32"),
    "two columns": (_rows(body=_text, title=_text), "set text_column to one of strings among body (string), title"),
    "another column": ({"text_columns": "txet"}, "missing text column (text_column='txet'); set text_column to one"),
    "numbers": (_rows(text=7), "column 'text' holds int64, expected strings"),
    "empty texts": (_rows(text=""), "the text has 0 tokens, .*; give more text or|no paragraph of 20 characters or"),
    "one document": (_rows(text=_text).splitlines()[0], "has 1 document; expected 2 or more, or documents as eval_da"),
    "a column of labels": ({"label_column": "label"}, "label_column='label' has no place with .*; leave it out"),
    "a start": ({"start": "x"}, "leave it out"),
}
OF_PAIRS: dict[str, tuple[Any, str]] = {
    "no file": ({"train_data": "./none.csv"}, "train_data='./none.csv' does not exist; expected a file, folder or"),
    "nothing in it": (b"", "is an empty data set (0 bytes in 1 files); expected text in them"),
    "a broken line": (b'{"query": "w7"}\n{"query": "w', "line 2 is no JSON: .*; mend that line"),
    "no held-out file": ({"eval_data": "./none.csv"}, "eval_data='./none.csv' does not exist"),
    "too few": (_rows(query=_text, passage=_text).splitlines()[0], "train_data has 1 rows; expected 8 or more"),
    "unusual columns": (_rows(body=_text, title=_text), "none surely with text, or two of a pair; name text_columns"),
    "another column": (
        {"text_columns": ["query", "pasage"]},
        "train_data lacks the column text_columns='pasage'; nearest valid: 'passage'",
    ),
    "a side of numbers": (_rows(query=_text, passage=7), "column 'passage' holds int64; expected a text a row"),
    "empty passages": (_rows(query=_text, passage=""), "train_data: no pair of two texts; name other text_columns or"),
    "too long": ({"max_seq_length": 64}, "max_seq_length=64 is over the teacher's positions=32; nearest valid: 32"),
    "fewer than a step": ({"per_device_train_batch_size": 512}, "fewer than the 512 of a step; lower per_device"),
    "a stream": ({"streaming": True}, "streaming=True has no place with method='reranker'; leave it out"),
    "fewer words": ({"vocabulary": "keep=64"}, "vocabulary='keep=64' has no place with method='reranker'; leave it"),
    "no such labels": (
        {"method": "reranker", "label_column": "clicks"},
        "train_data lacks the column label_column='clicks'; expected one of",
    ),
    "labels in words": (
        _rows(query=_text, passage=_text, label="yes"),
        "column 'label' has the label 'yes'; expected a finite number a row: correct or drop it",
    ),
}
CASES = [(kind, case) for kind in ("masked words", "vectors") for case in OF_TEXT]
CASES += [("pairs", case) for case in OF_PAIRS]


@pytest.fixture(scope="module")
def settings_of(tmp_path_factory):
    """Makes the settings of a run that would go well, by kind; models are written once they are needed."""
    folder = tmp_path_factory.mktemp("kinds")
    write_text(folder / "text.txt")
    (folder / "pairs.jsonl").write_bytes(_rows(query=_text, passage=_text))

    def make(kind):
        if not (folder / kind).is_dir():
            {"vectors": make_sentence_folder, "pairs": make_reranker}.get(kind, write_teacher)(folder / kind)
        data = folder / ("pairs.jsonl" if kind == "pairs" else "text.txt")
        settings = {"teacher": str(folder / kind), "train_data": str(data), "student": "macs=0.5"}
        return settings | {"max_steps": 2, "max_seq_length": 16}

    return make


@each(("kind", "case"), CASES)
def test_a_wrong_launch_trains_nothing_and_names_the_remedy(settings_of, assert_refused, tmp_path, kind, case):
    change, message = (OF_PAIRS if kind == "pairs" else OF_TEXT)[case]
    if isinstance(change, bytes):
        (tmp_path / "rows.jsonl").write_bytes(change)
        change = {"train_data": str(tmp_path / "rows.jsonl")}
    assert_refused(settings_of(kind) | change, message)


def test_a_classifier_is_no_reranker(assert_refused, tmp_path):
    """Told before its labels are read, which would be found wrong for two classes."""
    (tmp_path / "rows.jsonl").write_bytes(_rows(query=_text, passage=_text, label=lambda number: number % 2))
    settings = {"teacher": str(make_reranker(tmp_path / "model", num_labels=2)), "student": "macs=0.5"}
    assert_refused(
        settings | {"method": "reranker", "train_data": str(tmp_path / "rows.jsonl")},
        f"teacher='{tmp_path / 'model'}' is a BertForSequenceClassification of 2 labels; a reranker has one logit a "
        "pair of texts: name such a model, or use method=homodistil",
    )
