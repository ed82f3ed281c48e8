"""The widths to reach: a budget in milliseconds is measured once, on the main process."""

from pathlib import Path
from typing import Any

import pytest
from run_traces import Interrupt, SaveAt, assert_same_run
from tiny_models import make_blocks, make_teacher, tiny_config

from homodistil_hf import HomoDistilTrainingArguments
from homodistil_hf.models.saved_student import read_state
from homodistil_hf.models.widths import LayerWidths, WidthPlan
from homodistil_hf.plans import latency as measuring
from homodistil_hf.plans import resolve as plans
from homodistil_hf.plans.latency import LatencyBudget
from homodistil_hf.training.pair import recorded_plan, resolve_student

FAST, SLOW = (WidthPlan.uniform(size, 2, LayerWidths(2, size // 2, 2 * size)) for size in (16, 24))
BUDGET = "latency_ms=5,length=16"


class Machine:
    """What budgets are measured on: every answer is another one, as on a real machine."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.answers = [FAST, SLOW, FAST]
        self.num_asked = 0
        monkeypatch.setattr(measuring, "plan_within", self.resolve)

    def resolve(
        self, budget: LatencyBudget, config: Any, *, multiple: int = 8, plain: bool = False
    ) -> tuple[WidthPlan, dict]:
        assert not plain
        self.num_asked += 1
        return self.answers[self.num_asked - 1], {}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def arguments(folder: Path, **settings: Any) -> HomoDistilTrainingArguments:
    return HomoDistilTrainingArguments(output_dir=str(folder), report_to="none", use_cpu=True, **settings)


@pytest.mark.slow
def test_a_resumed_run_takes_its_widths_from_the_checkpoint(machine, make_trainer, trained, tmp_path):
    settings = {"student": BUDGET, "max_steps": 8}
    whole = trained(**settings, output_dir=str(tmp_path / "whole"))
    assert whole.plan == FAST

    machine.answers[1] = FAST
    stopped = make_trainer(**settings, callbacks=[SaveAt(3), Interrupt(5)])
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    state = read_state(tmp_path / "run" / "checkpoint-3")
    assert state["student"] == BUDGET
    assert state["plan"] == FAST.to_dict()

    machine.answers[2] = SLOW  # the machine has become another one
    resumed = make_trainer(**settings)
    assert resumed.plan == FAST
    assert machine.num_asked == 2
    resumed.train(resume_from_checkpoint="last")
    assert_same_run(whole, resumed)


def test_a_checkpoint_elsewhere_is_named_by_the_arguments(machine, trained, tmp_path):
    trained(student=BUDGET, max_steps=4, callbacks=[SaveAt(2)])
    checkpoint = tmp_path / "run" / "checkpoint-2"
    elsewhere = arguments(tmp_path / "other", student=BUDGET, resume_from_checkpoint=str(checkpoint))
    assert resolve_student(elsewhere, tiny_config()) == FAST
    assert machine.num_asked == 1
    assert resolve_student(arguments(tmp_path / "other", student=BUDGET), tiny_config()) == SLOW
    assert machine.num_asked == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("student", "config"),
    [
        ("latency_ms=6,length=16", tiny_config()),
        (BUDGET, tiny_config(intermediate_size=48)),
        ("macs=0.5", tiny_config()),
    ],
)
def test_only_the_same_student_of_the_same_widths_is_reused(machine, make_trainer, tmp_path, student, config):
    make_trainer(student=BUDGET, max_steps=2, callbacks=[SaveAt(1)]).train()
    assert recorded_plan(arguments(tmp_path / "run", student=BUDGET), tiny_config()) == FAST
    assert recorded_plan(arguments(tmp_path / "run", student=student), config) is None
    for limit in ({"width_multiple": 4}, {"plain": True}):
        assert recorded_plan(arguments(tmp_path / "run", student=BUDGET, **limit), tiny_config()) is None
    # a run that is to be overwritten is another one, unless it is resumed
    over = {"student": BUDGET, "overwrite_output_dir": True}
    assert recorded_plan(arguments(tmp_path / "run", **over), tiny_config()) is None
    resumed = arguments(tmp_path / "run", **over, resume_from_checkpoint="last")
    assert recorded_plan(resumed, tiny_config()) == FAST


def test_other_students_ask_no_machine(machine, tmp_path):
    plan = resolve_student(arguments(tmp_path, student="macs=0.5"), tiny_config())
    assert plan == plans.resolve_plan("macs=0.5", tiny_config())
    assert machine.num_asked == 0


@pytest.mark.slow
def test_the_head_of_a_plain_student_fits_its_teacher_too(trained):
    teacher, rows = make_teacher("sequence_classification", num_labels=3), make_blocks(16).remove_columns("example_id")
    rows = rows.map(lambda row: {"labels": row["input_ids"][1] % 3})
    trainer = trained(
        model=teacher, student="compact_macs=0.8", plain=True, train_dataset=rows, eval_dataset=rows, max_steps=2
    )
    heads = {name: tensor.shape for name, tensor in teacher.named_parameters() if not name.startswith("bert.encoder")}
    assert trainer.kept == trainer.plan
    assert trainer.plan.layers[0].attention_size < trainer.plan.hidden_size == 32
    assert {name: trainer.model.get_parameter(name).shape for name in heads} == heads
