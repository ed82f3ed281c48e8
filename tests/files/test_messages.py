"""Messages about long lists and long texts: what to do stands near their beginning, the data are shortened."""

import pytest
from datasets import Dataset
from transformers import BertConfig

from homodistil_hf.data.delimited import check_cells
from homodistil_hf.files.messages import first_of
from homodistil_hf.tasks.columns import Columns, ReadRows, find_columns
from homodistil_hf.tasks.kinds import ANSWERS, CLASSES, LABELS
from homodistil_hf.tasks.labels import label_numbers
from homodistil_hf.tasks.questions import check_answers
from homodistil_hf.training.row_checks import check_data

NAMES = [f"column {number} of a table with many" for number in range(300)]
WIDE = Dataset.from_dict({name: [1] for name in NAMES})
TEXT = "word " * 1000
LABELLED = BertConfig(num_labels=300, id2label=dict(enumerate(NAMES)), problem_type="multi_label_classification")


def _cells(folder):
    (folder / "a.csv").write_text(",".join(NAMES) + "\n" + "1," * 300 + "1")
    check_cells(folder / "a.csv", "train_data")


@pytest.mark.parametrize(
    ("read", "remedy"),
    [
        (_cells, "put quotes around cells"),
        (lambda _: find_columns(WIDE, BertConfig(), CLASSES), "name text_columns, or rename the column to text"),
        (lambda _: find_columns(WIDE, BertConfig(), ANSWERS), "rename them, or name two text_columns"),
        (lambda _: check_answers({"text": [TEXT], "answer_start": [1]}, TEXT * 2, "row 1"), "correct or drop the row"),
        (
            lambda _: label_numbers(
                ReadRows(Dataset.from_dict({"a": [[0, 1, 0]] * 2}), Columns(LABELS, ("b",), ("a",))), LABELLED
            ),
            "expected a number for each",
        ),
        (lambda _: check_data({"train_dataset": WIDE}, None, BertConfig()), "tokenize it first"),
    ],
)
def test_a_long_list_or_text_does_not_hide_what_to_do(tmp_path, read, remedy):
    with pytest.raises(ValueError, match=remedy) as told:
        read(tmp_path)
    assert str(told.value).index(remedy) < 400


def test_long_names_are_cut():
    assert first_of(["b" * 500, "a"]) == f"{'b' * 120}…, a"
