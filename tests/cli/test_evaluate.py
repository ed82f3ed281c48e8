"""`homodistil evaluate`: which model, which flags, where results go, and what an export says of itself afterwards."""

import json
import shutil

import pytest
import torch
from rows import each
from tiny_files import write_teacher, write_text
from tiny_glue import FakeMeasure, write_task
from tiny_models import GRADUAL, make_teacher, random_student, tiny_tokenizer
from transformers import AutoConfig, BertForMaskedLM

from homodistil_hf.cli import main
from homodistil_hf.evaluation.evaluated_model import load_model, model_in, model_name, results_folder
from homodistil_hf.export.export_folder import convert_export, export_student
from homodistil_hf.export.facts import read_facts
from homodistil_hf.methods.formats import verify_export
from homodistil_hf.models.architectures.modeling_homobert import HomoBertForMaskedLM
from homodistil_hf.models.equality import weights_digest
from homodistil_hf.models.widths import widths_of


@pytest.fixture(autouse=True)
def fake(monkeypatch):
    """Nothing is trained here; what a training gives is tested in test_glue.py."""
    measure = FakeMeasure(lambda learning_rate, seed: (0.5, 0.75, 0.7)[seed])
    monkeypatch.setattr("homodistil_hf.evaluation.task_runs.official_metrics", measure)
    return measure


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A tiny RTE."""
    folder = tmp_path_factory.mktemp("glue data")
    write_task(folder, "rte")
    return folder


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """`teacher`, and `standard` and `compact` exports of one student, written once."""
    folder = tmp_path_factory.mktemp("exports")
    write_teacher(folder / "teacher")
    student = random_student(HomoBertForMaskedLM, vocab_size=96)
    for format in ("standard", "compact"):
        export_student(
            student,
            folder / format,
            format,
            tokenizer=tiny_tokenizer(),
            teacher=make_teacher(BertForMaskedLM, vocab_size=96),
        )
    return folder


@pytest.fixture
def folder(exports, tmp_path):
    """A fresh copy of `exports`."""
    return shutil.copytree(exports, tmp_path / "models")


def error_of(capsys, *words):
    assert main(["evaluate", *map(str, words)]) == 2
    return capsys.readouterr().err


# The command


@pytest.mark.slow
def test_an_export_tells_of_its_evaluation(folder, data_dir, capsys):
    write_text(folder / "eval.txt", seed=1)
    export = folder / "standard"
    before = (export / "model.safetensors").read_bytes()
    words = ["--task", "discrepancy", "rte", "--data_dir", data_dir, "--seeds", 0, 1, "--teacher", folder / "teacher"]
    words += ["--eval_data", folder / "eval.txt", "--max_seq_length", 16, "--pseudo_perplexity_blocks", 1]
    assert main(["evaluate", str(export), *map(str, words), "--max_length", "24"]) == 0
    printed = capsys.readouterr()
    assert "| 62.5 ± 17.7 |" in printed.out
    assert "homodistil: rte, seed 1 (2 of 2): accuracy 0.7500" in printed.err
    found = read_facts(export)["benchmarks"]
    assert found["tasks"]["rte"]["scores"] == [0.5, 0.75]
    assert found["discrepancy"]["kl"] > 0
    assert found == {
        name: value
        for name, value in json.loads((folder / "evaluations" / "standard" / "summary.json").read_text()).items()
        if name not in ("format", "model")
    }
    assert "| rte | accuracy | 0.625 | 0.1768 | 2 | 40 |" in (export / "README.md").read_text(encoding="utf-8")
    assert (export / "model.safetensors").read_bytes() == before
    report = verify_export(export)
    assert report.problems == ()
    assert str(folder) not in (export / "facts.json").read_text(encoding="utf-8")
    again = convert_export(export, folder / "again", "compact")
    assert read_facts(again)["benchmarks"] == found


@pytest.mark.slow
def test_two_models_and_their_teacher_in_one_table(folder, data_dir, capsys, fake):
    words = ["--task", "rte", "--data_dir", str(data_dir), "--seeds", "0", "1", "--max_length", "24"]
    words += ["--learning_rate", "1e-4"]
    for name in ("standard", "compact", "teacher"):
        assert main(["evaluate", str(folder / name), *words]) == 0
    capsys.readouterr()
    table = folder / "table.json"
    names = [str(folder / "standard"), str(folder / "compact")]
    assert main(["evaluate", "--compare", *names, "--teacher", str(folder / "teacher"), "--output", str(table)]) == 0
    rows = json.loads(table.read_text())["rows"]
    assert [row["name"] for row in rows] == ["teacher", "standard", "compact"]
    assert [(row["kept_fraction"], row["kept_above_constant"]) for row in rows] == [(1.0, 1.0)] * 3
    assert capsys.readouterr().out.startswith("| model | parameters |")
    assert main(["evaluate", "--compare", *names, "--output", str(folder / "table.md")]) == 0
    assert (folder / "table.md").read_text() == capsys.readouterr().out
    assert len(fake.calls) == 6


def test_results_go_where_they_are_wanted(folder, data_dir, tmp_path):
    words = ["--task", "rte", "--data_dir", data_dir, "--seeds", 0, "--max_length", 24, "--learning_rate", 1e-4]
    assert main(["evaluate", *map(str, [folder / "teacher", *words, "--output_dir", tmp_path / "here"])]) == 0
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == ["rte.seed-0.json", "summary.json"]
    assert not (folder / "evaluations").exists()


def test_tasks_evaluated_elsewhere_stay_in_the_facts(folder, tmp_path):
    for task in ("rte", "qnli"):
        write_task(tmp_path / "data", task)
        words = ["--task", task, "--data_dir", tmp_path / "data", "--seeds", 0, "--max_length", 24]
        assert main(["evaluate", *map(str, [folder / "compact", *words, "--output_dir", tmp_path / task])]) == 0
    assert read_facts(folder / "compact")["benchmarks"]["tasks"].keys() == {"rte", "qnli"}


def test_results_of_a_replaced_export_are_not_shown(folder, data_dir, capsys):
    words = ["--task", "rte", "--data_dir", data_dir, "--seeds", 0, "--max_length", 24]
    assert main(["evaluate", *map(str, [folder / "compact", *words])]) == 0
    other = random_student(HomoBertForMaskedLM, vocab_size=96)
    export_student(other, folder / "compact", "compact", tokenizer=tiny_tokenizer(), overwrite=True)
    assert "nothing has been evaluated" in error_of(capsys, "--compare", folder / "compact")


def test_a_run_that_is_going_on_can_be_evaluated_later(folder, data_dir, capsys):
    """Facts are read before anything is measured, and the export's own files are left alone."""
    (folder / "standard" / "facts.json").write_text('{"facts_version": 1}')
    words = ["--task", "rte", "--data_dir", data_dir, "--max_length", 24]
    assert "has student=None, which no export has" in error_of(capsys, folder / "standard", *words)
    assert not (folder / "evaluations").exists()


@each(
    ("words", "message"),
    [
        (["x"], "MODEL='x', --task=[]: name both, or --compare MODEL …"),
        (["x", "--task", "discrepancy"], "eval_data is not set; name held-out text"),
        (
            ["x", "--task", "rte", "--eval_data", "y"],
            "--eval_data is for discrepancy, classes, embedding, which --task does not name",
        ),
        (["x", "--task", "rte", "--seeds", "one"], "--seeds: invalid int value: 'one'"),
        (["x", "--task", "rte", "--data_dir", "/nowhere"], "data_dir='/nowhere' is no folder"),
        (["/nowhere/at/all", "--task", "rte"], "model='/nowhere/at/all' does not exist; expected an export"),
        (["x", "--compare", "y"], "--compare only reads results: drop MODEL='x' and --task"),
        (["--compare", "y", "--seeds", "7"], "--compare only reads results: drop --seeds"),
        (
            ["x", "--task", "rte", "--teacher", "y"],
            "--teacher is for discrepancy, classes, embedding, which --task does not",
        ),
        (["--compare", "/nowhere/at/all"], "model='/nowhere/at/all' does not exist"),
        (
            ["--compare", "x", "--output", "table.txt"],
            "output='table.txt' has the suffix '.txt'; expected .md or .json",
        ),
    ],
)
def test_wrong_words_are_told_before_anything_is_loaded(words, message, capsys):
    assert message in error_of(capsys, *words)


def test_a_task_that_the_folder_lacks_is_told_first(folder, data_dir, capsys):
    found = error_of(capsys, folder / "teacher", "--task", "rte", "cola", "--data_dir", data_dir)
    assert "has no folder cola and no cola_part, but rte" in found
    assert not (folder / "evaluations").exists()


# Models


def test_a_run_stands_for_its_export(folder):
    run = folder / "run"
    shutil.copytree(folder / "compact", run / "student")
    assert model_in(run).folder == run / "student"
    assert results_folder(run) == run.resolve() / "evaluations" / "student"
    assert model_name(run) == model_name(run / "student") == "run/student"
    loaded = load_model(run)
    assert loaded.export == run / "student"
    assert loaded.sha256 == load_model(folder / "compact").sha256


@pytest.mark.slow
def test_a_checkpoint_is_as_wide_as_it_is(make_trainer, tmp_path):
    trainer = make_trainer(
        max_steps=6, save_strategy="steps", save_steps=3, width_multiple=1, **GRADUAL | {"pruning_end_fraction": 0.9}
    )
    trainer.train()
    checkpoint = tmp_path / "run" / "checkpoint-3"
    loaded = load_model(checkpoint)
    kept = widths_of(AutoConfig.from_pretrained(checkpoint))
    assert trainer.plan.hidden_size < kept.hidden_size < trainer.full.hidden_size
    assert widths_of(loaded.model.config) == kept
    assert (loaded.name, loaded.export) == ("run/checkpoint-3", None)
    assert loaded.results == (tmp_path / "run" / "evaluations" / "checkpoint-3").resolve()


def test_names_on_the_hub_have_results_in_the_working_folder():
    assert model_in("google-bert/bert-base-uncased") is model_in("bert-base-uncased") is None
    assert str(results_folder("google-bert/bert-base-uncased")) == "evaluations/google-bert--bert-base-uncased"


def test_folders_without_a_model_or_tokenizer_are_named(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty' holds no config.json and no student/; expected an export"):
        load_model(tmp_path / "empty")
    make_teacher().save_pretrained(tmp_path / "bare")
    with pytest.raises(ValueError, match="bare' has no tokenizer; copy the teacher's tokenizer files into"):
        load_model(tmp_path / "bare")


def test_digests_are_of_weights_and_configuration():
    model = make_teacher()
    digest = weights_digest(model)
    assert digest == weights_digest(make_teacher())
    model.name_or_path = model.config.name_or_path = "elsewhere"
    assert weights_digest(model) == digest
    model.config.hidden_dropout_prob = 0.5
    assert weights_digest(model) != digest
    model = make_teacher()
    with torch.no_grad():
        model.bert.pooler = None
        model.bert.embeddings.word_embeddings.weight[5, 0] += 1e-6
    assert weights_digest(model) != digest
