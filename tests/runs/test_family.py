"""A family by a chain of runs: each member from the one before, the same again wherever it was killed, one table."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from run_traces import Interrupt
from tiny_files import own_cache, write_config
from transformers import BertForMaskedLM

from homodistil_hf.cli import main
from homodistil_hf.models.architectures.architecture import PROJECTIONS
from homodistil_hf.models.cost import encoder_macs
from homodistil_hf.models.loading import load_encoder_config
from homodistil_hf.plans.resolve import resolve_plan, too_wide
from homodistil_hf.runs import distill as family
from homodistil_hf.runs.config import parse_run, run_of
from homodistil_hf.runs.distill import distill_family, load_start, plan_members
from homodistil_hf.runs.kinds import run_kind_of

NARROWEST = {"hidden_size": 16, "num_attention_heads": 2, "head_dim": 6, "intermediate_size": 24}
STUDENTS = ["24-4x6-48", "20-2x6-40", NARROWEST]
FOLDERS = ["1-24-4x6-48", "2-20-2x6-40", "3-16-2x6-24"]
FIGURES = ("kl", "mlm_loss", "mlm_accuracy", "num_parameters")


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        own_cache(patch, tmp_path_factory.mktemp("cache"))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Teacher, text and config of a family."""
    folder = tmp_path_factory.mktemp("family")
    write_config(folder, student=STUDENTS, max_steps=8, disable_tqdm=True, student_dropout=0.1)
    return folder


def distil(folder: Path, run: Path, *, log: Any = lambda line: None, **settings: Any) -> dict[str, Any]:
    values = json.loads((folder / "config.json").read_text()) | {"output_dir": str(run)} | settings
    return distill_family(run_of(values, "the test"), log)


@pytest.fixture(scope="module")
def whole(folder):
    """`OUTPUT_DIR` of a family that was left alone, and its results."""
    return folder / "run", distil(folder, folder / "run")


def weights_of(run: Path) -> list[bytes]:
    return [(run / name / "student" / "model.safetensors").read_bytes() for name in FOLDERS]


def figures_of(results: dict[str, Any]) -> list[list[float]]:
    return [[row[name] for name in FIGURES] for row in results["models"]]


@pytest.mark.slow
def test_one_table_tells_of_the_teacher_and_all_members(whole):
    run, results = whole
    assert json.loads((run / "results.json").read_text()) == results
    assert [row["name"] for row in results["models"]] == ["teacher", *FOLDERS]
    assert [member["plan"]["hidden_size"] for member in results["members"]] == [24, 20, 16]
    assert results["num_steps"] == 3 * 8
    assert results["settings"]["student"] == [*STUDENTS[:2], json.dumps(NARROWEST)]
    for name, row in zip(FOLDERS, results["models"][1:], strict=True):
        student = BertForMaskedLM.from_pretrained(run / name / "student")
        assert row["num_parameters"] == student.num_parameters()
        assert json.loads((run / name / "results.json").read_text())["models"][1]["kl"] == row["kl"]
        facts = json.loads((run / name / "student" / "facts.json").read_text())
        assert facts["teacher"]["num_parameters"] == results["models"][0]["num_parameters"]
        assert facts["settings"].get("started_as") == {FOLDERS[1]: FOLDERS[0], FOLDERS[2]: FOLDERS[1]}.get(name)


@pytest.mark.slow
def test_the_first_member_is_a_run_of_its_own(whole, folder, tmp_path):
    words = ["--student", STUDENTS[0], "--output_dir", str(tmp_path / "alone")]
    assert main(["distill", str(folder / "config.json"), *words]) == 0
    alone = (tmp_path / "alone" / "student" / "model.safetensors").read_bytes()
    assert alone == weights_of(whole[0])[0]


@pytest.mark.slow
def test_a_member_starts_as_the_one_before_with_its_projections(whole):
    run, _ = whole
    settings = parse_run([str(run / "settings.json")])
    before = load_start(run / FOLDERS[0])
    trainer = family.make_trainer(settings.members[1], lambda line: None, start=before)
    started, rows = trainer.model.eval(), torch.randint(5, 60, (2, 16))
    with torch.no_grad():
        logits = BertForMaskedLM.from_pretrained(run / FOLDERS[0] / "student").eval()(rows).logits
        torch.testing.assert_close(started(rows).logits, logits, atol=1e-5, rtol=0)
    own, expected = started.get_submodule(PROJECTIONS), before.get_submodule(PROJECTIONS)
    assert own.embedding.weight.shape == (32, 24)
    assert not torch.equal(own.embedding.weight, torch.eye(32, 24))
    for name, tensor in expected.state_dict().items():
        assert torch.equal(own.state_dict()[name], tensor)
    assert trainer.distillation.teacher.exact.config.hidden_size == 32


class Killed(Exception):
    """Stands for SIGKILL: nothing catches it."""


def kill_in_training(number: int, step: int) -> Any:
    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        asked = []
        original = family.make_trainer

        def interrupted(*args: Any, **kwargs: Any) -> Any:
            trainer = original(*args, **kwargs)
            asked.append(trainer)
            if len(asked) == number:
                trainer.add_callback(Interrupt(step))
            return trainer

        monkeypatch.setattr(family, "make_trainer", interrupted)

    return patch


def kill_at(name: str, number: int) -> Any:
    """Fail at the n-th call of a function of the module."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        original, calls = getattr(family, name), []

        def killed(*args: Any, **kwargs: Any) -> Any:
            calls.append(args)
            if len(calls) == number:
                raise Killed
            return original(*args, **kwargs)

        monkeypatch.setattr(family, name, killed)

    return patch


def distil_killed(monkeypatch: pytest.MonkeyPatch, kill: Any, folder: Path, run: Path, **settings: Any) -> None:
    with monkeypatch.context() as patch:
        kill(patch)
        with pytest.raises((Killed, KeyboardInterrupt)):
            distil(folder, run, **settings)


KILLS = (
    (kill_in_training(1, 2), 0),  # before the first checkpoint
    (kill_at("save_projections", 1), 0),
    (kill_at("write_json", 2), 0),  # all is there, but that it is finished is not said
    (kill_in_training(2, 6), 1),  # between two checkpoints
    (kill_at("write_json", 2), 1),
    (kill_at("load_start", 2), 2),
    (kill_at("_results", 1), 3),
)
"""One after the other, each of what the one before left, and how many members are finished then."""


@pytest.mark.slow
def test_a_family_that_was_killed_goes_on_as_if_it_had_not_been(whole, folder, tmp_path, monkeypatch):
    run, num_before, resume = tmp_path / "run", 0, {}
    for kill, num_finished in KILLS:
        lines: list[str] = []
        distil_killed(monkeypatch, kill, folder, run, log=lines.append, **resume)
        assert json.loads((run / "family.json").read_text())["finished"] == FOLDERS[:num_finished]
        trained = [line.partition(":")[0] for line in lines if line.startswith("\nmember")]
        assert trained[:1] == [f"\nmember {number} of 3" for number in (num_before + 1,) if number <= 3]
        num_before, resume = num_finished, {"resume_from_checkpoint": "last"}
    lines = []
    results = distil(folder, run, log=lines.append, **resume)
    assert not [line for line in lines if line.startswith("\nmember")]
    assert weights_of(run) == weights_of(whole[0])
    assert figures_of(results) == figures_of(whole[1])


@pytest.mark.slow
def test_starting_anew_forgets_an_earlier_family(folder, tmp_path, monkeypatch):
    run = tmp_path / "run"
    distil(folder, run, max_steps=4)
    with pytest.raises(ValueError, match="is not empty .*; go on with resume_from_checkpoint=last, set overwrite"):
        distil(folder, run, max_steps=4)
    killed = kill_at("_train_member", 1)
    distil_killed(monkeypatch, killed, folder, run, max_steps=4, overwrite_output_dir=True, seed=1)
    assert json.loads((run / "family.json").read_text())["finished"] == []
    assert list(run.glob("*/checkpoint-*")) == list(run.glob("*/student")) == []


@pytest.mark.slow
def test_members_that_were_trained_with_other_settings_are_named(folder, tmp_path, caplog):
    distil(folder, tmp_path / "run", student=STUDENTS[:2], max_steps=2)
    assert "other settings" not in caplog.text
    distil(folder, tmp_path / "run", student=STUDENTS[:2], max_steps=2, kl_weight=2.0, resume_from_checkpoint="last")
    assert f"{FOLDERS[0]}, {FOLDERS[1]} were trained with other settings: kl_weight differ" in caplog.text


@pytest.mark.slow
def test_plans_that_were_recorded_are_taken_again(folder, tmp_path, monkeypatch):
    """A budget of milliseconds, measured anew, would give another plan."""
    run, students = tmp_path / "run", ["macs=0.8", "8-2x4-16"]
    distil_killed(monkeypatch, kill_at("_train_member", 1), folder, run, student=students)
    state = json.loads((run / "family.json").read_text())
    measured = resolve_plan(STUDENTS[0], load_encoder_config(str(folder / "teacher"))).to_dict()
    assert state["plans"][0] != measured
    (run / "family.json").write_text(json.dumps(state | {"plans": [measured, state["plans"][1]]}))
    results = distil(folder, run, student=students, max_steps=2, resume_from_checkpoint="last")
    assert [member["plan"] for member in results["members"]] == [measured, state["plans"][1]]
    assert [member["folder"] for member in results["members"]] == ["1-macs-0.8", "2-8-2x4-16"]


def test_budgets_are_planned_within_the_member_before(folder, tmp_path):
    budgets = ["macs=0.5", "macs=0.25", "macs=0.14"]
    values = json.loads((folder / "config.json").read_text()) | {"output_dir": str(tmp_path), "student": budgets}
    settings = run_of(values | {"width_multiple": 2}, "the test")
    config = settings.members[0].run.teacher
    alone = [resolve_plan(budget, load_encoder_config(config), multiple=2) for budget in budgets]
    assert any(too_wide(plan, earlier) for earlier, plan in pairwise(alone))
    plans = plan_members(settings, run_kind_of(settings).inputs(settings), None)
    assert not any(too_wide(plan, earlier) for earlier, plan in pairwise(plans))
    assert encoder_macs(plans[-1]) == pytest.approx(encoder_macs(alone[-1]), rel=0.06)


# What is refused, before anything is trained


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "one_shot"}, "method='one_shot' is not supported for a family .*; name one student, or use"),
        ({"resume_from_checkpoint": "last"}, "finds no family.json in output_dir=.*; start without it"),
        ({"resume_from_checkpoint": "run/checkpoint-4"}, "is not supported for a run of several parts.*; use 'last'"),
        (
            {"attention_weight": 1.0},
            "attention_weight=1.0 needs members with the teacher's heads .4 a layer., but for",
        ),
        ({"student": STUDENTS[::-1]}, "student '20-2x6-40' hidden_size=20 is wider than that of"),
        ({"student": []}, r"student=\[\] is no list of students; expected such as"),
        ({"student": ["macs=0.5", 3]}, "student='macs=3' is out of this teacher's reach"),
    ],
)
@pytest.mark.usefixtures("never_trains")
def test_families_that_can_not_be_made(folder, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        distil(folder, tmp_path / "run", **settings)


def test_another_family_is_not_gone_on_with(whole, folder):
    with pytest.raises(
        ValueError, match="students=.* is not what the run in .* began with, .*; resume with that, or name another"
    ):
        distil(folder, whole[0], student=STUDENTS[:2], resume_from_checkpoint="last")


# The command line, the Hub, several processes


def test_a_list_is_given_in_every_way(folder):
    flags = ["--student", '["macs=0.6", {"hidden_size": 8}]', "--output_dir", "out"]
    members = parse_run([str(folder / "config.json"), *flags]).members
    assert [member.training.student for member in members] == ["macs=0.6", '{"hidden_size": 8}']
    assert [member.training.output_dir for member in members] == ["out/1-macs-0.6", members[1].given["output_dir"]]
    assert members[1].given["student"] == '{"hidden_size": 8}'
    assert parse_run([str(folder / "config.json"), "--student", "macs=0.6"]).members == ()


@pytest.mark.slow
def test_each_student_is_pushed_to_a_repository_of_its_own(folder, tmp_path, monkeypatch):
    made, pushed = [], []
    monkeypatch.setattr("homodistil_hf.export.hub.ensure_repo", lambda name, **_: made.append(name) or f"me/{name}")
    monkeypatch.setattr("homodistil_hf.export.hub.push_export", lambda source, repo, **_: pushed.append(repo))
    settings = {"push_to_hub": True, "hub_model_id": "words", "max_steps": 2, "student": STUDENTS[:2]}
    distil(folder, tmp_path / "run", **settings, hub_strategy="end")
    assert made == [f"words-{name}" for name in FOLDERS[:2]]
    assert pushed == [f"me/words-{name}" for name in FOLDERS[:2]]


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_make_a_family_and_go_on_with_it(as_ranks, folder, tmp_path):
    words = ["-m", "homodistil_hf", "distill", str(folder / "config.json"), "--output_dir", str(tmp_path / "run")]
    for others in ([], ["--resume_from_checkpoint", "last"]):
        done = as_ranks(*words, *others)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("The others, loaded alike:") == 1
    assert done.stdout.count("\nmember ") == 0
    assert json.loads((tmp_path / "run" / "family.json").read_text())["finished"] == FOLDERS


def test_a_file_that_no_family_wrote_is_no_start(folder, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    for content in ("{}", '{"plans": [], "finished": []}'):
        (run / "family.json").write_text(content)
        with pytest.raises(
            ValueError, match="family.json in output_dir=.* is none that a family has written; set over"
        ):
            distil(folder, run, resume_from_checkpoint="last")
