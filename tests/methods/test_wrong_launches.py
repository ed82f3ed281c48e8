"""Launches that a newcomer gets wrong, kind by kind: nothing is trained or left behind, and the remedy is named."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import rows
from commands import error_of
from task_rows import RANKED, WITH_RANKED, rows_of_kind, write_kind
from tiny_embeddings import make_reranker, make_sentence_folder
from tiny_files import write_teacher, write_text
from tiny_trainers import QUARTER

pytestmark = pytest.mark.slow


def each(**cells):
    """All rows with other cells: values, or functions of a row."""
    return lambda row, place: row | {name: cell(row) if callable(cell) else cell for name, cell in cells.items()}


def fifth(**cells):
    """One row with other cells."""
    return lambda row, place: row | (cells if place == 4 else {})


def only(*names):
    """Rows of these columns."""
    return lambda row, place: {name: row[name] for name in names}


def spans(*found):
    """Texts with spans in place of words with tags."""
    return lambda row, place: {"text": "w7  w8", "spans": list(found)}


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
    "a broken line": (b'{"text": "w7"}\n{"text": "w', "line 2 of .* is no JSON: .*; mend that line"),
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
EVERY_KIND: dict[str, tuple[Any, str]] = {
    "no file": ({"train_data": "./none.csv"}, "train_data='./none.csv' does not exist; expected a file, .*, .csv,"),
    "too few rows": (3, "has 3 rows; expected 8 or more"),
    "no rows": (0, "is an empty data set (0 bytes in 1 files); expected text in them"),
    "a broken line": (b'{"text": "w7"}\n{"text": "w', "line 2 is no JSON: .*; mend that line"),
    "another column of texts": ({"text_columns": "txet"}, "lacks the column text_columns='txet'; "),
    "another column of labels": ({"label_column": "lable"}, "lacks the column label_column='lable'; "),
    "a stream": ({"streaming": True}, "streaming=True has no place with a teacher that is fine-tuned for a task"),
    "too long": ({"max_seq_length": 64}, "max_seq_length=64 is over the teacher's positions=32; nearest valid: 32"),
    "no held-out file": ({"eval_data": "./none.csv"}, "eval_data='./none.csv' does not exist"),
}
OF_A_KIND: dict[str, dict[str, tuple[Any, str]]] = {
    "classes": {
        "negative": (each(label=-2), "has the label -2 (43 rows); the model has the classes 0 … 2; correct or drop"),
        "an object": (each(label={"a": 1}), "holds {'a': 1}; expected one class a row"),
        "names and numbers": (fifth(label=1), "has the label '1' (1 row); .* are bad, fair, good: correct"),
        "a text is missing": (fifth(text=None), "has 1 row without 'text', the first is row 5; drop them"),
        "texts are numbers": (each(text=7), "column 'text' holds int64; expected a text a row: name other text_colum"),
        "texts are lists": (each(text=["w7"]), "column 'text' holds List; expected a text a row"),
        "not a number": (fifth(text=float("nan")), "line 5 holds NaN, which is no JSON"),
        "words first": ({"further_pretraining": '{"max_steps": 2}'}, "further_pretraining=.* has no place with"),
    },
    "pairs": {
        "a text is missing": (fifth(sentence2=None), "has 1 row without 'sentence2', the first is row 5; drop them"),
        "a side is of numbers": (each(sentence2=7), "column 'sentence2' holds int64; expected a text a row"),
        "out of range": (fifth(label=2), "has the label 2 (1 row); the model has the classes 0 … 1; correct or drop"),
        "one twice": ({"text_columns": ["sentence1"] * 2}, "have one twice; name one, or two of a pair"),
        "a text as label": ({"label_column": "sentence1"}, "label_column='sentence1' holds the text; name the column"),
        "two settings": ({"text_column": "label", "text_columns": ["sentence1"]}, "leave one of them out"),
    },
    "several labels": {
        "one of a list": (each(labels="bad, saad"), "has the label 'saad' (43 rows); .* nearest valid: 'bad'"),
        "in JSON": (each(labels='["saad"]'), "has the label 'saad' (43 rows); .* nearest valid: 'bad'"),
        "too many zeros and ones": (each(labels=[0, 1, 1, 0]), "has rows of 4 zeros and ones, the model has 3 labels"),
        "lists in lists": (each(labels=[["bad"]]), "has the label ['bad'], which is no class: correct or drop"),
        "objects": (each(labels={"bad": 1}), "has the label {'bad': 1}, which is no class: correct or drop"),
        "names and numbers": (fifth(labels=["bad", 1]), "has the label 1 (1 row); the model's classes are bad, fair"),
        "a text as label": ({"label_column": "text"}, "label_column='text' holds the text; name the column with labe"),
        "columns of two": (lambda row, place: {"text": row["text"], "bad": 1, "good": 0}, "but lacks 'fair'; add a"),
    },
    "values": {
        "a word among numbers": (fifth(score="n/a"), "has the label 'n/a'; expected a finite number a row"),
        "infinite": (fifth(score="inf"), "has the label 'inf'; expected a finite number a row: correct or drop it"),
        "beyond float32": (fifth(score=1e40), "has the label 1e+40; expected a finite number a row"),
        "a comma": (each(score="1,5"), "has the label '1,5'; expected a finite number a row"),
        "two": (each(score=[1.0, 2.0]), "has the label [1.0, 2.0]; expected a finite number a row"),
        "an object": (each(score={"a": 1}), "has the label {'a': 1}; expected a finite number a row"),
    },
    "two values": {
        "one": ({"label_column": "joy"}, "column 'joy' has the label .*; expected 2 finite numbers a row"),
        "three": ({"label_column": "joy,fear,text"}, "label_column='text' holds the text"),
        "a column is missing": (only("text", "joy"), "but lacks 'fear'; add a column for each, or drop all of them"),
        "another name": ({"label_column": "joy,feer"}, "lacks the column label_column='feer'; nearest valid: 'fear'"),
        "a word": (each(joy="x"), "has the label ['x', .*]; expected 2 finite numbers a row: correct or drop it"),
        "a word among numbers": (fifth(joy="high"), "has the label ['high', .*]; expected 2 finite numbers a row"),
        "infinite": (fifth(fear="-inf"), "has the label [.*, '-inf']; expected 2 finite numbers a row"),
        "lists of words": (
            lambda row, place: {"text": row["text"], "labels": ["a", "b"]},
            "has the label ['a', 'b']; expected 2 finite numbers a row",
        ),
    },
    "tags": {
        "out of range": (each(ner_tags=lambda row: [7] * len(row["tokens"])), "the model has the classes 0 … 2"),
        "a fraction": (each(ner_tags=lambda row: [0.5] * len(row["tokens"])), "has the label 0.5 .* O, B-PER, I-PER"),
        "lists in lists": (each(ner_tags=lambda row: [["O"]] * len(row["tokens"])), "which is no class: correct or"),
        "no words": (fifth(tokens=[], ner_tags=[]), "has 1 row without 'tokens', the first is row 5; drop them"),
        "a null among words": (fifth(tokens=["w7", None], ner_tags=["O", "O"]), "has 1 row without 'tokens'"),
        "tags beside a text": (each(tokens="w7 w8"), "tags for 2 words in row 1; expected one a word"),
        "tags as words": ({"text_columns": "ner_tags", "label_column": "tokens"}, "column 'ner_tags' holds List"),
        "a span of nothing": (spans([2, 3, "PER"]), "has the span [2, 3, 'PER'], which covers no word: drop it"),
        "a span without a type": (spans([0, 2]), "has the span [0, 2] in a text of 6 characters; expected start, end"),
        "a span of other keys": (spans({"from": 0, "to": 2, "label": "PER"}), "expected start, end (behind the last"),
        "tags in place of spans": (spans("B-PER", "O"), "tags of words stand beside a list of words, tokens"),
    },
    "answers": {
        "behind the context": (
            fifth(answers={"text": ["w7"], "answer_start": [500]}),
            "row 5 has answer_start=500, where .* drop the",
        ),
        "before the context": (fifth(answers={"text": ["w7"], "answer_start": [-1]}), "row 5 has answer_start=-1, wh"),
        "a text alone": (each(answers=lambda row: row["answers"]["text"][0]), "expected the lists text and answer_st"),
        "texts alone": (each(answers=lambda row: row["answers"]["text"]), "expected the lists text and answer_start"),
        "no place": (each(answers={"text": ["w7"]}), "row 1 has answers={'text': ['w7']}; expected the lists text"),
        "a place in words": (
            each(answers={"text": ["w7"], "answer_start": ["x"]}),
            "row 1 has answers=.*expected the lists text and answer_start, without empty",
        ),
        "of two types": (fifth(answers="w7"), "row 5 has answers='w7'; expected the lists text and answer_start"),
        "no context": (only("question", "answers"), "expected question and context, and answers .*: rename them"),
        "an empty context": (fifth(context=None), "has 1 row without 'context', the first is row 5; drop them"),
        "contexts are numbers": (each(context=7), "column 'context' holds int64; expected a text a row"),
        "questions alone": ({"text_columns": "question"}, "expected question and context, and answers"),
    },
    RANKED: {
        "a stream": ({"streaming": True}, "streaming=True has no place with method='reranker'; leave it out"),
        "fewer words": ({"vocabulary": "keep=64"}, "vocabulary='keep=64' has no place with method='reranker'; leave"),
        "unusual columns": (
            _rows(body=_text, title=_text),
            "which of them hold text, or two of a pair, isn't clear: name text_columns",
        ),
        "another column of texts": (
            {"text_columns": ["query", "pasage"]},
            "lacks the column text_columns='pasage'; nearest valid: 'passage'",
        ),
        "a side of numbers": (each(passage=7), "column 'passage' holds int64; expected a text a row"),
        "empty passages": (each(passage=""), "has 48 rows without 'passage', the first is row 1"),
        "fewer than a step": ({"per_device_train_batch_size": 512}, "fewer than the 512 of a step; lower per_device"),
        "another column of labels": (
            {"method": "reranker", "label_column": "clicks"},
            "lacks the column label_column='clicks'; expected one of",
        ),
        "labels in words": (
            each(relevance="yes"),
            "column 'relevance' has the label 'yes'; expected a finite number a row: correct or drop it",
        ),
    },
}
CASES = {kind: list(EVERY_KIND | own) for kind, own in OF_A_KIND.items()}
CASES |= {"masked words": list(OF_TEXT), "vectors": list(OF_TEXT)}


@pytest.fixture(scope="module")
def settings_of_kinds(tmp_path_factory):
    """Kind → settings of a run that would go well."""
    folder = tmp_path_factory.mktemp("kinds")
    text = {"train_data": str(write_text(folder / "text.txt")), "student": QUARTER, "max_steps": 2}
    text |= {"max_seq_length": 16}
    return {
        "masked words": text | {"teacher": str(write_teacher(folder / "words"))},
        "vectors": text | {"teacher": str(make_sentence_folder(folder / "vectors"))},
        **{name: write_kind(folder / name.replace(" ", "_"), name) for name in WITH_RANKED},
    }


@pytest.fixture
def assert_refused(tmp_path: Path, never_trains: None, capsys: pytest.CaptureFixture[str]) -> Any:
    """Launch a distillation that fails: it trains and leaves nothing, and names the remedy.

    `message` is what the error says, with `.*` for any words and `|` between messages that are as good.
    """

    def launch(settings: dict[str, Any], message: str) -> None:
        config = tmp_path / "config.json"
        config.write_text(json.dumps(settings | {"output_dir": str(tmp_path / "run"), "use_cpu": True}))
        error = error_of(capsys, "distill", config)
        patterns = (".*".join(map(re.escape, part.split(".*"))) for part in message.split("|"))
        assert re.search("|".join(patterns), error, re.DOTALL), error
        assert "Traceback" not in error
        assert not (tmp_path / "run").exists()

    return launch


def _wrong(kind: str, change: Any, file: Path) -> dict[str, Any]:
    """Settings of a launch: others, or those of a file with other rows."""
    if isinstance(change, dict):
        return change
    if isinstance(change, bytes):
        file.write_bytes(change)
        return {"train_data": str(file)}
    wrong = rows_of_kind(kind).to_list()
    wrong = wrong[:change] if isinstance(change, int) else [change(row, place) for place, row in enumerate(wrong)]
    file.write_text("\n".join(map(json.dumps, wrong)))
    return {"train_data": str(file)}


@pytest.mark.parametrize(("kind", "cases"), CASES.items())
@rows.each("case", "cases")
def test_a_wrong_launch_trains_nothing_and_names_the_remedy(settings_of_kinds, assert_refused, tmp_path, kind, case):
    change, message = (EVERY_KIND | OF_A_KIND[kind] if kind in OF_A_KIND else OF_TEXT)[case]
    assert_refused(settings_of_kinds[kind] | _wrong(kind, change, tmp_path / "rows.jsonl"), message)


def test_a_classifier_is_no_reranker(assert_refused, tmp_path):
    """Told before its labels are read, which would be found wrong for two classes."""
    settings = write_kind(tmp_path, RANKED) | {"teacher": str(make_reranker(tmp_path / "model", num_labels=2))}
    assert_refused(
        settings | {"method": "reranker"},
        f"teacher='{tmp_path / 'model'}' is a BertForSequenceClassification of 2 labels; a reranker has one logit a "
        "pair of texts: name such a model, or use method=homodistil",
    )
