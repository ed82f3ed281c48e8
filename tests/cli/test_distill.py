"""`homodistil distill`: what a run leaves, how it goes on, and what it reads."""

import json
import shutil
from pathlib import Path

import pytest
from tiny_files import NUM_DOCUMENTS, assert_same_weights, write_teacher, write_text
from transformers import BertForMaskedLM

from homodistil_hf import HomoDistilTrainer
from homodistil_hf.cli import main
from homodistil_hf.files.caches import cache_folder
from homodistil_hf.runs.config import parse_run, run_of
from homodistil_hf.runs.kinds import trainer_named

pytestmark = pytest.mark.slow
TWO = ["--student", '["24-4x6-48", "20-2x6-40"]', "--max_steps", "2"]
"""Flags of a family."""


def test_a_bug_during_training_keeps_its_traceback(folder, tmp_path, monkeypatch):
    def end_step(self):
        raise ValueError("a bug")

    monkeypatch.setattr(HomoDistilTrainer, "end_step", end_step)
    with pytest.raises(ValueError, match="a bug"):
        main(["distill", str(folder / "config.json"), "--output_dir", str(tmp_path / "run")])


def test_a_run_leaves_a_student_and_its_numbers(finished):
    results = json.loads((finished / "results.json").read_text())
    teacher, student = results["models"]
    model = BertForMaskedLM.from_pretrained(finished / "student")
    assert type(model).__module__ == "transformers.models.bert.modeling_bert"
    assert student["num_parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert teacher["kl"] == 0.0
    assert student["kl"] == results["evaluation"]["kl"] > 0.0
    assert results["plan"]["hidden_size"] == model.config.hidden_size == 16
    assert results["evaluation"]["kept_fraction_hidden"] == 0.5
    assert results["num_steps"] == 12


def test_a_run_is_reproduced_by_its_settings(finished, tmp_path):
    again = tmp_path / "again"
    assert main(["distill", str(finished / "settings.json"), "--output_dir", str(again)]) == 0
    assert_same_weights(again / "student", finished / "student")


def test_a_run_goes_on_from_its_last_checkpoint(finished, folder, tmp_path, capsys):
    interrupted = tmp_path / "run"
    shutil.copytree(finished, interrupted)
    shutil.rmtree(interrupted / "student")
    shutil.rmtree(interrupted / "checkpoint-12")
    words = ["--output_dir", str(interrupted), "--resume_from_checkpoint", "last"]
    assert main(["distill", str(folder / "config.json"), *words]) == 0
    assert f"from_pretrained('{interrupted}/student')" in capsys.readouterr().out
    assert_same_weights(interrupted / "student", finished / "student")


@pytest.mark.parametrize("method", ["homodistil", "one_shot"])
def test_a_run_that_was_stopped_before_its_first_checkpoint_starts_anew(folder, tmp_path, monkeypatch, capsys, method):
    config = json.loads((folder / "config.json").read_text()) | {"method": method, "max_steps": 2}
    own = {name: value for name, value in config.items() if method == "homodistil" or not name.startswith("pruning")}
    (tmp_path / "config.json").write_text(json.dumps(own))
    words = ["distill", str(tmp_path / "config.json")]
    assert main([*words, "--output_dir", str(tmp_path / "whole")]) == 0
    words += ["--output_dir", str(tmp_path / "run")]
    with monkeypatch.context() as stopped:
        stopped.setattr(trainer_named(method), "training_step", interrupt)
        assert main(words) == 130
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["settings.json"]
    assert main(words) == 2
    assert "is not empty (settings.json); go on with resume_from_checkpoint=last, set" in capsys.readouterr().err
    assert main([*words, "--resume_from_checkpoint", "last"]) == 0
    assert_same_weights(tmp_path / "run" / "student", tmp_path / "whole" / "student")


def interrupt(*args, **kwargs):
    raise KeyboardInterrupt


def test_a_finished_run_without_checkpoints_is_not_trained_again(folder, tmp_path, capsys, never_trains):
    (tmp_path / "run" / "student").mkdir(parents=True)
    (tmp_path / "run" / "settings.json").write_text("{}")
    words = ["distill", str(folder / "config.json"), "--output_dir", str(tmp_path / "run")]
    assert main(words) == 2
    assert "is not empty (settings.json, student); set overwrite_output_dir" in capsys.readouterr().err
    assert main([*words, "--resume_from_checkpoint", "last"]) == 2
    assert "asks for the last checkpoint, but" in capsys.readouterr().err


def test_text_is_held_out_where_none_is_given(folder, tmp_path, capsys):
    words = ["--output_dir", str(tmp_path / "run"), "--max_steps", "2"]
    config = json.loads((folder / "config.json").read_text())
    del config["eval_data"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert main(["distill", str(tmp_path / "config.json"), *words]) == 0
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert first.endswith("teacher predicts masked words; the text becomes blocks of 16 tokens")
    assert second == "eval_data is not set: 6 of 120 documents of train_data are held out"


def test_documents_may_be_rows_of_their_own(folder, tmp_path, capsys, caplog):
    words = ["--packing", "false", "--max_seq_length", "32"]
    run = tmp_path / "run"
    assert main(["distill", str(folder / "config.json"), "--output_dir", str(run), "--max_steps", "3", *words]) == 0
    told = capsys.readouterr().out.splitlines()[0]
    assert told.endswith("predicts masked words; the text becomes a row a document, of at most 32 tokens")
    assert f"the measured rule for {8 * 22} tokens a step" in caplog.text  # 20 words and two special tokens a row
    held_out = ["--task", "discrepancy", "--eval_data", str(folder / "eval.txt"), *words[2:]]  # packed as in the run
    assert main(["evaluate", str(run), *held_out, "--output_dir", str(tmp_path / "evaluation")]) == 0
    found = json.loads((tmp_path / "evaluation" / "discrepancy.json").read_text())
    assert found["num_blocks"] == NUM_DOCUMENTS
    assert found["num_masked_tokens"] == 3 * NUM_DOCUMENTS  # of 20 words each


def test_a_streamed_run(folder, tmp_path):
    words = ["--output_dir", str(tmp_path / "run"), "--streaming", "--max_steps", "3", "--max_eval_blocks", "4"]
    assert main(["distill", str(folder / "config.json"), *words]) == 0
    assert json.loads((tmp_path / "run" / "results.json").read_text())["num_steps"] == 3


def test_a_run_tokenizes_into_our_cache(folder, tmp_path):
    write_text(tmp_path / "text.txt", seed=5)
    words = ["--train_data", str(tmp_path / "text.txt"), "--output_dir", str(tmp_path / "run"), "--max_steps", "1"]
    assert main(["distill", str(folder / "config.json"), *words]) == 0
    assert list((cache_folder() / "datasets").rglob("*.arrow"))


def test_an_overwritten_run_leaves_no_student_of_the_earlier_one(finished, folder, tmp_path, monkeypatch, capsys):
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    words = ["distill", str(folder / "config.json"), "--output_dir", str(run), "--overwrite_output_dir"]
    assert main([*words, "--teacher", str(run / "student")]) == 2
    assert "student' is in output_dir=" in capsys.readouterr().err
    with monkeypatch.context() as stopped:
        stopped.setattr(HomoDistilTrainer, "training_step", interrupt)
        assert main(words) == 130
    assert not (run / "student").exists()
    assert main(["export", str(run), "--output", str(tmp_path / "exported")]) == 2


def test_a_family_leaves_no_student_of_a_run_that_it_overwrites(finished, folder, tmp_path, capsys):
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    words = ["distill", str(folder / "config.json"), "--output_dir", str(run), "--overwrite_output_dir", *TWO]
    assert main(words) == 0
    assert not (run / "student").exists()
    assert main(["export", str(run), "--output", str(tmp_path / "exported")]) == 2
    assert "it has several models: name one" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["homodistil", "self_distillation"])
def test_a_model_that_is_read_is_not_overwritten(finished, folder, tmp_path, capsys, method):
    run, text = tmp_path / "run", json.loads((folder / "config.json").read_text())["train_data"]
    values = {"method": method, "train_data": text, "output_dir": str(run), "overwrite_output_dir": True}
    values |= {"student": "macs=0.5"} if method == "homodistil" else {}
    made = {"trimmed_teacher": {"vocabulary": "keep=40"}, "further_pretraining/student": {"further_pretraining": {}}}
    places = {"student": {}, "1-macs-0.5/student": {}} | (made if method == "homodistil" else {})
    for place, more in places.items():
        shutil.copytree(finished / "student", run / place)
        (tmp_path / "config.json").write_text(json.dumps(values | {"teacher": str(run / place)} | more))
        assert main(["distill", str(tmp_path / "config.json")]) == 2
        assert "where it would be overwritten; name another output_dir" in capsys.readouterr().err
        assert (run / place / "model.safetensors").is_file()


def test_a_teacher_that_an_earlier_run_has_made_stays(finished, folder, tmp_path):
    run, text = tmp_path / "run", json.loads((folder / "config.json").read_text())["train_data"]
    shutil.copytree(finished, run)
    shutil.copytree(finished / "student", run / "trimmed_teacher")
    words = ["--teacher", str(run / "trimmed_teacher"), "--student", "macs=0.8,layers=2", "--max_seq_length", "16"]
    words += ["--train_data", text, "--output_dir", str(run), "--overwrite_output_dir", "true", "--max_steps", "1"]
    assert main(["distill", *words, "--use_cpu", "true"]) == 0
    assert (run / "trimmed_teacher" / "model.safetensors").is_file()


def test_a_teacher_below_the_home_folder_is_found_by_its_kind(tmp_path, monkeypatch):
    write_teacher(tmp_path / "reranker", task="sequence_classification", num_labels=1)
    monkeypatch.setenv("HOME", str(tmp_path))
    values = {
        "train_data": ["rows.parquet"],
        "student": "macs=0.5",
        "output_dir": "run",
        "text_columns": ["query", "passage"],
    }
    for teacher in ("~/reranker", str(tmp_path / "reranker")):
        assert run_of(values | {"teacher": teacher}, "the test").run.method == "reranker"
        assert run_of(values, "the test", [f"--teacher={teacher}"]).run.method == "reranker"


def test_steps_between_evaluations_ask_for_evaluations(folder):
    config = str(folder / "config.json")
    assert parse_run([config, "--eval_steps", "2", "--output_dir", "run"]).training.eval_strategy == "steps"
    assert parse_run([config, "--eval_steps", "2", "--eval_strategy", "no"]).training.eval_strategy == "no"
    whole = json.loads((folder / "config.json").read_text()) | {"eval_steps": None}
    assert run_of(whole, "the test").training.eval_strategy == "no"


def test_a_folder_has_no_revision(folder, tmp_path, capsys):
    words = ["distill", str(folder / "config.json"), "--output_dir", str(tmp_path / "run"), "--teacher_revision", "v2"]
    assert main(words) == 2
    assert "is no name on the Hub, and has no revision 'v2'; leave that out" in capsys.readouterr().err
