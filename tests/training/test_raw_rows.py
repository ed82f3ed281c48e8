"""Rows of columns in a trainer: tokenized for the model's head; everything else is as it was."""

import pytest
from datasets import Dataset
from rows import each
from task_rows import KINDS, rows_of_kind
from tiny_models import make_blocks, make_teacher, tiny_tokenizer
from tiny_trainers import QUARTER
from transformers import BertForSequenceClassification

from homodistil_hf import HomoDistilTrainingArguments
from homodistil_hf.training import raw_rows


def tokenized(data, tokenizer, model):
    return raw_rows.tokenized(data, raw_rows.reader_of(data, tokenizer, model))[0]


def test_several_sets_have_one_length_and_tokenized_ones_stay(caplog):
    caplog.set_level("INFO", logger="homodistil_hf")
    model = make_teacher(**KINDS["classes"][1])
    rows = rows_of_kind("classes")
    data = {"train_dataset": rows, "eval_dataset": {"some": rows.select(range(8)), "none": None}}
    found = tokenized(data, tiny_tokenizer(), model)
    assert found["train_dataset"]["labels"][:3] == [0, 1, 2]
    assert found["eval_dataset"]["some"].to_dict() == found["train_dataset"].select(range(8)).to_dict()
    assert found["eval_dataset"]["none"] is None
    assert "train_dataset: text in 'text', labels in 'label'; max_seq_length=16" in caplog.messages
    again = tokenized(found, tiny_tokenizer(), model)
    assert again["train_dataset"] is found["train_dataset"]


def test_text_becomes_blocks_of_masked_words():
    rows = Dataset.from_dict({"text": [" ".join(["w7"] * 200)] * 2, "n": [1, 2]})
    found = tokenized({"train_dataset": rows, "eval_dataset": None}, tiny_tokenizer(), make_teacher())
    assert {len(ids) for ids in found["train_dataset"]["input_ids"]} == {32}


@pytest.mark.parametrize("tokenizer", [None, tiny_tokenizer()])
def test_other_rows_stay(tokenizer):
    blocks, model = make_blocks(8), make_teacher()
    listed = [{"input_ids": [2, 3]}]
    stream = blocks.to_iterable_dataset()
    for rows in (blocks, listed, stream, None):
        assert tokenized({"train_dataset": rows, "eval_dataset": None}, tokenizer, model)["train_dataset"] is rows


def test_without_a_tokenizer_nothing_is_tokenized():
    rows = rows_of_kind("classes")
    data = {"train_dataset": rows, "eval_dataset": None}
    assert tokenized(data, None, make_teacher(**KINDS["classes"][1]))["train_dataset"] is rows


def test_wrong_columns_are_told_by_the_argument():
    rows = Dataset.from_dict({"a": ["x"] * 9, "b": ["y"] * 9})
    model = make_teacher(**KINDS["classes"][1])
    with pytest.raises(ValueError, match="^train_dataset has the columns a "):
        tokenized({"train_dataset": rows, "eval_dataset": None}, tiny_tokenizer(), model)


def test_a_set_without_rows_is_refused_by_its_name():
    model, rows = make_teacher(**KINDS["classes"][1]), rows_of_kind("classes")
    for name, empty in (("train_dataset", rows.select([])), ("eval_dataset", Dataset.from_dict({"text": []}))):
        data = dict.fromkeys(("train_dataset", "eval_dataset"), None) | {name: empty}
        with pytest.raises(ValueError, match=f"^{name} is empty .0 rows.; check its filters, split and path"):
            tokenized(data, tiny_tokenizer(), model)


def test_a_collator_of_the_users_own_gets_the_rows_as_they_are(make_trainer):
    rows = rows_of_kind("classes")
    with pytest.raises(ValueError, match="train_dataset has rows of text, label, but no input_ids; tokenize it first"):
        make_trainer(model=make_teacher(**KINDS["classes"][1]), train_dataset=rows, data_collator=list)


def test_rows_that_nothing_tokenizes_name_what_would(make_trainer):
    rows = Dataset.from_list([{"text": "w7 w8"}] * 9)
    with pytest.raises(ValueError, match="no input_ids; .*, or give its tokenizer as processing_class"):
        make_trainer(train_dataset=rows, processing_class=None)
    for tokenizer in (None, tiny_tokenizer()):
        with pytest.raises(ValueError, match="give it as datasets.Dataset.from_list.train_dataset. and its "):
            make_trainer(train_dataset=rows.to_list(), processing_class=tokenizer)


@pytest.mark.slow
def test_answers_to_questions_are_graded_for_each_set_that_has_some(make_trainer):
    """A set without answers, and one that is tokenized already, have no grades; a set of raw rows may come later."""
    rows, others = rows_of_kind("answers"), rows_of_kind("answers", seed=1)
    sets = {"known": rows.select(range(8)), "unknown": rows_of_kind("answers", has_labels=False).select(range(8))}
    model = make_teacher(**KINDS["answers"][1])
    how = {"processing_class": tiny_tokenizer(), "student": QUARTER}
    trainer = make_trainer(model=model, train_dataset=rows, eval_dataset=sets, max_steps=1, **how)
    found = trainer.evaluate()
    assert {name for name in found if name.endswith("_f1")} == {"eval_known_f1"}
    later = trainer.evaluate(others.select(range(8)))
    again = make_trainer(model=model, train_dataset=rows, eval_dataset=others.select(range(8)), max_steps=1, **how)
    same = again.evaluate()
    assert {name: later[name] for name in ("eval_f1", "eval_exact_match", "eval_kl")} == {
        name: same[name] for name in ("eval_f1", "eval_exact_match", "eval_kl")
    }
    rows, reader = others.select(range(8)), trainer.row_reader
    # the rows that were given are held out as they are; others are none
    assert trainer.held_out_metrics["known_kl"] == found["eval_known_kl"]
    assert trainer.evaluate(sets["known"])["eval_kl"] == trainer.held_out_metrics["kl"]
    encoded = reader.encoded(rows, "eval", reader.found(rows, "eval"))
    assert "eval_f1" not in trainer.evaluate(encoded)
    # nor do test rows get the grades of those that were evaluated before
    again.evaluate()
    assert "test_f1" not in again.predict(encoded).metrics
    assert trainer.predict(others.select(range(8))).metrics["test_f1"] == same["eval_f1"]


@each("kind", ["numpy", "torch", "pandas", "arrow"])
def test_tables_of_any_format_are_read_as_plain_rows(kind):
    model, rows = make_teacher(**KINDS["classes"][1]), rows_of_kind("classes")
    data = {"train_dataset": rows.with_format(kind), "eval_dataset": None}
    found = tokenized(data, tiny_tokenizer(), model)["train_dataset"]
    assert found[:] == tokenized(data | {"train_dataset": rows}, tiny_tokenizer(), model)["train_dataset"][:]


def test_labels_of_all_sets_are_read_by_one_rule():
    model = make_teacher(BertForSequenceClassification, id2label={0: "1", 1: "2", 2: "3"})
    sets = [Dataset.from_dict({"text": ["w10 w11"] * len(labels), "label": labels}) for labels in ([0, 1, 2], [1])]
    found = tokenized(dict(zip(("train_dataset", "eval_dataset"), sets, strict=True)), tiny_tokenizer(), model)
    assert [found[name]["labels"][:] for name in found] == [[0, 1, 2], [1]]


def test_a_column_of_labels_that_is_not_found_is_told(caplog):
    model, rows = make_teacher(**KINDS["classes"][1]), rows_of_kind("classes")
    tokenized({"train_dataset": rows, "eval_dataset": None}, tiny_tokenizer(), model)
    assert not caplog.records
    verdicts = {"train_dataset": rows.rename_column("label", "verdict"), "eval_dataset": None}
    tokenized(verdicts, tiny_tokenizer(), model)
    assert "train_dataset: rows are read without labels, as no column is named like one; rename " in caplog.text
    assert "if it is among 'verdict'" in caplog.text
    caplog.clear()
    unlabelled = rows.remove_columns("label")
    others = {"idx": ["1"] * len(rows), "__index_level_0__": ["1"] * len(rows)}
    for name, cells in {**others, "label": [None] * len(rows)}.items():
        given = {"train_dataset": unlabelled.add_column(name, cells), "eval_dataset": None}
        tokenized(given, tiny_tokenizer(), model)
    questions = rows_of_kind("answers").remove_columns("answers")
    questions = {"train_dataset": questions.add_column("source", ["x"] * len(questions)), "eval_dataset": None}
    tokenized(questions, tiny_tokenizer(), make_teacher(**KINDS["answers"][1]))
    assert "rows are read without labels" not in caplog.text
    with pytest.raises(ValueError, match="label_column='verdict' is no setting; columns are found by their names, .*"):
        HomoDistilTrainingArguments(label_column="verdict")
