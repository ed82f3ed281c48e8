"""`homodistil plan`: what a plan costs, and how a run of it is trained."""

import json
import re
import shutil

import pytest
from tiny_embeddings import make_sentence_folder
from tiny_files import write_teacher
from transformers import BertForMaskedLM

from homodistil_hf.cli import main

TRANSFORMER = "sentence_transformers.models.Transformer"


def test_plan_needs_no_weights(tmp_path, folder, capsys):
    shutil.copy(folder / "teacher" / "config.json", tmp_path)
    assert main(["plan", "--teacher", str(tmp_path), "--student", "macs=0.5", "--json"]) == 0
    costs = json.loads(capsys.readouterr().out)
    teacher = BertForMaskedLM.from_pretrained(folder / "teacher")
    assert costs["teacher"]["num_parameters"] == sum(parameter.numel() for parameter in teacher.parameters())
    assert costs["cost_fractions"]["encoder_macs"] == pytest.approx(
        costs["student"]["encoder_macs"] / costs["teacher"]["encoder_macs"], abs=1e-4
    )


def test_a_plan_tells_how_a_run_of_so_many_tokens_is_trained(folder, tmp_path, capsys):
    words = ["plan", "--teacher", str(folder / "teacher"), "--student", "macs=0.5", "--num_tokens", "2048000"]
    assert main([*words, "--json"]) == 0
    run = json.loads(capsys.readouterr().out)["run"]
    assert (run["max_steps"], run["row_length"], run["learning_rate"]) == (4000, 32, 0.0033)  # its positions
    words[2] = str(write_teacher(tmp_path / "teacher", max_position_embeddings=512))
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["run"] == {
        "max_steps": 1000,
        "per_device_train_batch_size": 16,
        "row_length": 128,
        "learning_rate": 0.0066,
        "adam_beta2": 0.98,
        "warmup_steps": 50,
        "pruning_end_step": 300,
        "hold_end_step": 500,
    }
    assert main(words) == 0
    out = capsys.readouterr().out
    for line in (r"max_steps +1,000", r"learning_rate +0\.0066", r"pruning_end_step +300"):
        assert re.search(line, out)


def test_an_uneven_plan_has_two_costs_and_an_even_one_has_one(folder, capsys):
    layers = [
        {"num_attention_heads": 1, "head_dim": 8, "intermediate_size": 16},
        {"num_attention_heads": 2, "head_dim": 8, "intermediate_size": 32},
    ]
    plan = json.dumps({"hidden_size": 16, "layers": layers})
    assert main(["plan", "--teacher", str(folder / "teacher"), "--student", plan]) == 0
    assert "padded to the stock class" in capsys.readouterr().out
    assert main(["plan", "--teacher", str(folder / "teacher"), "--student", plan, "--json"]) == 0
    costs = json.loads(capsys.readouterr().out)
    assert costs["student"]["num_parameters"] < costs["padded"]["num_parameters"]
    assert costs["padded"]["plan"]["intermediate_size"] == 32
    assert main(["plan", "--teacher", str(folder / "teacher"), "--student", "macs=0.5"]) == 0
    assert "padded to the stock class" not in capsys.readouterr().out


# tables


def test_a_tasks_teacher_has_no_advice_on_tokens(tmp_path, capsys):
    teacher = write_teacher(tmp_path / "tags", task="token_classification")
    words = ["plan", "--teacher", str(teacher), "--student", "macs=0.5,layers=2"]
    assert main(words) == 0
    assert "student: BertForTokenClassification, 2 layers" in capsys.readouterr().out
    assert main([*words, "--num_tokens", "1e6"]) == 2
    assert "runs on masked words were measured" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kinds", "words"),
    [
        (
            ["sentence_transformers.models.StaticEmbedding"],
            "has the modules StaticEmbedding; expected Transformer, Po",
        ),
        (["sentence_transformers.sparse_encoder.models.MLMTransformer"], "has the modules MLMTransformer; expected"),
        (
            [TRANSFORMER, TRANSFORMER.replace("Transformer", "Normalize")],
            "has the modules Transformer, Normalize; exp",
        ),
    ],
)
def test_what_distil_refuses_is_not_planned(tmp_path, capsys, kinds, words):
    folder = make_sentence_folder(tmp_path / "model")
    modules = [{"idx": place, "name": "", "path": "", "type": kind} for place, kind in enumerate(kinds)]
    (folder / "modules.json").write_text(json.dumps(modules))
    said = []
    for command in (["plan", "--student", "macs=0.5"], ["distill", "--train_data", "x", "--output_dir", "out"]):
        assert main([*command, "--teacher", str(folder)]) == 2
        said.append(capsys.readouterr().err.strip())
    assert said[0] == said[1]
    assert words in said[0]


def test_a_plan_with_fewer_words_is_the_runs(folder, tmp_path, capsys):
    given = json.loads((folder / "config.json").read_text())
    words = ["--teacher", given["teacher"], "--student", "params=15k", "--vocabulary", "keep=40"]
    assert main(["plan", *words, "--text", given["train_data"], "--json"]) == 0
    student = json.loads(capsys.readouterr().out)["student"]
    assert student["num_parameters"] == pytest.approx(15_000, rel=0.15)
    run = ["distill", *words, "--train_data", given["train_data"], "--output_dir", str(tmp_path / "run")]
    assert main([*run, "--max_steps", "1", "--max_seq_length", "16", "--use_cpu", "true"]) == 0
    made = json.loads((tmp_path / "run" / "student" / "facts.json").read_text())["student"]
    assert made["plan"] == student["plan"]


def test_models_of_vectors_have_no_compact_form_and_no_revision(tmp_path, capsys):
    folder = make_sentence_folder(tmp_path / "model")
    run = ["distill", "--train_data", "x", "--output_dir", str(tmp_path / "run")]
    for command in (["plan"], run):
        assert main([*command, "--teacher", str(folder), "--student", "compact_macs=0.5,layers=1"]) == 2
        assert "models of vectors have none: name macs=0.5,layers=1" in capsys.readouterr().err
    (tmp_path / "compact_macs.json").write_text(
        '{"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}'
    )
    assert main(["plan", "--teacher", str(folder), "--student", str(tmp_path / "compact_macs.json")]) == 0
    said = []
    for command in (["plan"], run):
        words = ["--teacher", str(folder), "--student", "macs=0.5", "--teacher_revision", "main"]
        assert main([*command, *words]) == 2
        said.append(capsys.readouterr().err)
    assert said[0] == said[1]


def test_a_student_that_is_none_is_refused_before_text_is_read(folder, tmp_path, capsys):
    words = ["--teacher", str(folder / "teacher"), "--vocabulary", "keep=40", "--text", str(tmp_path / "no text")]
    assert main(["plan", *words, "--student", "mcas=0.5"]) == 2
    assert "nearest valid: 'macs=0.25'" in capsys.readouterr().err
