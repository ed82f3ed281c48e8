"""Every command that reads rows says once, in true numbers, what it has read and what not."""

import json

import pytest
from datasets import Dataset
from rows import each
from tiny_embeddings import make_sentence_folder
from tiny_files import own_cache, write_config
from tiny_models import make_teacher, tiny_tokenizer

from homodistil_hf import HomoDistilTrainer, HomoDistilTrainingArguments
from homodistil_hf.cli import main
from homodistil_hf.data.read_line import read_line

COLUMNS = "read: text; not read: id, label"
TEXTS = ["--eval_data", "rows.csv", "--text_column", "text"]
WORDS = [" ".join(f"w{5 + (number + i) % 90}" for i in range(12)) for number in range(40)]
REPEATED = [WORDS[0]] * 38 + WORDS[1:3]
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


@each(
    ("texts", "expected"),
    [
        (
            ["[SEP] [PAD]"] * 5 + WORDS,
            "5 of 45 rows hold special tokens alone; check the column of texts, and the tok",
        ),
        (["ж x"] * 5 + WORDS, "5 of 45 rows hold unknown words alone; check"),
        (
            ["[MASK]"] * 8 + ["ж"] * 2,
            "8 of 10 rows hold special tokens alone, 2 of 10 rows hold unknown words alone, 8 of",
        ),
        (REPEATED, "37 of 40 texts repeat another; check"),
        (WORDS + WORDS, ""),
        (["ж", *WORDS], ""),
    ],
)
def test_rows_that_teach_nothing_are_warned_of_once_with_their_number(caplog, texts, expected):
    caplog.clear()
    rows = Dataset.from_dict({"input_ids": tiny_tokenizer()(texts)["input_ids"]})
    read_line({"to train on": rows}, tokenizer=tiny_tokenizer())
    assert [record.message[: len(expected)] for record in caplog.records] == [expected] * bool(expected)


@pytest.mark.parametrize("command", ["masked words", "a task", "finetune", "embedding"])
def test_every_door_warns_of_one_text_that_is_repeated(tmp_path, monkeypatch, caplog, command):
    own_cache(monkeypatch, tmp_path / "cache")
    config = str(write_config(tmp_path))
    (tmp_path / "train.txt").write_text("\n\n".join(REPEATED))
    rows = [{"text": text, "label": number % 2} for number, text in enumerate(REPEATED)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    make_teacher("sequence_classification").save_pretrained(tmp_path / "classes")
    tiny_tokenizer().save_pretrained(tmp_path / "classes")
    make_sentence_folder(tmp_path / "embedding")
    teacher, data = str(tmp_path / "classes"), ("--train_data", str(tmp_path / "rows.jsonl"))
    words = {
        "masked words": ("distill", config, "--max_steps", "1"),
        "a task": ("distill", config, "--teacher", teacher, *data, "--eval_data", data[1], "--max_steps", "1"),
        "embedding": ("distill", config, "--teacher", str(tmp_path / "embedding"), *data, "--max_steps", "1"),
        "finetune": ("finetune", "--model", teacher, *data, "--max_train_steps", "1", "--learning_rates", "0.001"),
    }[command]
    assert main([*words, "--output_dir", str(tmp_path / "out")]) == 0
    (warning,) = [record.message for record in caplog.records if "repeat another" in record.message]
    assert "texts repeat another; check the column of texts, and the tokenizer" in warning
