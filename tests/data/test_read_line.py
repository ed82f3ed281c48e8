"""Every command that reads rows says once, in true numbers, what it has read and what not."""

import pytest
from datasets import Dataset
from rows import each
from tiny_models import make_teacher, tiny_tokenizer

from homodistil_hf import HomoDistilTrainer, HomoDistilTrainingArguments
from homodistil_hf.cli import main

COLUMNS = "read: text; not read: id, label"
TEXTS = ["--eval_data", "rows.csv", "--text_column", "text"]
COUNTED = ["--vocabulary", "min_count=1", "--text", "rows.csv"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model of masked words, one of classes, and 30 rows."""
    folder = tmp_path_factory.mktemp("doors")
    for name in ("masked_lm", "sequence_classification"):
        make_teacher(name).save_pretrained(folder / name)
        tiny_tokenizer().save_pretrained(folder / name)
    texts = [f"w{number} w{number + 1} w{number + 2} w{number + 3} w{number + 4}" for number in range(10, 40)]
    rows = Dataset.from_dict({"id": range(30), "text": texts, "label": [0, 1] * 15})
    rows.to_csv(folder / "rows.csv", index=False)
    return folder


@pytest.mark.slow
@each(
    ("words", "line"),
    [
        (["evaluate", "masked_lm", "--task", "discrepancy", *TEXTS], "6 of 6 to evaluate on, 32 tokens at the median"),
        (
            ["evaluate", "sequence_classification", "--task", "classes", "--eval_data", "rows.csv"],
            "30 of 30 to evaluate on",
        ),
        (["trim", "masked_lm", *COUNTED], "30 to count tokens in"),
        (["plan", "--teacher", "masked_lm", "--student", "macs=0.5", *COUNTED], "30 to count tokens in"),
        (["prune", "--model", "sequence_classification", "--unlabeled_data", "rows.csv"], "9 of 30 without labels"),
    ],
)
def test_a_command_says_what_it_read(folder, words, line, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(folder)
    more = {"evaluate": ["--teacher", words[1], "--output_dir", str(tmp_path)]}
    more["prune"] = ["--num_samples", "9", "--macs", "0.9", "--output_dir", str(tmp_path / "pruned")]
    assert main([*words, *more.get(words[0], [])]) == 0
    told = "".join(capfd.readouterr())
    assert told.count("rows: ") == 1, told
    assert f"{line}; {COLUMNS}" in told, told


@pytest.mark.slow
@each(
    ("name", "line"),
    [
        ("masked_lm", "rows: 6 to train on, 2 held out, 32 tokens at the median; read: text; not read: id, label"),
        (
            "sequence_classification",
            "rows: 30 to train on, 12 held out, 42 with labels, 7 tokens at the median; "
            "read: text, label; not read: id",
        ),
    ],
)
def test_a_trainer_says_what_it_read_of_raw_rows(folder, name, line, tmp_path, caplog):
    caplog.set_level("INFO")
    rows = Dataset.from_csv(str(folder / "rows.csv"), cache_dir=str(tmp_path))
    args = HomoDistilTrainingArguments(str(tmp_path), student="macs=0.5", max_steps=2, use_cpu=True, report_to="none")
    given = {"train_dataset": rows, "eval_dataset": rows.take(12), "processing_class": tiny_tokenizer()}
    HomoDistilTrainer(model=str(folder / name), args=args, **given)
    assert [text for text in caplog.messages if text.startswith("rows: ")] == [line]
