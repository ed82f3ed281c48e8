"""A planned run is timed by a few of its own steps, and leaves nothing."""

import json
from types import SimpleNamespace

import pytest
from rows import each
from tiny_files import write_config

from homodistil_hf.cli import main
from homodistil_hf.models.loading import load_encoder_config
from homodistil_hf.plans.resolve import resolve_plan
from homodistil_hf.pruning.pruner import Pruner
from homodistil_hf.runs import plan as planning
from homodistil_hf.runs.plan import format_timing, time_run
from homodistil_hf.trainer import HomoDistilTrainer

pytestmark = pytest.mark.slow


@pytest.fixture
def values(tmp_path):
    found = json.loads(write_config(tmp_path).read_text(encoding="utf-8"))
    return {name: value for name, value in found.items() if name != "output_dir"}


def test_the_whole_run_is_counted_and_a_few_steps_are_taken(values, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    timing = time_run(values | {"max_steps": 5000}, lambda line: None, num_steps=4)
    assert timing["num_steps"] == 5000
    assert timing["num_tokens"] == 5000 * 8 * 16
    assert timing["time_s"] == timing["setup_s"] + 5000 * timing["seconds_per_step"]
    assert list((tmp_path / "temporary").iterdir()) == []
    assert not (tmp_path / "run").exists()


def test_choices_of_masks_count_as_often_as_the_whole_run_makes_them(values, monkeypatch):
    now = [0.0]
    train, choose = HomoDistilTrainer.training_step, Pruner.step

    def training_step(self, *args, **kwargs):
        now[0] += 1.0
        return train(self, *args, **kwargs)

    def step(self, step, schedule, **kwargs):
        now[0] += 10.0 * (step <= schedule.end_step and schedule.is_due(step))
        return choose(self, step, schedule, **kwargs)

    monkeypatch.setattr(planning, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(HomoDistilTrainer, "training_step", training_step)
    monkeypatch.setattr(Pruner, "step", step)
    run = {"max_steps": 1000, "pruning_end_fraction": 0.5, "pruning_interval_steps": 10}
    found = time_run(values | run, lambda line: None, num_steps=10)
    assert found["seconds_per_step"] == pytest.approx(1.0 + 10.0 * 50 / 1000)


def test_what_cannot_be_timed_is_refused(values):
    with pytest.raises(ValueError, match=r"is several students; time one of them"):
        time_run(values | {"student": ["macs=0.75", "macs=0.5"]}, lambda line: None)
    with pytest.raises(ValueError, match="max_steps=2 is too short a run to be timed; expected at least 3"):
        time_run(values | {"max_steps": 2}, lambda line: None)


@pytest.mark.parametrize(("seconds", "words"), [(89, "89 seconds"), (600, "10 minutes"), (9000, "2.5 hours")])
def test_times_are_told_in_words(seconds, words):
    timing = {"device": "cpu", "num_steps": 1000, "rows_per_step": 16, "time_s": seconds, "setup_s": 4.0}
    timing |= {"seconds_per_step": 0.125, "peak_bytes": None}
    assert format_timing(timing) == (
        f"on this machine (cpu), by some steps of the run:\n  1,000 steps of 16 rows take {words}, without "
        "evaluations: 0.12 s a step and 4 s before the first"
    )


# homodistil plan --time


def test_the_command_says_minutes_memory_and_what_was_measured(values, tmp_path, capsys):
    (tmp_path / "settings.json").write_text(json.dumps(values | {"max_steps": 3}), encoding="utf-8")
    words = ["plan", "--teacher", values["teacher"], "--student", "macs=0.25", "--time"]
    assert main([*words, "--config", str(tmp_path / "settings.json")]) == 0
    told = capsys.readouterr().out
    assert "3 steps of 8 rows take " in told
    assert "memory peak " in told
    assert "advice for 0.000384 M tokens" in told


@pytest.mark.parametrize(
    ("flags", "given", "multiple", "is_plain"),
    [
        ([], {"width_multiple": 3}, 3, False),
        (["--width_multiple", "5"], {"width_multiple": 3}, 5, False),
        ([], {"plain": True}, 8, True),
        (["--plain"], {"plain": False}, 8, True),
    ],
)
def test_the_timed_student_is_that_of_the_plan(values, tmp_path, capsys, flags, given, multiple, is_plain):
    own = {name: value for name, value in values.items() if name != "student"} | {"max_steps": 3} | given
    (tmp_path / "settings.json").write_text(json.dumps(own), encoding="utf-8")
    student = "macs=0.85" if is_plain else "macs=0.4,layers=2"
    words = ["plan", "--teacher", values["teacher"], "--student", student, "--time", "--json", *flags]
    assert main([*words, "--config", str(tmp_path / "settings.json")]) == 0
    plan = json.loads(capsys.readouterr().out)["student"]["plan"]
    config = load_encoder_config(values["teacher"])
    assert plan == resolve_plan(student, config, multiple=multiple, plain=is_plain).to_dict()
    assert (plan["hidden_size"] == 32) == is_plain
    assert plan["intermediate_size"] % multiple == 0


def test_the_student_of_the_settings_is_planned_where_no_flag_names_one(values, tmp_path, capsys):
    (tmp_path / "settings.json").write_text(json.dumps(values | {"max_steps": 3}), encoding="utf-8")
    words = ["plan", "--teacher", values["teacher"], "--time", "--config", str(tmp_path / "settings.json")]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    planned = resolve_plan(values["student"], load_encoder_config(values["teacher"]))
    assert found["student"]["plan"] == planned.to_dict()
    (tmp_path / "settings.json").write_text("{}", encoding="utf-8")
    assert main(words) == 2
    assert "settings.json names neither student nor start; name one" in capsys.readouterr().err
    (tmp_path / "settings.json").write_text('{"student": "latency_ms=5"}', encoding="utf-8")
    assert main(words) == 2
    assert "--time times a run of a known student" in capsys.readouterr().err


def test_so_many_tokens_are_counted_at_the_rows_of_the_run(values, tmp_path, capsys):
    own = {name: value for name, value in values.items() if name != "student"} | {"max_steps": 3}
    (tmp_path / "settings.json").write_text(json.dumps(own), encoding="utf-8")
    words = ["plan", "--teacher", values["teacher"], "--student", "macs=0.4", "--time", "--json"]
    assert main([*words, "--num_tokens", "12800", "--config", str(tmp_path / "settings.json")]) == 0
    timing = json.loads(capsys.readouterr().out)["timing"]
    assert (timing["num_steps"], timing["num_tokens"]) == (12800 // (8 * 16), 12800)


@pytest.mark.parametrize(
    ("settings", "num_layers", "is_explained"),
    [
        ({}, 1, True),
        ({"importance_metric": "magnitude"}, 1, True),
        ({"num_scoring_batches": 0}, 1, True),
        ({"recipe": "paper"}, 1, True),
        ({"method": "one_shot"}, 1, True),
        ({"method": "pruned_first"}, 1, True),
    ],
)
def test_the_planned_student_is_that_of_the_run(values, tmp_path, capsys, settings, num_layers, is_explained):
    own = {name: value for name, value in values.items() if name != "student"} | {"max_steps": 3} | settings
    (tmp_path / "settings.json").write_text(json.dumps(own), encoding="utf-8")
    words = ["plan", "--teacher", values["teacher"], "--student", "macs=0.25", "--time"]
    assert main([*words, "--config", str(tmp_path / "settings.json")]) == 0
    told = capsys.readouterr().out
    assert f"student: BertForMaskedLM, {num_layers} layers" in told
    assert ("'macs=0.25,layers=2' keeps all" in told) == is_explained


def test_of_an_embedding_model_no_advice_is_given(values, tmp_path, capsys):
    from tiny_embeddings import make_sentence_folder

    folder = make_sentence_folder(tmp_path / "embedding")
    settings = {name: values[name] for name in ("train_data", "per_device_train_batch_size", "use_cpu")}
    (tmp_path / "settings.json").write_text(json.dumps(settings | {"max_steps": 3}), encoding="utf-8")
    words = ["plan", "--teacher", str(folder), "--student", "macs=0.5", "--json"]
    assert main([*words, "--time", "--config", str(tmp_path / "settings.json")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["timing"]["num_steps"] == 3
    assert "advice" not in found
    assert main([*words, "--num_tokens", "2e6"]) == 2
    assert "runs on masked words were measured" in capsys.readouterr().err


@each(
    ("words", "message"),
    [
        (["--width_multiple", "0"], "width_multiple=0 is not a whole number of at least 1; the default is 8"),
        (["--time"], "give --time with --train_data or --config"),
        (["--time", "--train_data", "x", "--student", "latency_ms=5"], "name it by --student, without latency_ms"),
        (["--train_data", "x"], "give --time with --train_data or --config"),
        (["--time", "--config", "x", "--vocabulary", "keep=9", "--text", "y"], "trim first"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(words, message, capsys):
    assert main(["plan", "--teacher", "x", "--student", "macs=0.5", *words]) == 2
    assert message in capsys.readouterr().err
