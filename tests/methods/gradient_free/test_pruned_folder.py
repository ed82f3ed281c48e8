"""`homodistil prune`: settings in, a verified export out; errors before anything is pruned."""

import json

import pytest
import torch
from commands import error_of
from rows import each
from students import assert_same_logits
from task_rows import KINDS, write_kind
from tiny_files import write_teacher, write_text
from tiny_glue import write_task
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertForSequenceClassification,
)

from homodistil_hf import GradientFreeSettings, prune_gradient_free, verify_export
from homodistil_hf.cli import main
from homodistil_hf.data.blocks import drawn
from homodistil_hf.data.corpus import load_text
from homodistil_hf.data.samples import unlabeled_batches
from homodistil_hf.methods.gradient_free.pruned_folder import PruneSettings, prune_to_folder
from homodistil_hf.tasks.columns import found_rows
from homodistil_hf.tasks.encoding import encode_rows
from homodistil_hf.tasks.glue import load_task
from homodistil_hf.tasks.reading import load_rows

SHAPE = {"intermediate_size": 256, "max_position_embeddings": 128}


@pytest.fixture
def folder(tmp_path):
    """A classifier with its tokenizer, text, and rows of MRPC."""
    write_teacher(tmp_path / "model", task="sequence_classification", **SHAPE)
    write_text(tmp_path / "text.txt")
    write_task(tmp_path, "mrpc")
    return tmp_path


def words(folder, *more):
    given = {"model": "model", "unlabeled_data": "text.txt", "output_dir": "out"}
    return ["prune", *(word for name, path in given.items() for word in (f"--{name}", str(folder / path))), *more]


@pytest.mark.slow
def test_what_is_written_is_what_the_function_gives(folder, capsys):
    given = ("--macs", "0.7", "--num_samples", "30", "--seed", "3")
    assert main(words(folder, *given)) == 0
    assert f"standard export written to {folder / 'out'}" in capsys.readouterr().out
    stock = AutoModelForSequenceClassification.from_pretrained(folder / "out")
    assert type(stock) is BertForSequenceClassification
    assert main(words(folder, *given, "--format", "compact", "--overwrite")) == 0
    printed = capsys.readouterr()
    assert "compact export (needs trust_remote_code) written to" in printed.out
    assert "padded to the stock class" in printed.out
    assert "rows: 30 of " in printed.err
    rows = drawn(load_text(folder / "text.txt"), 30, seed=3)
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    teacher = BertForSequenceClassification.from_pretrained(folder / "model")
    batches = unlabeled_batches([rows["text"][:]], tokenizer)
    expected = prune_gradient_free(teacher, batches, 0.7)
    found = AutoModelForSequenceClassification.from_pretrained(folder / "out")
    with torch.no_grad():
        for model in (found, stock):
            assert_same_logits(model(**batches[0]).logits, expected(**batches[0]).logits)
    assert verify_export(folder / "out").problems == ()
    facts = json.loads((folder / "out" / "facts.json").read_text())
    assert 0.69 < facts["cost_fractions"]["encoder_macs"] <= 0.7
    assert facts["training"] == {"method": "gradient_free", "num_samples": 30, "num_tokens": 30 * 22}
    assert (facts["settings"]["macs"], facts["settings"]["sigma"]) == (0.7, 1.0)
    assert facts["settings"]["unlabeled_data"] == ["text.txt"]
    assert facts["teacher"]["name"] == "model"
    card = (folder / "out" / "README.md").read_text()
    assert "Gradient-Free Structured Pruning with Unlabeled Data" in card
    assert len(AutoTokenizer.from_pretrained(folder / "out")) == len(tokenizer)


@pytest.mark.slow
def test_flags_override_the_file_and_a_tasks_sentences_are_text(folder, capsys):
    values = {"model": str(folder / "model"), "output_dir": str(folder / "out"), "task": "mrpc", "macs": 0.9}
    values |= {"data_dir": str(folder), "ranking": "d2", "format": "standard"}
    (folder / "config.json").write_text(json.dumps(values))
    assert main(["prune", str(folder / "config.json"), "--macs", "0.6", "--rescaling", "none"]) == 0
    settings = GradientFreeSettings(ranking="d2", rescaling="none")
    train = load_task("mrpc", folder).train
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    columns = [train["sentence1"][:], train["sentence2"][:]]
    batches = unlabeled_batches(columns, tokenizer)
    teacher = BertForSequenceClassification.from_pretrained(folder / "model")
    expected = prune_gradient_free(teacher, batches, 0.6, settings=settings)
    found = BertForSequenceClassification.from_pretrained(folder / "out")
    with torch.no_grad():
        assert_same_logits(found(**batches[0]).logits, expected(**batches[0]).logits)


def test_weights_alone_need_no_text_and_no_positions(folder, capsys):
    write_teacher(folder / "short", task="sequence_classification", **SHAPE | {"max_position_embeddings": 32})
    words = ["prune", "--model", folder / "short", "--output_dir", folder / "out", "--ranking", "r2"]
    words = [*map(str, words), "--rescaling", "none", "--macs", "0.7"]
    told = error_of(capsys, *words, "--unlabeled_data", str(folder / "text.txt"))
    assert "no text is read, name neither" in told
    assert main(words) == 0
    facts, card = json.loads((folder / "out" / "facts.json").read_text()), (folder / "out" / "README.md").read_text()
    assert facts["training"]["num_samples"] == 0
    assert "by leaving out FFN neurons, chosen by their weights" in card
    assert "unlabeled text" not in card


@each(
    ("name", "value"),
    [
        ("text_column", "x"),
        ("data_dir", "x"),
        ("num_samples", 30),
        ("batch_size", 8),
        ("seed", 1),
        ("dtype", "float32"),
    ],
)
def test_settings_of_text_are_refused_where_none_is_read(name, value):
    with pytest.raises(ValueError, match=f"^{name}={value!r} has no part in this run: no text is read; leave it out"):
        PruneSettings(model="m", output_dir="out", ranking="r2", rescaling="none", **{name: value})


@pytest.mark.parametrize(("has_labels", "name"), [(True, name) for name in KINDS] + [(False, "answers")])
def test_rows_of_a_task_are_those_that_distill_reads(tmp_path, name, has_labels):
    given = write_kind(tmp_path, name, has_labels=has_labels)
    model, lines = AutoConfig.from_pretrained(given["teacher"]), []
    out = str(tmp_path / "out")
    settings = PruneSettings(model=given["teacher"], unlabeled_data=given["train_data"], output_dir=out, macs=0.9)
    found = prune_to_folder(settings, lines.append)["training"]
    part = found_rows(load_rows(given["train_data"]), model, KINDS[name][0])
    tokenizer = AutoTokenizer.from_pretrained(given["teacher"])
    encoded = encode_rows(part, model, tokenizer, max_length=32)
    assert (found["num_samples"], found["num_tokens"]) == (len(encoded), sum(map(len, encoded["input_ids"])))
    assert f"; read: {', '.join(part.columns.texts)}" in lines[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--macs", "0.1"], "macs=0.1 is out of reach"),
        (["--model", "nowhere/at/all"], "model='nowhere/at/all' does not exist"),
        (["--unlabeled_data", "nowhere.txt"], "unlabeled_data='nowhere.txt' does not exist"),
        (["--task", "mrpc"], "task='mrpc': name one of them"),
        (["--ranking", "r3"], "ranking='r3' is not one of r2d2, r2, d2"),
        (["--format", "compcat"], "format='compcat' is not one of standard, compact"),
        (["--max_length", "256"], "max_length=256 is over the model's positions=128; nearest valid: 128"),
        (["--num_samples", "0"], "num_samples=0 is not a whole number of at least 1; the default is 2048"),
        (["--text_column", "x"], "missing text column (text_column='x')"),
        (["--output_dir", ""], "output_dir='' is not a name; set it"),
        (["--data_dir", "x"], "data_dir='x' has no part in this run: it belongs to task, leave it out"),
        (["--sgima", "2"], "nearest valid: --sigma"),
    ],
)
def test_errors_come_before_anything_is_pruned(folder, capsys, more, message):
    error = error_of(capsys, *words(folder, *more))
    assert message in error
    assert "FFN neurons will be left" not in error  # said in front of the pruning


@pytest.mark.slow
def test_a_default_length_is_lowered_to_the_positions(folder):
    write_teacher(folder / "model", task="sequence_classification", intermediate_size=256)
    given = {name: str(folder / path) for name, path in (("model", "model"), ("unlabeled_data", "text.txt"))}
    facts = prune_to_folder(PruneSettings(output_dir=str(folder / "out"), macs=0.8, **given), lambda line: None)
    assert facts["settings"]["max_length"] == 32
