import json
import re
import shutil
from pathlib import Path

import pytest
from resumed_runs import sigterm_at
from rows import each
from tiny_files import assert_same_weights, write_config
from transformers import BertForMaskedLM

from homodistil_hf import HomoDistilTrainer
from homodistil_hf.cli import main
from homodistil_hf.methods.self_distillation import rounds
from homodistil_hf.runs import further_pretraining
from homodistil_hf.runs.config import help_of, parse_run, run_of
from homodistil_hf.runs.distill import run
from homodistil_hf.runs.student import make_trainer

ROUNDS = {"max_steps": 4, "per_device_train_batch_size": 8}


def write_further(folder, **settings):
    """A whole run of self-distillation; output goes to `folder/run`."""
    path = write_config(folder)
    values = json.loads(path.read_text())
    for name in ("student", "pruning_interval_steps", "teacher_dtype"):
        values.pop(name, None)
    path.write_text(json.dumps(values | {"method": "self_distillation", "max_steps": 4} | settings))
    return path


def distill(path, *words):
    return main(["distill", str(path), "--disable_tqdm", "true", *words])


@pytest.mark.slow
def test_one_json_further_pre_trains(tmp_path, capsys):
    assert distill(write_further(tmp_path), "--num_rounds", "2") == 0
    run = tmp_path / "run"
    results = json.loads((run / "results.json").read_text())
    assert [sorted({"loss_masked", "loss_state", "eval_loss"} & one.keys()) for one in results["rounds"]] == [
        ["eval_loss", "loss_masked"],
        ["eval_loss", "loss_masked", "loss_state"],
        ["eval_loss", "loss_masked", "loss_state"],
    ]
    assert results["settings"]["num_rounds"] == 2
    assert json.loads((run / "settings.json").read_text()) == results["settings"]
    assert_same_weights(run / "student", run / "round-2" / "model")
    BertForMaskedLM.from_pretrained(run / "student")
    out = capsys.readouterr().out
    assert "held-out masked loss" in out
    assert str(run / "student") in out
    assert distill(tmp_path / "config.json", "--num_rounds", "2", "--resume_from_checkpoint", "last") == 0
    assert json.loads((run / "results.json").read_text())["rounds"] == results["rounds"]


@pytest.mark.slow
def test_one_json_further_pre_trains_a_teacher_and_distils_it(tmp_path):
    assert distill(write_config(tmp_path, further_pretraining=ROUNDS)) == 0
    run = tmp_path / "run"
    teacher = run / "further_pretraining" / "student"
    facts = json.loads((run / "student" / "facts.json").read_text())
    assert facts["teacher"]["name"] == "further_pretraining"
    assert json.loads((run / "settings.json").read_text())["teacher"] == str(teacher)
    inner = json.loads((run / "further_pretraining" / "settings.json").read_text())
    assert (inner["max_steps"], inner["teacher"]) == (4, str(tmp_path / "teacher"))
    alone = {"teacher": str(teacher), "output_dir": str(tmp_path / "alone")}
    assert distill(write_config(tmp_path, **alone)) == 0
    assert_same_weights(run / "student", tmp_path / "alone" / "student")
    different = [(folder / "model.safetensors").read_bytes() for folder in (teacher, tmp_path / "teacher")]
    assert different[0] != different[1]


@pytest.mark.slow
def test_an_interrupted_chain_goes_on_where_it_was(tmp_path, monkeypatch):
    whole = write_config(tmp_path, further_pretraining=ROUNDS, output_dir=str(tmp_path / "whole"))
    assert distill(whole) == 0
    for owner, name in ((rounds, "further_pretraining_card"), (HomoDistilTrainer, "evaluate")):
        path = write_config(tmp_path, further_pretraining=ROUNDS, output_dir=str(tmp_path / name))
        with monkeypatch.context() as context:
            context.setattr(owner, name, interrupt)
            assert distill(path) != 0
        assert distill(path, "--resume_from_checkpoint", "last") == 0
        assert_same_weights(tmp_path / name / "student", tmp_path / "whole" / "student")


def interrupt(*args, **kwargs):
    raise KeyboardInterrupt


def test_the_method_is_found_wherever_it_stands(tmp_path):
    path = str(write_further(tmp_path))
    assert "--num_rounds" in help_of([path])
    assert "--num_rounds" not in help_of([path, "--method", "scratch"])
    assert "--temperature" in help_of(["--method=distilbert"])
    assert "--pruning_end_fraction" in help_of(["--seed", "1"])


def test_the_json_of_the_page_is_valid(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "guides" / "further_pretraining.md").read_text(encoding="utf-8")
    alone, chained = re.findall(r"```json\n(.*?)```", page, flags=re.DOTALL)
    (tmp_path / "alone.json").write_text(alone)
    assert parse_run([str(tmp_path / "alone.json"), "--use_cpu"]).training.max_steps == 2000
    (tmp_path / "chained.json").write_text(chained)
    settings = further_pretraining.further_pretraining_of(parse_run([str(tmp_path / "chained.json"), "--use_cpu"]))
    assert settings.training.output_dir == "both/further_pretraining"
    assert settings.training.use_cpu
    assert settings.run.train_data == ["text.txt"]


def test_defaults_are_the_papers(tmp_path):
    settings = parse_run([str(write_further(tmp_path))]).training
    assert (settings.num_rounds, settings.distillation_weight) == (1, 1.0)
    assert (settings.learning_rate, settings.adam_beta1, settings.adam_beta2) == (1.5e-4, 0.9, 0.95)
    assert (settings.weight_decay, settings.warmup_steps, settings.lr_scheduler_type) == (0.01, 0, "linear")


@each(
    ("settings", "message"),
    [
        ({"num_rounds": 0}, r"num_rounds=0 is not a whole number of at least 1"),
        ({"num_rounds": "1"}, r"num_rounds='1'; expected a whole number"),
        ({"torch_compile_mode": "default"}, r"torch_compile=True is not supported by SelfDistillTrainer"),
        ({"further_pretraining": {"num_rounds": 2}}, r"has no place with method='self_distillation'"),
        ({"streaming": True}, r"streaming=True has no place with method='self_distillation'"),
        ({"resume_from_checkpoint": "last"}, r"finds no self_distillation\.json"),
        ({"max_seq_length": 999}, r"max_seq_length=999 is over the teacher's"),
    ],
)
def test_rounds_that_can_not_work_are_refused(settings, message, tmp_path, never_trains):
    path = write_further(tmp_path, **settings)
    with pytest.raises(ValueError, match=message):
        run(parse_run([str(path)]), print)


@each(
    ("settings", "message"),
    [
        ({"further_pretraining": {"rounds": 2}}, r"further_pretraining has the unknown key 'rounds'"),
        ({"further_pretraining": {"teacher": "x"}}, r"further_pretraining has teacher, which the run decides"),
        ({"further_pretraining": {"num_rounds": 0}}, r"num_rounds=0"),
        ({"further_pretraining": ROUNDS, "student": ["macs=0.5", "macs=0.25"]}, r"goes before one student"),
        ({"further_pretraining": ROUNDS, "student": "macs=9"}, r"macs=9"),
        ({"further_pretraining": ROUNDS, "resume_from_checkpoint": "x"}, r"resume_from_checkpoint='x' .* use 'last'"),
    ],
)
def test_chains_that_can_not_work_are_refused(settings, message, tmp_path, never_trains):
    with pytest.raises(ValueError, match=message):
        run(parse_run([str(write_config(tmp_path, **settings))]), print)


def test_single_trainers_do_not_pass_over_it_in_silence(tmp_path):
    values = json.loads(write_config(tmp_path, further_pretraining=ROUNDS).read_text())
    with pytest.raises(ValueError, match=r"goes before a run of `homodistil distill` alone"):
        make_trainer(run_of(values, "cell"), print)
    rounds_of = run_of({"teacher": "x", "train_data": "x", "output_dir": "x", "method": "self_distillation"}, "cell")
    with pytest.raises(ValueError, match=r"method='self_distillation' makes no student"):
        make_trainer(rounds_of, print)


@pytest.fixture
def stopped(tmp_path):
    """A whole run in `whole`, and in `run` one that SIGTERM stopped in its second round."""
    assert distill(write_further(tmp_path, output_dir=str(tmp_path / "whole"))) == 0
    path = write_further(tmp_path)
    with sigterm_at(rounds.SelfDistillTrainer, 4 + 2), pytest.raises(SystemExit, match="143"):
        distill(path)
    return path


@pytest.mark.slow
def test_what_sigterm_stopped_goes_on_and_damage_is_told(stopped, tmp_path, caplog):
    for number, damaged in enumerate(("", "round-0/model/model.safetensors", "round-1/checkpoint-2/optimizer.pt")):
        run = shutil.copytree(tmp_path / "run", tmp_path / f"run-{number}")
        if damaged:
            (run / damaged).write_bytes(b"0" * (run / damaged).stat().st_size)
        assert distill(stopped, "--output_dir", str(run), "--resume_from_checkpoint", "last") == 0
        assert_same_weights(run / "student", tmp_path / "whole" / "student")
        assert (f"{(run / damaged).parent} can't be used" in caplog.text) == bool(damaged)
