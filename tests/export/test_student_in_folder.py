"""The student in a folder is found alike by all that ask, and a run's student becomes a dense one of its own."""

import json

import pytest
import torch
from rows import each
from students import assert_same_logits, logits_of, make_student, make_teacher, write_checkpoint

from homodistil_hf.evaluation.evaluated_model import model_in, results_folder
from homodistil_hf.export.export_folder import (
    SETTINGS_FILE,
    StudentIn,
    check_finished,
    checkpoint_student,
    dense_copy,
    export_model_from,
    export_student,
    exported_student,
    members_hint,
    narrowed_copy,
    student_in,
)
from homodistil_hf.export.facts import read_export_facts
from homodistil_hf.files.checkpoints import SCORES_FILE, STATE_FILE, check_manifest, write_manifest
from homodistil_hf.files.strict_json import write_json
from homodistil_hf.files.tensors import load_tensors
from homodistil_hf.methods.formats import export_from
from homodistil_hf.models.conversion import to_stock
from homodistil_hf.models.saved_student import read_state
from homodistil_hf.models.widths import LayerWidths, WidthPlan, widths_of
from homodistil_hf.pruning.pruner import Pruner


@pytest.fixture
def run(tmp_path):
    """A finished run: an export in `student/`, and what was asked for."""
    facts = {"training": {"method": "homodistil"}}
    export_student(make_teacher(), tmp_path / "run" / "student", teacher=make_teacher(), facts=facts)
    (tmp_path / "run" / SETTINGS_FILE).write_text(json.dumps({"teacher": "somebody/a-bert"}))
    return tmp_path / "run"


def test_a_run_stands_for_its_export(run):
    for folder in (run, run / "student", str(run)):
        found = student_in(folder)
        assert found == StudentIn("export", run / "student")
        assert found.settings == {"teacher": "somebody/a-bert"}
        assert found.teacher == "somebody/a-bert"
        assert exported_student(folder) == run / "student"


def test_a_run_does_not_stand_for_an_export_elsewhere(run, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "student").symlink_to(run / "student")
    with pytest.raises(ValueError, match="has the link 'student' to '.*run/student', which is outside of it"):
        student_in(tmp_path / "other")
    (run / "evaluations").symlink_to(tmp_path / "other")
    with pytest.raises(ValueError, match="has the link 'evaluations' to '.*other', which is outside of it"):
        results_folder(run)


def test_a_checkpoint_belongs_to_the_run_around_it(make_trainer, tmp_path):
    make_trainer(max_steps=2, save_strategy="steps", save_steps=2).train()
    run = tmp_path / "run"
    (run / SETTINGS_FILE).write_text(json.dumps({"teacher": "somebody/a-bert"}))
    found = student_in(run / "checkpoint-2")
    assert (found.kind, found.folder, found.teacher) == ("checkpoint", run / "checkpoint-2", "somebody/a-bert")
    assert student_in(run).kind == "nothing"


def test_other_folders_hold_a_model_or_nothing(tmp_path):
    make_teacher().save_pretrained(tmp_path / "bert")
    assert student_in(tmp_path / "bert") == StudentIn("model", tmp_path / "bert")
    assert student_in(tmp_path / "bert").teacher is None
    for name, message in (
        (".", r"holds no export \(no facts.json\)"),
        ("not there", "does not exist; name an export"),
    ):
        assert student_in(tmp_path / name) == StudentIn("nothing", tmp_path / name)
        with pytest.raises(ValueError, match=message):
            exported_student(tmp_path / name)


def test_a_family_is_asked_for_one_of_its_members(tmp_path):
    for name in ("1-macs-0.5", "2-macs-0.25"):
        (tmp_path / name / "student").mkdir(parents=True)
        (tmp_path / name / "student" / "facts.json").touch()
    message = "; it has several models: name one, such as .*1-macs-0.5$"
    for find in (exported_student, model_in, lambda folder: export_model_from(folder, tmp_path / "export")):
        with pytest.raises(ValueError, match=message):
            find(tmp_path)
    assert members_hint(tmp_path / "1-macs-0.5") == ""


@pytest.mark.parametrize(
    ("teacher", "expected"),
    [(None, None), ({"hub_id": None}, None), ("x", None), ({}, None), ({"hub_id": "a/b"}, "a/b")],
)
def test_a_teacher_is_the_recorded_one_or_none(run, teacher, expected):
    (run / SETTINGS_FILE).write_text(json.dumps({"teacher": 5}))
    path = run / "student" / "facts.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"teacher": teacher}))
    assert student_in(run).teacher == expected


INPUT_IDS = torch.randint(5, 96, (4, 16), generator=torch.Generator().manual_seed(3))
TARGET = WidthPlan.uniform(16, 2, LayerWidths(2, 8, 32))
# 3 heads × 6 channels don't fit into 20 hidden channels of a stock BERT, whose heads must divide them.
ODD = WidthPlan(20, (LayerWidths(3, 6, 40), LayerWidths(2, 6, 24)))


def make_pruner(kept: WidthPlan | None = None, *, metric: str = "sensitivity") -> Pruner:
    """On its way, with scores of two steps."""
    pruner = Pruner(make_student(), TARGET, metric=metric)
    for _ in range(2):
        pruner.model(INPUT_IDS, labels=INPUT_IDS).loss.backward()
        pruner.score()
    if kept is not None:
        pruner.prune_to(kept)
        pruner.plan_reached = kept == TARGET
    return pruner


def test_the_copy_is_the_student_without_its_projections():
    model = make_pruner(ODD).model.train()
    student = dense_copy(model)
    assert widths_of(student.config) == ODD
    assert not student.training
    assert model.training
    assert not any("projections" in name for name in student.state_dict())
    assert torch.equal(logits_of(student), logits_of(model))


@pytest.mark.parametrize(
    "make", [lambda pruner: dense_copy(pruner.model), lambda p: narrowed_copy(p, format="standard")]
)
def test_the_run_goes_on_unchanged(make):
    pruner = make_pruner(ODD)
    before = {name: tensor.clone() for name, tensor in pruner.model.state_dict().items()}
    with torch.no_grad():
        for parameter in make(pruner).parameters():
            parameter.zero_()
    after = pruner.model.state_dict()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    assert pruner.kept == ODD


def test_an_unfinished_student_is_refused(tmp_path):
    message = r"not reached its plan yet \(.*20.*, not .*16.*set allow_partial to"
    with pytest.raises(ValueError, match=message):
        check_finished(False, kept=ODD, target=TARGET, allow_partial=False)
    with pytest.raises(ValueError, match=message):
        checkpoint_student(
            check_manifest(write_checkpoint(tmp_path, make_pruner(ODD))), format="compact", allow_partial=False
        )
    for is_finished, allow_partial in ((True, False), (True, True), (False, True)):
        check_finished(is_finished, kept=ODD, target=TARGET, allow_partial=allow_partial)


def test_an_unfinished_student_is_taken_at_the_nearest_widths():
    pruner = make_pruner(ODD)
    assert torch.equal(logits_of(narrowed_copy(pruner, format="compact")), logits_of(pruner.model))
    student = narrowed_copy(pruner, format="standard")
    stock = to_stock(student)
    assert stock.config.hidden_size % stock.config.num_attention_heads == 0
    assert widths_of(student.config).hidden_size <= 20
    assert_same_logits(logits_of(stock), logits_of(student))


@pytest.mark.slow
@each("format", ["standard", "compact"])
def test_a_checkpoint_becomes_a_student_without_a_trainer(tmp_path, format):
    pruner = make_pruner(ODD)
    folder = write_checkpoint(tmp_path, pruner)
    assert load_tensors(folder / SCORES_FILE).keys() == pruner.groups.keys()  # and no masks
    student, state = checkpoint_student(check_manifest(folder), format=format, allow_partial=True)
    expected = narrowed_copy(pruner, format=format)
    assert widths_of(student.config) == widths_of(expected.config)
    assert torch.equal(logits_of(student), logits_of(expected))
    assert (state["full"], state["plan"]) == (pruner.full.to_dict(), TARGET.to_dict())


def test_a_method_that_does_not_prune_has_no_scores(tmp_path):
    folder = write_checkpoint(tmp_path, make_pruner(TARGET))
    state = read_state(folder)
    del state["pruner"]
    write_json(folder / STATE_FILE, state)
    (folder / SCORES_FILE).unlink()
    write_manifest(folder)
    student, _ = checkpoint_student(check_manifest(folder), format="standard", allow_partial=False)
    assert widths_of(student.config) == TARGET


def test_damaged_weights_are_refused(tmp_path):
    weights = write_checkpoint(tmp_path, make_pruner(ODD)) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match="model.safetensors is damaged"):
        export_from(tmp_path, tmp_path.parent / "student")


def test_a_damaged_checkpoint_that_is_passed_over_is_named_once(tmp_path, caplog):
    for step in (4, 8, 12):
        write_checkpoint(tmp_path / "run" / f"checkpoint-{step}", make_pruner(TARGET))
    for step in (8, 12):
        (tmp_path / "run" / f"checkpoint-{step}" / "manifest.json").unlink()
    folder = export_from(tmp_path / "run", tmp_path / "student")
    assert read_export_facts(folder)["training"]["checkpoint"] == "checkpoint-4"
    warned = [record.getMessage() for record in caplog.records if "checkpoint-" in record.getMessage()]
    assert [message.split()[0].rpartition("/")[2] for message in warned] == ["checkpoint-12", "checkpoint-8"]


def test_an_export_that_lies_in_a_run_is_not_the_runs(run):
    found = student_in(export_student(make_teacher(), run / "other", teacher=make_teacher()))
    assert (found.settings, found.teacher) == ({}, None)
    # one of the same teacher may be the run's in another format
    facts = json.loads((run / "other" / "facts.json").read_text())
    facts["teacher"]["name"] = "somebody/a-bert"
    (run / "other" / "facts.json").write_text(json.dumps(facts))
    assert student_in(run / "other").teacher == "somebody/a-bert"
